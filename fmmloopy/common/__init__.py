"""What all other parts of the package stand on."""
