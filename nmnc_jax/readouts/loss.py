"""Readout `loss`: correlate with each example's own loss; node perturbation.

A feedback is its control variate: the change of loss that it predicts is subtracted from the
measured one and its credit is added, so that probes measure only what it does not know.
"""

from typing import Any

import jax.numpy as jnp

from nmnc_jax.readouts import output
from nmnc_jax.readouts.lags import still_to_come
from nmnc_jax.readouts.readout import Found, Reading, Readout
from nmnc_jax.taps import Tap
from nmnc_jax.types import Array


def response(reading: Reading, tap: Tap, outputs: Any) -> dict[str, Any]:
    """The losses; and the outputs, where a feedback learns from the same passes."""
    losses = reading.losses(outputs)
    seen = output.response(reading, tap, outputs) if reading.learns else {}
    return {name: (losses, seen.get(name)) for name in reading.nodes.taps}


def correlate(reading: Reading, name: str, z: Array, dy: tuple[Array, Array | None]) -> Found:
    """Each row's slope of the loss, less what the feedback foresees."""
    shape, tap = reading.nodes.taps[name], reading.layout[name]
    changes, outputs = dy
    foreseen = jnp.zeros(len(z), z.dtype)
    if reading.feedback:
        foreseen = (output.known(reading)[name] * z).sum(axis=1)
    slope = still_to_come(
        shape,
        tap.aligned,
        reading.layout.coupled,
        changes.astype(z.dtype) / changes.size,
        foreseen,
    )
    learned = None
    if outputs is not None:
        learned = output.correlate(reading, name, z, outputs).estimate
    return Found(learned, slope[:, None] * z)


def credit(reading: Reading, found: dict[str, Found] | None) -> dict[str, Array]:
    """What the probes found, and what the feedback knew before."""
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
