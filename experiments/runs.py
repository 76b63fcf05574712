"""Runs one training in its directory, and continues it from there."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from experiments.analysis import figures
from experiments.configuration import Config, write_config
from experiments.data import Dataset
from experiments.data.dataset import class_loss
from experiments.files import read_object, read_records, write_json, write_records
from experiments.planning.utilisation import speed, utilisation
from experiments.progress import shown
from experiments.tracking import tracked
from experiments.training.checkpoints import Checkpoints
from experiments.training.health import signs
from experiments.training.loop import train
from experiments.training.trainer import Trainer

Record = dict[str, Any]


def run_or_read(
    directory: Path, trainer: Trainer, config: Config, data: Dataset, console: Console
) -> tuple[dict[str, Any], list[Record]]:
    """Trains one network in a directory, from its last checkpoint, unless it is complete.

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
        write_config(directory, config)
    checkpoints = Checkpoints(directory / "checkpoints", print)
    records = read_records(directory / "metrics.jsonl")
    try:
        classes = data.outputs if data.loss is class_loss else None
        rated = utilisation(trainer, config, data)
        with _kept(directory, records, config, console, classes, rated) as report:
            summary = train(trainer, config, data, report, checkpoints)
    finally:
        checkpoints.close()
    if jax.process_index() == 0:
        summary = rated(summary)
        figures.draw_all(directory, {config.method.estimator: [records]})
        # The summary is written last, so that a directory with a summary is complete.
        write_json(complete, summary)
    return summary, records


@contextlib.contextmanager
def _kept(
    directory: Path,
    records: list[Record],
    config: Config,
    console: Console,
    classes: int | None,
    rated: Callable[[Record], Record],
) -> Iterator[Callable[[Record], None]]:
    """Yields a function that records and shows a measurement; only the first process writes."""

    def keep(record: Record) -> None:
        # A resumed run replaces earlier measurements of the same steps.
        records[:] = [earlier for earlier in records if earlier["step"] < record["step"]]
        records.append(record)

    if jax.process_index() > 0:
        yield keep
        return
    label = f"{config.data.name} {config.method.estimator} seed {config.run.seed}"
    with tracked(directory, config) as track, shown(label, config.run.steps, console) as show:

        def report(record: Record) -> None:
            record = rated(record)
            keep(record)
            write_records(directory / "metrics.jsonl", records)
            track(record)
            loss = "" if record["loss"] is None else f"loss {record['loss']:.3f}  "
            note = f"{loss}test accuracy {record['test_accuracy']:.3f}  {speed(record)}"
            show(record["step"], note.rstrip())
            for sign in signs(record, classes):
                console.print(f"warning: {sign}", highlight=False, soft_wrap=True)

        yield report
