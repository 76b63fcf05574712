"""The tap of the library's passes."""

from collections.abc import Callable, Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp
from jax import lax

from nmnc_jax.taps.calls import call_body, carry_and_y
from nmnc_jax.taps.forms import TapLike, Transform
from nmnc_jax.taps.lifting import Lifting
from nmnc_jax.types import Array


class Tap(Lifting):
    """A recorder with the forms of all transformations, of which scans add a time axis."""

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
            taps: list[Self] = []
            whole = {name: self.given[name] for name in self.given if name in self.whole}

            def step(*inside: Any) -> Any:
                *first, (x, (noise, replay, pinned, given)) = inside
                tap = self._inner((noise, replay, pinned, whole | given), scope)
                taps.append(tap)
                carry, y = carry_and_y(call_body(body, [*first, x], tap))
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
            carry, (ys, recorded) = transform(step)(*before, (xs, arrays))
            self._absorb(taps[-1], *recorded)
            return carry, ys

        return scanned
