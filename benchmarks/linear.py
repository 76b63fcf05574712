"""Linear networks, in which the estimators' laws are exact: samples, closed forms, z-scores."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.common import Row, bootstrap
from nmnc_jax import Probe, fixed_subspace, isotropic, learned_feedback, noise_correlation

OUTPUTS = 5
SHARE = 0.6
"""Share alpha of the Jacobian inside the subspace."""
DIRECTIONS = 4
"""Number of directions along which the mean of the estimates gives a z-score."""


@dataclasses.dataclass(frozen=True)
class Point:
    """One setting.

    Attributes:
        varies: the field that varies in its series, for the figure.
        kind: distribution of the coordinates.
        readout: "output" or "loss".
        scope: "each_tap" or "all_taps".
        dimension: dimension of the subspace, d; None for all directions.
        probes: number of probes per example, K.
        units: number of units, n.
        batch: number of examples, B.
    """

    varies: str
    kind: Any = "gaussian"
    readout: Any = "output"
    scope: Any = "each_tap"
    dimension: int | None = 16
    probes: int = 4
    units: int = 64
    batch: int = 4

    @property
    def pooled(self) -> int:
        """Number of probes that are averaged together, N."""
        return self.probes * (self.batch if self.readout == "output" else 1)


def points(full: bool) -> list[Point]:
    """Returns the settings; one field varies at a time, for every kind, readout and subspace."""
    values = {
        "probes": (1, 2, 4, 8, 16, 32, 64) if full else (1, 4, 16, 64),
        "dimension": (4, 8, 16, 32, 64) if full else (4, 64),
        "units": (32, 64, 128, 256) if full else (32, 128),
        "batch": (1, 2, 4, 8, 16) if full else (1, 16),
    }
    chosen = []
    for kind in ("gaussian", "rademacher", "orthogonal"):
        for dimension in (16, None):
            for readout in ("output", "loss"):
                base = Point("", kind, readout, dimension=dimension)
                for field, series in values.items():
                    if dimension is None and field == "dimension":
                        continue
                    chosen += [
                        dataclasses.replace(base, varies=field, **{field: value})
                        for value in series
                    ]
        chosen += [Point("scope", kind, scope="all_taps", probes=k) for k in values["probes"]]
    return chosen


def law(kind: str, dimension: int, probes: int) -> float:
    """Returns the variance of the estimate of N probes over its squared mean (the table of laws).

    After d orthogonal directions a new frame begins; only the last, partial frame adds variance.
    """
    rest = probes % dimension
    return {
        "gaussian": (dimension + 1) / probes,
        "rademacher": (dimension - 1) / probes,
        "orthogonal": rest * (dimension - rest) / probes**2,
    }[kind]


def measure(point: Point, replicates: int, seed: int) -> tuple[Row, list[float]]:
    """Draws many estimates of one setting and compares them with the closed form.

    Args:
        point: the setting.
        replicates: number of independent estimates R.
        seed: seed of the network and the probes.

    Returns:
        The row of the table (bias and variance over the squared norm of the exact value, each with
        its law), and the z-scores, which are empty if the variance is zero by the law.
    """
    params, batch, bases, jacobians = _network(point, seed)
    probe = Probe(num=point.probes, kind=point.kind, difference="jvp", scope=point.scope)
    estimator = noise_correlation(
        _apply,
        lambda outputs, targets: (outputs * targets).sum(axis=-1),
        subspace=isotropic() if bases is None else fixed_subspace(bases),
        readout=point.readout,
        probe=probe,
        feedback=learned_feedback(0.0) if point.readout == "output" else None,
    )
    state = estimator.init(params, batch)

    def estimate(key, params, batch, state):
        """Returns [r, n], the feedback matrix or the credit of each example."""
        _, after, info = estimator.estimate(key, params, batch, state)
        if point.readout == "loss":
            return point.batch * info.credit["first"]
        basis = after.subspace["first"].basis
        coordinates = after.feedback["first"].coordinates
        return coordinates if basis is None else coordinates @ basis.T

    keys = jax.random.split(jax.random.key(seed), replicates)

    def draw_all(keys, params, batch, state):
        together = 1 if point.kind == "orthogonal" else replicates
        return jax.lax.map(
            lambda key: estimate(key, params, batch, state), keys, batch_size=together
        )

    # Compilation takes nearly all the time of a point, and optimisation half of it.
    quickly = jax.jit(draw_all, compiler_options={"xla_backend_optimization_level": 0})
    drawn = np.asarray(quickly(keys, params, batch, state), np.float64)

    exact = jacobians["first"]
    if point.readout == "loss":
        exact = np.asarray(batch[1], np.float64) @ exact
    basis = None if bases is None else np.asarray(bases["first"], np.float64)
    mean = exact if basis is None else exact @ basis @ basis.T
    dimension = point.units if point.dimension is None else point.dimension
    variance = law(point.kind, dimension, point.pooled) * (mean**2).sum()
    if point.scope == "all_taps":
        variance += _other_taps(params, batch, bases, jacobians, dimension) / point.pooled
    return _row(point, drawn, exact, mean, float(variance), seed)


def _row(
    point: Point,
    drawn: np.ndarray,
    exact: np.ndarray,
    mean: np.ndarray,
    variance: float,
    seed: int,
) -> tuple[Row, list[float]]:
    size = (exact**2).sum()
    squares = ((drawn - mean) ** 2).sum(axis=(1, 2)) / size
    low, high = bootstrap(squares, np.mean)
    cosines = (drawn * exact).sum(axis=(1, 2)) / np.sqrt((drawn**2).sum(axis=(1, 2)) * size)
    cosine_low, cosine_high = bootstrap(cosines, np.mean)
    average = drawn.mean(axis=0)
    bias = ((average - exact) ** 2).sum() / size - squares.mean() / len(drawn)
    row: Row = {
        **dataclasses.asdict(point),
        "dimension": point.dimension or "all",
        "bias": bias,
        "bias_law": 1 - (mean**2).sum() / size,
        "variance": squares.mean(),
        "variance_low": low,
        "variance_high": high,
        "variance_law": variance / size,
        "cosine": cosines.mean(),
        "cosine_low": cosine_low,
        "cosine_high": cosine_high,
        "signal_to_noise": (mean**2).sum() / max(squares.mean() * size, 1e-30),
    }
    if variance == 0:
        row["exact"] = bool(squares.max() < 1e-8)
        return row, []
    directions = np.random.default_rng(seed).normal(size=(DIRECTIONS, mean.size))
    along = (drawn - mean).reshape(len(drawn), -1) @ np.linalg.qr(directions.T)[0]
    scores = [_z(squares, variance / size), *(_z(values, 0.0) for values in along.T)]
    row["z_variance"] = scores[0]
    return row, scores


def _z(samples: np.ndarray, expected: float) -> float:
    """Returns the distance of the mean from its expectation in standard errors, with rounding.

    The error of half a frame of orthogonal probes has the same size in every draw.
    """
    error = samples.std(ddof=1) / np.sqrt(len(samples))
    return float((samples.mean() - expected) / (error + 1e-5 * abs(expected)))


def _apply(params, inputs, tap):
    return tap("second", tap("first", inputs) @ params["middle"]) @ params["out"]


def _network(point: Point, seed: int) -> tuple[Any, Any, Any, dict[str, np.ndarray]]:
    """Returns two linear stages; the first tap's Jacobian has a given share inside its subspace."""
    # In NumPy, because JAX would compile every operation for every new shape.
    random = np.random.default_rng(seed)
    units = point.units
    out = random.normal(size=(units, OUTPUTS)) / units**0.5
    jacobian = random.normal(size=(OUTPUTS, units)) / units**0.5
    bases = None
    if point.dimension is not None:
        draws = random.normal(size=(2, units, point.dimension))
        first, second = np.linalg.qr(draws)[0]
        bases = {"first": first, "second": second}
        inside = jacobian @ first @ first.T
        outside = jacobian - inside
        if point.dimension < units:
            ratio = np.linalg.norm(inside) / np.linalg.norm(outside)
            jacobian = inside + outside * ratio * ((1 - SHARE) / SHARE) ** 0.5
    # The middle stage is such that, followed by `out`, it has this Jacobian.
    params = {"middle": (np.linalg.pinv(out).T @ jacobian).T, "out": out}
    batch = (
        random.normal(size=(point.batch, units)),
        random.normal(size=(point.batch, OUTPUTS)),
    )
    jacobians = {"first": (params["middle"] @ out).T, "second": out.T}
    to_jax = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), (params, batch, bases))
    return *to_jax, jacobians


def _other_taps(params, batch, bases, jacobians, dimension: int) -> float:
    """Returns N times the variance that the second tap's perturbation adds to the first tap's."""
    first = np.asarray(batch[0])
    second = first @ np.asarray(params["middle"])
    ratio = float((second**2).mean() / (first**2).mean())
    inside = jacobians["second"]
    if bases is not None:
        inside = inside @ np.asarray(bases["second"])
    return dimension * ratio * float((inside**2).sum())
