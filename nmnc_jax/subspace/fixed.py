"""Subspaces that never move."""

import zlib
from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from nmnc_jax.checks import check_names
from nmnc_jax.subspace.basis import FixedBasis, Subspace, SubspaceState, rank_of
from nmnc_jax.types import Array, Rank


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

    return Subspace("random_subspace", dimension_at, init, check=partial(check_names, "rank", rank))


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
            raise ValueError(f"bases has no entry for tap {name!r}; it has {[*bases]}")
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

    return Subspace(
        "fixed_subspace", dimension_at, init, check=partial(check_names, "bases", bases)
    )
