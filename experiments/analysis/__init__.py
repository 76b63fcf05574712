"""Measurements of networks and of runs, and their figures."""
