"""Defines a readout: what a probe measures, and how it becomes feedback and credit."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from nmnc_jax.feedback import Feedback, FeedbackState
from nmnc_jax.layout import Layout, Nodes, TapLayout, TapShape
from nmnc_jax.taps import Tap
from nmnc_jax.types import Activations, Array, DType


class Reading(NamedTuple):
    """What a readout is given in each step.

    Attributes:
        layout: the layout of the model in the state.
        nodes: the nodes of the model in this call.
        bases: tap name to U, [n, d], or None for all directions.
        feedback: tap name to the `FeedbackState` of earlier steps; empty without feedback.
        learns: whether the feedback is learned.
        losses: function of a pytree of outputs that returns the losses, [B] or [B, T].
        error: gradient of the batch-mean loss with respect to the outputs, with their structure;
            None before the clean pass has computed it.
    """

    layout: Layout
    nodes: Nodes
    bases: dict[str, Array | None]
    feedback: dict[str, FeedbackState]
    learns: bool
    losses: Callable[[Any], Array]
    error: Any


class Found(NamedTuple):
    """What the probes of one tap measured.

    Attributes:
        estimate: estimate of the feedback's mean, [size, d], or a pytree with the structure of the
            stage's weights; None if no feedback is learned.
        credit: credit in coordinates, [B T, d]; None if credit comes only from feedback.
    """

    estimate: Any
    credit: Array | None


def at_taps(nodes: Nodes, names: list[str]) -> Nodes:
    """Returns the nodes unchanged, because noise is added at the taps.

    Raises:
        ValueError: if the model has no tap.
    """
    del names
    if not nodes.taps:
        raise ValueError("apply_fn has no tap; pass each hidden activation through tap(name, x)")
    return nodes


def on_a_basis(
    feedback: Feedback, key: Array, tap: TapLayout, dtype: DType, weights: Any
) -> FeedbackState:
    """Returns the first feedback in coordinates, [size, d]."""
    del weights
    return feedback.init(key, tap.size, tap.dimension, dtype)


class Readout(NamedTuple):
    """What the noise is correlated with.

    Attributes:
        name: name of the readout, which a state records.
        size: ``size(shape, tap, outputs) -> int``, the number of rows of a tap's feedback.
        response: ``response(reading, tap, outputs) -> {tap name: response}`` after a pass of the
            model with `tap`; a response is a pytree of arrays.
        correlate: ``correlate(reading, name, z, dy) -> Found`` from coordinates z, [B T, d], and
            the change of the response per unit of activity.
        credit: ``credit(reading, found) -> {tap name: credit}`` in coordinates, [B T, d]; None if
            credit flows back from stage to stage.
        chained: ``chained(reading, known) -> (noise -> Tap)`` returns the tap with which the
            model's backward pass carries credit from stage to stage; the values at the nodes of
            `known` need not be computed. None if `credit` gives the credit.
        pooled: whether all rows are averaged together, so that orthogonal frames span them.
        isolated: whether each node passes on only its clean value and its own noise.
        every_step: whether the credit of a step needs the probes of that step.
        needs_feedback: whether a feedback is required.
        factored: whether a tap's feedback is a matrix of coordinates on its basis, [size, d], which
            rotates with the basis; otherwise it has the form of the stage's weights.
        places: ``places(nodes, names) -> Nodes`` returns nodes whose taps are the places among
            `names` where noise is added.
        change: ``change(reading, forward) -> (noise -> {name: change})`` for a readout that
            measures the effect of noise of unit variance in another way than by the change of its
            response; ``forward(tap)`` runs the model. None for the change of the response.
        first: ``first(feedback, key, tap, dtype, weights) -> FeedbackState``.
    """

    name: str
    size: Callable[[TapShape, TapLayout, Any], int]
    response: Callable[[Reading, Tap, Any], dict[str, Any]]
    correlate: Callable[[Reading, str, Array, Any], Found]
    credit: Callable[[Reading, dict[str, Found] | None], dict[str, Array]] | None = None
    chained: Callable[[Reading, Mapping[str, Any]], Callable[[Activations], Tap]] | None = None
    pooled: bool = True
    isolated: bool = False
    every_step: bool = False
    needs_feedback: bool = True
    factored: bool = True
    places: Callable[[Nodes, list[str]], Nodes] = at_taps
    change: Callable[..., Callable[[Activations], dict[str, Any]]] | None = None
    first: Callable[[Feedback, Array, TapLayout, DType, Any], FeedbackState] = on_a_basis
