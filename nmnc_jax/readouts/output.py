"""Readout `output`: correlate with the outputs, into feedback from the outputs to each tap."""

from typing import Any

import jax
import jax.numpy as jnp

from nmnc_jax.layout import TapLayout, TapShape
from nmnc_jax.readouts.lags import credit_by_lag, jacobian_by_lag, sequence
from nmnc_jax.readouts.readout import Found, Reading, Readout
from nmnc_jax.taps import Tap
from nmnc_jax.types import Array


def size(shape: TapShape, tap: TapLayout, outputs: Any) -> int:
    """Outputs per time step where they follow the tap's time, else all, for each lag."""
    alone = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), outputs)
    found = jax.eval_shape(lambda outputs: sequence(shape, tap.aligned, outputs), alone)
    return found.shape[-1] * tap.lags


def response(reading: Reading, tap: Tap, outputs: Any) -> dict[str, Array]:
    """The outputs, as each tap sees them."""
    del tap
    return {
        name: sequence(shape, reading.layout[name].aligned, outputs)
        for name, shape in reading.nodes.taps.items()
    }


def correlate(reading: Reading, name: str, z: Array, dy: Array) -> Found:
    """The mean Jacobian, by lags."""
    shape, mean = reading.nodes.taps[name], reading.feedback[name].mean
    lags = len(mean) // dy.shape[-1]
    found = jacobian_by_lag(shape, min(lags, shape.steps), z, dy)
    # A shorter sequence says nothing of longer lags: they keep what is known.
    return Found(jnp.concatenate([found, mean[len(found) :]]), None)


def known(reading: Reading) -> dict[str, Array]:
    """The credit that the feedback gives, in coordinates, [B T, d]."""
    credit = {}
    for name, feedback in reading.feedback.items():
        shape = reading.nodes.taps[name]
        error = sequence(shape, reading.layout[name].aligned, reading.error)
        coordinates = feedback.coordinates[: shape.steps * error.shape[-1]]
        credit[name] = credit_by_lag(shape, coordinates, error)
    return credit


def credit(reading: Reading, found: dict[str, Found] | None) -> dict[str, Array]:
    """The feedback's credit alone."""
    del found
    return known(reading)


readout = Readout("output", size, response, correlate, credit)
