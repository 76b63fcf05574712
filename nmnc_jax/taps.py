"""The tap: one hook in the forward function that gives every reading of the network."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import lax

from nmnc_jax.types import Activations, ApplyFn, Array, DType, Inputs, Params


class TapLike(Protocol):
    """What a model receives: call it on each hidden activation, scan with it over time."""

    def __call__(self, name: str, activation: Array) -> Array:
        """Passes one activation through the tap."""
        ...

    def scan(
        self, body: Callable[[Any, Any, "TapLike"], tuple[Any, Any]], carry: Any, xs: Any
    ) -> tuple[Any, Any]:
        """Runs ``lax.scan`` with a body ``(carry, x, tap) -> (carry, y)``."""
        ...


class _NoTap:
    """The tap of an ordinary forward pass: it changes and records nothing."""

    def __call__(self, name: str, activation: Array) -> Array:
        del name
        return activation

    def scan(
        self, body: Callable[[Any, Any, TapLike], tuple[Any, Any]], carry: Any, xs: Any
    ) -> tuple[Any, Any]:
        return lax.scan(lambda carry, x: body(carry, x, self), carry, xs)


no_tap: TapLike = _NoTap()
"""Pass this as a model's ``tap`` to use it as an ordinary model."""


class Tap:
    """A recording tap, alive during one trace of the forward function.

    Args:
        noise: tap name to the array that is added to that activation.
        cut: whether gradients stop at each tap (after it is recorded).
    """

    def __init__(self, noise: Mapping[str, Array], cut: bool):
        self.noise = noise
        self.cut = cut
        self.activations: Activations = {}
        self.time_axes: dict[str, int] = {}

    def __call__(self, name: str, activation: Array) -> Array:
        """Records the activation under `name` (after adding its noise) and returns it.

        Raises:
            ValueError: if the name was used before in this pass, the activation is not a
                floating-point array, or the noise has another shape than the activation.
        """
        if not jnp.issubdtype(activation.dtype, jnp.floating):
            raise ValueError(
                f"tap {name!r} got an activation of dtype {activation.dtype}; "
                "it takes floating-point arrays"
            )
        if name in self.noise:
            noise = jnp.asarray(self.noise[name])
            if noise.shape != activation.shape:
                raise ValueError(
                    f"noise[{name!r}] has shape {noise.shape}; "
                    f"it takes the activation's shape {activation.shape}"
                )
            activation = activation + noise.astype(activation.dtype)
        self._record(name, activation, time_axes=0)
        return lax.stop_gradient(activation) if self.cut else activation

    def scan(
        self, body: Callable[[Any, Any, TapLike], tuple[Any, Any]], carry: Any, xs: Any
    ) -> tuple[Any, Any]:
        """Runs ``lax.scan`` with a body that receives a tap of its own.

        Args:
            body: ``body(carry, x, tap) -> (carry, y)``.
            carry: the initial carry.
            xs: pytree of arrays with a leading time axis T.

        Returns:
            ``(carry, ys)`` as ``lax.scan`` does. Names tapped inside are recorded outside with a
            leading time axis, and take noise with that axis.
        """
        length = jax.tree.leaves(xs)[0].shape[0]
        inside = Tap({}, self.cut)
        jax.eval_shape(
            lambda carry, xs: body(carry, jax.tree.map(lambda leaf: leaf[0], xs), inside), carry, xs
        )
        names = inside.activations.keys() & self.noise.keys()
        noise = {name: jnp.asarray(self.noise[name]) for name in sorted(names)}
        for name, value in noise.items():
            if value.shape[:1] != (length,):
                raise ValueError(
                    f"noise[{name!r}] has shape {value.shape}; "
                    f"inside tap.scan it takes a leading time axis of {length}"
                )

        def step(carry, slices):
            x, noise_now = slices
            tap = Tap(noise_now, self.cut)
            carry, y = body(carry, x, tap)
            return carry, (y, tap.activations)

        carry, (ys, activations) = lax.scan(step, carry, (xs, noise))
        for name, activation in activations.items():
            self._record(name, activation, time_axes=inside.time_axes[name] + 1)
        return carry, ys

    def _record(self, name: str, activation: Array, time_axes: int) -> None:
        if name in self.activations:
            raise ValueError(f"tap name {name!r} is used twice in one pass; names must be unique")
        self.activations[name] = activation
        self.time_axes[name] = time_axes


def run(
    apply_fn: ApplyFn,
    params: Params,
    inputs: Inputs,
    *,
    noise: Mapping[str, Array] | None = None,
    cut: bool = False,
) -> tuple[Array, Activations]:
    """Runs a model once and returns its outputs and every tapped activation.

    Args:
        apply_fn: ``apply_fn(params, inputs, tap) -> outputs``.
        params: the model's parameters.
        inputs: the model's inputs, examples first.
        noise: tap name to an array of exactly the activation's shape, added to the activation
            before it is recorded; the change flows on downstream.
        cut: whether gradients stop at each tap. The recorded activation still carries the gradient
            of the stage that made it.

    Returns:
        ``(outputs, activations)``; activations maps tap names to arrays.

    Raises:
        ValueError: if `noise` names an unknown tap or has a wrong shape, or a name is used twice.

    Example:
        >>> import jax.numpy as jnp
        >>> from nmnc_jax import run
        >>> def model(params, inputs, tap):
        ...     return tap("hidden", inputs @ params["in"]) @ params["out"]
        >>> params = {"in": jnp.ones((3, 4)), "out": jnp.ones((4, 2))}
        >>> outputs, activations = run(model, params, jnp.ones((5, 3)))
        >>> outputs.shape, activations["hidden"].shape
        ((5, 2), (5, 4))
    """
    tap = Tap(noise or {}, cut)
    outputs = apply_fn(params, inputs, tap)
    unknown = sorted(set(tap.noise) - set(tap.activations))
    if unknown:
        raise ValueError(
            f"noise names unknown taps {unknown}; the model has {sorted(tap.activations)}"
        )
    return outputs, tap.activations


class TapShape(NamedTuple):
    """Shape of one tap and the place of its batch axis (after the time axes of its scans)."""

    shape: tuple[int, ...]
    dtype: DType
    batch_axis: int

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
        >>> from nmnc_jax.taps import tap_shapes
        >>> model = lambda params, inputs, tap: tap("hidden", inputs * params)
        >>> tap_shapes(model, jnp.ones(()), jnp.ones((5, 4, 4, 2)))["hidden"].units
        32
    """
    tap = Tap({}, cut=False)
    outputs = jax.eval_shape(lambda params, inputs: apply_fn(params, inputs, tap), params, inputs)
    if not isinstance(outputs, jax.ShapeDtypeStruct) or outputs.ndim < 2:
        raise ValueError(f"apply_fn returned {outputs}; it takes one array of outputs, [B, o]")
    if not tap.activations:
        raise ValueError("apply_fn has no tap; pass each hidden activation through tap(name, x)")
    shapes = {}
    for name in sorted(tap.activations):
        activation = tap.activations[name]
        shape = TapShape(activation.shape, activation.dtype, tap.time_axes[name])
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
