"""Translation tables: surfaces, pseudo-inverses, and what M2L needs in each of its forms."""
