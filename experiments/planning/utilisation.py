"""The share of a chip's published speed that a run reaches."""

import contextlib
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from experiments.configuration import Config
from experiments.data import Dataset
from experiments.errors import UserError
from experiments.planning.compiled import operations
from experiments.planning.programs import on_one_cpu, scheduled, step_program
from experiments.planning.topology import PEAKS
from experiments.training.loop import SPEED, UTILISATION
from experiments.training.trainer import Trainer


def utilisation(
    trainer: Trainer, config: Config, data: Dataset
) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Returns a function that adds the share of the chip's peak to a measurement with a speed.

    The peak is that of bfloat16, whatever the precision. The operations are those of the run's own
    step, in the mean over its schedule. They are counted at the first such measurement, without
    compiling anything. Nothing is added if the chip's peak is not known, or if JAX does not use
    CPUs, for which operations are counted.
    """
    peak = PEAKS.get(trainer.devices.mesh.devices.flat[0].device_kind)

    @cache
    def counted() -> float | None:
        with contextlib.suppress(UserError):
            return flops_per_example(trainer, config, data)
        return None

    def add(record: dict[str, Any]) -> dict[str, Any]:
        flops = counted() if peak is not None and SPEED in record else None
        if peak is None or flops is None:
            return record
        return record | {UTILISATION: record[SPEED] * flops / peak}

    return add


def flops_per_example(trainer: Trainer, config: Config, data: Dataset) -> float:
    """Returns the operations of a step per example of its batch, in the mean over the schedule."""
    counting = on_one_cpu(config, data)
    shares = scheduled(trainer, config)
    of_steps = [operations(step_program(counting, config, data, due)) for due in shares]
    return float(np.dot(list(shares.values()), of_steps)) / config.run.batch


def speed(record: dict[str, Any]) -> str:
    """Returns the speed in a measurement in words; an empty text if it has none."""
    if SPEED not in record:
        return ""
    reached = f", MFU {record[UTILISATION]:.1%}" if UTILISATION in record else ""
    return f"{record[SPEED]:.4g} examples/s and chip{reached}"
