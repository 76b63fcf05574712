"""The clean pass of a step, whose pullback turns credit into gradients."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nmnc_jax.credit.losses import losses_of
from nmnc_jax.layout import Nodes, TapShape, at_least_float32, trace_nodes, unflatten
from nmnc_jax.readouts import Reading, Readout
from nmnc_jax.schedule import all_finite
from nmnc_jax.subspace import lift
from nmnc_jax.taps import NONE, Model, Tap
from nmnc_jax.types import Activations, Array, Info, Inputs, LossFn, Params


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


def reading_of(
    state: Any,
    nodes: Nodes,
    loss_fn: LossFn,
    targets: Any,
    *,
    learns: bool = False,
    error: Any = None,
) -> Reading:
    """Returns what a state's readout is given.

    Args:
        state: `NoiseCorrelationState`.
        nodes: the nodes of the model in this call.
        loss_fn: ``loss_fn(outputs, targets) -> [B]``.
        targets: the targets that `loss_fn` takes.
        learns: whether the feedback is learned.
        error: the output error; None before the clean pass has computed it.
    """
    return Reading(
        layout=state.layout,
        nodes=nodes,
        bases={name: each.basis for name, each in state.subspace.items()},
        feedback=state.feedback,
        learns=learns,
        losses=lambda outputs: losses_of(loss_fn, outputs, targets),
        error=error,
    )


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
