"""Trains one network: ``python -m experiments.train CONFIG [--estimator NAME] [--field value]``."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import tyro
from rich.console import Console

from experiments.command import join_processes, parse, run_command
from experiments.configuration import Config, same_config
from experiments.data import load
from experiments.directories import output_directory
from experiments.errors import UserError
from experiments.methods import checked
from experiments.planning.utilisation import speed
from experiments.runs import run_or_read
from experiments.training.trainer import make_trainer


@dataclasses.dataclass(frozen=True)
class Options:
    """The command line of `experiments.train`."""

    config: tyro.conf.OmitArgPrefixes[Config]
    """The run."""
    out: Path | None = None
    """New or empty directory for the results; by default a new one in runs/."""
    resume: bool = False
    """Continue the run in `out` from its last checkpoint; without a checkpoint, start it."""
    coordinator: str | None = None
    """HOST:PORT of process 0 if several processes train together; "auto" on a TPU pod."""
    processes: int | None = None
    """Number of processes that train together."""
    process: int | None = None
    """Number of this process, from 0."""


def main(arguments: Sequence[str]) -> None:
    """Parses the command line and runs it."""
    options = parse("experiments.train", Options, arguments)
    config = checked(options.config)
    if (options.resume or options.coordinator) and options.out is None:
        raise UserError("resume and coordinator take the run's directory: --out DIR")
    join_processes(options.coordinator, options.processes, options.process)
    going = options.resume and same_config(options.out, config)
    going = going or jax.process_index() > 0
    name = f"{config.data.name}-{config.method.estimator}"
    with output_directory(options.out, name, occupied=going) as directory:
        data = load(config)
        trainer = make_trainer(config, data)
        summary, _ = run_or_read(directory, trainer, config, data, Console())
    if jax.process_index() == 0:
        parts = [f"test accuracy {summary['test_accuracy']:.3f} after {summary['steps']} steps"]
        if "step_milliseconds" in summary:
            parts += [f"{summary['step_milliseconds']:.1f} ms each", speed(summary)]
        print(f"{', '.join(filter(None, parts))}; figures and metrics in {directory}")


if __name__ == "__main__":
    run_command(main)
