"""Alignment of the exact Jacobian with the principal components of activity."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.analysis.activity import fixed_images, recorder
from experiments.configuration import Config
from experiments.data import InMemory
from experiments.training.network import build_model
from nmnc_jax import pca, random_subspace
from nmnc_jax.diagnostics import exact_jacobian

LARGEST = 512
"""Largest dimension for which shares are measured."""
JACOBIANS = 48
"""Number of examples whose Jacobians are used."""
LEADING = 10
"""Number of leading directions of the Jacobians whose angles are measured."""


def measure(config: Config, data: InMemory, params: Any) -> list[dict[str, Any]]:
    """Measures shares and angles at every tap of a network, on fixed training images."""
    apply_fn: Any = build_model(config, data.classes).apply
    inputs = fixed_images(data)
    activations = recorder(config, data, params)(inputs)
    some = jnp.asarray(inputs[:JACOBIANS])
    jacobians = jax.jit(lambda p, x: exact_jacobian(apply_fn, p, x))(params, some)
    rows: list[dict[str, Any]] = []
    for name, rowed in activations.items():
        activity = jnp.asarray(rowed)
        units = activity.shape[1]
        rank = min(LARGEST, units)
        jacobian = jacobians[name].reshape(-1, units)
        components = pca(rank).init(name, activity).basis
        anywhere = random_subspace(rank).init(name, activity).basis
        assert components is not None
        assert anywhere is not None
        inside, outside = (
            cumulative_share(jacobian, components),
            cumulative_share(jacobian, anywhere),
        )
        leading = leading_directions(jacobian)
        for d in sorted({*(2**k for k in range(10) if 2**k < rank), rank}):
            cosines = np.linalg.svd(leading.T @ np.asarray(components[:, :d]), compute_uv=False)
            rows.append(
                {
                    "tap": name,
                    "units": units,
                    "dimension": d,
                    "share": inside[d - 1],
                    "random": outside[d - 1],
                    "line": d / units,
                    "largest_cosine": float(cosines.max(initial=0)),
                    "mean_square_cosine": float((cosines**2).sum() / max(leading.shape[1], 1)),
                }
            )
    return rows


def cumulative_share(jacobian: jax.Array, basis: jax.Array) -> list[float]:
    """Returns the share of the squared norm inside the first d directions, for every d.

    It is NaN for a Jacobian of zeros, such as before layers that training has silenced.
    """
    squares = ((jacobian @ basis) ** 2).sum(axis=0)
    return [float(share) for share in jnp.cumsum(squares) / (jacobian**2).sum()]


def leading_directions(jacobian: jax.Array) -> np.ndarray:
    """Returns leading right singular vectors of all Jacobians together, [n, at most LEADING]."""
    rows = np.asarray(jacobian, np.float64)
    values, vectors = np.linalg.eigh(rows @ rows.T)
    keep = min(LEADING, int((values > 1e-9 * values[-1]).sum()))
    first = len(values) - keep
    return rows.T @ vectors[:, first:] / np.sqrt(values[first:])
