"""The tap of an ordinary forward pass."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax

from nmnc_jax.taps.calls import carry_and_y
from nmnc_jax.taps.forms import Forms, TapLike, Transform
from nmnc_jax.types import Array


class _NoTap(Forms):
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
            carry, y = carry_and_y(body(*first, x, self))
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
