"""Experiments on real data: data sets, configurations, a training loop, claims and figures."""
