"""Time, memory and compilation over the number of time steps: python -m benchmarks.recurrent.

The benchmark compares a training step of a network of leaky units by each readout with
backpropagation through time, with and without `jax.checkpoint` around a time step. Memory is XLA's
count for a compiled step without its arguments.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import lax
from matplotlib.figure import Figure

import nmnc_jax
from benchmarks.common import (
    Row,
    double,
    interleaved,
    median_interval,
    parse,
    print_table,
    progress,
    save,
    write_table,
)
from benchmarks.stepper import Stepper
from nmnc_jax import Estimator, Probe
from nmnc_jax.diagnostics import exact_gradient
from nmnc_jax.models import LeakyRNN
from nmnc_jax.types import ApplyFn, Array

UNITS, BATCH, CHANNELS, RANK, HORIZON = 256, 64, 3, 32, 10
TIMES, ALL_TIMES = (50, 100, 200), (50, 100, 200, 400, 800)


class Rematerialised:
    """A tap that only wraps each time step in `jax.checkpoint`."""

    def __call__(self, name: str, activation: Array) -> Array:
        """Returns an activation unchanged."""
        del name
        return activation

    def linear(self, value: Array) -> Array:
        """Returns the output of a stage."""
        return value

    def scan(self, body: Callable[..., Any], carry: Any, xs: Any) -> tuple[Any, Any]:
        """Runs ``lax.scan``, and keeps only the carries for the backward pass."""
        return lax.scan(jax.checkpoint(lambda carry, x: body(carry, x, self)), carry, xs)


def squared_error(outputs: Array, targets: Array) -> Array:
    """Returns the squared error of each example and time step."""
    return ((outputs - targets) ** 2).sum(axis=-1)


def plain(apply_fn: ApplyFn) -> Estimator:
    """Returns backpropagation by `jax.grad`."""

    def estimate(key: Array, params: Any, batch: Any, state: Any, **kwargs: Any) -> Any:
        return exact_gradient(apply_fn, squared_error, params, batch), state, None

    return Estimator(lambda params, batch, **kwargs: (), estimate)


def rematerialised(apply_fn: ApplyFn) -> Estimator:
    """Returns the same with each time step recomputed in the backward pass."""
    return plain(lambda params, inputs, tap: apply_fn(params, inputs, Rematerialised()))


def chained(apply_fn: ApplyFn) -> Estimator:
    """Returns the readout `next` in the manifold, with a probe in every step."""
    return nmnc_jax.weight_mirror(apply_fn, squared_error, rank=RANK)


def by_lag(apply_fn: ApplyFn) -> Estimator:
    """Returns the readout `output`, with a feedback matrix per lag."""
    probe = Probe(num=1, difference="jvp")
    return nmnc_jax.nmnc(
        apply_fn, squared_error, rank=RANK, probe=probe, update_every=1, readout="output",
        horizon=HORIZON,
    )  # fmt: skip


def by_loss(apply_fn: ApplyFn) -> Estimator:
    """Returns the readout `loss`, with the later change of the losses."""
    return nmnc_jax.forward_gradient(
        apply_fn, squared_error, rank=RANK, probe=Probe(num=1, difference="jvp")
    )


METHODS: dict[str, Callable[[ApplyFn], Estimator]] = {
    "backprop": plain,
    "backprop, checkpointed": rematerialised,
    "next, chained": chained,
    f"output, {HORIZON} lags": by_lag,
    "loss to come": by_loss,
}


def measure(steps: int, rounds: int) -> list[Row]:
    """Measures every method at one number of time steps."""
    model = LeakyRNN(UNITS, CHANNELS)
    inputs, targets = jax.random.normal(jax.random.key(0), (2, BATCH, steps, CHANNELS))
    params = model.init(jax.random.key(1), inputs)
    steppers, rows = {}, {}
    for name, method in METHODS.items():
        steppers[name] = stepper = Stepper(method(model.apply), params, (inputs, targets))
        start = time.perf_counter()
        memory = stepper.compile().memory_analysis()
        rows[name] = {
            "method": name,
            "time_steps": steps,
            "compile_seconds": time.perf_counter() - start,
            "megabytes": memory.temp_size_in_bytes / 2**20,
            "feedback_numbers": sum(
                leaf.size for leaf in jax.tree.leaves(getattr(stepper.state[2], "feedback", ()))
            ),
        }
    times = interleaved(dict(steppers), rounds=rounds, calls=3)
    for name, seconds in times.items():
        rows[name] |= {
            "milliseconds": 1000 * float(np.median(seconds)),
            **{f"over_backprop_{part}": value
               for part, value in median_interval(seconds / times["backprop"]).items()},
        }  # fmt: skip
    return list(rows.values())


def draw(rows: list[Row]) -> Figure:
    """Draws time, memory and compilation over time steps."""
    figure = Figure(figsize=(13, 4), layout="constrained")
    columns = {
        "milliseconds": "milliseconds of a step",
        "megabytes": "MiB that a step holds",
        "compile_seconds": "seconds to compile",
    }
    panels = figure.subplots(1, 3)
    for panel, (column, title) in zip(panels, columns.items(), strict=True):
        for name in METHODS:
            some = [row for row in rows if row["method"] == name]
            panel.plot([r["time_steps"] for r in some], [r[column] for r in some], "o-",
                       markersize=4, label=name)  # fmt: skip
        double(panel)
        panel.set(title=title, xlabel="time steps", ylim=(0, None))
    panels[0].legend(frameon=False, fontsize=8)
    figure.suptitle(f"{UNITS} leaky units, batch {BATCH}, rank {RANK}, one probe")
    return figure


def main() -> None:
    """Measures, prints, writes recurrent.csv and recurrent.png."""
    options: argparse.Namespace = parse("recurrent", __doc__ or "")
    rows: list[Row] = []
    for steps in progress("time steps", ALL_TIMES if options.full else TIMES):
        rows += measure(steps, rounds=12 if options.full else 6)
    write_table(options.out / "recurrent.csv", rows)
    print_table(rows, list(rows[0]))
    save(draw(rows), options.out / "recurrent.png")


if __name__ == "__main__":
    main()
