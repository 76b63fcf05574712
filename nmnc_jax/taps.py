"""The tap: one hook in the forward function through which the library reads and perturbs it."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
from jax import lax

from nmnc_jax.types import Activations, ApplyFn, Array, Inputs, Params

OUTPUTS = "outputs:"
"""The name of the node of the model's outputs."""

FORMS = "tap.checkpoint, tap.jit, tap.vmap, tap.scan, tap.cond, tap.switch or tap.lift"

Transform = Callable[[Callable[..., Any]], Callable[..., Any]]


class TapLike(Protocol):
    """The tap that a model is given, which it calls on each hidden activation.

    A model runs JAX's transformations through the methods of its tap, and may mark its linear
    stages for the readouts `next` and `mirror`.
    """

    def __call__(self, name: str, activation: Array, *, time_axes: int = 0) -> Array:
        """Passes one activation through the tap; use the returned value in its place."""
        ...

    def linear(
        self,
        stage: Any,
        weights: Any = None,
        activation: Array | None = None,
        *,
        name: str | None = None,
        time_axes: int = 0,
    ) -> Array:
        """Marks a linear stage; use the returned value as its output."""
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

    def lift(self, transform: Transform, body: Callable[..., Any]) -> Callable[..., Any]:
        """Applies a transformation of functions to a body ``(*arguments, tap) -> result``."""
        ...

    def lift_scan(
        self, transform: Transform, body: Callable[..., Any], look: Transform | None = None
    ) -> Callable[..., Any]:
        """Scans a body ``(*arguments, tap) -> (carry, y)`` by a scan other than ``lax.scan``."""
        ...

    def checkpoint(self, body: Callable[..., Any], **settings: Any) -> Callable[..., Any]:
        """Rematerialises a body ``(*arguments, tap) -> result`` as ``jax.checkpoint`` does."""
        ...

    def jit(self, body: Callable[..., Any], **settings: Any) -> Callable[..., Any]:
        """Compiles a body ``(*arguments, tap) -> result`` as ``jax.jit`` does."""
        ...

    def vmap(
        self, body: Callable[..., Any], in_axes: Any = 0, **settings: Any
    ) -> Callable[..., Any]:
        """Maps a body ``(*arguments, tap) -> result`` of one example over examples."""
        ...

    def cond(self, predicate: Any, *branches_and_operands: Any) -> Any:
        """Runs ``lax.cond`` with two branches ``(*operands, tap) -> result``."""
        ...

    def switch(self, index: Any, branches: Sequence[Callable[..., Any]], *operands: Any) -> Any:
        """Runs ``lax.switch`` with branches ``(*operands, tap) -> result``."""
        ...


class _Forms:
    """The methods for transformations that follow from `lift`."""

    def lift(self, transform: Transform, body: Callable[..., Any]) -> Callable[..., Any]:
        raise NotImplementedError

    def checkpoint(self, body: Callable[..., Any], **settings: Any) -> Callable[..., Any]:
        return self.lift(functools.partial(jax.checkpoint, **settings), body)

    def jit(self, body: Callable[..., Any], **settings: Any) -> Callable[..., Any]:
        return self.lift(functools.partial(jax.jit, **settings), body)


class _NoTap(_Forms):
    """The tap of an ordinary forward pass, which changes and records nothing."""

    def __call__(self, name: str, activation: Array, *, time_axes: int = 0) -> Array:
        del name, time_axes
        return activation

    def linear(
        self,
        stage: Any,
        weights: Any = None,
        activation: Array | None = None,
        *,
        name: str | None = None,
        time_axes: int = 0,
    ) -> Array:
        del name, time_axes
        return stage if activation is None else stage(weights, activation)

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

    def lift(self, transform: Transform, body: Callable[..., Any]) -> Callable[..., Any]:
        return transform(lambda *arguments: body(*arguments, self))

    def lift_scan(
        self, transform: Transform, body: Callable[..., Any], look: Transform | None = None
    ) -> Callable[..., Any]:
        def step(*inside: Any) -> Any:
            *first, (x, nothing) = inside
            carry, y = body(*first, x, self)
            return carry, (y, nothing)

        def scanned(*arguments: Any) -> Any:
            *before, xs = arguments
            carry, (ys, _) = transform(step)(*before, (xs, ()))
            return carry, ys

        return scanned

    def vmap(
        self, body: Callable[..., Any], in_axes: Any = 0, **settings: Any
    ) -> Callable[..., Any]:
        return self.lift(functools.partial(jax.vmap, in_axes=in_axes, **settings), body)

    def cond(
        self,
        predicate: Any,
        true_body: Callable[..., Any],
        false_body: Callable[..., Any],
        *operands: Any,
    ) -> Any:
        bodies = (lambda *o, body=body: body(*o, self) for body in (true_body, false_body))
        return lax.cond(predicate, *bodies, *operands)

    def switch(self, index: Any, branches: Sequence[Callable[..., Any]], *operands: Any) -> Any:
        bodies = [lambda *o, body=body: body(*o, self) for body in branches]
        return lax.switch(index, bodies, *operands)


no_tap: TapLike = _NoTap()
"""Pass this as a model's ``tap`` to use it as an ordinary model."""


@jax.custom_jvp
def with_derivative_of(activation: Array, value: Array) -> Array:
    """Returns `value` with the derivative of `activation`."""
    del activation
    return value


@with_derivative_of.defjvp
def _derivative_of(primals: tuple[Array, Array], tangents: tuple[Array, Array]):
    return primals[1], tangents[0]


Stage = Callable[[Array], Any]
"""Maps a tap's activation in one time step to what it adds to the derivative of a later node."""
NONE: Mapping[str, Any] = MappingProxyType({})


class LinearStage(NamedTuple):
    """One call of a linear stage.

    Attributes:
        name: name of the stage.
        apply: ``apply(weights, activation) -> value``.
        weights: pytree of arrays.
        activation: the input of the stage, [B, ...].
        noise: noise for the stage in the input's shape, or None.
    """

    name: str
    apply: Callable[[Any, Array], Array]
    weights: Any
    activation: Array
    noise: Array | None

    @property
    def input(self) -> Array:
        """The input with its noise."""
        if self.noise is None:
            return self.activation
        return self.activation + self.noise.astype(self.activation.dtype)


Reader = Callable[[LinearStage, Any], tuple[Array, Any]]
"""Maps a stage and the arrays given for it to its output and the value to record."""


def read_input(stage: LinearStage, given: Any) -> tuple[Array, Any]:
    """Runs a stage unchanged, and records its input."""
    del given
    return stage.apply(stage.weights, stage.input), stage.activation


class Tap(_Forms):
    """A recording tap for one trace of the forward function.

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
        around: "Tap | None" = None,
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
        """Runs ``lax.scan`` with a body that is given a tap for its step.

        Args:
            body: ``body(carry, x, tap) -> (carry, y)``.
            carry: the initial carry.
            xs: pytree of arrays with a leading time axis T, or None.
            length: T; needed without `xs`.
            reverse: as in ``lax.scan``; time axes then begin with the step that runs last.
            unroll: as in ``lax.scan``.

        Returns:
            ``(carry, ys)`` as from ``lax.scan``. Values that are tapped inside are recorded outside
            with a leading time axis, and take noise with that axis.

        Raises:
            ValueError: if neither `xs` nor `length` gives the number of steps.
        """
        if not jax.tree.leaves(xs) and length is None:
            raise ValueError("length is None and xs has no array; tap.scan takes at least one")

        def scan(step: Callable[..., Any]) -> Callable[..., Any]:
            return lambda carry, xs: lax.scan(
                step, carry, xs, length, reverse=reverse, unroll=unroll
            )

        return self.lift_scan(scan, body)(carry, xs)

    def lift_scan(
        self, transform: Transform, body: Callable[..., Any], look: Transform | None = None
    ) -> Callable[..., Any]:
        """Scans a body that is given a tap for its step, by a scan other than ``lax.scan``.

        Args:
            transform: function that turns ``step(*arguments) -> (carry, ys)`` into a function of
                the same arguments, whose last argument has an axis of steps. That argument is a
                pair of the body's last argument and arrays with a leading axis of steps; `ys` is a
                pair of the body's result and such arrays.
            body: ``body(*arguments, tap) -> (carry, y)``.
            look: like `transform` but without side effects, used to find the names inside.

        Returns:
            A function of the arguments that returns the result of `transform` without the arrays.
        """

        def scanned(*arguments: Any) -> Any:
            *before, xs = arguments
            self._scans += 1
            scope = (*self._scope, self._label("scan", self._scans))
            taps: list[Tap] = []
            whole = {name: self.given[name] for name in self.given if name in self.whole}

            def step(*inside: Any) -> Any:
                *first, (x, (noise, replay, pinned, given)) = inside
                tap = Tap(
                    noise,
                    cut=self.cut,
                    replay=replay,
                    pinned=pinned,
                    stages=self.stages,
                    reader=self.reader,
                    given=whole | given,
                    whole=self.whole,
                    scope=scope,
                )
                taps.append(tap)
                carry, y = body(*first, x, tap)
                return carry, (y, (tap.activations, tap.arrived, tap.read))

            def names_inside() -> Any:
                return (look or transform)(step)(*before, (xs, ({}, {}, {}, {})))[1][1]

            inside, shapes, _ = jax.eval_shape(names_inside)
            scopes = taps[-1].scopes
            self._check_trace(f"tap.scan with taps {sorted(inside)}")

            def for_steps(label: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
                found = {name: jnp.asarray(arrays[name]) for name in scopes if name in arrays}
                for name, value in found.items():
                    steps = shapes[name].shape[0]
                    if value.shape[:1] != (steps,):
                        raise ValueError(
                            f"{label}[{name!r}] has shape {value.shape}; "
                            f"inside tap.scan it takes a leading time axis of {steps}"
                        )
                return found

            by_step = {n: v for n, v in self.given.items() if n in scopes and n not in whole}
            arrays = (
                for_steps("noise", self.noise),
                for_steps("replay", self.replay),
                for_steps("pinned", self.pinned),
                by_step,
            )
            carry, (ys, (activations, arrived, read)) = transform(step)(*before, (xs, arrays))
            for name, around in scopes.items():
                self._record(name, arrived[name], around)
            self.activations |= activations
            self.read |= read
            self.time_axes |= taps[-1].time_axes
            self.mapped |= taps[-1].mapped
            return carry, ys

        return scanned

    def lift(self, transform: Transform, body: Callable[..., Any]) -> Callable[..., Any]:
        """Applies a transformation to a body that is given a tap inside the transformation.

        Args:
            transform: a transformation of functions that does not change arguments and results:
                ``jax.checkpoint``, ``jax.jit``, ``flax.linen.remat``.
            body: ``body(*arguments, tap) -> result``.

        Returns:
            A function of the arguments; values that are tapped inside are recorded outside.

        Example:
            >>> import jax, jax.numpy as jnp
            >>> from nmnc_jax import run
            >>> def block(weights, x, tap):
            ...     return tap("hidden", jnp.tanh(x @ weights))
            >>> def model(weights, x, tap):
            ...     return tap.lift(jax.checkpoint, block)(weights, x)
            >>> run(model, jnp.ones((3, 4)), jnp.ones((5, 3)))[1]["hidden"].shape
            (5, 4)
        """

        def lifted(*arguments: Any) -> Any:
            self._check_trace("a form of tap")
            inside, last = self._inside(body)
            result, *recorded = transform(inside)(*arguments, self._arrays())
            self._absorb(last[-1], *recorded)
            return result

        return lifted

    def vmap(
        self, body: Callable[..., Any], in_axes: Any = 0, **settings: Any
    ) -> Callable[..., Any]:
        """Maps a body of one example over examples; the body is given a tap inside the map.

        Args:
            body: ``body(*arguments, tap) -> result`` of one example.
            in_axes: as in ``jax.vmap``, for the arguments without the tap.
            settings: further arguments of ``jax.vmap``: ``axis_name``, ``axis_size``.

        Returns:
            A function of the arguments of all examples; values that are tapped inside are recorded
            outside with a leading axis of examples.
        """

        def mapped(*arguments: Any) -> Any:
            self._check_trace("tap.vmap")
            axes = in_axes if isinstance(in_axes, tuple) else (in_axes,) * len(arguments)
            look, last = Tap(scope=self._scope, around=self)._inside(body)
            jax.eval_shape(
                jax.vmap(look, in_axes=(*axes, None), **settings), *arguments, ({}, {}, {}, {}, {})
            )
            nodes = last[-1].scopes
            inside, last = self._inside(body)
            given = tuple(
                {name: each[name] for name in nodes if name in each}
                for each in (self.noise, self.replay, self.pinned)
            )
            sources = {source for node in nodes for source in self.stages.get(node, {})} - {*nodes}
            seen = {source: self._activation(source) for source in sources}
            mapped_body = jax.vmap(inside, in_axes=(*axes, 0), **settings)
            result, *recorded = mapped_body(*arguments, (*given, seen, {}))
            self._absorb(last[-1], *recorded)
            self.mapped |= last[-1].read.keys()
            return result

        return mapped

    def cond(
        self,
        predicate: Any,
        true_body: Callable[..., Any],
        false_body: Callable[..., Any],
        *operands: Any,
    ) -> Any:
        """Runs ``lax.cond`` with branches ``(*operands, tap) -> result``.

        Raises:
            ValueError: if a tap is only in one branch, or differs in shape or dtype between them.
        """
        choose = functools.partial(lax.cond, predicate)
        return self._branch("tap.cond", choose, [true_body, false_body], operands)

    def switch(self, index: Any, branches: Sequence[Callable[..., Any]], *operands: Any) -> Any:
        """Runs ``lax.switch`` with branches ``(*operands, tap) -> result``.

        Raises:
            ValueError: if a tap is not in all branches, or differs in shape or dtype between them.
        """

        def choose(*arguments: Any) -> Any:
            return lax.switch(index, arguments[: len(branches)], *arguments[len(branches) :])

        return self._branch("tap.switch", choose, branches, operands)

    def _branch(
        self,
        form: str,
        choose: Callable[..., Any],
        bodies: Sequence[Callable[..., Any]],
        operands: tuple[Any, ...],
    ) -> Any:
        """Runs one of several bodies with the same taps."""
        self._check_trace(form)
        given = self._arrays()
        branches = [self._inside(body) for body in bodies]
        shapes = [jax.eval_shape(inside, *operands, given)[1:] for inside, _ in branches]
        scopes = [taps[-1].scopes for _, taps in branches]
        for name in {name for each in scopes for name in each}:
            holding = [each for each in scopes if name in each]
            if len(holding) < len(scopes):
                where = "one branch" if len(holding) == 1 else f"{len(holding)} branches"
                raise ValueError(
                    f"tap {name!r} is only in {where} of {form}; it takes branches with the same "
                    "taps and marks"
                )
            # The activation of a tap, or the value that arrives at a mark.
            kinds = {
                f"{each.dtype}{list(each.shape)}"
                for activations, arrived, _ in shapes
                for each in [activations.get(name, arrived[name])]
            }
            if len(kinds) > 1:
                raise ValueError(
                    f"tap {name!r} is {' and '.join(sorted(kinds))} in branches of {form}; it "
                    "takes branches in which a tap has one shape and dtype"
                )
        result, *recorded = choose(*(inside for inside, _ in branches), *operands, given)
        self._absorb(branches[0][1][-1], *recorded)
        return result

    def _inside(self, body: Callable[..., Any]) -> tuple[Callable[..., Any], list["Tap"]]:
        """Returns a body as a function of arrays only, and a list of the taps of its traces."""
        taps: list[Tap] = []

        def inside(*arguments: Any) -> tuple[Any, Activations, dict[str, Any], dict[str, Any]]:
            noise, replay, pinned, seen, given = arguments[-1]
            tap = Tap(
                noise,
                cut=self.cut,
                replay=replay,
                pinned=pinned,
                stages=self.stages,
                reader=self.reader,
                given=given,
                whole=self.whole,
                scope=self._scope,
                around=self,
                seen=seen,
            )
            taps.append(tap)
            result = body(*arguments[:-1], tap)
            return result, tap.activations, tap.arrived, tap.read

        return inside, taps

    def _arrays(self) -> tuple[dict[str, Any], ...]:
        """Returns the arrays for a body inside a transformation that maps nothing."""
        return dict(self.noise), dict(self.replay), dict(self.pinned), {}, dict(self.given)

    def _absorb(
        self,
        inner: "Tap",
        activations: Activations,
        arrived: dict[str, Any],
        read: dict[str, Any],
    ) -> None:
        """Records the values that a tap inside a transformation has recorded."""
        for node, scope in inner.scopes.items():
            self._record(node, arrived[node], scope)
        self.activations |= activations
        self.read |= read
        self.time_axes |= inner.time_axes
        self.mapped |= inner.mapped
        self._marks, self._scans = inner._marks, inner._scans

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


class Model:
    """A user's model with the settings that all passes of one step share.

    Args:
        apply_fn: ``apply_fn(params, inputs, tap, **kwargs)``.
        has_aux: whether `apply_fn` returns ``(outputs, aux)``.
        kwargs: keyword arguments that every pass gives to `apply_fn`.
    """

    def __init__(self, apply_fn: ApplyFn, has_aux: bool = False, kwargs: Mapping[str, Any] = NONE):
        self._apply_fn = apply_fn
        self._has_aux = has_aux
        self._kwargs = kwargs

    def outputs_and_aux(self, params: Params, inputs: Inputs, tap: Any) -> tuple[Any, Any]:
        """Runs the model and returns its outputs and auxiliary outputs.

        Raises:
            ValueError: if `has_aux` is True and the model does not return a pair.
        """
        with _named(self._apply_fn, params, inputs, self._kwargs):
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
        """Runs the model and returns only its outputs."""
        return self.outputs_and_aux(params, inputs, tap)[0]


@contextlib.contextmanager
def _named(apply_fn: ApplyFn, params: Params, inputs: Inputs, kwargs: Any) -> Iterator[None]:
    """Turns JAX's errors about values that cross a transformation into errors that name the tap."""
    try:
        yield
    except TypeError as error:
        if "nmnc_jax.taps.Tap" in str(error):
            raise ValueError(
                f"the tap is passed to a transformation as an argument; use {FORMS} (do not jit "
                "the whole model: jit the step that calls the estimator)"
            ) from error
        # JAX raises UnexpectedTracerError, or reports an argument that is a leaked tracer.
        scopes: dict[str, tuple[str, ...]] = {}

        def look(params: Params) -> None:
            tap = Tap()
            apply_fn(params, inputs, tap, **kwargs)
            scopes.update(tap.scopes)

        # If the model runs with abstract parameters, the given parameters are the cause.
        if "racer" in str(error):
            with contextlib.suppress(TypeError):
                jax.eval_shape(look, jax.tree.map(jax.typeof, params))
        scanned = [name for name, around in scopes.items() if around and ":" not in name]
        if not scanned:
            raise
        raise ValueError(
            f"tap {scanned[0]!r} is in the body of a scan, and params hold values that leaked from "
            "a transformation, as when a Flax module creates its parameters in such a body; it "
            "takes nmnc_jax.linen.scan, or a call of that module before the scan"
        ) from error


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
        inputs: the model's inputs, with examples along the first axis.
        noise: tap name to an array of exactly the activation's shape, which is added to the
            activation before it is recorded; the change propagates downstream.
        cut: whether gradients stop at each tap. The recorded activation still carries the gradient
            of the stage that computes it.
        kwargs: passed to `apply_fn`.

    Returns:
        ``(outputs, activations)``, where `activations` maps tap names to arrays.

    Raises:
        ValueError: if `noise` names an unknown tap or has a wrong shape, or if two taps have the
            same name.

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
    with _named(apply_fn, params, inputs, kwargs):
        outputs = apply_fn(params, inputs, tap, **kwargs)
    unknown = sorted(set(tap.noise) - set(tap.activations))
    if unknown:
        raise ValueError(
            f"noise names unknown taps {unknown}; the model has {sorted(tap.activations)}"
        )
    return outputs, tap.activations
