"""The weights of linear stages: estimated from noise, or read."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nmnc_jax.layout import Layout, Nodes, at_least_float32, read_weights_and_input
from nmnc_jax.linear_stages.positions import Positions
from nmnc_jax.taps import LinearStage, Tap
from nmnc_jax.types import Array, Inputs, Params


def estimate_weights(stage: LinearStage, noise: Array, positions: Positions) -> Any:
    """Estimates a stage's weights from its response to noise of unit variance at its input.

    The expectation of the stage's weight VJP at the noise, with the response as cotangent, is each
    weight times the number of positions that use it.

    Args:
        stage: the stage.
        noise: noise in the shape of the stage's input, [B, ...].
        positions: the positions of the stage.

    Returns:
        A pytree with the structure of the weights, of at least float32. Noise in the span of a
        basis U gives U U^T applied to the weights.

    Source:
        Akrout, Wilson, Humphreys, Lillicrap and Tweed 2019 (arXiv 1904.05391), weight mirrors,
        generalised to any bilinear stage.
    """
    noise = noise.astype(stage.activation.dtype)
    response, pullback = jax.vjp(lambda weights: stage.apply(weights, noise), stage.weights)
    (correlation,) = pullback(response)
    examples = noise.shape[0]

    def mean(leaf: Array, counts: np.ndarray) -> Array:
        dtype = at_least_float32(leaf.dtype)
        return leaf.astype(dtype) / jnp.asarray(np.maximum(counts, 1) * examples, dtype)

    return jax.tree.map(mean, correlation, positions.counts)


def weights_of_stages(read: Mapping[str, Any], nodes: Nodes, layout: Layout) -> dict[str, Any]:
    """Returns the weights of linear stages, with a leading axis if each step has separate weights.

    Args:
        read: name of a stage to ``(weights, input)``, as `read_weights_and_input` records them.
        nodes: the nodes of the model.
        layout: the layout of the state.
    """
    found = {}
    for tap in layout.taps:
        if tap.name in read:
            alike = 0 if tap.stacked else len(nodes.scopes[tap.name])
            found[tap.name] = jax.tree.map(lambda leaf, n=alike: leaf[(0,) * n], read[tap.name][0])
    return found


def read_weights(
    model: Any, params: Params, inputs: Inputs, nodes: Nodes, layout: Layout
) -> dict[str, Any]:
    """Returns `weights_of_stages` of a model; the rest of the model becomes dead code."""
    tap = Tap(reader=read_weights_and_input)
    model(params, inputs, tap)
    return weights_of_stages(tap.read, nodes, layout)
