"""Recipe books, one module per family of devices, and the steps that they use."""
