"""Subspaces in which taps are perturbed: all directions, random ones, given ones, or the manifold.

A subspace is an orthonormal basis U, [n, d], or None for all n directions. Columns of zeros are
directions that are not used, so that their number may change while all shapes stay the same.
"""

from nmnc_jax.subspace.basis import (
    FixedBasis,
    Manifold,
    Subspace,
    SubspaceState,
    dimension_of,
    lift,
    project,
    used,
)
from nmnc_jax.subspace.fixed import fixed_subspace, isotropic, random_subspace
from nmnc_jax.subspace.manifold import pca

__all__ = [
    "FixedBasis",
    "Manifold",
    "Subspace",
    "SubspaceState",
    "dimension_of",
    "fixed_subspace",
    "isotropic",
    "lift",
    "pca",
    "project",
    "random_subspace",
    "used",
]
