"""Code of several suites: what a suite is, how image files are named, and benchmarks in two languages."""
