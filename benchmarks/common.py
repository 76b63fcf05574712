"""Code that the benchmarks share: command line, progress, intervals, timing, tables, figures."""

import argparse
import csv
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from experiments.machine import keep_memory, machine

Row = dict[str, Any]


def parse(
    name: str, description: str, add: Callable[[argparse.ArgumentParser], None] | None = None
) -> argparse.Namespace:
    """Parses ``[--full] [--seed N] [--out DIR]`` and makes the output directory.

    Args:
        name: name of the benchmark, for the default directory.
        description: description for ``--help``.
        add: function that adds further options.

    Returns:
        A namespace with `full`, `seed`, `out` and the further options.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=description)
    parser.add_argument(
        "--full", action="store_true", help="measure more points and repeats; takes up to an hour"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of networks and perturbations")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}",
        help="directory for the table and the figure; by default a new one in runs/",
    )
    if add is not None:
        add(parser)
    options = parser.parse_args()
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"out is {options.out}, which cannot be made: {error.strerror}")
    keep_memory()
    return options


def progress(label: str, items: Iterable[Any]) -> Iterator[Any]:
    """Yields the items, and prints the number of the current one."""
    listed = list(items)
    start = time.perf_counter()
    for place, item in enumerate(listed):
        line = f"{label} {place + 1}/{len(listed)}  {time.perf_counter() - start:.0f} s"
        if sys.stderr.isatty():
            print(f"\r{line}", end="", file=sys.stderr, flush=True)
        elif place % max(1, len(listed) // 10) == 0:
            print(line, file=sys.stderr, flush=True)
        yield item
    if sys.stderr.isatty():
        print(file=sys.stderr)


def bootstrap(
    samples: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], *, repeats: int = 200
) -> tuple[float, float]:
    """Computes the 95 % percentile interval of a statistic by resampling the first axis.

    Args:
        samples: samples, [R, ...].
        statistic: function of resampled samples [R, ...] that returns a scalar.
        repeats: number of resamples.

    Returns:
        ``(low, high)``.
    """
    random = np.random.default_rng(0)
    values = [
        float(statistic(samples[random.integers(0, len(samples), len(samples))]))
        for _ in range(repeats)
    ]
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def interleaved(
    functions: Mapping[Any, Callable[[], Any]], *, rounds: int, calls: int = 1
) -> dict[Any, np.ndarray]:
    """Times functions in turn, so that variations of the machine's speed affect all of them.

    Args:
        functions: name to a function without arguments that returns arrays.
        rounds: number of rounds, after a first one that is not timed.
        calls: number of calls per round.

    Returns:
        A dict from name to seconds per call, [rounds].
    """
    times: dict[Any, list[float]] = {name: [] for name in functions}
    for turn in range(rounds + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            result = function()
            for _ in range(calls - 1 if turn else 0):
                result = function()
            jax.block_until_ready(result)
            if turn:
                times[name].append((time.perf_counter() - start) / calls)
    return {name: np.array(values) for name, values in times.items()}


def median_interval(values: np.ndarray) -> dict[str, float]:
    """Returns the median with its bootstrap interval, as columns of a row."""
    low, high = bootstrap(values, np.median)
    return {"median": float(np.median(values)), "low": low, "high": high}


def write_table(path: Path, rows: Sequence[Row]) -> None:
    """Writes rows as CSV, with six digits."""
    with path.open("w", newline="") as file:
        columns = list(dict.fromkeys(column for row in rows for column in row))
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})


def print_table(rows: Sequence[Row], columns: Sequence[str]) -> None:
    """Prints some columns of rows as an aligned table."""
    cells = [[_cell(row.get(column, "")) for column in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    for line in [list(columns), *cells]:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def double(panel: Axes) -> None:
    """Gives a panel a horizontal axis with base 2 and plain numbers at its ticks."""
    panel.set_xscale("log", base=2)
    panel.xaxis.set_major_formatter("{x:g}")


def save(figure: Figure, path: Path) -> None:
    """Writes a figure with the machine's name below it, and prints its path."""
    engine = figure.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        engine.set(rect=(0, 0.03, 1, 0.97))
    figure.text(0.995, 0.002, machine(), ha="right", va="bottom", fontsize=6, color="gray")
    figure.savefig(path, dpi=130)
    print(f"figure: {path}")
