"""Examine the machine: packages, OpenCL runtimes, devices, compilers and caches."""
