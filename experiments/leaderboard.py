"""Leaderboard: ``python -m experiments.leaderboard [--tasks ...] [--methods ...] --out DIR``.

Every method tries the same number of settings on held-out data, drawn quasi-randomly from its
search space in `experiments.methods.table`. The best setting is trained with fresh seeds and tested
once, with as many steps as backpropagation (equal steps) and with as many steps as need the same
number of operations (equal operations). Results are kept in DIR: --resume continues an interrupted
command, and several commands, each with some of the tasks, may fill one directory in turn.

A new method is one entry of that table, a name and its estimator::

    "mine": Entry("what it is", lambda s: my_estimator(s.apply_fn, s.loss_fn), "backprop", "red")

A new task is one entry of `experiments.board.tasks`.
"""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments.analysis.tables import write_table
from experiments.board.cells import EQUAL_STEPS, REGIMES, Cell, Row, draws
from experiments.board.drawing import draw
from experiments.board.summary import completed, summarised, write
from experiments.board.tasks import TASKS, with_images
from experiments.command import run_command, take
from experiments.directories import output_directory
from experiments.errors import UserError
from experiments.files import expanded, read_object, write_json
from experiments.machine import compiled_once, machine, versions
from experiments.methods import TABLE, check_method
from experiments.progress import shown


@dataclasses.dataclass(frozen=True)
class Options:
    """The command line of `experiments.leaderboard`."""

    tasks: tuple[str, ...] = tuple(TASKS)
    """Names of tasks in experiments.board.tasks; with data_path also cifar10_dense and
    cifar10_conv."""
    methods: tuple[str, ...] = tuple(name for name, entry in TABLE.items() if not entry.control)
    """Names of methods in experiments.methods.table."""
    draws: int = 6
    """Number of settings that each method tries."""
    seeds: int = 3
    """Number of fresh seeds of the final runs."""
    steps: int | None = None
    """Training steps of every task; by default those of each task."""
    data_path: str = ""
    """CIFAR-10's images, a folder or an archive as for experiments.train."""
    out: Path | None = None
    """New or empty directory for the results; by default a new one in runs/."""
    resume: bool = False
    """Continue in `out`."""


def main(arguments: Sequence[str]) -> None:
    """Parses the command line, fills the table and draws it."""
    options: Options = take(
        Options, arguments, prog="python -m experiments.leaderboard", description=__doc__
    )
    for field in ("draws", "seeds"):
        if getattr(options, field) < 1:
            raise UserError(f"{field} is {getattr(options, field)}; it takes at least 1")
    methods = list(dict.fromkeys(check_method(name) for name in options.methods))
    known = TASKS | (with_images(options.data_path) if options.data_path else {})
    for name in options.tasks:
        if name not in known:
            raise UserError(f"unknown task {name!r}; there are {', '.join(known)}")
    if options.resume and options.out is None:
        raise UserError("resume takes the table's directory: --out DIR")
    with output_directory(options.out, "leaderboard", occupied=options.resume) as directory:
        _same_protocol(directory, options)
        chosen = {"steps": options.steps, "log_every": options.steps} if options.steps else {}
        cells = [
            Cell(method, task, known[task].config.replace(**chosen), directory / "runs")
            for task in options.tasks
            for method in methods
        ]
        with compiled_once():
            rows = _filled(cells, options.draws, options.seeds)
        if not rows:
            raise UserError(
                f"methods is {options.methods}; none of them takes one of the tasks {options.tasks}"
            )
        rows = completed(rows)
        write(rows, directory)
        draw(rows).savefig(directory / "leaderboard.png", dpi=130)
        print((directory / "leaderboard.md").read_text())
        print(f"table and figure: {directory / 'leaderboard.csv'}")


def _same_protocol(directory: Path, options: Options) -> None:
    """Writes the protocol and the draws before any training, or checks that they are the same.

    Raises:
        UserError: if the runs in the directory have another protocol.
    """
    path = directory / "protocol.json"
    protocol: dict[str, Any] = {
        "draws": options.draws,
        "seeds": options.seeds,
        "steps": options.steps,
    }
    if not path.exists():
        write_json(path, {**protocol, "machine": machine(), "versions": versions()})
        tried = [
            {"method": method, "draw": number, **settings}
            for method in TABLE
            for number, settings in enumerate(draws(method, options.draws))
        ]
        write_table(directory / "draws.csv", tried)
    there = read_object(path)
    if options.data_path:
        # Other commands that fill the table need no images of CIFAR-10.
        protocol["data_path"] = str(expanded(options.data_path).resolve())
        if "data_path" not in there:
            there["data_path"] = protocol["data_path"]
            write_json(path, there)
    for field, value in protocol.items():
        if there.get(field) != value:
            raise UserError(f"{field} is {value}; the table in {directory} has {there.get(field)}")


def _filled(cells: list[Cell], count: int, seeds: int) -> list[Row]:
    """Runs the cells that are missing, and returns the rows of all cells."""
    rows: list[Row] = []
    with shown("cells", len(cells), Console()) as show:
        for number, cell in enumerate(cells):
            start = time.perf_counter()
            refused = cell.refusal()
            if refused is not None:
                show(number + 1, f"{cell.task} {cell.method}: {refused}")
                continue
            settings = cell.best(count)
            costs = cell.costs(settings)
            own = {
                regime: summarised(
                    cell.method, cell.task, regime, list(cell.finals(settings, seeds, regime)),
                    costs, settings, cell.data.chance,
                )
                for regime in REGIMES
            }  # fmt: skip
            rows += own.values()
            score, seconds = own[EQUAL_STEPS]["score"], time.perf_counter() - start
            show(number + 1, f"{cell.task} {cell.method}: {score:.3f}, {seconds:.0f} s")
    return rows


if __name__ == "__main__":
    run_command(main)
