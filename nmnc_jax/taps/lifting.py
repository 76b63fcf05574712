"""Transformations without steps: checkpoint, jit, vmap, cond and switch."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import jax
from jax import lax

from nmnc_jax.taps.calls import call_body
from nmnc_jax.taps.forms import Forms, Transform
from nmnc_jax.taps.recorder import NONE, Recorder
from nmnc_jax.types import Activations, Array


class Lifting(Forms, Recorder):
    """A tap that passes through transformations: a body is given a tap inside of them."""

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
            look, last = type(self)(scope=self._scope, around=self)._inside(body)
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

    def _inside(self, body: Callable[..., Any]) -> tuple[Callable[..., Any], list[Self]]:
        """Returns a body as a function of arrays only, and a list of the taps of its traces."""
        taps: list[Self] = []

        def inside(*arguments: Any) -> tuple[Any, Activations, dict[str, Any], dict[str, Any]]:
            noise, replay, pinned, seen, given = arguments[-1]
            tap = self._inner((noise, replay, pinned, given), self._scope, self, seen)
            taps.append(tap)
            result = call_body(body, arguments[:-1], tap)
            return result, tap.activations, tap.arrived, tap.read

        return inside, taps

    def _inner(
        self,
        arrays: tuple[Any, ...],
        scope: tuple[str, ...],
        around: Self | None = None,
        seen: Mapping[str, Array] = NONE,
    ) -> Self:
        """Returns the tap inside a transformation: that of the same pass, with its arrays there."""
        noise, replay, pinned, given = arrays
        return type(self)(
            noise,
            cut=self.cut,
            replay=replay,
            pinned=pinned,
            stages=self.stages,
            reader=self.reader,
            given=given,
            whole=self.whole,
            scope=scope,
            around=around,
            seen=seen,
        )

    def _arrays(self) -> tuple[dict[str, Any], ...]:
        """Returns the arrays for a body inside a transformation that maps nothing."""
        return dict(self.noise), dict(self.replay), dict(self.pinned), {}, dict(self.given)

    def _absorb(
        self,
        inner: Self,
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
        # A step of a scan numbers its marks and scans by itself.
        if inner._around is self:
            self._marks, self._scans = inner._marks, inner._scans
