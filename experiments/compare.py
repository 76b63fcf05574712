"""Compares methods on one task: ``python -m experiments.compare CONFIG [--estimators ...]``."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from experiments.analysis import figures
from experiments.analysis.cost import step_costs
from experiments.analysis.statistics import interval
from experiments.analysis.tables import write_table
from experiments.command import parse, run_command
from experiments.configuration import Config, same_config, write_config
from experiments.data import Dataset, load
from experiments.directories import output_directory
from experiments.errors import UserError
from experiments.methods import check_method, checked
from experiments.runs import run_or_read
from experiments.training.trainer import Trainer, make_trainer


@dataclasses.dataclass(frozen=True)
class Options:
    """The command line of `experiments.compare`."""

    config: tyro.conf.OmitArgPrefixes[Config]
    """The run that every method shares; `estimator` is set by `estimators`."""
    estimators: tuple[str, ...] = ("backprop", "dfa", "vnc", "nmnc")
    """Methods to compare, with the same data order and initial weights."""
    seeds: int = 1
    """Number of seeds, starting with `seed`."""
    out: Path | None = None
    """New or empty directory for the results; by default a new one in runs/."""
    resume: bool = False
    """Continue the comparison in `out`: keep complete runs and continue interrupted ones."""


def main(arguments: Sequence[str]) -> None:
    """Parses the command line and runs it."""
    options = parse("experiments.compare", Options, arguments)
    names = list(dict.fromkeys(check_method(name) for name in options.estimators))
    if not names:
        raise UserError("estimators is empty; it takes at least one method")
    config = options.config
    configs = {name: checked(config.replace(estimator=name)) for name in names}
    seeds = config.run.seeds(options.seeds)
    if options.resume and options.out is None:
        raise UserError("resume takes the comparison's directory: --out DIR")
    asked = {"estimators": names, "seeds": options.seeds}
    going = options.resume and same_config(options.out, config, free=list(asked))
    name = f"compare-{config.data.name}"
    with output_directory(options.out, name, occupied=going) as directory:
        data = load(config)
        trainers = {name: make_trainer(method, data) for name, method in configs.items()}
        write_config(directory, config, **asked)
        _compare(directory, config, trainers, seeds, data)


def _compare(
    directory: Path, config: Config, trainers: dict[str, Trainer], seeds: range, data: Dataset
) -> None:
    """Trains every method with every seed, and draws and prints the results."""
    console = Console()
    if not console.is_terminal:
        console.width = 120
    summaries: dict[str, list[dict[str, Any]]] = {name: [] for name in trainers}
    runs: dict[str, list[list[dict[str, Any]]]] = {name: [] for name in trainers}
    for seed in seeds:
        for name, trainer in trainers.items():
            run = config.replace(estimator=name, seed=seed)
            inside = directory / f"{name}-seed{seed}"
            summary, records = run_or_read(inside, trainer, run, data, console)
            summaries[name].append(summary)
            runs[name].append(records)
    print("measuring the cost of a step of each method", flush=True)
    costs = step_costs(trainers, config, data)
    rows = [_row(name, summaries[name], runs[name], costs[name]) for name in trainers]
    write_table(directory / "comparison.csv", rows, ".4f")
    figures.draw_all(directory, runs, {name: costs[name] for name in trainers})
    figures.draw_overview(directory / "comparison.png", runs, costs, chance=data.chance)
    console.print(_table(rows))
    print(f"figure: {directory / 'comparison.png'}")


def _row(
    name: str,
    summaries: list[dict[str, Any]],
    runs: list[list[dict[str, Any]]],
    cost: dict[str, float],
) -> dict[str, Any]:
    """Returns the row of one method in the table of the comparison."""
    low, mean, high = interval(np.array([[s["test_accuracy"]] for s in summaries]))
    row: dict[str, Any] = {
        "estimator": name,
        "seeds": len(summaries),
        "test_accuracy": float(mean[0]),
        "interval_low": float(low[0]),
        "interval_high": float(high[0]),
        "probes": summaries[0]["probes"],
        "step_milliseconds": cost["milliseconds"],
        "over_backprop": cost["over_backprop"],
    }
    measured = ["gradient_alignment"] + [f"alignment_{t}" for t in runs[0][-1].get("alignment", {})]
    for column in measured:
        path = (column,) if column == "gradient_alignment" else ("alignment", column[10:])
        values = [figures.measurement(r, path) for records in runs for r in records[1:]]
        row[column] = float(np.mean(values))
    return row


def _table(rows: list[dict[str, Any]]) -> Table:
    taps = list(dict.fromkeys(c for row in rows for c in row if c.startswith("alignment_")))
    table = Table(
        box=box.SIMPLE,
        collapse_padding=True,
        pad_edge=False,
        title="test accuracy (95 % interval over seeds); alignment (mean over training)",
    )
    columns = ["method", "test accuracy", "ms/step", "/backprop", "gradient"]
    for column in columns + [tap.removeprefix("alignment_") for tap in taps]:
        table.add_column(column, justify="left" if column == "method" else "right", no_wrap=True)
    for row in rows:
        accuracy = f"{row['test_accuracy']:.3f}"
        if row["seeds"] > 1:
            half = (row["interval_high"] - row["interval_low"]) / 2
            accuracy += f" ± {half:.3f}"
        table.add_row(
            row["estimator"],
            accuracy,
            f"{row['step_milliseconds']:.1f}",
            f"{row['over_backprop']:.2f}",
            f"{row['gradient_alignment']:.2f}",
            *(f"{row[tap]:.2f}" if tap in row else "" for tap in taps),
        )
    return table


if __name__ == "__main__":
    run_command(main)
