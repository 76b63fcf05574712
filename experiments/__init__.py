"""Training runs on real data: data sets, configurations, one training loop, figures."""
