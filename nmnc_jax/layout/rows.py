"""Activity, what arrives at nodes, and outputs as matrices with a row per example and time step."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from nmnc_jax.layout.shapes import TapShape
from nmnc_jax.types import Activations, Array, DType


def flatten(shape: TapShape, activation: Array) -> Array:
    """Reshapes one tap's activation to a matrix with a row per example and time step, [B T, n]."""
    return jnp.moveaxis(activation, shape.batch_axis, 0).reshape(shape.rows, shape.units)


def flatten_stage(shape: TapShape, value: Any) -> Array:
    """Reshapes what arrives at a node to a matrix with the rows of `flatten`, [B T, m]."""
    rows = [
        jnp.moveaxis(leaf, shape.batch_axis, 0)
        .reshape(shape.rows, -1)
        .astype(at_least_float32(leaf.dtype))
        for leaf in jax.tree.leaves(value)
    ]
    return jnp.concatenate(rows, axis=1)


def unflatten(shape: TapShape, rows: Array) -> Array:
    """Inverts `flatten`: [B T, n] back to the activation's shape."""
    wide = rows.reshape(shape.batch, *shape.times, *shape.unit_axes)
    return jnp.moveaxis(wide, 0, shape.batch_axis)


def floating_leaves(outputs: Any) -> list[Any]:
    """Returns the floating-point arrays of a pytree of outputs.

    Raises:
        ValueError: if there are none.
    """
    leaves = jax.tree.leaves(outputs)
    floating = [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]
    if not floating:
        raise ValueError(
            f"apply_fn returned {[str(leaf.dtype) for leaf in leaves]}; readout 'output' takes "
            "floating-point outputs"
        )
    return floating


def output_rows(outputs: Any) -> Array:
    """Reshapes a pytree of outputs to a matrix with a row per example, [B, o]."""
    rows = [
        leaf.reshape(leaf.shape[0], -1).astype(at_least_float32(leaf.dtype))
        for leaf in floating_leaves(outputs)
    ]
    return rows[0] if len(rows) == 1 else jnp.concatenate(rows, axis=1)


def has_time_of(shape: TapShape, response: Any) -> bool:
    """Returns whether all arrays of a response have the tap's time axes after that of examples."""
    axes = len(shape.times)
    return axes > 0 and all(
        leaf.shape[1 : axes + 1] == shape.times for leaf in jax.tree.leaves(response)
    )


def at_least_float32(dtype: DType) -> DType:
    """Returns the dtype in which activity is projected and correlated."""
    if not jnp.issubdtype(dtype, jnp.floating):
        return jnp.float32
    return jnp.float32 if jnp.finfo(dtype).bits < 32 else dtype


def matrices(shapes: Mapping[str, TapShape], activations: Activations) -> dict[str, Array]:
    """Returns activity as matrices [B T, n] of at least float32."""
    return {
        name: flatten(shape, activations[name]).astype(at_least_float32(shape.dtype))
        for name, shape in shapes.items()
    }
