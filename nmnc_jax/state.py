"""The state of noise correlation, and how it is made, moved and checked."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nmnc_jax.feedback import Feedback, FeedbackState, rotate
from nmnc_jax.layout import Layout, Nodes, TapLayout, matrices
from nmnc_jax.model_check import ModelReport, check_memory
from nmnc_jax.readouts import READOUTS
from nmnc_jax.stacking import each_by_name
from nmnc_jax.subspace import Subspace, SubspaceState
from nmnc_jax.types import Activations, Array


class NoiseCorrelationState(NamedTuple):
    """State of `noise_correlation`.

    Attributes:
        step: number of estimates so far, without those that were not finite, a scalar.
        subspace: tap name to its `SubspaceState`.
        feedback: tap name to its `FeedbackState`; empty without feedback.
        layout: static description of the model and the method that the state belongs to.
    """

    step: Array
    subspace: dict[str, SubspaceState]
    feedback: dict[str, FeedbackState]
    layout: Layout


def lay_out(
    nodes: Nodes, report: ModelReport, subspace: Subspace, feedback: Feedback | None, own: Layout
) -> Layout:
    """Makes the layout of a state.

    Args:
        nodes: the nodes of the model at init.
        report: the report on the model.
        subspace: the subspace of the method.
        feedback: the feedback of the method.
        own: the method's part of the layout.

    Raises:
        ValueError: if a horizon is given for outputs that do not follow a tap's time, or if bases
            and feedback do not fit into memory.
    """
    readout, horizon = READOUTS[report.readout], own.horizon
    taps = []
    for name, shape in nodes.taps.items():
        found = report[name]
        if horizon is not None and found.aligned is False:
            raise ValueError(
                f"horizon is {horizon}; tap {name!r} takes None, because the response does not "
                "follow its time"
            )
        tap = TapLayout(
            name,
            shape.units,
            subspace.dimension(name, shape.units),
            lags=min(horizon or shape.steps, shape.steps),
            size=0,
            aligned=bool(found.aligned),
            stages=found.stages,
            stacked=found.stacked,
            shared=found.shared,
            summed=found.summed,
        )
        size = readout.size(shape, tap, nodes.outputs) if feedback is not None else 0
        taps.append(tap._replace(size=size))
    check_memory(
        {t.name: 4 * t.units * t.dimension * subspace.has_basis(t.name) for t in taps},
        {t.name: 4 * t.size * (t.dimension if readout.factored else 1) for t in taps},
        nodes.taps,
    )
    return dataclasses.replace(own, readout=readout.name, coupled=report.coupled, taps=tuple(taps))


def first_state(
    layout: Layout,
    nodes: Nodes,
    activations: Activations,
    weights: dict[str, Any],
    subspace: Subspace,
    feedback: Feedback | None,
    key: Array | None,
) -> NoiseCorrelationState:
    """Fits the first bases to the activity, and makes the first feedback.

    Args:
        layout: the layout of the model.
        nodes: the nodes of the model, whose taps are the places where noise is added.
        activations: name to activity at these places.
        weights: name to weights of the linear stages.
        subspace: the subspace of the method.
        feedback: the feedback of the method.
        key: key that replaces the seeds of random bases and feedback; None keeps the seeds.
    """
    readout = READOUTS[layout.readout]
    rows = matrices(nodes.taps, activations)
    subspace_key, feedback_key = (None, None) if key is None else jax.random.split(key)
    subspaces = {name: subspace.init(name, rows[name], subspace_key) for name in nodes.taps}
    feedbacks = {}
    if feedback is not None:
        if feedback_key is None:
            feedback_key = jax.random.key(feedback.seed)
        keys = jax.random.split(feedback_key, len(layout.taps))
        for tap, tap_key in zip(layout.taps, keys, strict=True):
            dtype, own = rows[tap.name].dtype, weights.get(tap.name)
            feedbacks[tap.name] = readout.first(feedback, tap_key, tap, dtype, own)
    state = NoiseCorrelationState(jnp.zeros((), jnp.int32), subspaces, feedbacks, layout)
    if feedback is None or feedback.follow is None:
        return state
    assert feedback_key is not None
    return follow_weights(feedback, state, weights, jax.random.fold_in(feedback_key, 0))


def follow_weights(
    feedback: Feedback, state: NoiseCorrelationState, weights: dict[str, Any], key: Array
) -> NoiseCorrelationState:
    """Updates the feedback of each linear stage from the stage's weights, given by name."""
    assert feedback.follow is not None
    keys = jax.random.split(key, len(state.feedback))
    return state._replace(
        feedback={
            name: feedback.follow(old, weights[name], each)
            for each, (name, old) in zip(keys, state.feedback.items(), strict=True)
        }
    )


def move_subspaces(
    subspace: Subspace, state: NoiseCorrelationState, rows: dict[str, Array]
) -> NoiseCorrelationState:
    """Updates the bases from the activity, and rotates the feedback with them."""
    update = subspace.update
    assert update is not None
    factored = READOUTS[state.layout.readout].factored

    def moved(
        old: SubspaceState, feedback: FeedbackState | None, activity: Array
    ) -> tuple[SubspaceState, FeedbackState | None]:
        new = update(old, activity)
        if not factored or feedback is None or old.basis is None or new.basis is None:
            return new, feedback
        return new, rotate(feedback, old.basis, new.basis)

    known = {
        name: (old, state.feedback.get(name), rows[name]) for name, old in state.subspace.items()
    }
    found = each_by_name(moved, known)
    return state._replace(
        subspace={name: found[name][0] for name in state.subspace},
        feedback={name: found[name][1] for name in state.feedback},
    )


def check_state(
    state: Any, nodes: Nodes, subspace: Subspace, own: Layout, readouts: tuple[str, ...]
) -> Nodes:
    """Checks that a state belongs to this method, model, rank, head and length of sequences.

    Args:
        state: the caller's state.
        nodes: the nodes of the model in this call.
        subspace: the subspace of the method.
        own: the method's part of the layout.
        readouts: names of the readouts that the state may have.

    Returns:
        The nodes, whose taps are the places where the state's readout adds noise.

    Raises:
        ValueError: if the state differs. The message names what differs.
    """
    if not isinstance(state, NoiseCorrelationState):
        raise ValueError(
            f"state is a {type(state).__name__}; it takes the NoiseCorrelationState that this "
            "estimator's init returns"
        )
    layout = state.layout
    if layout.readout not in readouts:
        raise ValueError(
            f"state is of readout {layout.readout!r}; this estimator takes "
            f"{' or '.join(map(repr, readouts))}"
        )
    for field in ("subspace", "horizon", "has_aux", "learned"):
        if getattr(layout, field) != getattr(own, field):
            raise ValueError(
                f"state has {field}={getattr(layout, field)!r}; this estimator takes "
                f"{field}={getattr(own, field)!r}"
            )
    names = [tap.name for tap in layout.taps]
    readout = READOUTS[layout.readout]
    nodes = readout.places(nodes, names)
    if names != list(nodes.taps):
        raise ValueError(f"state has taps {names}; the model has {list(nodes.taps)}")
    for tap in layout.taps:
        shape = nodes.taps[tap.name]
        if tap.units != shape.units:
            raise ValueError(
                f"state has {tap.units} units at tap {tap.name!r}; the model has {shape.units}"
            )
        if not readout.factored:
            weights = nodes.linears[tap.name].labels(stacked=tap.stacked)
            if tap.stages != weights:
                raise ValueError(
                    f"state has a mirror of {[label for label, _ in tap.stages]} for linear stage "
                    f"{tap.name!r}; the model's weights are {[label for label, _ in weights]}"
                )
        dimension = subspace.dimension(tap.name, shape.units)
        if tap.dimension != dimension:
            raise ValueError(
                f"state has {tap.dimension} directions at tap {tap.name!r}; this estimator's "
                f"{subspace.name} takes {dimension}"
            )
        if not state.feedback:
            continue
        size = readout.size(shape, tap, nodes.outputs)
        if tap.size != size:
            raise ValueError(
                f"state has feedback of {tap.size} rows at tap {tap.name!r}; the model's outputs "
                f"take {size}"
            )
        if not readout.isolated and shape.steps > tap.lags and own.horizon is None:
            raise ValueError(
                f"tap {tap.name!r} has {shape.steps} time steps; the state was made for at most "
                f"{tap.lags}: call init with the longest sequence, or pass a horizon"
            )
    return nodes
