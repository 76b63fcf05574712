"""Intervals of means over seeds."""

import numpy as np
from scipy import stats


def interval(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over seeds with its 95 % Student interval.

    Args:
        samples: [seeds, points].

    Returns:
        ``(low, mean, high)``, each [points]; all the same for one seed.
    """
    mean = samples.mean(axis=0)
    count = len(samples)
    if count == 1:
        return mean, mean, mean
    half = stats.t.ppf(0.975, count - 1) * stats.sem(samples)
    return mean - half, mean, mean + half


def student_interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean and its 95 % interval; without bounds for a single value."""
    count = len(values)
    mean = float(values.mean()) if count else float("nan")
    if count < 2:
        return mean, -np.inf, np.inf
    low, _, high = interval(values[:, None])
    return mean, float(low[0]), float(high[0])
