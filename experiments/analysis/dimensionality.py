"""Measures of the dimension of activity."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from sklearn.neighbors import NearestNeighbors

from nmnc_jax.diagnostics import participation_ratio

VARIANCES = (90, 95, 99)
MEASURES = {
    "participation_ratio": "participation ratio",
    **{f"components_{part}": f"components for {part} % of variance" for part in VARIANCES},
    "two_nn": "intrinsic dimension (TwoNN)",
}


def two_nn(points: np.ndarray, *, kept: float = 0.9) -> float:
    """Estimates the intrinsic dimension from the distances to the two nearest neighbours.

    Args:
        points: [B, n], without duplicates.
        kept: share of the smallest ratios that are fitted; the largest ratios are unreliable.

    Returns:
        The slope of -log(1 - F(ratio)) over log ratio, through the origin; NaN if no point has
        neighbours at two distances.
    """
    distances, _ = NearestNeighbors(n_neighbors=3).fit(points).kneighbors(points)
    nearest, second = distances[:, 1], distances[:, 2]
    ratios = np.sort(np.log(second[nearest > 0] / nearest[nearest > 0]))
    count = int(kept * len(ratios))
    heights = -np.log1p(-np.arange(1, count + 1) / (len(ratios) + 1))
    size = float(ratios[:count] @ ratios[:count])
    return float(ratios[:count] @ heights) / size if size else float("nan")


def components_for(values: np.ndarray, percent: float) -> int:
    """Returns the number of principal components that explain a share of the variance."""
    shares = np.cumsum(np.sort(values)[::-1]) / values.sum()
    return int(np.searchsorted(shares, percent / 100 - 1e-9) + 1)


def measure(activity: np.ndarray) -> dict[str, Any]:
    """Returns every measure of one tap's activity, [B, n]."""
    centred = activity - activity.mean(axis=0)
    gram = centred @ centred.T if len(centred) < centred.shape[1] else centred.T @ centred
    values = np.maximum(np.linalg.eigvalsh(gram), 0)
    return {
        "participation_ratio": float(participation_ratio(jnp.asarray(activity))),
        **{f"components_{part}": components_for(values, part) for part in VARIANCES},
        "two_nn": two_nn(activity),
    }
