"""Check recipes: inputs, layers, shrinking, and programs that reproduce errors."""
