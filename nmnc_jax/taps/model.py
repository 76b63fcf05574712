"""Passes of a user's model, whose errors about transformations name the tap."""

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from nmnc_jax.taps.calls import check_call
from nmnc_jax.taps.forms import FORMS
from nmnc_jax.taps.recorder import NONE
from nmnc_jax.taps.tap import Tap
from nmnc_jax.types import Activations, ApplyFn, Array, Inputs, Params


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
        called = ", ".join(["params", "inputs", "tap", *kwargs])
        check_call("apply_fn", apply_fn, f"as apply_fn({called})", params, inputs, None, **kwargs)
        if re.search(r"takes .*positional arguments? but", str(error)):
            raise ValueError(
                f"{error}. The model is called with (params, inputs, tap): if this is its module, "
                "it takes the tap after its inputs (tap=no_tap), or nmnc_jax.linen.tap_submodules "
                "adds taps from outside"
            ) from error
        if f"{Tap.__module__}.{Tap.__qualname__}" in str(error):
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
