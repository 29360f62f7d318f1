"""Predict the error of an evaluation from chains of translations, for Green's functions without measured errors."""
