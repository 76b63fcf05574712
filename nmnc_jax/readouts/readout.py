"""What a readout is: what is measured at a probe, and what becomes of it."""

from collections.abc import Callable
from typing import Any, NamedTuple

from nmnc_jax.feedback import FeedbackState
from nmnc_jax.layout import Layout, Nodes, TapLayout, TapShape
from nmnc_jax.taps import Stage, Tap
from nmnc_jax.types import Array


class Reading(NamedTuple):
    """What a readout knows of the step.

    Attributes:
        layout: of the model, as the state remembers it.
        nodes: of the model in this call.
        bases: tap name to U, [n, d], or None for all directions.
        feedback: tap name to the `FeedbackState` of earlier steps; empty without feedback.
        learns: whether the feedback is learned.
        losses: loss to a pytree of outputs, [B] or [B, T].
        error: gradient of the batch-mean loss with respect to the outputs, like them.
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
        estimate: of the feedback's mean, [size, d]; None where no feedback is learned.
        credit: in coordinates, [B T, d]; None where the credit comes from feedback alone.
    """

    estimate: Array | None
    credit: Array | None


class Credit(NamedTuple):
    """How credit reaches the taps.

    Attributes:
        coordinates: tap name to its credit in coordinates, [B T, d]; or none of them, where it
            flows back through `stages`.
        stages: node to the taps that feed it, each with a stage that stands in for the network's
            own in the backward pass.
    """

    coordinates: dict[str, Array]
    stages: dict[str, dict[str, Stage]]


class Readout(NamedTuple):
    """What the noise is correlated with.

    Attributes:
        name: of the readout; a state belongs to one.
        size: ``size(shape, tap, outputs) -> int``, rows of a tap's feedback.
        response: ``response(reading, tap, outputs) -> {tap name: response}`` after a pass of the
            model with `tap`; a response is a pytree of arrays.
        correlate: ``correlate(reading, name, z, dy) -> Found`` from coordinates z, [B T, d], and
            the change of the response per unit of activity.
        credit: ``credit(reading, found) -> Credit``.
        pooled: whether all rows are averaged together, so that orthogonal frames run over them.
        isolated: whether each node passes on its clean value and its own noise alone.
        every_step: whether the credit of a step needs the probes of that step.
        needs_feedback: whether it takes a feedback in any case.
    """

    name: str
    size: Callable[[TapShape, TapLayout, Any], int]
    response: Callable[[Reading, Tap, Any], dict[str, Any]]
    correlate: Callable[[Reading, str, Array, Any], Found]
    credit: Callable[[Reading, dict[str, Found] | None], Credit]
    pooled: bool = True
    isolated: bool = False
    every_step: bool = False
    needs_feedback: bool = True
