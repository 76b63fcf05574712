"""The tap: one hook in the forward function that gives every reading of the network."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import lax

from nmnc_jax.types import Activations, ApplyFn, Array, Inputs, Params

OUTPUTS = "outputs:"
"""The node that stands for what the model returns."""


class TapLike(Protocol):
    """What a model receives: call it on each hidden activation, scan with it over time.

    A model may also mark where the linear stage after a tap ends, for the readout `next`.
    """

    def __call__(self, name: str, activation: Array) -> Array:
        """Passes one activation through the tap; what it returns is to be used in its place."""
        ...

    def linear(self, value: Array) -> Array:
        """Marks the output of a linear stage that a tap feeds; what it returns is to be used."""
        ...

    def scan(
        self,
        body: Callable[[Any, Any, "TapLike"], tuple[Any, Any]],
        carry: Any,
        xs: Any = None,
        length: int | None = None,
        *,
        reverse: bool = False,
        unroll: int | bool = 1,
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
        self,
        body: Callable[[Any, Any, TapLike], tuple[Any, Any]],
        carry: Any,
        xs: Any = None,
        length: int | None = None,
        *,
        reverse: bool = False,
        unroll: int | bool = 1,
    ) -> tuple[Any, Any]:
        def step(carry: Any, x: Any) -> tuple[Any, Any]:
            return body(carry, x, self)

        return lax.scan(step, carry, xs, length, reverse=reverse, unroll=unroll)


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


Stage = Callable[[Array], Any]
"""A tap's activation, of one time step, to what it adds to the derivative of a later node."""
NONE: Mapping[str, Any] = MappingProxyType({})


class Tap:
    """A recording tap, alive during one trace of the forward function.

    The places where it sees a value are the nodes of the network: its taps, the marks of `linear`,
    and the outputs.

    Args:
        noise: tap name to the array that is added to that activation.
        cut: whether gradients stop at each tap (after it is recorded).
        replay: node to the value that stands in for what arrives there, so that nothing before it
            has to be computed.
        pinned: tap name to the value that the activation is known to have; its derivative stays
            that of the activation.
        stages: node to the taps that feed it, each with a stage whose derivative is added to that
            of the value that arrives at the node; the value stays.

    Attributes:
        activations: tap name to what was recorded there.
        arrived: node to what arrived there, before noise and replay.
        scopes: node to the scans around it, from the outermost; in the order of the calls.
    """

    def __init__(
        self,
        noise: Mapping[str, Array] = NONE,
        *,
        cut: bool = False,
        replay: Mapping[str, Any] = NONE,
        pinned: Mapping[str, Array] = NONE,
        stages: Mapping[str, Mapping[str, Stage]] = NONE,
        scope: tuple[str, ...] = (),
    ):
        self.noise = noise
        self.cut = cut
        self.replay = replay
        self.pinned = pinned
        self.stages = stages
        self.activations: Activations = {}
        self.arrived: dict[str, Any] = {}
        self.scopes: dict[str, tuple[str, ...]] = {}
        self._scope = scope
        self._marks = 0
        self._scans = 0

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
        activation = self._arrive(name, activation, self._scope)
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
        self.activations[name] = activation
        return lax.stop_gradient(activation) if self.cut else activation

    def linear(self, value: Array) -> Array:
        """Marks the output of a linear stage that a tap feeds, and returns it.

        The readout `next` learns the map from the tap to it. What comes after it, up to the next
        tap or mark, is differentiated exactly. Without a mark the stage reaches to the next tap. In
        the body of a scan a mark is all that the tapped value may feed: one array that holds what
        goes on to the next step and what is read out of this one.
        """
        self._marks += 1
        return self._arrive(self._label("linear", self._marks), value, self._scope)

    def finish(self, outputs: Any) -> Any:
        """Passes what the model returns; called by the library after the forward function."""
        return self._arrive(OUTPUTS, outputs, self._scope)

    def scan(
        self,
        body: Callable[[Any, Any, TapLike], tuple[Any, Any]],
        carry: Any,
        xs: Any = None,
        length: int | None = None,
        *,
        reverse: bool = False,
        unroll: int | bool = 1,
    ) -> tuple[Any, Any]:
        """Runs ``lax.scan`` with a body that receives a tap of its own.

        Args:
            body: ``body(carry, x, tap) -> (carry, y)``.
            carry: the initial carry.
            xs: pytree of arrays with a leading time axis T, or None.
            length: T; needed without `xs`.
            reverse: as ``lax.scan`` takes it; time axes then run from the last step called.
            unroll: as ``lax.scan`` takes it.

        Returns:
            ``(carry, ys)`` as ``lax.scan`` does. Names tapped inside are recorded outside with a
            leading time axis, and take noise with that axis.

        Raises:
            ValueError: if neither `xs` nor `length` gives the number of steps.
        """
        self._scans += 1
        scope = (*self._scope, self._label("scan", self._scans))
        leaves = jax.tree.leaves(xs)
        if not leaves and length is None:
            raise ValueError("length is None and xs has no array; tap.scan takes one of them")
        steps = leaves[0].shape[0] if leaves else length
        scopes: dict[str, tuple[str, ...]] = {}

        def names_inside(carry: Any, xs: Any) -> None:
            tap = Tap(scope=scope)
            body(carry, jax.tree.map(lambda leaf: leaf[0], xs), tap)
            scopes.update(tap.scopes)

        jax.eval_shape(names_inside, carry, xs)

        def for_steps(label: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
            found = {name: jnp.asarray(arrays[name]) for name in scopes if name in arrays}
            for name, value in found.items():
                if value.shape[:1] != (steps,):
                    raise ValueError(
                        f"{label}[{name!r}] has shape {value.shape}; "
                        f"inside tap.scan it takes a leading time axis of {steps}"
                    )
            return found

        def step(carry: Any, slices: Any) -> tuple[Any, Any]:
            x, (noise, replay, pinned) = slices
            tap = Tap(
                noise, cut=self.cut, replay=replay, pinned=pinned, stages=self.stages, scope=scope
            )
            carry, y = body(carry, x, tap)
            return carry, (y, tap.activations, tap.arrived)

        given = (
            for_steps("noise", self.noise),
            for_steps("replay", self.replay),
            for_steps("pinned", self.pinned),
        )
        carry, (ys, activations, arrived) = lax.scan(
            step, carry, (xs, given), length, reverse=reverse, unroll=unroll
        )
        for name, around in scopes.items():
            self._record(name, arrived[name], around)
        self.activations |= activations
        return carry, ys

    def _label(self, kind: str, number: int) -> str:
        return "/".join((*self._scope[-1:], f"{kind}:{number}"))

    def _arrive(self, node: str, value: Any, scope: tuple[str, ...]) -> Any:
        self._record(node, value, scope)
        value = self.replay.get(node, value)
        for source, stage in self.stages.get(node, {}).items():
            added = stage(self.activations[source])
            value = jax.tree.map(lambda v, a: _pin(v + a.astype(v.dtype), v), value, added)
        return value

    def _record(self, node: str, value: Any, scope: tuple[str, ...]) -> None:
        if node in self.arrived:
            raise ValueError(f"tap name {node!r} is used twice in one pass; names must be unique")
        self.arrived[node] = value
        self.scopes[node] = scope


class Model:
    """A user's model with what every pass of one step has in common.

    Args:
        apply_fn: ``apply_fn(params, inputs, tap, **kwargs)``.
        has_aux: whether it returns ``(outputs, aux)``.
        kwargs: what it takes besides, alike in every pass.
    """

    def __init__(self, apply_fn: ApplyFn, has_aux: bool = False, kwargs: Mapping[str, Any] = NONE):
        self._apply_fn = apply_fn
        self._has_aux = has_aux
        self._kwargs = kwargs

    def outputs_and_aux(self, params: Params, inputs: Inputs, tap: Any) -> tuple[Any, Any]:
        """Runs the model.

        Raises:
            ValueError: if it does not return a pair although it has aux.
        """
        returned = self._apply_fn(params, inputs, tap, **self._kwargs)
        if not self._has_aux:
            return _finished(tap, returned), None
        if not isinstance(returned, tuple) or len(returned) != 2:
            raise ValueError(
                f"apply_fn returned {type(returned).__name__}; with has_aux=True it takes a pair "
                "(outputs, aux)"
            )
        return _finished(tap, returned[0]), returned[1]

    def __call__(self, params: Params, inputs: Inputs, tap: Any) -> Any:
        """Runs the model and returns its outputs alone."""
        return self.outputs_and_aux(params, inputs, tap)[0]


def _finished(tap: Any, outputs: Any) -> Any:
    return tap.finish(outputs) if isinstance(tap, Tap) else outputs


def run(
    apply_fn: ApplyFn,
    params: Params,
    inputs: Inputs,
    *,
    noise: Mapping[str, Array] | None = None,
    cut: bool = False,
    **kwargs: Any,
) -> tuple[Any, Activations]:
    """Runs a model once and returns its outputs and every tapped activation.

    Args:
        apply_fn: ``apply_fn(params, inputs, tap, **kwargs) -> outputs``.
        params: the model's parameters.
        inputs: the model's inputs, examples first.
        noise: tap name to an array of exactly the activation's shape, added to the activation
            before it is recorded; the change flows on downstream.
        cut: whether gradients stop at each tap. The recorded activation still carries the gradient
            of the stage that made it.
        kwargs: passed to `apply_fn`.

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
    outputs = apply_fn(params, inputs, tap, **kwargs)
    unknown = sorted(set(tap.noise) - set(tap.activations))
    if unknown:
        raise ValueError(
            f"noise names unknown taps {unknown}; the model has {sorted(tap.activations)}"
        )
    return outputs, tap.activations
