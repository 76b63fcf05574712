"""From output error and feedback to credit at each tap, and from credit to parameter gradients."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nmnc_jax.checks import check_losses, named_leaves
from nmnc_jax.layout import TapShape, at_least_float32, examples_of, trace_nodes, unflatten
from nmnc_jax.readouts import READOUTS, Reading, Readout
from nmnc_jax.schedule import all_finite
from nmnc_jax.subspace import lift
from nmnc_jax.taps import NONE, Model, Tap, no_tap
from nmnc_jax.types import Activations, ApplyFn, Array, Batch, Info, Inputs, LossFn, Params


class LocalPass(NamedTuple):
    """A clean pass that is cut at every tap.

    Attributes:
        outputs: of the model.
        aux: what it returns besides.
        arrived: node to what arrived there.
        activations: tap name to activation.
        read: name of a linear stage to its input.
        pullback: ``pullback(error, credit) -> (gradients, credit)``: what each stage's own
            vector-Jacobian product makes of the output error and of the credit at the taps, and the
            credit that flows back to each tap besides.
    """

    outputs: Any
    aux: Any
    arrived: dict[str, Any]
    activations: Activations
    read: Activations
    pullback: Callable[[Any, Activations], tuple[Params, Activations]]


def losses_of(loss_fn: LossFn, outputs: Any, targets: Any) -> Array:
    """Computes each example's loss.

    Raises:
        ValueError: if the loss is reduced, or is not one number per example or time step.
    """
    losses = loss_fn(outputs, targets)
    batch = examples_of(outputs)
    timed = {leaf.shape[:2] for leaf in jax.tree.leaves(outputs) if leaf.ndim > 2}
    if losses.shape != (batch,) and losses.shape not in timed:
        also = "".join(f", or one for each time step, {shape}" for shape in sorted(timed))
        raise ValueError(
            f"loss_fn returned shape {losses.shape}; it takes one loss per example, "
            f"{(batch,)}{also}, not reduced"
        )
    return losses


def check_first_losses(loss_fn: LossFn, outputs: Any, batch: Batch) -> None:
    """Refuses a first batch whose losses are reduced, or not finite, as `check_losses` does."""
    check_losses(losses_of(loss_fn, outputs, batch[1]), outputs, batch)


def losses_and_error(loss_fn: LossFn, outputs: Any, targets: Any) -> tuple[Array, Any]:
    """Computes each example's loss and the output error.

    Args:
        loss_fn: ``loss_fn(outputs, targets) -> [B]``, or [B, T] for outputs [B, T, o].
        outputs: [B, ...], or a pytree of them.
        targets: what the loss takes.

    Returns:
        ``(losses, error)``: losses [B] or [B, T], and the gradient of their mean with respect to
        the outputs, like the outputs.

    Raises:
        ValueError: if the loss is reduced, or is not one number per example.
    """
    try:
        losses, pullback = jax.vjp(lambda outputs: losses_of(loss_fn, outputs, targets), outputs)
    except ValueError as error:
        if "callback" not in str(error).lower():
            raise
        raise ValueError(
            "loss_fn holds a callback, which has no derivative; this method takes the loss's own "
            "derivative at the outputs: give the loss a jax.custom_vjp, or take weight_perturbation"
        ) from error
    return losses, pullback(jnp.full_like(losses, 1 / losses.size))[0]


def local_pass(
    model: Model,
    params: Params,
    inputs: Inputs,
    tap: Callable[[Activations], Tap] = lambda noise: Tap(noise, cut=True),
    shapes: Mapping[str, TapShape] = NONE,
) -> LocalPass:
    """Runs the model once, cut at every tap, or with credit that flows back as the tap has it.

    Args:
        model: the model.
        params: its parameters.
        inputs: its inputs.
        tap: makes the tap from noise.
        shapes: tap or linear stage to its shape, where the credit that flows back is of interest.
    """

    def forward(params: Params, noise: Activations) -> tuple[Any, Any]:
        made = tap(noise)
        outputs, aux = model.outputs_and_aux(params, inputs, made)
        return (outputs, made.activations), (aux, made.arrived, made.read)

    noise = {name: jnp.zeros(shape.shape, shape.dtype) for name, shape in shapes.items()}
    (outputs, activations), pullback, (aux, arrived, read) = jax.vjp(
        forward, params, noise, has_aux=True
    )

    def pull(error: Any, credit: Activations) -> tuple[Params, Activations]:
        gradients, flowed = pullback((error, credit))
        return floating(gradients, params), flowed

    return LocalPass(outputs, aux, arrived, activations, read, pull)


def floating(gradients: Params, params: Params) -> Params:
    """Puts zeros in the place of the gradients of leaves that have none: integers, booleans."""

    def one(gradient: Any, leaf: Any) -> Any:
        return jnp.zeros_like(leaf) if gradient.dtype == jax.dtypes.float0 else gradient

    return jax.tree.map(one, gradients, params)


def pass_for(
    readout: Readout,
    reading: Reading,
    model: Model,
    params: Params,
    inputs: Inputs,
    known: Mapping[str, Any] = NONE,
) -> LocalPass:
    """The clean pass, through whose pullback a readout's credit becomes gradients.

    Args:
        readout: whose credit it is.
        reading: of the step.
        model: the model.
        params: its parameters.
        inputs: its inputs.
        known: node to what arrives there, from a pass with other feedback.
    """
    if readout.chained is None:
        return local_pass(model, params, inputs)
    shapes = trace_nodes(model, params, inputs).taps | reading.nodes.taps
    return local_pass(model, params, inputs, readout.chained(reading, known), shapes)


def gradients_and_credit(
    clean: LocalPass, reading: Reading, coordinates: Mapping[str, Array] | None
) -> tuple[Params, Activations]:
    """Turns a readout's credit into parameter gradients and credit at each tap, by one VJP.

    Args:
        clean: of `pass_for`.
        reading: of the step.
        coordinates: tap name to credit, [B T, d]; None where it flows back by itself.
    """
    if coordinates is None:
        nothing = jax.tree.map(jnp.zeros_like, clean.activations)
        return clean.pullback(reading.error, nothing)
    at_taps = {}
    for name, shape in reading.nodes.taps.items():
        rows = lift(reading.bases[name], coordinates[name])
        at_taps[name] = unflatten(shape, rows).astype(shape.dtype)
    return clean.pullback(reading.error, at_taps)[0], at_taps


def info_from(
    losses: Array,
    outputs: Any,
    credit: Activations,
    gradients: Params,
    *,
    aux: Any = None,
    finite: bool | Array = True,
) -> Info:
    """Gathers what every estimate reports.

    Args:
        losses: of the examples.
        outputs: of the model.
        credit: by tap name.
        gradients: what is returned.
        aux: what the model returns besides.
        finite: whether what the step learned is finite.
    """
    norms = {
        name: jnp.linalg.norm(value.astype(at_least_float32(value.dtype)).reshape(-1))
        for name, value in credit.items()
    }
    finite = all_finite((losses, norms, gradients)) & finite
    return Info(losses.mean(), outputs, norms, credit, aux, finite)


def gradients_from_credit(
    apply_fn: ApplyFn,
    params: Params,
    inputs: Inputs,
    *,
    credit: Mapping[str, Array],
    output_error: Any,
    **kwargs: Any,
) -> Params:
    """Turns credit at the taps into parameter gradients by local rules alone.

    With the exact credits (`nmnc_jax.diagnostics.exact_credit`) this equals ``jax.grad`` of the
    loss that the credits and the error belong to, for any layer type.

    Args:
        apply_fn: ``apply_fn(params, inputs, tap, **kwargs) -> outputs``.
        params: the model's parameters.
        inputs: the model's inputs.
        credit: for every tap, the loss's gradient with respect to the activation (or an estimate),
            in the activation's shape.
        output_error: the loss's gradient with respect to the outputs, like them; for a batch-mean
            loss it holds the factor 1/B, and so do the credits.
        kwargs: passed to `apply_fn`.

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
    clean = local_pass(Model(apply_fn, kwargs=kwargs), params, inputs)
    activations = clean.activations
    if set(credit) != set(activations):
        raise ValueError(f"credit has taps {sorted(credit)}; it takes {sorted(activations)}")
    given = {f"credit[{name!r}]": (credit[name], activations[name]) for name in activations}
    if jax.tree.structure(output_error) != jax.tree.structure(clean.outputs):
        raise ValueError(
            f"output_error has the structure {jax.tree.structure(output_error)}; it takes that of "
            f"the outputs, {jax.tree.structure(clean.outputs)}"
        )
    given |= {
        f"output_error{place}": (error, output)
        for (place, error), output in zip(
            named_leaves(output_error), jax.tree.leaves(clean.outputs), strict=True
        )
    }
    for label, (value, like) in given.items():
        if jnp.shape(value) != like.shape:
            raise ValueError(f"{label} has shape {jnp.shape(value)}; it takes {like.shape}")
    credit = {name: jnp.asarray(value, activations[name].dtype) for name, value in credit.items()}
    error = jax.tree.map(lambda e, y: jnp.asarray(e, y.dtype), output_error, clean.outputs)
    return clean.pullback(error, credit)[0]


def credit_from_state(
    apply_fn: ApplyFn,
    loss_fn: LossFn,
    params: Params,
    batch: Batch,
    state: Any,
    **kwargs: Any,
) -> Activations:
    """Computes the credit that the feedback in `state` gives on a batch, without new probes.

    Use it to measure alignment on a large fixed batch. The state says how: it holds its readout.

    Args:
        apply_fn: the model.
        loss_fn: ``loss_fn(outputs, targets) -> [B]``.
        params: the model's parameters.
        batch: (inputs, targets), of any size.
        state: `NoiseCorrelationState` of an estimator with feedback.
        kwargs: passed to `apply_fn`.

    Returns:
        Tap name to credit for the batch-mean loss, in the activation's shape.

    Raises:
        ValueError: if the state is of another kind, or holds no feedback.

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
    if not hasattr(state, "layout"):
        raise ValueError(
            f"state is a {type(state).__name__}; it takes the NoiseCorrelationState of an estimator"
        )
    layout = state.layout
    readout = READOUTS[layout.readout]
    if not state.feedback or readout.every_step:
        raise ValueError("state holds no feedback; it takes that of a readout that is not 'loss'")
    inputs, targets = batch
    model = Model(apply_fn, layout.has_aux, kwargs)
    names = [tap.name for tap in layout.taps]
    _, error = losses_and_error(loss_fn, model(params, inputs, no_tap), targets)
    reading = Reading(
        layout=layout,
        nodes=readout.places(trace_nodes(model, params, inputs), names),
        bases={name: each.basis for name, each in state.subspace.items()},
        feedback=state.feedback,
        learns=False,
        losses=lambda outputs: losses_of(loss_fn, outputs, targets),
        error=error,
    )
    clean = pass_for(readout, reading, model, params, inputs)
    coordinates = readout.credit(reading, None) if readout.credit else None
    return gradients_and_credit(clean, reading, coordinates)[1]
