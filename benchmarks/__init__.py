"""Benchmarks of the quality and the cost of each estimator, with intervals, tables and figures."""
