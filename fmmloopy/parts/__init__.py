"""Parts of a problem: ranges of points in Morton order, each with its boxes, their lists, and what others send it."""
