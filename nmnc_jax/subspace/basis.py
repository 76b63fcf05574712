"""The basis of a tap, what a state remembers of it, and the way in which it is chosen."""

import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

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
        update: ``update(state, activity) -> SubspaceState``, or None if the basis never moves. In a
            compiled step it is traced, once for all taps whose state and activity look alike.
        update_every: number of steps between updates.
        has_basis: ``has_basis(name) -> bool``, whether a tap has a basis and not all directions.
        check: ``check(names)``, which raises a ValueError if the subspace was given something for a
            name that no tap has.
    """

    name: str
    dimension: Callable[[str, int], int]
    init: Callable[..., SubspaceState]
    update: Callable[[Any, Array], SubspaceState] | None = None
    update_every: int = 1
    has_basis: Callable[[str], bool] = lambda name: True
    check: Callable[[Iterable[str]], None] = lambda names: None


def lift(basis: Array | None, coordinates: Array) -> Array:
    """Maps subspace coordinates [..., d] to units [..., n]: x = U z."""
    return coordinates if basis is None else coordinates @ basis.T


def project(basis: Array | None, rows: Array) -> Array:
    """Maps units [..., n] to subspace coordinates [..., d]: z = U^T x."""
    return rows if basis is None else rows @ basis


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
            raise ValueError(f"rank has no entry for tap {name!r}; it has {[*rank]}")
        rank = rank[name] or 0
    try:
        rank = operator.index(rank)
    except TypeError:
        raise ValueError(
            f"rank is {rank!r}; it takes a whole number, or a dict of them by tap name"
        ) from None
    if not 1 <= rank <= units:
        raise ValueError(
            f"rank is {rank}; tap {name!r} takes 1 to {units} (its units). Ranks that differ "
            "between taps are a dict by tap name"
        )
    return rank
