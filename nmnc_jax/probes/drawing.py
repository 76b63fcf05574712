"""The coordinates of probes: their distribution, and their size at a tap."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nmnc_jax.probes.probe import Probe
from nmnc_jax.subspace import used
from nmnc_jax.types import Array, DType


def draw(key: Array, probe: Probe, *, rows: int, dimension: int, dtype: DType, pooled: bool) -> Any:
    """Prepares K draws; `coordinates` turns each into the coordinates of one probe.

    Args:
        key: this tap's key.
        probe: the probe, with its number and kind.
        rows: number of examples times time steps, B T.
        dimension: subspace dimension d.
        dtype: dtype of the coordinates.
        pooled: whether all examples are averaged together, so that a frame spans them.

    Returns:
        Arrays with leading axis K. In general these are keys, so that memory does not grow with the
        coordinates of all probes; for orthogonal probes that share a frame they are the
        coordinates, [K, B T, d].
    """
    num = probe.count()
    if probe.kind != "orthogonal":
        return jax.random.split(key, num)
    if not pooled:
        keys = jax.random.split(key, rows)
        frames = jax.lax.map(lambda key: haar_frames(key, num, dimension, dtype), keys)
        return frames.swapaxes(0, 1)
    if rows < dimension:
        frames = haar_frames(key, num * rows, dimension, dtype)
        return frames.reshape(num, rows, dimension)
    # The frames that contain each probe's rows; the first and the last may be shared.
    start = np.arange(num) * rows
    each = -(-rows // dimension) + (rows % dimension > 0 and num > 1)
    keys = jax.random.split(key, -(-num * rows // dimension) + 1)
    places = (start // dimension)[:, None] + np.arange(each)[None]
    # The key of a shared frame is used by both probes on purpose.
    shared = jax.random.wrap_key_data(
        jax.random.key_data(keys)[places], impl=jax.random.key_impl(key)
    )
    return shared, jnp.asarray(start % dimension, jnp.int32)


def coordinates(drawn: Any, probe: Probe, rows: int, dimension: int, dtype: DType) -> Array:
    """Returns one probe's coordinates z, [B T, d], with unit variance, from one draw."""
    if probe.kind == "orthogonal" and isinstance(drawn, tuple):
        keys, start = drawn
        frames = jax.lax.map(lambda key: haar_frames(key, dimension, dimension, dtype), keys)
        return jax.lax.dynamic_slice_in_dim(frames.reshape(-1, dimension), start, rows)
    if probe.kind == "orthogonal":
        return drawn
    sample = jax.random.normal if probe.kind == "gaussian" else jax.random.rademacher
    return sample(drawn, (rows, dimension), dtype)


def coordinate_size(rows: Array, basis: Array | None) -> Array:
    """Returns the standard deviation of coordinates for which the perturbation has the tap's RMS.

    The RMS is per unit, so that the energy of a perturbation does not depend on the dimension of
    the subspace.
    """
    units = rows.shape[1]
    dimension = used(basis, units).sum(dtype=rows.dtype)
    rms = jnp.sqrt(jnp.mean(rows**2))
    return jnp.where(rms > 0, rms, 1) * jnp.sqrt(units / dimension)


def haar_frames(key: Array, count: int, dimension: int, dtype: DType) -> Array:
    """Draws `count` rows of unit variance, orthogonal within each frame of d rows, [count, d]."""
    width = min(count, dimension)
    frames = -(-count // dimension)
    gaussian = jax.random.normal(key, (frames, dimension, width), dtype)
    if dimension >= 4 * width:
        # Few columns are nearly orthogonal, so that the Cholesky factor of their Gram matrix is as
        # accurate as a QR factorisation, which takes 20 times as long on CPU for 16,384 x 32. Its
        # diagonal is positive: the frames have a Haar distribution.
        rows, exactly = gaussian[0].T, jax.lax.Precision.HIGHEST
        factor = jnp.linalg.cholesky(jnp.matmul(rows, rows.T, precision=exactly))
        identity = jnp.eye(width, dtype=dtype)
        turn = jax.scipy.linalg.solve_triangular(factor, identity, lower=True)
        turn = turn * jnp.sqrt(jnp.asarray(dimension, dtype))
        return jnp.matmul(turn, rows, precision=exactly)
    # Frames are factorised one after another. On CPU a batched factorisation waits in a thread of a
    # pool for other threads of that pool, so that several at once (one per tap) may deadlock.
    q, r = jax.lax.map(jnp.linalg.qr, gaussian)
    # QR does not give a Haar distribution by itself, because signs depend on the algorithm.
    q = q * jnp.sign(jnp.diagonal(r, axis1=-2, axis2=-1))[:, None, :]
    rows = q.swapaxes(1, 2).reshape(frames * width, dimension)[:count]
    return rows * jnp.sqrt(jnp.asarray(dimension, dtype))
