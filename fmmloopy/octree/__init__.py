"""Build an octree from points, and interaction lists from the octree."""
