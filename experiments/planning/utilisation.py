"""The share of a chip's published speed that a run reaches."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from experiments.configuration import Config
from experiments.data import Dataset
from experiments.planning.compiled import operations
from experiments.planning.programs import scheduled, step_program
from experiments.planning.topology import PEAKS
from experiments.training.loop import SPEED, UTILISATION
from experiments.training.trainer import Trainer


def utilisation(
    trainer: Trainer, config: Config, data: Dataset
) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Returns a function that adds the share of the chip's peak to a measurement with a speed.

    The peak is that of bfloat16, whatever the precision. The operations are those of the run's own
    step, in the mean over its schedule. They are counted at the first such measurement, without
    compiling anything. Nothing is added if the chip's peak is not known.
    """
    peak = PEAKS.get(trainer.devices.mesh.devices.flat[0].device_kind)

    @cache
    def counted() -> float:
        return flops_per_example(trainer, config, data)

    def add(record: dict[str, Any]) -> dict[str, Any]:
        if peak is None or SPEED not in record:
            return record
        return record | {UTILISATION: record[SPEED] * counted() / peak}

    return add


def flops_per_example(trainer: Trainer, config: Config, data: Dataset) -> float:
    """Returns the operations of a step per example of its batch, in the mean over the schedule."""
    shares = scheduled(trainer, config)
    of_steps = [operations(step_program(trainer, config, data, part)) for part in shares]
    return float(np.dot(list(shares.values()), of_steps)) / config.run.batch


def speed(record: dict[str, Any]) -> str:
    """Returns the speed in a measurement in words; an empty text if it has none."""
    if SPEED not in record:
        return ""
    reached = f", MFU {record[UTILISATION]:.1%}" if UTILISATION in record else ""
    return f"{record[SPEED]:.4g} examples/s and chip{reached}"
