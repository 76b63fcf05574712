"""The taps of a model, their shapes, and activations as matrices with a row per example."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from nmnc_jax.taps import Tap
from nmnc_jax.types import ApplyFn, Array, DType, Inputs, Params


class TapShape(NamedTuple):
    """What is known of a tap before anything is computed.

    Attributes:
        shape: of the activation.
        dtype: of the activation.
        batch_axis: place of the batch axis, after the time axes of the scans around the tap.
        order: place of the tap in the forward pass.
        stage: shape of the output of the stage that follows the tap; empty for a tap in a scan.
    """

    shape: tuple[int, ...]
    dtype: DType
    batch_axis: int
    order: int
    stage: tuple[int, ...]

    @property
    def batch(self) -> int:
        """Number of examples, B."""
        return self.shape[self.batch_axis]

    @property
    def units(self) -> int:
        """Units per example, n; for a tap inside a scan, over all its time steps."""
        count = 1
        for axis, size in enumerate(self.shape):
            count *= 1 if axis == self.batch_axis else size
        return count


def tap_shapes(apply_fn: ApplyFn, params: Params, inputs: Inputs) -> dict[str, TapShape]:
    """Finds a model's taps, without computing anything.

    Args:
        apply_fn: ``apply_fn(params, inputs, tap) -> outputs``.
        params: the model's parameters.
        inputs: the model's inputs, examples first.

    Returns:
        Tap name to `TapShape`, sorted by name (the fixed order in which keys are split).

    Raises:
        ValueError: if the model has no tap, its outputs are not one array with examples first, or
            a tap's batch axis has another size than the outputs'.

    Example:
        >>> import jax.numpy as jnp
        >>> from nmnc_jax.shapes import tap_shapes
        >>> model = lambda params, inputs, tap: tap("hidden", inputs * params)
        >>> tap_shapes(model, jnp.ones(()), jnp.ones((5, 4, 4, 2)))["hidden"].units
        32
    """
    tap = Tap()

    def forward(params: Params, inputs: Inputs) -> Array:
        return tap.linear(apply_fn(params, inputs, tap))

    outputs = jax.eval_shape(forward, params, inputs)
    if not isinstance(outputs, jax.ShapeDtypeStruct) or outputs.ndim < 2:
        raise ValueError(f"apply_fn returned {outputs}; it takes one array of outputs, [B, o]")
    if not tap.activations:
        raise ValueError("apply_fn has no tap; pass each hidden activation through tap(name, x)")
    order = {name: place for place, name in enumerate(tap.activations)}
    shapes = {}
    for name in sorted(tap.activations):
        activation = tap.activations[name]
        stage = tap.stage_outputs[name].shape if name in tap.stage_outputs else ()
        shape = TapShape(
            activation.shape, activation.dtype, tap.time_axes[name], order[name], stage
        )
        if len(shape.shape) <= shape.batch_axis or shape.batch != outputs.shape[0]:
            raise ValueError(
                f"tap {name!r} has shape {shape.shape}; it takes one row per example "
                f"({outputs.shape[0]} outputs) along axis {shape.batch_axis}"
            )
        shapes[name] = shape
    return shapes


def flatten(shape: TapShape, activation: Array) -> Array:
    """Turns one tap's activation into a matrix with a row per example, [B, n]."""
    return jnp.moveaxis(activation, shape.batch_axis, 0).reshape(shape.batch, -1)


def unflatten(shape: TapShape, rows: Array) -> Array:
    """Inverts `flatten`: [B, n] back to the activation's shape."""
    others = tuple(s for axis, s in enumerate(shape.shape) if axis != shape.batch_axis)
    return jnp.moveaxis(rows.reshape(shape.batch, *others), 0, shape.batch_axis)


def at_least_float32(dtype: DType) -> DType:
    """The dtype in which activity is projected and correlated."""
    return jnp.float32 if jnp.finfo(dtype).bits < 32 else dtype
