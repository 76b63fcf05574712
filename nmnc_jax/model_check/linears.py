"""Whether the stages that a mirror learns are linear, and what their mirrors hold."""

import math
from typing import Any

from nmnc_jax.layout import Nodes
from nmnc_jax.linear_stages import find_linears, positions_of_all, try_stages
from nmnc_jax.model_check.report import ModelReport, TapReport
from nmnc_jax.taps import Model
from nmnc_jax.types import Params

LINEAR = 0.03
"""Relative difference up to which a stage counts as linear, also in 16-bit arithmetic."""


def examine_linears(
    model: Model, params: Params, inputs: Any, nodes: Nodes, *, trial: bool
) -> ModelReport:
    """Finds the linear stages that a mirror learns, and checks that they are linear."""
    linears = find_linears(model, params, inputs, nodes)
    needed = {name: found for name, found in linears.items() if found.needed}
    if not needed:
        raise ValueError(
            "apply_fn marks no linear stage whose input depends on parameters; readout 'mirror' "
            "takes stages marked by y = tap.linear(apply, weights, h) or nmnc_jax.mirror_layers"
        )
    uses = positions_of_all(model, params, inputs)
    if trial:
        for name, (nonlinear, excess) in try_stages(model, params, inputs, needed).items():
            if not nonlinear < LINEAR:
                raise ValueError(
                    f"linear stage {name!r} is off linear by {nonlinear:.2g}; readout 'mirror' "
                    "takes apply(weights, h) that is linear in both arguments: add biases, and "
                    "scale or normalise weights, outside the stage"
                )
            if not excess < 1:
                raise ValueError(
                    f"linear stage {name!r} does not return to its weights what noise at its input "
                    "correlates with; readout 'mirror' takes a stage that uses each weight "
                    "unchanged: scale, mask and tie weights outside the stage"
                )
    taps = []
    for name, found in sorted(needed.items(), key=lambda item: item[1].shape.input.order):
        shape = found.shape.input
        steps = 1 if found.stacked else math.prod(shape.shape[: shape.batch_axis])
        taps.append(
            TapReport(
                name,
                shape.units,
                shape.order,
                shape.steps,
                found.shape.labels(stacked=found.stacked),
                aligned=None,
                effect=None,
                coupling=None,
                stacked=found.stacked,
                shared=uses[name].mean * steps / shape.steps,
                summed=round(uses[name].weights_each),
            )
        )
    return ModelReport("mirror", None, tuple(taps))
