"""The subspace that follows the activity, by streaming principal components."""

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp

from nmnc_jax.checks import check_count, check_names
from nmnc_jax.components import merge
from nmnc_jax.subspace.basis import FixedBasis, Manifold, Subspace, SubspaceState, rank_of
from nmnc_jax.types import Array, Rank


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

    def has_basis(name: str) -> bool:
        return not isinstance(rank, Mapping) or rank.get(name, 0) is not None

    def dimension_at(name: str, units: int) -> int:
        return rank_of(rank, name, units) if has_basis(name) else units

    def init(name: str, activity: Array, key: Array | None = None) -> SubspaceState:
        del key
        if not has_basis(name):
            return FixedBasis(None)
        dimension = dimension_at(name, activity.shape[1])
        return _first(activity, dimension, explained_variance)

    def update(state: SubspaceState, activity: Array) -> SubspaceState:
        if isinstance(state, FixedBasis):
            return state
        return _merged(state, activity, decay, explained_variance)

    check = partial(check_names, "rank", rank)
    return Subspace("pca", dimension_at, init, update, update_every, has_basis, check)


# Compiled even where `init` is not; otherwise every operation would be compiled by itself.
@partial(jax.jit, static_argnums=1)
def _first(activity: Array, dimension: int, explained_variance: float | None) -> Manifold:
    # These directions have no variance; the first batch replaces as many of them as it spans.
    blank = jnp.eye(activity.shape[1], dimension, dtype=activity.dtype)
    nothing = jnp.zeros((dimension,), activity.dtype)
    mean = activity.mean(axis=0)
    rows = activity - mean[None]
    components, scatter = merge(blank, nothing, rows)
    total = jnp.sum(rows**2)
    weight = jnp.asarray(len(activity), activity.dtype)
    kept = _kept(scatter, total, explained_variance)
    return Manifold(components, kept, mean, scatter, total, weight)


@jax.jit
def _merged(
    state: Manifold, activity: Array, decay: float, explained_variance: float | None
) -> Manifold:
    old = decay * state.weight
    weight = old + len(activity)
    batch_mean = activity.mean(axis=0)
    shift = batch_mean - state.mean
    moved = jnp.sqrt(old * len(activity) / weight) * shift
    rows = jnp.concatenate([activity - batch_mean[None], moved[None]])
    components, scatter = merge(state.components, decay * state.scatter, rows)
    total = decay * state.total + jnp.sum(rows**2)
    mean = state.mean + (len(activity) / weight) * shift
    kept = _kept(scatter, total, explained_variance)
    return Manifold(components, kept, mean, scatter, total, weight)


def _kept(scatter: Array, total: Array, explained_variance: float | None) -> Array | None:
    if explained_variance is None:
        return None
    before = jnp.cumsum(scatter) - scatter
    # If the tap is silent, all components are kept, because none is better than another.
    return ((before < explained_variance * total) | (total == 0)).astype(scatter.dtype)
