"""Translation tables: surfaces, pseudo-inverses, and the tables of each form of M2L."""
