"""Feedback and losses through time, for taps inside a scan.

The feedback of such a tap stacks one matrix for each lag between the tap's time step and that of an
output, [lags o, d]. Without a scan the only lag is 0. Responses that follow the tap's time are
sequences [B, T, o]; others are one block [B, 1, o] that counts as the last time step.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from nmnc_jax.layout import TapShape, at_least_float32, floating_leaves, output_rows
from nmnc_jax.sharding import zeros_of
from nmnc_jax.types import Array


def sequence(shape: TapShape, aligned: bool, outputs: Any) -> Array:
    """Reshapes a pytree of outputs for a tap: [B, T, o] if aligned, else one block [B, 1, o]."""
    if not aligned:
        return output_rows(outputs)[:, None]
    leaves = [
        leaf.reshape(shape.batch, shape.steps, -1).astype(at_least_float32(leaf.dtype))
        for leaf in floating_leaves(outputs)
    ]
    return leaves[0] if len(leaves) == 1 else jnp.concatenate(leaves, axis=2)


def jacobian_by_lag(shape: TapShape, lags: int, z: Array, dy: Array) -> Array:
    """Correlates probes at each time step with the change of the outputs at each lag.

    Args:
        shape: the shape of the tap.
        lags: number of lags, at most T.
        z: coordinates of the probes, [B T, d].
        dy: change of the outputs, [B, T, o] or [B, 1, o].

    Returns:
        The mean over examples and time steps for each lag, [lags o, d].
    """
    if lags == 1 and dy.shape[1] == shape.steps:
        return dy.reshape(len(z), -1).T @ z / len(z)
    z = z.reshape(shape.batch, shape.steps, -1)
    if dy.shape[1] == 1:
        late = z[:, ::-1][:, :lags]
        return jnp.einsum("bo,bld->lod", dy[:, 0], late).reshape(-1, z.shape[-1]) / shape.batch
    later = _later(dy, lags)

    def one(lag: Array) -> Array:
        pairs = shape.batch * (shape.steps - lag)
        return jnp.einsum("bto,btd->od", later(lag), z) / pairs.astype(z.dtype)

    return lax.map(one, jnp.arange(lags)).reshape(-1, z.shape[-1])


def credit_by_lag(shape: TapShape, coordinates: Array, error: Array) -> Array:
    """Carries output errors back to the time steps at each lag before them.

    Args:
        shape: the shape of the tap.
        coordinates: coordinates of the feedback, [lags o, d] with at most T lags.
        error: gradient of the loss with respect to the outputs, [B, T, o] or [B, 1, o].

    Returns:
        Credit in coordinates, [B T, d].
    """
    error = error.astype(coordinates.dtype)
    by_lag = coordinates.reshape(-1, error.shape[-1], coordinates.shape[1])
    if len(by_lag) == 1 and error.shape[1] == shape.steps:
        return error.reshape(shape.rows, -1) @ by_lag[0]
    if error.shape[1] == 1:
        late = jnp.einsum("bo,lod->bld", error[:, 0], by_lag)[:, ::-1]
        early = shape.steps - late.shape[1]
        return jnp.pad(late, ((0, 0), (early, 0), (0, 0))).reshape(shape.rows, -1)
    later = _later(error, len(by_lag))

    def add(credit: Array, lag_and_matrix: tuple[Array, Array]) -> tuple[Array, None]:
        lag, matrix = lag_and_matrix
        return credit + later(lag) @ matrix, None

    nothing = zeros_of(jax.eval_shape(lambda: error @ by_lag[0]))
    credit, _ = lax.scan(add, nothing, (jnp.arange(len(by_lag)), by_lag))
    return credit.reshape(shape.rows, -1)


def still_to_come(
    shape: TapShape, aligned: bool, coupled: bool, changes: Array, predicted: Array
) -> Array:
    """Returns the change of the loss from each time step on, minus the predicted change.

    Args:
        shape: the shape of the tap.
        aligned: whether `changes` follow the tap's time.
        coupled: whether an example's noise changes the losses of other examples, so that their
            changes are summed.
        changes: changes of the losses, [B], or [B, T] for each time step.
        predicted: predicted change of the loss due to the noise at each time step, [B T].

    Returns:
        [B T]; if the losses do not distinguish time steps, the change of the whole loss.
    """
    predicted = predicted.reshape(shape.batch, shape.steps)
    if aligned and not coupled:
        left = changes.reshape(shape.batch, shape.steps) - predicted
        return jnp.cumsum(left[:, ::-1], axis=1)[:, ::-1].reshape(-1)
    whole = changes.reshape(shape.batch, -1).sum(axis=1) - predicted.sum(axis=1)
    if coupled:
        whole = jnp.broadcast_to(whole.sum(keepdims=True), whole.shape)
    return jnp.broadcast_to(whole[:, None], predicted.shape).reshape(-1)


def _later(rows: Array, lags: int) -> Callable[[Array], Array]:
    """Returns a function of a lag that shifts a sequence [B, T, o] by it, with zeros at the end."""
    padded = jnp.pad(rows, ((0, 0), (0, lags - 1), (0, 0)))
    return lambda lag: lax.dynamic_slice_in_dim(padded, lag, rows.shape[1], axis=1)
