"""Readout `next`: correlates with the stages that a tap feeds, and chains the credit.

No Jacobian of the outputs is needed. The rows of a tap's feedback stack the nodes that it feeds
directly: marks of linear stages, other taps, or the outputs.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from nmnc_jax.layout import TapLayout, TapShape, at_least_float32, flatten_stage
from nmnc_jax.readouts.readout import Found, Reading, Readout
from nmnc_jax.subspace import project
from nmnc_jax.taps import Stage, Tap
from nmnc_jax.types import Activations, Array


def size(shape: TapShape, tap: TapLayout, outputs: Any) -> int:
    """Returns the number of units of all nodes that the tap feeds."""
    del shape, outputs
    return sum(units for _, units in tap.stages)


def response(reading: Reading, tap: Tap, outputs: Any) -> dict[str, Array]:
    """Returns what arrives at the nodes that each tap feeds, [B T, m]."""
    del outputs
    return {
        name: jnp.concatenate(
            [flatten_stage(shape, tap.arrived[node]) for node, _ in reading.layout[name].stages],
            axis=1,
        )
        for name, shape in reading.nodes.taps.items()
    }


def correlate(reading: Reading, name: str, z: Array, dy: Array) -> Found:
    """Returns the mean Jacobian of the stages, [m, d]."""
    del reading, name
    return Found(dy.T @ z / len(z), None)


def chained(reading: Reading, known: Mapping[str, Any]) -> Callable[[Activations], Tap]:
    """Returns the tap with stages of feedback in place of those of the network."""
    stages: dict[str, dict[str, Stage]] = {}
    for tap in reading.layout.taps:
        start = 0
        for node, units in tap.stages:
            stand_in = _stand_in(reading, tap.name, node, slice(start, start + units))
            stages.setdefault(node, {})[tap.name] = stand_in
            start += units
    return lambda noise: Tap(noise, cut=True, pinned=known, stages=stages)


def _stand_in(reading: Reading, name: str, node: str, rows: slice) -> Stage:
    shape, basis = reading.nodes.taps[name], reading.bases[name]
    coordinates = reading.feedback[name].coordinates[rows]
    leaves, tree = jax.tree.flatten(reading.nodes.arrived[node])
    widths = [math.prod(leaf.shape[shape.batch_axis + 1 :]) for leaf in leaves]

    def stage(activation: Array) -> Any:
        if activation.size % shape.units:
            raise ValueError(
                f"tap {name!r} has {activation.size} units where its stage is computed, and "
                f"{shape.units} for each example, as in a tap.vmap over parts of an example; "
                'readout "next" takes whole examples: tap outside it, or use readout="output"'
            )
        flat = activation.reshape(-1, shape.units).astype(at_least_float32(shape.dtype))
        output = project(basis, flat) @ coordinates.T
        parts, start = [], 0
        for width in widths:
            parts.append(output[:, start : start + width])
            start += width
        return jax.tree.unflatten(tree, parts)

    return stage


readout = Readout("next", size, response, correlate, chained=chained, isolated=True)
