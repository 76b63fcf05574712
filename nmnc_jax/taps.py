"""The tap: one hook in the forward function that gives every reading of the network."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import lax

from nmnc_jax.types import Activations, ApplyFn, Array, Inputs, Params


class TapLike(Protocol):
    """What a model receives: call it on each hidden activation, scan with it over time.

    A model may also mark where the linear stage after a tap ends, for the readout `next`.
    """

    def __call__(self, name: str, activation: Array) -> Array:
        """Passes one activation through the tap."""
        ...

    def linear(self, value: Array) -> Array:
        """Marks the output of the linear stage that follows the last tap."""
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

    def linear(self, value: Array) -> Array:
        return value

    def scan(
        self, body: Callable[[Any, Any, TapLike], tuple[Any, Any]], carry: Any, xs: Any
    ) -> tuple[Any, Any]:
        return lax.scan(lambda carry, x: body(carry, x, self), carry, xs)


no_tap: TapLike = _NoTap()
"""Pass this as a model's ``tap`` to use it as an ordinary model."""


@jax.custom_jvp
def _pin(activation: Array, value: Array) -> Array:
    """Returns `value`, with the derivative of `activation`."""
    del activation
    return value


@_pin.defjvp
def _pin_derivative(primals: tuple[Array, Array], tangents: tuple[Array, Array]):
    return primals[1], tangents[0]


class Tap:
    """A recording tap, alive during one trace of the forward function.

    Args:
        noise: tap name to the array that is added to that activation.
        cut: whether gradients stop at each tap (after it is recorded).
        replay: tap name to the value that stands in for that activation, so that nothing before the
            tap has to be computed.
        pinned: tap name to the value that the activation is known to have; its derivative stays
            that of the activation.
        stages: tap name to a map from its activation to the output of the stage that follows it;
            its derivative is added to that of the output, whose value stays.

    Attributes:
        activations: tap name to what was recorded there.
        stage_outputs: tap name to the output of the stage that follows it: what the model marks
            with `linear`, else what arrives at the next tap, and after the last tap the outputs.
        time_axes: tap name to the number of scans around it.
    """

    def __init__(
        self,
        noise: Mapping[str, Array] = MappingProxyType({}),
        *,
        cut: bool = False,
        replay: Mapping[str, Array] = MappingProxyType({}),
        pinned: Mapping[str, Array] = MappingProxyType({}),
        stages: Mapping[str, Callable[[Array], Array]] = MappingProxyType({}),
    ):
        self.noise = noise
        self.cut = cut
        self.replay = replay
        self.pinned = pinned
        self.stages = stages
        self.activations: Activations = {}
        self.stage_outputs: Activations = {}
        self._before: tuple[str, Array] | None = None
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
        activation = self.replay.get(name, self.linear(activation))
        if name in self.noise:
            noise = jnp.asarray(self.noise[name])
            if noise.shape != activation.shape:
                raise ValueError(
                    f"noise[{name!r}] has shape {noise.shape}; "
                    f"it takes the activation's shape {activation.shape}"
                )
            activation = activation + noise.astype(activation.dtype)
        if name in self.pinned:
            activation = _pin(activation, self.pinned[name])
        self._record(name, activation, time_axes=0)
        self._before = name, activation
        return lax.stop_gradient(activation) if self.cut else activation

    def linear(self, value: Array) -> Array:
        """Marks the output of the linear stage that follows the last tap, and returns it.

        The readout `next` learns the map from the tap to it. What lies between it and the tap after
        is differentiated exactly. Without a mark the stage reaches to the tap after. In the body of
        a scan a mark is all that the tapped value may feed: one array that holds what goes on to
        the next step and what is read out of this one.
        """
        if self._before is None:
            return value
        (name, activation), self._before = self._before, None
        self.stage_outputs[name] = value
        if name in self.stages:
            value = _pin(value + self.stages[name](activation).astype(value.dtype), value)
        return value

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
        inside = Tap()
        jax.eval_shape(
            lambda carry, xs: body(carry, jax.tree.map(lambda leaf: leaf[0], xs), inside), carry, xs
        )
        # A tap before the scan whose stage is not marked by now feeds all the steps: no one stage.
        self._before = None

        def for_steps(label: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
            names = sorted(inside.activations.keys() & arrays.keys())
            found = {name: jnp.asarray(arrays[name]) for name in names}
            for name, value in found.items():
                if value.shape[:1] != (length,):
                    raise ValueError(
                        f"{label}[{name!r}] has shape {value.shape}; "
                        f"inside tap.scan it takes a leading time axis of {length}"
                    )
            return found

        def step(carry, slices):
            x, (noise, replay, pinned) = slices
            tap = Tap(noise, cut=self.cut, replay=replay, pinned=pinned, stages=self.stages)
            carry, y = body(carry, x, tap)
            return carry, (y, tap.activations, tap.stage_outputs)

        given = (
            for_steps("noise", self.noise),
            for_steps("replay", self.replay),
            for_steps("pinned", self.pinned),
        )
        carry, (ys, activations, stage_outputs) = lax.scan(step, carry, (xs, given))
        for name in inside.activations:
            self._record(name, activations[name], time_axes=inside.time_axes[name] + 1)
        self.stage_outputs |= stage_outputs
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
    tap = Tap(noise or {}, cut=cut)
    outputs = apply_fn(params, inputs, tap)
    unknown = sorted(set(tap.noise) - set(tap.activations))
    if unknown:
        raise ValueError(
            f"noise names unknown taps {unknown}; the model has {sorted(tap.activations)}"
        )
    return outputs, tap.activations
