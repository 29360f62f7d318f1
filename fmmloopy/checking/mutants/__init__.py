"""Mutants: kernels with one fault, made from the kernels that recipes generate, to measure what a check sees.

`mutations` says what can be changed, `changes` changes it, `score` has every mutant checked by the layers, the cheapest
first, and lists those that survive.
"""
