"""The taps of a model, their shapes, and activations as matrices with a row per example."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from nmnc_jax.taps import Tap
from nmnc_jax.types import Activations, ApplyFn, Array, DType, Inputs, Params


class TapShape(NamedTuple):
    """What is known of a tap before anything is computed.

    Attributes:
        shape: of the activation.
        dtype: of the activation.
        batch_axis: place of the batch axis, after the time axes of the scans around the tap.
        order: place of the tap in the forward pass.
        stage: shape of the output of the stage that follows the tap, time axes first; empty where
            there is none, as after the last tap of a scan's body that marks no ``tap.linear``.
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
    def steps(self) -> int:
        """Time steps of the scans around the tap, T; 1 without."""
        return math.prod(self.shape[: self.batch_axis])

    @property
    def rows(self) -> int:
        """Examples times time steps: what subspaces and feedback are fitted over."""
        return self.batch * self.steps

    @property
    def units(self) -> int:
        """Units per example and time step, n."""
        return math.prod(self.shape[self.batch_axis + 1 :])

    @property
    def has_stage(self) -> bool:
        """Whether a stage follows whose output has a row per example, at each time step."""
        return self.stage[: self.batch_axis + 1] == self.shape[: self.batch_axis + 1]

    @property
    def stage_units(self) -> int:
        """Units of that output, per example and time step."""
        return math.prod(self.stage[self.batch_axis + 1 :])


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
    """Turns one tap's activation into a matrix with a row per example and time step, [B T, n]."""
    return jnp.moveaxis(activation, shape.batch_axis, 0).reshape(shape.rows, shape.units)


def flatten_stage(shape: TapShape, output: Array) -> Array:
    """Turns the output of a tap's stage into a matrix with the rows of `flatten`, [B T, m]."""
    return jnp.moveaxis(output, shape.batch_axis, 0).reshape(shape.rows, shape.stage_units)


def unflatten(shape: TapShape, rows: Array) -> Array:
    """Inverts `flatten`: [B T, n] back to the activation's shape."""
    times, units = shape.shape[: shape.batch_axis], shape.shape[shape.batch_axis + 1 :]
    return jnp.moveaxis(rows.reshape(shape.batch, *times, *units), 0, shape.batch_axis)


def chained_by_default(shapes: Mapping[str, TapShape]) -> bool:
    """Whether credit is chained by the readout `next` where no readout is asked for.

    So it is through time: the Jacobian of outputs to come depends on state and input, and an
    average over examples cannot hold it, but the linear stage from one step to the next does not.
    """
    recurrent = any(shape.batch_axis for shape in shapes.values())
    return recurrent and all(shape.has_stage for shape in shapes.values())


def at_least_float32(dtype: DType) -> DType:
    """The dtype in which activity is projected and correlated."""
    return jnp.float32 if jnp.finfo(dtype).bits < 32 else dtype


def matrices(shapes: Mapping[str, TapShape], activations: Activations) -> dict[str, Array]:
    """Activity as matrices [B T, n] of at least float32."""
    return {
        name: flatten(shape, activations[name]).astype(at_least_float32(shape.dtype))
        for name, shape in shapes.items()
    }


def check_stages(shapes: Mapping[str, TapShape]) -> None:
    """Refuses taps whose stage has no output with a row per example."""
    for name, shape in shapes.items():
        if not shape.has_stage:
            raise ValueError(
                f"tap {name!r} feeds a stage of shape {shape.stage or '()'}; readout 'next' takes "
                f"one row per example, {shape.shape[: shape.batch_axis + 1]}: in a scan, mark its "
                "end by tap.linear in the same body"
            )
