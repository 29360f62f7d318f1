"""Execution: what devices are, and the backends that compile and run code on them."""
