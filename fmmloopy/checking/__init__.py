"""How recipes are checked: inputs, layers, shrinking, programs that reproduce what is wrong."""
