"""Readout `output`: correlates with the outputs, for feedback from the outputs to each tap."""

from typing import Any

import jax
import jax.numpy as jnp

from nmnc_jax.layout import TapLayout, TapShape
from nmnc_jax.readouts.lags import credit_by_lag, jacobian_by_lag, sequence
from nmnc_jax.readouts.readout import Found, Reading, Readout
from nmnc_jax.taps import Tap
from nmnc_jax.types import Array


def size(shape: TapShape, tap: TapLayout, outputs: Any) -> int:
    """Returns the number of outputs (per time step if aligned) times the number of lags."""
    alone = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), outputs)
    rows = jax.eval_shape(lambda outputs: sequence(shape, tap.aligned, outputs), alone)
    return rows.shape[-1] * tap.lags


def response(reading: Reading, tap: Tap, outputs: Any) -> dict[str, Array]:
    """Returns the outputs in the shape for each tap."""
    del tap
    return {
        name: sequence(shape, reading.layout[name].aligned, outputs)
        for name, shape in reading.nodes.taps.items()
    }


def correlate(reading: Reading, name: str, z: Array, dy: Array) -> Found:
    """Returns the mean Jacobian for each lag."""
    shape, mean = reading.nodes.taps[name], reading.feedback[name].mean
    lags = len(mean) // dy.shape[-1]
    measured = jacobian_by_lag(shape, min(lags, shape.steps), z, dy)
    # A shorter sequence does not measure longer lags, which keep their mean.
    return Found(jnp.concatenate([measured, mean[len(measured) :]]), None)


def known(reading: Reading) -> dict[str, Array]:
    """Returns the credit of the feedback in coordinates, [B T, d]."""
    credit = {}
    for name, feedback in reading.feedback.items():
        shape = reading.nodes.taps[name]
        error = sequence(shape, reading.layout[name].aligned, reading.error)
        coordinates = feedback.coordinates[: shape.steps * error.shape[-1]]
        credit[name] = credit_by_lag(shape, coordinates, error)
    return credit


def credit(reading: Reading, found: dict[str, Found] | None) -> dict[str, Array]:
    """Returns the credit of the feedback."""
    del found
    return known(reading)


readout = Readout("output", size, response, correlate, credit)
