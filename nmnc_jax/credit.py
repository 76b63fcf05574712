"""From output error and feedback to credit at each tap, and from credit to parameter gradients."""

from collections.abc import Callable, Mapping
from typing import Literal

import jax
import jax.numpy as jnp

from nmnc_jax.lags import credit_by_lag
from nmnc_jax.shapes import (
    TapShape,
    at_least_float32,
    chained_by_default,
    tap_shapes,
    unflatten,
)
from nmnc_jax.state import NoiseCorrelationState
from nmnc_jax.subspace import lift, project
from nmnc_jax.taps import Tap, no_tap, run
from nmnc_jax.types import Activations, ApplyFn, Array, Batch, Inputs, LossFn, Params


def losses_and_error(loss_fn: LossFn, outputs: Array, targets: object) -> tuple[Array, Array]:
    """Computes each example's loss and the output error.

    Args:
        loss_fn: ``loss_fn(outputs, targets) -> [B]``, or [B, T] for outputs [B, T, o].
        outputs: [B, o].
        targets: what the loss takes.

    Returns:
        ``(losses, error)``: losses [B] or [B, T], and the gradient of their mean with respect to
        the outputs, of the outputs' shape.

    Raises:
        ValueError: if the loss is reduced, or is not one number per example.
    """
    losses, pullback = jax.vjp(lambda outputs: loss_fn(outputs, targets), outputs)
    timed = outputs.shape[:2] if outputs.ndim > 2 else None
    if losses.shape not in (outputs.shape[:1], timed):
        also = f", or one for each time step, {timed}" if timed else ""
        raise ValueError(
            f"loss_fn returned shape {losses.shape}; it takes one loss per example, "
            f"{outputs.shape[:1]}{also}, not reduced"
        )
    return losses, pullback(jnp.full_like(losses, 1 / losses.size))[0]


def local_gradients(
    apply_fn: ApplyFn, params: Params, inputs: Inputs
) -> tuple[Array, Activations, Callable[[Array, Activations], Params]]:
    """One clean pass, and the map from output error and credits to parameter gradients.

    The gradients are local: each stage's vector-Jacobian product with the credit at its own tap,
    because the pass is cut at every tap.

    Args:
        apply_fn: the model.
        params: its parameters.
        inputs: its inputs.

    Returns:
        ``(outputs, activations, pullback)``, with ``pullback(error, credit) -> gradients``.
    """
    (outputs, activations), pullback = jax.vjp(
        lambda params: run(apply_fn, params, inputs, cut=True), params
    )
    return outputs, activations, lambda error, credit: pullback((error, credit))[0]


def chained_gradients(
    apply_fn: ApplyFn,
    params: Params,
    inputs: Inputs,
    *,
    shapes: Mapping[str, TapShape],
    bases: Mapping[str, Array | None],
    coordinates: Mapping[str, Array],
    output_error: Array,
) -> tuple[Params, Activations]:
    """Credit from stage to stage, and the gradients that it gives, by one VJP.

    What flows back through the stage after a tap is what the feedback sends; between the end of
    that stage and the next tap the derivative is exact.

    Args:
        apply_fn: the model.
        params: its parameters.
        inputs: its inputs.
        shapes: the model's taps.
        bases: tap name to U, [n, d], or None for the identity.
        coordinates: tap name to feedback coordinates B_z, [m, d], with m units in the output of the
            tap's stage.
        output_error: gradient of the loss with respect to the outputs, [B, o].

    Returns:
        ``(gradients, credit)``; credit by tap name, in the activation's shape.
    """

    def stand_in(name: str) -> Callable[[Array], Array]:
        def stage(activation: Array) -> Array:
            shape = shapes[name]
            # Of one time step, where the tap is in a scan.
            rows = activation.reshape(-1, shape.units).astype(at_least_float32(shape.dtype))
            output = project(bases[name], rows) @ coordinates[name].T
            return output.reshape(shape.stage[shape.batch_axis :])

        return stage

    stages = {name: stand_in(name) for name in shapes}

    def forward(params: Params, noise: Activations) -> Array:
        tap = Tap(noise, cut=True, stages=stages)
        return tap.linear(apply_fn(params, inputs, tap))

    zeros = {name: jnp.zeros(shape.shape, shape.dtype) for name, shape in shapes.items()}
    return jax.vjp(forward, params, zeros)[1](output_error)


def gradients_from_credit(
    apply_fn: ApplyFn,
    params: Params,
    inputs: Inputs,
    *,
    credit: Mapping[str, Array],
    output_error: Array,
) -> Params:
    """Turns credit at the taps into parameter gradients by local rules alone.

    With the exact credits (`nmnc_jax.diagnostics.exact_credit`) this equals ``jax.grad`` of the
    loss that the credits and the error belong to, for any layer type.

    Args:
        apply_fn: ``apply_fn(params, inputs, tap) -> outputs``.
        params: the model's parameters.
        inputs: the model's inputs.
        credit: for every tap, the loss's gradient with respect to the activation (or an estimate),
            in the activation's shape.
        output_error: the loss's gradient with respect to the outputs, [B, o]; for a batch-mean loss
            it holds the factor 1/B, and so do the credits.

    Returns:
        Gradients with the tree, shapes and dtypes of `params`.

    Raises:
        ValueError: if `credit` misses a tap, names an unknown one, or a shape is wrong.

    Example:
        >>> import jax.numpy as jnp
        >>> from nmnc_jax import gradients_from_credit
        >>> def model(params, inputs, tap):
        ...     return tap("hidden", inputs @ params["in"]) @ params["out"]
        >>> params = {"in": jnp.ones((3, 4)), "out": jnp.ones((4, 2))}
        >>> gradients = gradients_from_credit(
        ...     model, params, jnp.ones((5, 3)),
        ...     credit={"hidden": jnp.ones((5, 4))}, output_error=jnp.ones((5, 2)))
        >>> gradients["in"][0]
        Array([5., 5., 5., 5.], dtype=float32)
    """
    outputs, activations, pullback = local_gradients(apply_fn, params, inputs)
    if set(credit) != set(activations):
        raise ValueError(f"credit has taps {sorted(credit)}; it takes {sorted(activations)}")
    given = {f"credit[{name!r}]": (credit[name], activations[name]) for name in activations}
    for label, (value, like) in ({"output_error": (output_error, outputs)} | given).items():
        if jnp.shape(value) != like.shape:
            raise ValueError(f"{label} has shape {jnp.shape(value)}; it takes {like.shape}")
    credit = {name: jnp.asarray(value, activations[name].dtype) for name, value in credit.items()}
    return pullback(jnp.asarray(output_error, outputs.dtype), credit)


def credit_from_state(
    apply_fn: ApplyFn,
    loss_fn: LossFn,
    params: Params,
    batch: Batch,
    state: NoiseCorrelationState,
    *,
    readout: Literal["output", "next"] | None = None,
) -> Activations:
    """Computes the credit that the feedback in `state` gives on a batch, without new probes.

    Use it to measure alignment on a large fixed batch.

    Args:
        apply_fn: the model.
        loss_fn: ``loss_fn(outputs, targets) -> [B]``.
        params: the model's parameters.
        batch: (inputs, targets), of any size.
        state: state of an estimator with the `output` or `next` readout.
        readout: which of them; None: as `noise_correlation` chooses.

    Returns:
        Tap name to credit for the batch-mean loss, in the activation's shape.

    Raises:
        ValueError: if the state holds no feedback.

    Example:
        >>> import jax.numpy as jnp
        >>> from nmnc_jax import credit_from_state, direct_feedback_alignment
        >>> model = lambda params, inputs, tap: tap("hidden", inputs @ params)
        >>> loss_fn = lambda outputs, targets: outputs.sum(-1)
        >>> params, batch = jnp.ones((3, 4)), (jnp.ones((5, 3)), None)
        >>> state = direct_feedback_alignment(model, loss_fn).init(params, batch)
        >>> credit_from_state(model, loss_fn, params, batch, state)["hidden"].shape
        (5, 4)
    """
    if not state.feedback:
        raise ValueError("state holds no feedback; it takes that of an `output` or `next` readout")
    inputs, targets = batch
    outputs = apply_fn(params, inputs, no_tap)
    _, error = losses_and_error(loss_fn, outputs, targets)
    shapes = tap_shapes(apply_fn, params, inputs)
    coordinates = {name: state.feedback[name].coordinates for name in shapes}
    bases = {name: state.subspace[name].basis for name in shapes}
    if readout == "next" or (readout is None and chained_by_default(shapes)):
        return chained_gradients(
            apply_fn,
            params,
            inputs,
            shapes=shapes,
            bases=bases,
            coordinates=coordinates,
            output_error=error,
        )[1]
    credit = {}
    for name, shape in shapes.items():
        rows = lift(bases[name], credit_by_lag(shape, coordinates[name], error))
        credit[name] = unflatten(shape, rows).astype(shape.dtype)
    return credit
