"""Measurements: times of operators, peaks of processors, the roofline, and figures."""
