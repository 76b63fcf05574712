"""The cost of estimators."""
