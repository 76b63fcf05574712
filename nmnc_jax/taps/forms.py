"""What a model may call on its tap, and the forms of transformations that need only `lift`."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax

from nmnc_jax.types import Array

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


class Forms:
    """The methods for transformations that follow from `lift`."""

    def lift(self, transform: Transform, body: Callable[..., Any]) -> Callable[..., Any]:
        """Applies a transformation of functions to a body ``(*arguments, tap) -> result``."""
        raise NotImplementedError

    def checkpoint(self, body: Callable[..., Any], **settings: Any) -> Callable[..., Any]:
        """Rematerialises a body ``(*arguments, tap) -> result`` as ``jax.checkpoint`` does."""
        return self.lift(functools.partial(jax.checkpoint, **settings), body)

    def jit(self, body: Callable[..., Any], **settings: Any) -> Callable[..., Any]:
        """Compiles a body ``(*arguments, tap) -> result`` as ``jax.jit`` does."""
        return self.lift(functools.partial(jax.jit, **settings), body)
