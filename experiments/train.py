"""Trains one network: ``python -m experiments.train CONFIG [--estimator NAME] [--field value]``."""

import contextlib
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import tyro
from rich.console import Console

from experiments.analysis import figures
from experiments.command import (
    Reporter,
    join_processes,
    output_directory,
    parse,
    read_records,
    run_command,
    write_json,
    write_records,
)
from experiments.configuration import Config, UserError
from experiments.data import Dataset, load
from experiments.files import read_object
from experiments.methods import check_method
from experiments.training.checkpoints import Checkpoints
from experiments.training.loop import train
from experiments.training.trainer import Trainer, make_trainer


@dataclasses.dataclass(frozen=True)
class Options:
    """The command line of `experiments.train`."""

    config: tyro.conf.OmitArgPrefixes[Config]
    """The run."""
    out: Path | None = None
    """New or empty directory for the results; by default one below runs/."""
    resume: bool = False
    """Go on with the run in `out` from its last checkpoint, or begin where there is none."""
    coordinator: str | None = None
    """HOST:PORT of process 0, where several processes train together; "auto" on a TPU pod."""
    processes: int | None = None
    """Their number."""
    process: int | None = None
    """The number of this one, from 0."""


def run_or_read(
    directory: Path, trainer: Trainer, config: Config, data: Dataset, reporter: Reporter
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Trains one network in a directory: from its last checkpoint, or not at all if it is complete.

    Returns:
        The summary and the measurements.

    Raises:
        Stopped: on SIGTERM or SIGINT, after saving.
    """
    complete = directory / "summary.json"
    if complete.exists():
        return read_object(complete), read_records(directory / "metrics.jsonl")
    directory.mkdir(exist_ok=True)
    if jax.process_index() == 0:
        write_json(directory / "config.json", dataclasses.asdict(config))
    checkpoints = Checkpoints(directory / "checkpoints", print)
    try:
        summary, records = _run(directory, trainer, config, data, reporter, checkpoints)
    finally:
        checkpoints.close()
    if jax.process_index() == 0:
        figures.draw_all(directory, {config.estimator: [records]})
        # Last: a directory with a summary is complete, its last checkpoint whole.
        write_json(complete, summary)
    return summary, records


def _run(
    directory: Path,
    trainer: Trainer,
    config: Config,
    data: Dataset,
    reporter: Reporter,
    checkpoints: Checkpoints,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Trains one network and leaves its measurements; of several processes, the first does."""
    first, path = jax.process_index() == 0, directory / "metrics.jsonl"
    records = read_records(path)
    label = f"{config.data} {config.estimator} seed {config.seed}"
    with reporter.follow(label, config.steps) if first else contextlib.nullcontext() as show:

        def report(record: dict[str, Any]) -> None:
            # What a resumed run measures again takes the place of what it had measured.
            records[:] = [earlier for earlier in records if earlier["step"] < record["step"]]
            records.append(record)
            if show is not None:
                write_records(path, records)
                show(record)

        return train(trainer, config, data, report, checkpoints), records


def is_same_run(directory: Path | None, config: Config) -> bool:
    """Whether a directory holds a run of this configuration, which can go on.

    Raises:
        UserError: if it holds one of another configuration; it names a field.
    """
    if directory is None or not (directory / "config.json").exists():
        return False
    # What an older run does not name is as it is by default.
    by_default = {field.name: field.default for field in dataclasses.fields(Config)}
    there = by_default | read_object(directory / "config.json")
    # Where a run goes on, and on how many devices, is free.
    free = ("data_dir", "checkpoint_every", "devices", "probe_devices", "divide_units")
    for field, value in json.loads(json.dumps(dataclasses.asdict(config))).items():
        if field not in free and there.get(field) != value:
            raise UserError(
                f"{field} is {value!r}; the run in {directory} has {there.get(field)!r}"
            )
    return True


def main(arguments: Sequence[str]) -> None:
    """Parses the command line and runs it."""
    options = parse("experiments.train", Options, arguments)
    config = options.config
    config = dataclasses.replace(config, estimator=check_method(config.estimator))
    config.check()
    if (options.resume or options.coordinator) and options.out is None:
        raise UserError("resume and coordinator take the run's directory: --out DIR")
    join_processes(options.coordinator, options.processes, options.process)
    going = options.resume and is_same_run(options.out, config)
    going = going or jax.process_index() > 0
    data = load(config)
    trainer = make_trainer(config, data)
    name = f"{config.data}-{config.estimator}"
    with output_directory(options.out, name, occupied=going) as directory:
        summary, _ = run_or_read(directory, trainer, config, data, Reporter(Console()))
    if jax.process_index() == 0:
        print(
            f"test accuracy {summary['test_accuracy']:.3f} after {summary['steps']} steps, "
            f"{summary['step_milliseconds']:.1f} ms each; figures and metrics in {directory}"
        )


if __name__ == "__main__":
    run_command(main)
