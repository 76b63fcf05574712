"""What a readout is: what is measured at a probe, and what becomes of it."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from nmnc_jax.feedback import Feedback, FeedbackState
from nmnc_jax.layout import Layout, Nodes, TapLayout, TapShape
from nmnc_jax.taps import Tap
from nmnc_jax.types import Activations, Array, DType


class Reading(NamedTuple):
    """What a readout knows of the step.

    Attributes:
        layout: of the model, as the state remembers it.
        nodes: of the model in this call.
        bases: tap name to U, [n, d], or None for all directions.
        feedback: tap name to the `FeedbackState` of earlier steps; empty without feedback.
        learns: whether the feedback is learned.
        losses: loss to a pytree of outputs, [B] or [B, T].
        error: gradient of the batch-mean loss with respect to the outputs, like them; None before
            the pass that gives it.
    """

    layout: Layout
    nodes: Nodes
    bases: dict[str, Array | None]
    feedback: dict[str, FeedbackState]
    learns: bool
    losses: Callable[[Any], Array]
    error: Any


class Found(NamedTuple):
    """What probes found at one tap.

    Attributes:
        estimate: of the feedback's mean, [size, d], or a pytree like the stage's weights; None
            where no feedback is learned.
        credit: in coordinates, [B T, d]; None where the credit comes from feedback alone.
    """

    estimate: Any
    credit: Array | None


def at_taps(nodes: Nodes, names: list[str]) -> Nodes:
    """The nodes as they are: noise is added at the taps.

    Raises:
        ValueError: if the model has none.
    """
    del names
    if not nodes.taps:
        raise ValueError("apply_fn has no tap; pass each hidden activation through tap(name, x)")
    return nodes


def on_a_basis(
    feedback: Feedback, key: Array, tap: TapLayout, dtype: DType, weights: Any
) -> FeedbackState:
    """The first feedback in coordinates, [size, d]."""
    del weights
    return feedback.init(key, tap.size, tap.dimension, dtype)


class Readout(NamedTuple):
    """What the noise is correlated with.

    Attributes:
        name: of the readout; a state belongs to one.
        size: ``size(shape, tap, outputs) -> int``, rows of a tap's feedback.
        response: ``response(reading, tap, outputs) -> {tap name: response}`` after a pass of the
            model with `tap`; a response is a pytree of arrays.
        correlate: ``correlate(reading, name, z, dy) -> Found`` from coordinates z, [B T, d], and
            the change of the response per unit of activity.
        credit: ``credit(reading, found) -> {tap name: credit}`` in coordinates, [B T, d]; None
            where credit flows back from stage to stage.
        chained: ``chained(reading, known) -> (noise -> Tap)``: the tap with which the model's own
            backward pass carries credit from stage to stage, where the values at the nodes of
            `known` need not be computed; None where `credit` gives it.
        pooled: whether all rows are averaged together, so that orthogonal frames run over them.
        isolated: whether each node passes on its clean value and its own noise alone.
        every_step: whether the credit of a step needs the probes of that step.
        needs_feedback: whether it takes a feedback in any case.
        factored: whether a tap's feedback is a matrix of coordinates on its basis, [size, d], that
            turns with it; else it has the form of the stage's weights.
        places: ``places(nodes, names) -> Nodes`` whose taps are where noise is added, of those of
            the names.
        change: ``change(reading, forward) -> (noise -> {name: change})``, with a pass
            ``forward(tap)`` of the model, where what noise of unit variance changes is not a
            response; None: it is.
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
