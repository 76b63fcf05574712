"""Streaming principal components: a factorisation that is merged with further rows."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.lax.linalg import EighImplementation

from nmnc_jax.sharding import loop
from nmnc_jax.types import Array

ROWS = 2048
"""Rows that are merged at once; more rows are merged in blocks, so that matrices stay small."""
APART = 0.01
"""Gap that separates the rows that rank last, relative to the trace; rounding grows with it."""


def merge(basis: Array, scatter: Array, rows: Array) -> tuple[Array, Array]:
    """Merges a factorisation with further rows and returns its principal directions.

    Every operation on an array with an axis of n units is a matrix product, so that units may be
    sharded. No [n, n] matrix is formed if n exceeds d plus the number of rows. Only symmetric
    matrices with sides of at most d + 2048 are factorised.

    Args:
        basis: orthonormal directions, [n, d].
        scatter: the sum of squares along each direction, [d].
        rows: deviations from the mean, [m, n].

    Returns:
        The new basis [n, d], with the strongest direction first, and the new scatter [d].
    """
    # Products in TF32 (GPUs) or bfloat16 (TPUs) would not keep the directions orthonormal.
    with jax.default_matmul_precision("highest"):
        count, units = rows.shape
        if count <= ROWS or units <= basis.shape[1] + ROWS:
            return _merge(basis, scatter, rows)
        blocks = -(-count // ROWS)
        # The rows of zeros that fill the last block add nothing.
        padded = jnp.pad(rows, ((0, blocks * ROWS - count), (0, 0))).reshape(blocks, ROWS, units)

        def turn(carry: list[Array]) -> list[Array]:
            place, basis, scatter = carry
            return [place + 1, *_merge(basis, scatter, padded[place])]

        start = [jnp.zeros((), jnp.int32), basis, scatter]
        _, basis, scatter = loop(jnp.asarray(blocks, jnp.int32), turn, start)
        return basis, scatter


def _merge(basis: Array, scatter: Array, rows: Array) -> tuple[Array, Array]:
    units, dimension = basis.shape
    count = len(rows)
    if units <= dimension + count:
        total = (basis * scatter[None]) @ basis.T + rows.T @ rows
        values, vectors = _eigh(total)
        leading = _oriented(vectors[:, ::-1][:, :dimension])
        return leading, jnp.maximum(values[::-1][:dimension], 0)
    # The eigenvectors of the Gram matrix give the part of the rows that the basis does not span.
    # A part at the level of rounding has no reliable direction and is dropped.
    inside = rows @ basis
    rest = rows - inside @ basis.T
    values, vectors = _eigh(rest @ rest.T)
    rounding = jnp.finfo(rows.dtype).eps
    cancelled = rounding * count * jnp.vdot(inside, inside)
    kept = values > 10 * rounding * (values[-1] + cancelled)
    sizes = jnp.where(kept, lax.rsqrt(jnp.where(kept, values, 1)), 0)
    added = rest.T @ (vectors * sizes[None])
    spanning = jnp.concatenate([basis, added], axis=1)
    # The directions are orthonormal only up to rounding, which the Gram matrix amplifies for weak
    # directions. Whitening with a Cholesky factor of their overlap corrects this.
    overlap = spanning.T @ spanning
    counted = jnp.concatenate([jnp.ones(dimension, bool), kept]).astype(rows.dtype)
    factor = jnp.linalg.cholesky(overlap + jnp.diag(1 - counted))
    known = jnp.sqrt(scatter)[:, None] * overlap[:dimension]
    given = jnp.concatenate([known, jnp.concatenate([inside, rows @ added], axis=1)])
    coordinates = jax.scipy.linalg.solve_triangular(factor, given.T, lower=True)
    leading = _principal(coordinates, counted)[:, :dimension]
    strengths = jnp.sum((leading.T @ coordinates) ** 2, axis=1)
    turn = jax.scipy.linalg.solve_triangular(factor, leading, lower=True, trans="T")
    return _oriented(spanning @ turn), strengths


@jax.jit
def _principal(coordinates: Array, counted: Array) -> Array:
    """Returns the left singular vectors of coordinates, strongest first.

    They are the eigenvectors of ``coordinates @ coordinates.T``, in which rounding hides the weak
    directions. In the frame of its eigenvectors the weak directions no longer mix with the strong
    ones, so a second product of the weak directions alone finds them.

    Args:
        coordinates: one row per direction, [k, m].
        counted: 1 for the directions that count, 0 for directions of zeros, which rank last, [k].

    Returns:
        Orthonormal columns, [k, k].
    """
    square = coordinates @ coordinates.T
    # An equal term for all directions that count does not change their eigenvectors.
    square += jnp.diag(APART * _or_one(jnp.trace(square)) * counted)
    frame = _eigh(square)[1][:, ::-1]
    turned = frame.T @ coordinates
    square = turned @ turned.T
    sizes = jnp.diagonal(square)
    strong = sizes > 10 * jnp.finfo(sizes.dtype).eps ** 0.5 * sizes.max()
    weak = jnp.where(strong[:, None] | strong[None], 0, square)
    # No eigenvalue of the weak directions exceeds the trace, so the strong ones stay above them.
    place = jnp.arange(len(counted), dtype=counted.dtype)
    places = jnp.where(strong, 2 - place / len(counted), 0)
    places += jnp.where(place < counted.sum(), APART, 0)
    return frame @ _eigh(weak + jnp.diag(_or_one(jnp.trace(weak)) * places))[1][:, ::-1]


def _or_one(size: Array) -> Array:
    return jnp.where(size > 0, size, 1)


@jax.jit
def _eigh(matrix: Array) -> tuple[Array, Array]:
    """Eigenvalues of a symmetric matrix, ascending, and eigenvectors as columns.

    On a TPU by Jacobi's method, which compiles in seconds at sides for which the method that
    `jnp.linalg.eigh` takes there compiles for minutes.
    """
    jacobi = partial(lax.linalg.eigh, implementation=EighImplementation.JACOBI)
    vectors, values = lax.platform_dependent(matrix, tpu=jacobi, default=lax.linalg.eigh)
    return values, vectors


def _oriented(basis: Array) -> Array:
    """Gives each direction the sign that makes its largest entry positive.

    Otherwise rounding decides the sign, and the same probes differ between device layouts.
    """
    return (
        basis * jnp.where(basis.max(axis=0) < -basis.min(axis=0), -1, 1).astype(basis.dtype)[None]
    )
