"""Readout `loss`: correlates with the loss of each example, as in node perturbation.

A feedback serves as control variate: the change of loss that it predicts is subtracted from the
measured change and its credit is added, so that probes measure only the remainder.
"""

from typing import Any

import jax.numpy as jnp

from nmnc_jax.readouts import output
from nmnc_jax.readouts.lags import still_to_come
from nmnc_jax.readouts.readout import Found, Reading, Readout
from nmnc_jax.taps import Tap
from nmnc_jax.types import Array


def response(reading: Reading, tap: Tap, outputs: Any) -> dict[str, Any]:
    """Returns the losses, and the outputs if a feedback learns from the same passes."""
    losses = reading.losses(outputs)
    seen = output.response(reading, tap, outputs) if reading.learns else {}
    return {name: (losses, seen.get(name)) for name in reading.nodes.taps}


def correlate(reading: Reading, name: str, z: Array, dy: tuple[Array, Array | None]) -> Found:
    """Returns the slope of the loss for each row, minus the prediction of the feedback."""
    shape, tap = reading.nodes.taps[name], reading.layout[name]
    changes, outputs = dy
    predicted = jnp.zeros(len(z), z.dtype)
    if reading.feedback:
        predicted = (output.known(reading)[name] * z).sum(axis=1)
    slope = still_to_come(
        shape,
        tap.aligned,
        reading.layout.coupled,
        changes.astype(z.dtype) / changes.size,
        predicted,
    )
    learned = None
    if outputs is not None:
        learned = output.correlate(reading, name, z, outputs).estimate
    return Found(learned, slope[:, None] * z)


def credit(reading: Reading, found: dict[str, Found] | None) -> dict[str, Array]:
    """Returns the sum of the credit of the probes and that of the earlier feedback."""
    assert found is not None
    known = output.known(reading)
    coordinates = {}
    for name, each in found.items():
        assert each.credit is not None
        coordinates[name] = each.credit + known[name] if name in known else each.credit
    return coordinates


readout = Readout(
    "loss",
    output.size,
    response,
    correlate,
    credit,
    pooled=False,
    every_step=True,
    needs_feedback=False,
)
