"""Subspaces in which taps are perturbed: all directions, random ones, given ones, or the manifold.

A subspace is an orthonormal basis U, [n, d], or None for all n directions. Columns of zeros are
directions that are not used, so that their number may change while all shapes stay the same.
"""

import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from nmnc_jax.checks import check_count
from nmnc_jax.components import merge
from nmnc_jax.types import Array, Rank


class FixedBasis(NamedTuple):
    """The subspace of one tap if it never moves.

    Attributes:
        basis: orthonormal columns U, [n, d]; None for all n directions.
    """

    basis: Array | None


class Manifold(NamedTuple):
    """The subspace of one tap if it follows the activity.

    Attributes:
        components: orthonormal columns, [n, d], with the strongest direction first.
        kept: 1 for the components that are perturbed, 0 for others, [d]; None if all are perturbed.
        mean: running mean of the activity, [n].
        scatter: eigenvalues of the running scatter matrix, [d].
        total: trace of the running scatter matrix, a scalar.
        weight: effective number of examples in mean and scatter, a scalar.
    """

    components: Array
    kept: Array | None
    mean: Array
    scatter: Array
    total: Array
    weight: Array

    @property
    def basis(self) -> Array:
        """U, [n, d]: the components, with zeros for those that are not kept."""
        return self.components if self.kept is None else self.components * self.kept[None]


SubspaceState = FixedBasis | Manifold


class Subspace(NamedTuple):
    """A way to choose the subspace of each tap.

    Attributes:
        name: name of the kind of subspace, which a state records.
        dimension: ``dimension(name, units) -> d`` of a tap's subspace.
        init: ``init(name, activity, key=None) -> SubspaceState`` from a tap's name and activity,
            [B, n]. A key replaces the seed of a random subspace.
        update: ``update(state, activity) -> SubspaceState``, or None if the basis never moves.
        update_every: number of steps between updates.
        has_basis: ``has_basis(name) -> bool``, whether a tap has a basis and not all directions.
    """

    name: str
    dimension: Callable[[str, int], int]
    init: Callable[..., SubspaceState]
    update: Callable[[Any, Array], SubspaceState] | None = None
    update_every: int = 1
    has_basis: Callable[[str], bool] = lambda name: True


def lift(basis: Array | None, coordinates: Array) -> Array:
    """Maps subspace coordinates [..., d] to units [..., n]: x = U z."""
    return coordinates if basis is None else coordinates @ basis.T


def project(basis: Array | None, rows: Array) -> Array:
    """Maps units [..., n] to subspace coordinates [..., d]: z = U^T x."""
    return rows if basis is None else rows @ basis


def isotropic() -> Subspace:
    """Returns the subspace of all n directions of each tap, for vanilla noise correlation.

    Returns:
        A `Subspace` whose basis is None.

    Example:
        >>> import jax.numpy as jnp
        >>> from nmnc_jax import isotropic
        >>> isotropic().init("hidden", jnp.ones((8, 3))).basis is None
        True
    """

    def init(name: str, activity: Array, key: Array | None = None) -> SubspaceState:
        del name, activity, key
        return FixedBasis(None)

    return Subspace("isotropic", lambda name, units: units, init, has_basis=lambda name: False)


def random_subspace(rank: Rank, *, seed: int = 0) -> Subspace:
    """Returns a fixed random subspace of each tap.

    It is the control that is low-dimensional like the manifold but independent of the activity.

    Args:
        rank: dimension d, one for all taps or a dict by tap name.
        seed: seed of the bases, which differ between taps.

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

    def dimension_at(name: str, units: int) -> int:
        return rank_of(rank, name, units)

    def init(name: str, activity: Array, key: Array | None = None) -> SubspaceState:
        units = activity.shape[1]
        key = jax.random.key(seed) if key is None else key
        key = jax.random.fold_in(key, zlib.crc32(name.encode()))
        gaussian = jax.random.normal(key, (units, dimension_at(name, units)), activity.dtype)
        return FixedBasis(jnp.linalg.qr(gaussian)[0])

    return Subspace("random_subspace", dimension_at, init)


def fixed_subspace(bases: Mapping[str, Array]) -> Subspace:
    """Returns the subspaces with the given bases, one per tap.

    Args:
        bases: tap name to a matrix [n, d] with orthonormal columns.

    Returns:
        A `Subspace` that keeps these bases.

    Raises:
        ValueError: if a basis is not a matrix with orthonormal columns; (from init) if a tap has no
            basis or its basis has another number of units.

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
                    f"bases[{name!r}] is off orthonormal by {error:.2g}; it takes orthonormal "
                    "columns"
                )

    def dimension_at(name: str, units: int) -> int:
        if name not in bases:
            raise ValueError(f"bases has no entry for tap {name!r}; it has {sorted(bases)}")
        if bases[name].shape[0] != units:
            raise ValueError(
                f"bases[{name!r}] has shape {bases[name].shape}; tap {name!r} has {units} units"
            )
        return bases[name].shape[1]

    def init(name: str, activity: Array, key: Array | None = None) -> SubspaceState:
        del key
        dimension_at(name, activity.shape[1])
        # The state's arrays may be donated and the caller's may not, so they are copied.
        return FixedBasis(jnp.array(bases[name], activity.dtype, copy=True))

    return Subspace("fixed_subspace", dimension_at, init)


def pca(
    rank: Rank | Mapping[str, int | None],
    *,
    explained_variance: float | None = None,
    update_every: int = 100,
    decay: float = 0.7,
) -> Subspace:
    """Returns the neural manifold: streaming principal components of each tap's activity.

    Each update merges a batch with the running mean and factorisation of all earlier batches, whose
    weight decays, as in incremental PCA (Ross et al. 2008). The rank may therefore exceed the batch
    size. Memory is O((d + B) n), and the work consists of matrix products and factorisations with
    sides of at most d + B + 1, so that taps may have several 100,000 units. A direction whose
    variance is below about a millionth of the strongest one's is lost to the rounding of float32.

    Args:
        rank: dimension d, one for all taps or a dict by tap name, where None means all directions:
            that tap has no basis.
        explained_variance: share of the activity's variance, above 0, up to 1. At each update the
            smallest number of components that explains it is perturbed, at most `rank`; the other
            components are tracked, but not perturbed. If None, all `rank` are perturbed.
        update_every: number of training steps between updates.
        decay: factor by which the weight of all earlier batches decays at each update, in [0, 1].

    Returns:
        A `Subspace` with basis [n, d], whose columns begin with the strongest component.

    Raises:
        ValueError: if `explained_variance`, `update_every` or `decay` is out of range; (from init)
            if the rank is not between 1 and the units of a tap.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from nmnc_jax import pca
        >>> activity = jax.random.normal(jax.random.key(0), (32, 6))
        >>> manifold = pca(2)
        >>> state = manifold.init("hidden", activity)
        >>> manifold.update(state, activity).basis.shape
        (6, 2)
        >>> strengths = jnp.array([[9.0, 1.0, 0.1, 0.1, 0.1, 0.1]])
        >>> pca(4, explained_variance=0.9).init("hidden", strengths * activity).kept
        Array([1., 0., 0., 0.], dtype=float32)
    """
    check_count("update_every", update_every)
    if not 0.0 <= decay <= 1.0:
        raise ValueError(f"decay is {decay}; it takes a number from 0 to 1")
    if explained_variance is not None and not 0.0 < explained_variance <= 1.0:
        raise ValueError(
            f"explained_variance is {explained_variance}; it takes a number above 0, up to 1"
        )

    def kept(scatter: Array, total: Array) -> Array | None:
        if explained_variance is None:
            return None
        before = jnp.cumsum(scatter) - scatter
        # If the tap is silent, all components are kept, because none is better than another.
        return ((before < explained_variance * total) | (total == 0)).astype(scatter.dtype)

    def has_basis(name: str) -> bool:
        return not isinstance(rank, Mapping) or rank.get(name, 0) is not None

    def dimension_at(name: str, units: int) -> int:
        return rank_of(rank, name, units) if has_basis(name) else units

    def init(name: str, activity: Array, key: Array | None = None) -> SubspaceState:
        del key
        if not has_basis(name):
            return FixedBasis(None)
        units = activity.shape[1]
        dimension = dimension_at(name, units)
        # These directions have no variance; the first batch replaces as many of them as it spans.
        blank = jnp.eye(units, dimension, dtype=activity.dtype)
        nothing = jnp.zeros((dimension,), activity.dtype)
        mean = activity.mean(axis=0)
        rows = activity - mean[None]
        components, scatter = merge(blank, nothing, rows)
        total = jnp.sum(rows**2)
        weight = jnp.asarray(len(activity), activity.dtype)
        return Manifold(components, kept(scatter, total), mean, scatter, total, weight)

    def update(state: SubspaceState, activity: Array) -> SubspaceState:
        if isinstance(state, FixedBasis):
            return state
        old = decay * state.weight
        weight = old + len(activity)
        batch_mean = activity.mean(axis=0)
        shift = batch_mean - state.mean
        moved = jnp.sqrt(old * len(activity) / weight) * shift
        rows = jnp.concatenate([activity - batch_mean[None], moved[None]])
        components, scatter = merge(state.components, decay * state.scatter, rows)
        total = decay * state.total + jnp.sum(rows**2)
        mean = state.mean + (len(activity) / weight) * shift
        return Manifold(components, kept(scatter, total), mean, scatter, total, weight)

    return Subspace("pca", dimension_at, init, update, update_every, has_basis)


def dimension_of(basis: Array | None, units: int) -> int:
    """Returns the dimension d of a subspace of n units."""
    return units if basis is None else basis.shape[1]


def used(basis: Array | None, units: int) -> Array:
    """Returns which directions of a subspace are used, False for columns of zeros, [d]."""
    if basis is None:
        return jnp.ones(units, bool)
    return (basis != 0).any(axis=0)


def rank_of(rank: Rank | Mapping[str, int | None], name: str, units: int) -> int:
    """Returns a tap's rank, checked against the tap's units."""
    if isinstance(rank, Mapping):
        if name not in rank:
            raise ValueError(f"rank has no entry for tap {name!r}; it has {sorted(rank)}")
        rank = rank[name] or 0
    assert isinstance(rank, int)
    if not 1 <= rank <= units:
        raise ValueError(f"rank is {rank}; tap {name!r} takes 1 to {units} (its units)")
    return int(rank)
