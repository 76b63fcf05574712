"""Intervals of means over seeds."""

import numpy as np
from scipy import stats


def interval(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the mean over seeds with its 95 % Student interval.

    Args:
        samples: [seeds, points].

    Returns:
        ``(low, mean, high)``, each [points]; all are equal for one seed.
    """
    mean = samples.mean(axis=0)
    count = len(samples)
    if count == 1:
        return mean, mean, mean
    half = stats.t.ppf(0.975, count - 1) * stats.sem(samples)
    return mean - half, mean, mean + half


def student_interval(values: np.ndarray) -> tuple[float, float, float]:
    """Returns ``(mean, low, high)`` with the 95 % interval, which is infinite for one value."""
    count = len(values)
    mean = float(values.mean()) if count else float("nan")
    if count < 2:
        return mean, -np.inf, np.inf
    low, _, high = interval(values[:, None])
    return mean, float(low[0]), float(high[0])
