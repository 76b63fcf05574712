"""The directions in which a tap is perturbed: all, random ones, given ones, or the manifold.

A subspace is an orthonormal basis U, [n, d], or None for all n directions.
"""

import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from nmnc_jax.checks import check_count
from nmnc_jax.types import Array, Rank


class FixedBasis(NamedTuple):
    """The subspace of one tap, where it never moves.

    Attributes:
        basis: orthonormal columns U, [n, d]; None: all n directions.
    """

    basis: Array | None


class Manifold(NamedTuple):
    """The subspace of one tap, where it follows the activity.

    Attributes:
        basis: orthonormal columns U, [n, d], strongest direction first.
        mean: running mean activity, [n].
        scatter: eigenvalues of the running scatter matrix, [d].
        weight: effective number of examples behind mean and scatter, a scalar.
    """

    basis: Array
    mean: Array
    scatter: Array
    weight: Array


SubspaceState = FixedBasis | Manifold


class Subspace(NamedTuple):
    """A way to choose the subspace of each tap.

    Attributes:
        init: ``init(name, activity) -> SubspaceState`` from a tap's name and activity, [B, n].
        update: ``update(state, activity) -> Manifold``, or None if the basis never moves.
        update_every: steps between updates.
    """

    init: Callable[[str, Array], SubspaceState]
    update: Callable[[Any, Array], Manifold] | None = None
    update_every: int = 1


def lift(basis: Array | None, coordinates: Array) -> Array:
    """Maps subspace coordinates [..., d] to units [..., n]: x = U z."""
    return coordinates if basis is None else coordinates @ basis.T


def project(basis: Array | None, rows: Array) -> Array:
    """Maps units [..., n] to subspace coordinates [..., d]: z = U^T x."""
    return rows if basis is None else rows @ basis


def isotropic() -> Subspace:
    """All n directions of each tap: vanilla noise correlation.

    Returns:
        A `Subspace` whose basis is None.

    Example:
        >>> import jax.numpy as jnp
        >>> from nmnc_jax import isotropic
        >>> isotropic().init("hidden", jnp.ones((8, 3))).basis is None
        True
    """
    return Subspace(lambda name, activity: FixedBasis(None))


def random_subspace(rank: Rank, *, seed: int = 0) -> Subspace:
    """A fixed random subspace of each tap: the control for "low-dimensional" without "manifold".

    Args:
        rank: dimension d, one for all taps or a dict by tap name.
        seed: seed of the bases; each tap has its own.

    Returns:
        A `Subspace` with Haar-distributed orthonormal bases, [n, d].

    Raises:
        ValueError: (from init) if the rank is not between 1 and the units of a tap.

    Example:
        >>> import jax.numpy as jnp
        >>> from nmnc_jax import random_subspace
        >>> random_subspace(2).init("hidden", jnp.ones((8, 3))).basis.shape
        (3, 2)
    """

    def init(name: str, activity: Array) -> SubspaceState:
        units = activity.shape[1]
        dimension = rank_of(rank, name, units)
        key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))
        gaussian = jax.random.normal(key, (units, dimension), activity.dtype)
        return FixedBasis(jnp.linalg.qr(gaussian)[0])

    return Subspace(init)


def fixed_subspace(bases: Mapping[str, Array]) -> Subspace:
    """Given bases, one per tap.

    Args:
        bases: tap name to a matrix [n, d] with orthonormal columns.

    Returns:
        A `Subspace` that keeps these bases.

    Raises:
        ValueError: if a basis is not a matrix with orthonormal columns; (from init) if a tap has no
            basis or one with another number of units.

    Example:
        >>> import jax.numpy as jnp
        >>> from nmnc_jax import fixed_subspace
        >>> subspace = fixed_subspace({"hidden": jnp.eye(3)[:, :2]})
        >>> subspace.init("hidden", jnp.ones((8, 3))).basis.shape
        (3, 2)
    """
    for name, basis in bases.items():
        if basis.ndim != 2 or basis.shape[1] > basis.shape[0]:
            raise ValueError(
                f"bases[{name!r}] has shape {basis.shape}; it takes [n, d] with d at most n"
            )
        if not isinstance(basis, Tracer):
            matrix = np.asarray(basis, np.float64)
            error = np.abs(matrix.T @ matrix - np.eye(matrix.shape[1])).max()
            if not error < 1e-3:
                raise ValueError(
                    f"bases[{name!r}] is off orthonormal by {error:.2g}; it takes orthonormal ones"
                )

    def init(name: str, activity: Array) -> SubspaceState:
        if name not in bases:
            raise ValueError(f"bases has no entry for tap {name!r}; it has {sorted(bases)}")
        if bases[name].shape[0] != activity.shape[1]:
            raise ValueError(
                f"bases[{name!r}] has shape {bases[name].shape}; "
                f"tap {name!r} has {activity.shape[1]} units"
            )
        return FixedBasis(jnp.asarray(bases[name], activity.dtype))

    return Subspace(init)


def pca(rank: Rank, *, update_every: int = 100, decay: float = 0.7) -> Subspace:
    """The neural manifold: principal components of each tap's own activity, streamed.

    Each update merges a batch with the running mean and factorisation of all earlier ones, whose
    weight decays, as incremental PCA does (Ross et al. 2008); so the rank may exceed the batch
    size.
    Memory is O((d + B) n), and the work is in matrix products and factorisations of side at most
    d + B + 1; so taps of several 100,000 units will do. Directions that a batch adds are lost to
    float32's rounding where their variance is below about a millionth of the strongest one's.

    Args:
        rank: dimension d, one for all taps or a dict by tap name.
        update_every: training steps between updates.
        decay: factor on the weight of all earlier batches at each update, in [0, 1].

    Returns:
        A `Subspace` with basis [n, d], strongest component first.

    Raises:
        ValueError: if `update_every` or `decay` is out of range; (from init) if the rank is not
            between 1 and the units of a tap.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from nmnc_jax import pca
        >>> activity = jax.random.normal(jax.random.key(0), (32, 6))
        >>> manifold = pca(2)
        >>> state = manifold.init("hidden", activity)
        >>> manifold.update(state, activity).basis.shape
        (6, 2)
    """
    check_count("update_every", update_every)
    if not 0.0 <= decay <= 1.0:
        raise ValueError(f"decay is {decay}; it takes a number from 0 to 1")

    def init(name: str, activity: Array) -> Manifold:
        units = activity.shape[1]
        dimension = rank_of(rank, name, units)
        # Directions without variance: the first batch replaces as many of them as it spans.
        blank = jnp.eye(units, dimension, dtype=activity.dtype)
        nothing = jnp.zeros((dimension,), activity.dtype)
        mean = activity.mean(axis=0)
        basis, scatter = _merge(blank, nothing, activity - mean[None])
        return Manifold(basis, mean, scatter, jnp.asarray(len(activity), activity.dtype))

    def update(state: Manifold, activity: Array) -> Manifold:
        old = decay * state.weight
        weight = old + len(activity)
        batch_mean = activity.mean(axis=0)
        shift = batch_mean - state.mean
        moved = jnp.sqrt(old * len(activity) / weight) * shift
        rows = jnp.concatenate([activity - batch_mean[None], moved[None]])
        basis, scatter = _merge(state.basis, decay * state.scatter, rows)
        mean = state.mean + (len(activity) / weight) * shift
        return Manifold(basis, mean, scatter, weight)

    return Subspace(init, update, update_every)


def dimension_of(basis: Array | None, units: int) -> int:
    """Dimension d of a subspace of n units."""
    return units if basis is None else basis.shape[1]


def rank_of(rank: Rank, name: str, units: int) -> int:
    """Looks up a tap's rank and checks it against the tap's units."""
    if isinstance(rank, Mapping):
        if name not in rank:
            raise ValueError(f"rank has no entry for tap {name!r}; it has {sorted(rank)}")
        rank = rank[name]
    if not 1 <= rank <= units:
        raise ValueError(f"rank is {rank}; tap {name!r} takes 1 to {units} (its units)")
    return int(rank)


def _merge(basis: Array, scatter: Array, rows: Array) -> tuple[Array, Array]:
    """Principal directions of a factorisation and further rows together.

    All that has n in its shape is a matrix product, so that units may be sharded, and no [n, n]
    matrix is formed where n exceeds d plus the number of rows.

    Args:
        basis: orthonormal directions, [n, d].
        scatter: sum of squares along each, [d].
        rows: deviations from the mean, [m, n].

    Returns:
        The new basis [n, d], strongest direction first, and scatter [d].
    """
    units, dimension = basis.shape
    count = len(rows)
    if units <= dimension + count:
        total = (basis * scatter[None]) @ basis.T + rows.T @ rows
        values, vectors = jnp.linalg.eigh(total)
        leading = _oriented(vectors[:, ::-1][:, :dimension])
        return leading, jnp.maximum(values[::-1][:dimension], 0)
    # What the basis does not span, by the eigenvectors of its Gram matrix; what is at rounding
    # level has no direction, and is dropped.
    inside = rows @ basis
    rest = rows - inside @ basis.T
    values, vectors = jnp.linalg.eigh(rest @ rest.T)
    rounding = jnp.finfo(rows.dtype).eps
    cancelled = rounding * count * jnp.vdot(inside, inside)
    kept = values > 10 * rounding * (values[-1] + cancelled)
    sizes = jnp.where(kept, jax.lax.rsqrt(jnp.where(kept, values, 1)), 0)
    added = rest.T @ (vectors * sizes[None])
    spanning = jnp.concatenate([basis, added], axis=1)
    # They are orthonormal only to rounding, which the Gram matrix amplifies for weak directions:
    # whitening by a Cholesky factor of what they are mends it.
    overlap = spanning.T @ spanning
    dropped = jnp.concatenate([jnp.zeros(dimension, bool), ~kept]).astype(rows.dtype)
    factor = jnp.linalg.cholesky(overlap + jnp.diag(dropped))
    known = jnp.sqrt(scatter)[:, None] * overlap[:dimension]
    given = jnp.concatenate([known, jnp.concatenate([inside, rows @ added], axis=1)])
    coordinates = jax.scipy.linalg.solve_triangular(factor, given.T, lower=True)
    # Singular vectors, as eigenvectors of the square would lose what is weak to rounding. A little
    # of every direction but the dropped ones is added, so that these rank last.
    size = jnp.linalg.norm(coordinates)
    least = 100 * rounding * jnp.where(size > 0, size, 1)
    vectors, values, _ = jnp.linalg.svd(
        jnp.concatenate([coordinates, jnp.diag(least * (1 - dropped))], axis=1), full_matrices=False
    )
    turn = jax.scipy.linalg.solve_triangular(factor, vectors[:, :dimension], lower=True, trans="T")
    return _oriented(spanning @ turn), jnp.maximum(values[:dimension] ** 2 - least**2, 0)


def _oriented(basis: Array) -> Array:
    """Gives each direction the sign that makes its largest entry positive.

    Else rounding decides it, and the same probes differ from one device layout to another.
    """
    return (
        basis * jnp.where(basis.max(axis=0) < -basis.min(axis=0), -1, 1).astype(basis.dtype)[None]
    )
