"""Basic modules that all other parts of the package use."""
