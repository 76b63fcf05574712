"""The section `Run` of a configuration."""

import dataclasses

from experiments.configuration.section import Section
from experiments.errors import UserError

LAST_SEED = 2**31 - 4
"""A task's trials are drawn by a 32-bit number of up to 3 above the seed."""


@dataclasses.dataclass(frozen=True)
class Run(Section):
    """How long and where it is trained, and what is measured on the way."""

    start: str = ""
    """Directory of a run whose trained network this one begins with, in place of a new one."""
    steps: int = 1500
    """Training steps."""
    batch: int = 64
    """Examples per step."""
    seed: int = 0
    """Seed of initial weights, data order and perturbations."""
    log_every: int = 100
    """Steps between measurements."""
    checkpoint_every: int = 1000
    """Steps between checkpoints (experiments.train)."""
    alignment_batch: int = 2048
    """Training examples, fixed, on which credit is compared with the exact credit (above 256, a
    multiple of it)."""
    devices: int = 0
    """Devices to run on; 0 takes all there are."""
    divide_units: bool = False
    """Divide bases and feedback over the devices by units, where they are too large for one."""

    def __post_init__(self) -> None:
        """Refuses what cannot be run.

        Raises:
            UserError: naming the field, what it got and what it takes.
        """
        self.counts("steps", "batch", "log_every", "checkpoint_every", "alignment_batch")
        self.require("seed", 0 <= self.seed <= LAST_SEED, f"0 to {LAST_SEED}")
        self.require("devices", self.devices >= 0, "0 (all) or more")

    def seeds(self, count: int) -> range:
        """Returns a number of seeds, from the run's own on.

        Raises:
            UserError: if there are none, or the last one is too large.
        """
        if not 1 <= count <= LAST_SEED - self.seed + 1:
            raise UserError(
                f"seeds is {count}; it takes at least 1, and with the first, {self.seed}, none "
                f"above {LAST_SEED}"
            )
        return range(self.seed, self.seed + count)
