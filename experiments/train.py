"""Trains one network: ``python -m experiments.train CONFIG [--estimator NAME] [--field value]``."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console

from experiments import figures
from experiments.command import (
    Reporter,
    metrics_file,
    open_directory,
    parse,
    run_command,
    write_json,
)
from experiments.config import Config
from experiments.data import Dataset, load
from experiments.loop import Trainer, make_trainer, train
from experiments.methods import check_method


@dataclasses.dataclass(frozen=True)
class Options:
    """The command line of `experiments.train`."""

    config: tyro.conf.OmitArgPrefixes[Config]
    """The run."""
    out: Path | None = None
    """New or empty directory for the results; by default one below runs/."""


def run_into(
    directory: Path, trainer: Trainer, config: Config, data: Dataset, reporter: Reporter
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Trains one network and leaves its record in a directory.

    Returns:
        The summary and the measurements.
    """
    write_json(directory / "config.json", dataclasses.asdict(config))
    records: list[dict[str, Any]] = []
    label = f"{config.data} {config.estimator} seed {config.seed}"
    with (
        metrics_file(directory / "metrics.jsonl") as write,
        reporter.follow(label, config.steps) as show,
    ):

        def report(record: dict[str, Any]) -> None:
            records.append(record)
            write(record)
            show(record)

        summary = train(trainer, config, data, report)
    write_json(directory / "summary.json", summary)
    figures.draw_all(directory, {config.estimator: [records]})
    return summary, records


def main(arguments: Sequence[str]) -> None:
    """Parses the command line and runs it."""
    options = parse("experiments.train", Options, arguments)
    config = options.config
    config = dataclasses.replace(config, estimator=check_method(config.estimator))
    config.check()
    directory = open_directory(options.out, f"{config.data}-{config.estimator}")
    data = load(config.data, variant=config.variant, validation=config.validation)
    trainer = make_trainer(config, data)
    summary, _ = run_into(directory, trainer, config, data, Reporter(Console()))
    print(
        f"test accuracy {summary['test_accuracy']:.3f} after {summary['steps']} steps, "
        f"{summary['step_milliseconds']:.1f} ms each; figures and metrics in {directory}"
    )


if __name__ == "__main__":
    run_command(main)
