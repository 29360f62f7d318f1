"""How kernels are shown: as mathematics, and as machine code."""
