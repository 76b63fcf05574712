"""Readout `mirror`: learns linear stages in the form of their weights, and chains the credit.

The stages are those that the model marks by ``tap.linear(apply, weights, h)``. The weight VJP of a
stage correlates noise at its input with its response and so estimates its weights, from as many
probes as there are examples times positions that share them. Credit flows back by the stage's input
VJP with the mirror in place of the weights; everything else is differentiated exactly.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from nmnc_jax.feedback import Feedback, FeedbackState
from nmnc_jax.layout import Nodes, TapLayout, TapShape, at_least_float32
from nmnc_jax.linear_stages import estimate_weights, positions_of
from nmnc_jax.readouts.readout import Found, Reading, Readout
from nmnc_jax.taps import LinearStage, Tap, read_input, with_derivative_of
from nmnc_jax.types import Activations, Array, DType


def at_stages(nodes: Nodes, names: list[str]) -> Nodes:
    """Returns nodes whose taps are the inputs of linear stages, where noise is added."""
    shapes = {name: nodes.linears[name].input for name in sorted(names) if name in nodes.linears}
    return nodes._replace(taps=shapes)


def size(shape: TapShape, tap: TapLayout, outputs: Any) -> int:
    """Returns the number of the stage's weights."""
    del shape, outputs
    return sum(count for _, count in tap.stages)


def first(
    feedback: Feedback, key: Array, tap: TapLayout, dtype: DType, weights: Any
) -> FeedbackState:
    """Returns the first mirror; a random mirror has the scale of the network's weights.

    If the weights are zero, the scale is that with which a stage preserves the size of its input.
    """
    del dtype
    leaves, tree = jax.tree.flatten(weights)

    def one(key: Array, leaf: Array) -> FeedbackState:
        return feedback.init(key, leaf.size, 1, at_least_float32(leaf.dtype))

    states = [one(k, w) for k, w in zip(jax.random.split(key, len(leaves)), leaves, strict=True)]
    means = [
        _sharded_like(s.mean.reshape(w.shape) * _size(w, tap.summed), w)
        for s, w in zip(states, leaves, strict=True)
    ]
    return states[0]._replace(mean=tree.unflatten(means))


def _sharded_like(value: Array, like: Array) -> Array:
    if isinstance(like, Tracer) or len(like.sharding.device_set) == 1:
        return value
    return jax.device_put(value, like.sharding)


def _size(weights: Array, summed: int) -> Array:
    wide = weights.astype(at_least_float32(weights.dtype))
    square = jnp.mean(wide**2)
    return jnp.sqrt(jnp.where(square > 0, square, 1 / summed))


def response(reading: Reading, tap: Tap, outputs: Any) -> dict[str, Any]:
    """Returns the estimate of each stage's weights, averaged over the steps of a scan."""
    del outputs
    estimates = {}
    for name in tap.noise:
        stage = reading.layout[name]
        scans = 0 if stage.stacked else reading.nodes.taps[name].batch_axis
        estimates[name] = jax.tree.map(lambda leaf, n=scans: leaf.mean(range(n)), tap.read[name])
    return estimates


def change(
    reading: Reading, forward: Callable[[Tap], Any]
) -> Callable[[Activations], dict[str, Any]]:
    """Returns a function of noise that estimates each stage's weights from its noise alone."""

    def measured(noise: Activations) -> dict[str, Any]:
        tap = Tap(noise, reader=_estimated)
        return response(reading, tap, forward(tap))

    return measured


def _estimated(stage: LinearStage, given: Any) -> tuple[Array, Any]:
    value, _ = read_input(stage._replace(noise=None), given)
    if stage.noise is None:
        return value, None
    return value, estimate_weights(stage, stage.noise, positions_of(stage))


def correlate(reading: Reading, name: str, z: Array, dy: Any) -> Found:
    """Returns the estimate, which the pass itself computes."""
    del reading, name, z
    return Found(dy, None)


def chained(reading: Reading, known: Mapping[str, Any]) -> Callable[[Activations], Tap]:
    """Returns the tap with mirrors in place of the weights, in the backward pass only."""
    mirrors = {name: feedback.coordinates for name, feedback in reading.feedback.items()}
    whole = frozenset(tap.name for tap in reading.layout.taps if not tap.stacked)
    return lambda noise: Tap(
        noise, pinned=known, reader=_through_mirror, given=mirrors, whole=whole
    )


def _through_mirror(stage: LinearStage, given: Any) -> tuple[Array, Any]:
    if given is None:
        return read_input(stage, given)
    mirror = jax.tree.map(lambda m, w: m.astype(w.dtype), given, stage.weights)
    value = stage.apply(stage.weights, jax.lax.stop_gradient(stage.activation))
    return with_derivative_of(value + stage.apply(mirror, stage.input), value), stage.activation


readout = Readout(
    "mirror",
    size,
    response,
    correlate,
    chained=chained,
    isolated=True,
    factored=False,
    places=at_stages,
    change=change,
    first=first,
)
