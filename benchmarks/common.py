"""What the benchmarks share: command line, progress, intervals, timing, tables and figures."""

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

from experiments.machine import keep_memory, machine

Row = dict[str, Any]


def parse(
    name: str, description: str, add: Callable[[argparse.ArgumentParser], None] | None = None
) -> argparse.Namespace:
    """Parses ``[--full] [--seed N] [--out DIR]`` and makes the output directory.

    Args:
        name: the benchmark's name, for the default directory.
        description: for ``--help``.
        add: adds the benchmark's own options.

    Returns:
        A namespace with `full`, `seed`, `out` and what was added.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=description)
    parser.add_argument(
        "--full", action="store_true", help="more points and repeats; up to an hour"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of networks and perturbations")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}",
        help="directory for the table and the figure; by default a new one below runs/",
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
    """Yields the items, telling which is under way."""
    listed = list(items)
    start = time.perf_counter()
    for place, item in enumerate(listed):
        told = f"{label} {place + 1}/{len(listed)}  {time.perf_counter() - start:.0f} s"
        if sys.stderr.isatty():
            print(f"\r{told}", end="", file=sys.stderr, flush=True)
        elif place % max(1, len(listed) // 10) == 0:
            print(told, file=sys.stderr, flush=True)
        yield item
    if sys.stderr.isatty():
        print(file=sys.stderr)


def bootstrap(
    samples: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], *, repeats: int = 200
) -> tuple[float, float]:
    """95 % percentile interval of a statistic, by resampling the first axis.

    Args:
        samples: [R, ...].
        statistic: maps resampled samples [R, ...] to a scalar.
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
    """Times functions in turn, so that a slow spell of the machine falls on all of them.

    Args:
        functions: name to a function without arguments that returns arrays.
        rounds: number of turns, after one that warms up.
        calls: calls per turn.

    Returns:
        Name to seconds per call, [rounds].
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
    """Median with its bootstrap interval, as columns of a row."""
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
    """Prints some columns of rows, aligned."""
    cells = [[_told(row.get(column, "")) for column in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    for line in [list(columns), *cells]:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


def _told(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def double(panel: Axes) -> None:
    """Gives a panel a horizontal axis of doublings, with plain numbers at its ticks."""
    panel.set_xscale("log", base=2)
    panel.xaxis.set_major_formatter("{x:g}")


def save(figure: Figure, path: Path) -> None:
    """Writes a figure with the machine's name below it, and says where it is."""
    figure.text(0.995, 0.002, machine(), ha="right", va="bottom", fontsize=6, color="gray")
    figure.savefig(path, dpi=130)
    print(f"figure: {path}")
