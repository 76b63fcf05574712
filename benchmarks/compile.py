"""Compile times of every method beside backpropagation's: python -m benchmarks.compile.

The training step of each of the library's methods, on a small convolutional network, is traced and
compiled for the CPU, for each kind of scheduled work. Methods take turns in rounds, and nothing is
kept between compilations. Times are those of the processor over all threads, which other jobs on
the machine hardly change. The goal is at most twice backpropagation's.
"""

import itertools
import time
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

import nmnc_jax
from benchmarks.common import Row, median_interval, parse, print_table, progress, save, write_table
from benchmarks.networks import loss_fn
from benchmarks.stepper import Stepper, problem
from nmnc_jax.linen import mirror_layers
from nmnc_jax.models import ConvNet
from nmnc_jax.types import Due

GOAL = 2.0
STEPS = 1000
"""Number of steps whose kinds of scheduled work are compiled."""
REQUIRED = {"nmnc": {"rank": 32}, "kolen_pollack": {"weight_decay": 1e-3}}
"""Settings without a default."""
MIRRORED = ("weight_mirror", "feedback_alignment", "kolen_pollack")
"""Methods whose feedback has the form of each layer's weights."""
COLOURS = {"step": "tab:blue", "with probes": "tab:orange", "with basis update": "tab:red",
           "with both": "tab:purple"}  # fmt: skip


def kind(due: Due) -> str:
    """Returns the name of a kind of scheduled work."""
    if due.probe and due.move:
        return "with both"
    return "with probes" if due.probe else "with basis update" if due.move else "step"


def compile_times(rounds: int) -> list[Row]:
    """Compiles every program of every method, in rounds."""
    model = ConvNet((16, 32, 32), (2, 2, 1), 64, 10)
    params, batch = problem(model, side=16)
    steppers: dict[str, Stepper] = {}
    for name, method in progress("methods", nmnc_jax.METHODS.items()):
        apply_fn = mirror_layers(model.apply) if name in MIRRORED else model.apply
        steppers[name] = Stepper(method(apply_fn, loss_fn, **REQUIRED.get(name, {})), params, batch)
    programs = {
        (name, kind(due)): (stepper, due)
        for name, stepper in steppers.items()
        for due in sorted({stepper.due(step) for step in range(STEPS)})
    }
    times: dict[Any, list[float]] = {which: [] for which in programs}
    for turn, which in progress("programs", itertools.product(range(rounds + 1), programs)):
        stepper, due = programs[which]
        jax.clear_caches()
        start = time.process_time()
        stepper.compile(due)
        if turn:  # The first turn also imports.
            times[which].append(time.process_time() - start)
    shortest = np.array(times["backprop", "step"])
    return [
        {
            "method": name,
            "program": program,
            "cpu_seconds": float(np.median(taken)),
            "over_backprop": (ratio := median_interval(np.array(taken) / shortest))["median"],
            "low": ratio["low"],
            "high": ratio["high"],
        }
        for (name, program), taken in times.items()
    ]


def main() -> None:
    """Compiles everything, and writes compile.csv and compile.png."""
    options = parse("compile", __doc__ or "")
    rows = compile_times(9 if options.full else 3)
    write_table(options.out / "compile.csv", rows)
    print_table(rows, list(rows[0]))
    missed = [row for row in rows if row["over_backprop"] > GOAL]
    print(f"{len(rows) - len(missed)} of {len(rows)} programs compile in {GOAL:g} times "
          "backpropagation's time or less")  # fmt: skip
    save(draw(rows), options.out / "compile.png")


def draw(rows: list[Row]) -> Figure:
    """Draws the ratios to backpropagation, a bar for each program."""
    figure = Figure(figsize=(11, 0.3 * len(rows) + 1.2), layout="constrained")
    panel = figure.subplots()
    for place, row in enumerate(rows):
        spread = [[row["over_backprop"] - row["low"]], [row["high"] - row["over_backprop"]]]
        panel.barh(place, row["over_backprop"], xerr=spread, color=COLOURS[row["program"]],
                   alpha=0.7)  # fmt: skip
    names = [f"{row['method']}: {row['program']}" for row in rows]
    panel.set_yticks(range(len(rows)), names)
    panel.invert_yaxis()
    panel.axvline(1, color="gray", linewidth=1)
    panel.axvline(GOAL, color="gray", linewidth=1, linestyle=":", label="goal")
    panel.set(title="time to trace and compile a step, on CPU",
              xlabel="over backpropagation's (median of rounds, 95 % interval)")  # fmt: skip
    panel.legend(frameon=False)
    return figure


if __name__ == "__main__":
    main()
