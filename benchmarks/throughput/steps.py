"""Time and operations of a step, on average over the schedule and for each kind of work."""

import multiprocessing
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import jax
import numpy as np

import nmnc_jax
from benchmarks.common import Row, interleaved, median_interval, progress
from benchmarks.networks import loss_fn
from benchmarks.stepper import Stepper, problem
from nmnc_jax import Estimator, Probe, no_tap
from nmnc_jax.models import ConvNet
from nmnc_jax.types import Due

RANK = 64
SCHEDULE = 100
"""Number of steps that are averaged, which are whole intervals of probes and of bases."""
UNKEPT = "step, memory as it comes"
FIXED = "random subspace, fixed feedback"
METHODS: dict[str, Callable[[Any, Any], Estimator]] = {
    "backprop": nmnc_jax.backprop,
    "dfa": nmnc_jax.direct_feedback_alignment,
    FIXED: lambda f, loss: nmnc_jax.noise_correlation(
        f,
        loss,
        subspace=nmnc_jax.random_subspace(RANK),
        readout="output",
        feedback=nmnc_jax.random_feedback(),
    ),
    "nmnc (default)": lambda f, loss: nmnc_jax.nmnc(f, loss, rank=RANK),
    "nmnc, 1 probe every step": lambda f, loss: nmnc_jax.nmnc(
        f, loss, rank=RANK, probe=Probe(num=1, difference="jvp"), update_every=1
    ),
    "vnc (default)": nmnc_jax.vnc,
    "forward gradient, 1 probe": lambda f, loss: nmnc_jax.forward_gradient(
        f, loss, probe=Probe(num=1, difference="jvp")
    ),
    "weight perturbation, 1 probe": lambda f, loss: nmnc_jax.weight_perturbation(f, loss, num=1),
}


def steps(full: bool) -> list[Row]:
    """Measures time and operations of a step of each method, on average and for each kind."""
    model = ConvNet((64, 64, 128), (2, 2, 1), 128, 10)
    params, batch = problem(model)
    forward = jax.jit(lambda p, x: model.apply(p, x, no_tap))
    functions: dict[Any, Callable[[], Any]] = {"clean forward": lambda: forward(params, batch[0])}
    flops: dict[Any, float] = {"clean forward": operations(forward, params, batch[0])}
    kinds: dict[str, Counter[Due]] = {}
    for name in progress("steps: compiling", METHODS):
        stepper = Stepper(METHODS[name](model.apply, loss_fn), params, batch)
        kinds[name] = Counter(stepper.due(number) for number in range(SCHEDULE))
        for due in kinds[name]:
            functions[name, due] = lambda stepper=stepper, due=due: stepper(due)
            flops[name, due] = float(stepper.compile(due).cost_analysis()["flops"])
    times = interleaved(functions, rounds=60 if full else 20)
    whole: dict[str, tuple[dict[Any, int], int]] = {"clean forward": ({"clean forward": 1}, 1)}
    for name, dues in kinds.items():
        whole[name] = {(name, due): count for due, count in dues.items()}, SCHEDULE
        if len(dues) > 1:
            for due in dues:
                whole[f"{name}: {_named(due)}"] = {(name, due): 1}, 1
    base = {kind: _mean(of, *whole["backprop"]) for kind, of in (("time", times), ("flops", flops))}
    rows = []
    for name, (counts, total) in whole.items():
        seconds = _mean(times, counts, total)
        ratio = median_interval(seconds / base["time"])
        fixed = median_interval(seconds / _mean(times, *whole[FIXED]))
        rows.append(
            {
                "part": "step",
                "what": name,
                "milliseconds": 1000 * float(np.median(seconds)),
                "over_backprop": ratio["median"],
                "low": ratio["low"],
                "high": ratio["high"],
                "over_fixed": fixed["median"],
                "over_fixed_low": fixed["low"],
                "over_fixed_high": fixed["high"],
                "over_forward": float(np.median(seconds / times["clean forward"])),
                "flops_over_backprop": _mean(flops, counts, total) / base["flops"],
            }
        )
    return rows


def steps_as_memory_comes(full: bool) -> list[Row]:
    """Measures the same in a process that returns memory to the system, as usual programs do."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        rows = pool.submit(steps, full).result()
    return [{**row, "part": UNKEPT} for row in rows]


def _named(due: Due) -> str:
    parts = [part for part, on in (("probes", due.probe), ("basis", due.move)) if on]
    return " and ".join(parts) or "nothing due"


def _mean(values: dict[Any, Any], counts: dict[Any, int], total: int) -> Any:
    """Returns the mean over a schedule, in which each program runs a given number of times."""
    return sum(count * values[name] for name, count in counts.items()) / total


def operations(function: Any, *arguments: Any) -> float:
    """Returns XLA's count of the operations of a compiled function."""
    return float(function.lower(*arguments).compile().cost_analysis()["flops"])
