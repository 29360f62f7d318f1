"""What is measured: times of operators, peaks of processors, the roofline, and figures of them."""
