"""Points to an octree, and from it the interaction lists."""
