"""Principal components that are streamed: a factorisation, merged with further rows."""

import jax
import jax.numpy as jnp

from nmnc_jax.types import Array


def merge(basis: Array, scatter: Array, rows: Array) -> tuple[Array, Array]:
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
