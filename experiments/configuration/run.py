"""The section `Run` of a configuration."""

import dataclasses
from typing import Literal

from experiments.configuration.section import Section
from experiments.errors import UserError

LAST_SEED = 2**31 - 4
"""Largest seed: the trials of a task are drawn from 32-bit numbers of up to 3 above the seed."""


@dataclasses.dataclass(frozen=True)
class Run(Section):
    """The length of training, its devices and its measurements."""

    start: str = ""
    """Directory of a run whose trained network is used in place of a new one."""
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
    log_to: Literal["tensorboard", "wandb"] | None = None
    """Also write measurements for TensorBoard, into the run's directory, or to Weights & Biases."""
    alignment_batch: int = 2048
    """Number of fixed training examples on which credit is compared with the exact credit, as many
    as the devices or more; above 256, a multiple of 256."""
    devices: int = 0
    """Number of devices to run on; 0 uses all."""
    divide_units: bool = False
    """Divide the units of bases and feedback over the devices, if they are too large for one."""

    def __post_init__(self) -> None:
        """Checks the range of each field.

        Raises:
            UserError: if a field is out of range.
        """
        self.counts("steps", "batch", "log_every", "checkpoint_every", "alignment_batch")
        whole = self.alignment_batch <= 256 or self.alignment_batch % 256 == 0
        self.require("alignment_batch", whole, "a number up to 256, or a multiple of 256")
        self.require("seed", 0 <= self.seed <= LAST_SEED, f"0 to {LAST_SEED}")
        self.require("devices", self.devices >= 0, "0 (all) or more")

    def seeds(self, count: int) -> range:
        """Returns a number of seeds, starting with that of the run.

        Raises:
            UserError: if the number is below 1, or if the last seed is too large.
        """
        if not 1 <= count <= LAST_SEED - self.seed + 1:
            raise UserError(
                f"seeds is {count}; it takes at least 1, and from the first seed, {self.seed}, at "
                f"most {LAST_SEED - self.seed + 1}"
            )
        return range(self.seed, self.seed + count)
