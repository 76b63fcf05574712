"""Benchmarks: what each estimator gives, and what it costs, with intervals, tables and figures."""
