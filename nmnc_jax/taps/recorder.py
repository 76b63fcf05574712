"""The passes of a tap: what arrives at each node is recorded, and changed as the pass asks."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
from jax import lax

from nmnc_jax.taps.forms import FORMS
from nmnc_jax.taps.stages import LinearStage, Reader, Stage, read_input, with_derivative_of
from nmnc_jax.types import Activations, Array

OUTPUTS = "outputs:"
"""The name of the node of the model's outputs."""
NONE: Mapping[str, Any] = MappingProxyType({})


class Recorder:
    """Records one trace of the forward function, with the noise, cut and replay of a pass.

    The nodes of the network are the places at which the tap is given a value: the taps of the
    model, the marks of `linear`, and the outputs.

    Args:
        noise: name of a tap or linear stage to the array that is added to the activation of the
            tap, or to the input of the stage.
        cut: whether gradients stop at each tap (after it is recorded).
        replay: node name to the value that replaces what arrives there, so that nothing before it
            has to be computed.
        pinned: name of a tap or mark to its known value, which replaces the computed value; the
            derivative stays that of the computed value.
        stages: node name to the taps that feed it, each with a stage whose derivative is added to
            that of the value that arrives at the node; the value does not change.
        reader: function that runs each linear stage that is marked with its function and weights.
        given: name of a linear stage to a pytree of arrays that `reader` is given for it.
        whole: names of linear stages in scans for which every step takes the same given arrays;
            those of other stages have a leading time axis.
        scope: the scans around this tap.
        around: the tap outside the transformation that this tap is inside.
        seen: activations of the outside tap that the transformation passes in.

    Attributes:
        activations: tap name to the recorded activation.
        arrived: node name to the value that arrived there, before noise and replay.
        scopes: node name to the scans around it, from the outermost; in the order of the calls.
        time_axes: name of a tap or linear stage to the number of time axes after its batch axis.
        read: name of a linear stage to what `reader` recorded.
        mapped: names of linear stages inside `vmap`.
    """

    def __init__(
        self,
        noise: Mapping[str, Array] = NONE,
        *,
        cut: bool = False,
        replay: Mapping[str, Any] = NONE,
        pinned: Mapping[str, Array] = NONE,
        stages: Mapping[str, Mapping[str, Stage]] = NONE,
        reader: Reader = read_input,
        given: Mapping[str, Any] = NONE,
        whole: frozenset[str] = frozenset(),
        scope: tuple[str, ...] = (),
        around: "Recorder | None" = None,
        seen: Mapping[str, Array] = NONE,
    ):
        self.noise = noise
        self.cut = cut
        self.replay = replay
        self.pinned = pinned
        self.stages = stages
        self.reader = reader
        self.given = given
        self.whole = whole
        self.activations: Activations = {}
        self.read: dict[str, Any] = {}
        self.mapped: set[str] = set()
        self.arrived: dict[str, Any] = {}
        self.scopes: dict[str, tuple[str, ...]] = {}
        self.time_axes: dict[str, int] = {}
        self._scope = scope
        self._around = around
        self._seen = seen
        self._marks = around._marks if around else 0
        self._scans = around._scans if around else 0
        self._trace = jax.extend.core.get_opaque_trace_state(convention="nmnc_jax")

    def __call__(self, name: str, activation: Array, *, time_axes: int = 0) -> Array:
        """Records the activation under `name` (after adding its noise) and returns it.

        Args:
            name: name of the tap.
            activation: [B, ...], or [B, T, ...] with time axes.
            time_axes: number of axes after the batch axis that are time, such as the positions of a
                transformer. Rows are then examples times positions, and the remaining axes are
                units.

        Raises:
            ValueError: if the name was used before in this pass, if the activation is not a
                floating-point array or has too few axes, if the noise does not have the shape of
                the activation, or if the tap is inside a transformation that does not go through
                the tap.
        """
        self._check_trace(f"tap {name!r}")
        if not jnp.issubdtype(activation.dtype, jnp.floating):
            raise ValueError(
                f"tap {name!r} got an activation of dtype {activation.dtype}; "
                "it takes floating-point arrays"
            )
        if time_axes:
            if activation.ndim < time_axes + 1:
                raise ValueError(
                    f"tap {name!r} got shape {activation.shape} with time_axes={time_axes}; it "
                    "takes at least the axis of examples and the time axes"
                )
            self.time_axes[name] = time_axes
        activation = self._arrive(name, activation, self._scope)
        if name in self.noise:
            noise = jnp.asarray(self.noise[name])
            if noise.shape != activation.shape:
                raise ValueError(
                    f"noise[{name!r}] has shape {noise.shape}; "
                    f"it takes the activation's shape {activation.shape}"
                )
            activation = activation + noise.astype(activation.dtype)
        activation = self._known(name, activation)
        self.activations[name] = activation
        return lax.stop_gradient(activation) if self.cut else activation

    def linear(
        self,
        stage: Any,
        weights: Any = None,
        activation: Array | None = None,
        *,
        name: str | None = None,
        time_axes: int = 0,
    ) -> Array:
        """Marks a linear stage: ``y = tap.linear(apply, weights, h)``, or ``tap.linear(y)``.

        If the function and the weights are given, the readout `mirror` can learn the stage in the
        form of its weights. ``apply(weights, h)`` must be linear in both arguments and takes no
        bias. Everything else is then differentiated exactly.

        If only the output y is given, the stage for the readout `next` is the map from the tap that
        feeds y to y. Everything between y and the next tap or mark is differentiated exactly.
        Without a mark the stage reaches to the next tap. In the body of a scan the tapped value may
        feed only marks: one array that contains both what the next step receives and what this
        step's output depends on.

        Args:
            stage: ``apply(weights, h) -> y``; or y.
            weights: pytree of arrays.
            activation: h, [B, ...], or [B, T, ...] with time axes.
            name: name of the stage, by which settings such as a rank refer to it. None names it
                "linear:" with its number in the order of the calls.
            time_axes: number of axes of h after the batch axis that are positions. Positions are
                rows of the stage's subspace, if it has one.

        Raises:
            ValueError: if `stage` is neither a function nor one array, if a name is used twice, or
                if the stage is inside a transformation that does not go through the tap.

        Example:
            >>> import jax.numpy as jnp
            >>> from nmnc_jax import run
            >>> def model(params, inputs, tap):
            ...     h = tap("hidden", jnp.tanh(inputs @ params["in"]))
            ...     return tap.linear(lambda w, h: h @ w, params["out"], h)
            >>> params = {"in": jnp.ones((3, 4)), "out": jnp.ones((4, 2))}
            >>> run(model, params, jnp.ones((5, 3)))[0].shape
            (5, 2)
        """
        self._marks += 1
        label = self._label("linear", self._marks) if name is None else name
        self._check_trace("tap.linear" if name is None else f"tap.linear of {name!r}")
        if activation is None:
            if weights is not None or not isinstance(stage, jax.Array | np.ndarray):
                got = type(stage).__name__ + (" and weights without h" * (weights is not None))
                raise ValueError(
                    f"{label} got a {got}; it takes tap.linear(y) with one array y, or "
                    "tap.linear(apply, weights, h)"
                )
            return self._known(label, self._arrive(label, stage, self._scope))
        if not callable(stage):
            raise ValueError(
                f"tap.linear got a {type(stage).__name__} with weights; it takes "
                "tap.linear(apply, weights, h) with a function apply(weights, h), or tap.linear(y)"
            )
        if time_axes:
            self.time_axes[label] = time_axes
        apply: Any = stage
        called = LinearStage(label, apply, weights, activation, self.noise.get(label))
        value, self.read[label] = self.reader(called, self.given.get(label))
        return self._known(label, self._arrive(label, value, self._scope))

    def finish(self, outputs: Any) -> Any:
        """Passes the model's outputs; the library calls it after the forward function."""
        return self._arrive(OUTPUTS, outputs, self._scope)

    def _check_trace(self, what: str) -> None:
        if jax.extend.core.get_opaque_trace_state(convention="nmnc_jax") != self._trace:
            raise ValueError(
                f"{what} is called inside a transformation that does not go through the tap "
                "(jax.checkpoint, jit, vmap, lax.scan, cond, while_loop, or one of Flax); use "
                f"{FORMS}, or nmnc_jax.linen.lift or scan; tap values of a while_loop outside it"
            )

    def _label(self, kind: str, number: int) -> str:
        return "/".join((*self._scope[-1:], f"{kind}:{number}"))

    def _arrive(self, node: str, value: Any, scope: tuple[str, ...]) -> Any:
        self._record(node, value, scope)
        value = self.replay.get(node, value)
        for source, stage in self.stages.get(node, {}).items():
            added = stage(self._activation(source))
            value = jax.tree.map(
                lambda v, a: with_derivative_of(v + a.reshape(v.shape).astype(v.dtype), v),
                value,
                added,
            )
        return value

    def _known(self, node: str, value: Any) -> Any:
        if node not in self.pinned:
            return value
        return jax.tree.map(with_derivative_of, value, self.pinned[node])

    def _activation(self, name: str) -> Array:
        for known in (self.activations, self._seen):
            if name in known:
                return known[name]
        assert self._around is not None
        return self._around._activation(name)

    def _record(self, node: str, value: Any, scope: tuple[str, ...]) -> None:
        if node in self.arrived:
            raise ValueError(f"tap name {node!r} is used twice in one pass; names must be unique")
        self.arrived[node] = value
        self.scopes[node] = scope
