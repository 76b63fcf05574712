"""Computes credit at each tap from output error and feedback, and gradients from credit."""

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
        outputs: the outputs of the model.
        aux: the auxiliary outputs of the model.
        arrived: node name to the value that arrived there.
        activations: tap name to activation.
        read: name of a linear stage to its input.
        pullback: ``pullback(error, credit) -> (gradients, credit)`` applies the vector-Jacobian
            product of each stage to the output error and to the credit at the taps. It returns the
            parameter gradients and the credit that flows back to each tap.
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
    """Checks that the losses of the first batch are not reduced and are finite."""
    check_losses(losses_of(loss_fn, outputs, batch[1]), outputs, batch)


def losses_and_error(loss_fn: LossFn, outputs: Any, targets: Any) -> tuple[Array, Any]:
    """Computes each example's loss and the output error.

    Args:
        loss_fn: ``loss_fn(outputs, targets) -> [B]``, or [B, T] for outputs [B, T, o].
        outputs: [B, ...], or a pytree of such arrays.
        targets: the targets that `loss_fn` takes.

    Returns:
        ``(losses, error)``: losses [B] or [B, T], and the gradient of their mean with respect to
        the outputs, which has the structure of the outputs.

    Raises:
        ValueError: if the loss is reduced, or is not one number per example.
    """
    try:
        losses, pullback = jax.vjp(lambda outputs: losses_of(loss_fn, outputs, targets), outputs)
    except ValueError as error:
        if "callback" not in str(error).lower():
            raise
        raise ValueError(
            "loss_fn holds a callback, which has no derivative; this method takes the loss's "
            "derivative at the outputs: give the loss a jax.custom_vjp, or use weight_perturbation"
        ) from error
    return losses, pullback(jnp.full_like(losses, 1 / losses.size))[0]


def local_pass(
    model: Model,
    params: Params,
    inputs: Inputs,
    tap: Callable[[Activations], Tap] = lambda noise: Tap(noise, cut=True),
    shapes: Mapping[str, TapShape] = NONE,
) -> LocalPass:
    """Runs the model once with a tap that decides how credit flows back; by default it is cut.

    Args:
        model: the model.
        params: the model's parameters.
        inputs: the model's inputs.
        tap: function of noise that returns the tap.
        shapes: name to shape of the taps and linear stages at which the credit that flows back is
            returned.
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
    """Replaces the gradients of integer and boolean leaves, which have none, by zeros."""

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
    """Runs the clean pass whose pullback turns a readout's credit into gradients.

    Args:
        readout: the readout that gives the credit.
        reading: the reading of the step.
        model: the model.
        params: the model's parameters.
        inputs: the model's inputs.
        known: node name to the value that arrives there, from a pass with other feedback.
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
        clean: the clean pass from `pass_for`.
        reading: the reading of the step.
        coordinates: tap name to credit, [B T, d]; None if the pullback itself chains the credit.
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
    """Returns the `Info` of one estimate.

    Args:
        losses: the losses of the examples.
        outputs: the outputs of the model.
        credit: tap name to credit.
        gradients: the gradients that the estimate returns.
        aux: the auxiliary outputs of the model.
        finite: whether everything that the step learned is finite.
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

    With exact credit (`nmnc_jax.diagnostics.exact_credit`) the result equals ``jax.grad`` of the
    loss, for any layer type.

    Args:
        apply_fn: ``apply_fn(params, inputs, tap, **kwargs) -> outputs``.
        params: the model's parameters.
        inputs: the model's inputs.
        credit: for every tap, the loss's gradient with respect to the activation (or an estimate),
            in the activation's shape.
        output_error: the loss's gradient with respect to the outputs, with the structure of the
            outputs. For a batch-mean loss both it and the credit include the factor 1/B.
        kwargs: passed to `apply_fn`.

    Returns:
        Gradients with the tree, shapes and dtypes of `params`.

    Raises:
        ValueError: if a tap is missing in `credit` or unknown, or if a shape is wrong.

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

    Use this function to measure alignment on a large fixed batch. The state holds the readout.

    Args:
        apply_fn: the model.
        loss_fn: ``loss_fn(outputs, targets) -> [B]``.
        params: the model's parameters.
        batch: (inputs, targets), with any number of examples.
        state: `NoiseCorrelationState` of an estimator with feedback.
        kwargs: passed to `apply_fn`.

    Returns:
        A dict from tap name to the credit for the batch-mean loss, in the activation's shape.

    Raises:
        ValueError: if the state is of another type, or holds no feedback.

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
        raise ValueError(
            "state holds no feedback; it takes a state of readout 'output', 'next' or 'mirror'"
        )
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
