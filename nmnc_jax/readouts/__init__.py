"""The readouts, which decide what noise is correlated with, and the table of their names."""

from nmnc_jax.readouts import loss, mirror, next, output
from nmnc_jax.readouts.readout import Found, Reading, Readout

READOUTS: dict[str, Readout] = {
    module.readout.name: module.readout for module in (output, loss, next, mirror)
}

__all__ = ["READOUTS", "Found", "Reading", "Readout"]
