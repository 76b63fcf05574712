"""Gradients from credit, and credit from a state, apart from the steps of an estimator."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from nmnc_jax.checks import named_leaves
from nmnc_jax.credit.losses import losses_and_error
from nmnc_jax.credit.passes import gradients_and_credit, local_pass, pass_for, reading_of
from nmnc_jax.layout import trace_nodes
from nmnc_jax.readouts import READOUTS
from nmnc_jax.taps import Model, no_tap
from nmnc_jax.types import Activations, ApplyFn, Array, Batch, Inputs, LossFn, Params


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
    nodes = readout.places(trace_nodes(model, params, inputs), names)
    reading = reading_of(state, nodes, loss_fn, targets, error=error)
    clean = pass_for(readout, reading, model, params, inputs)
    coordinates = readout.credit(reading, None) if readout.credit else None
    return gradients_and_credit(clean, reading, coordinates)[1]
