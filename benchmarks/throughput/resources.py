"""Memory over probes, compile time over taps, and the time of a basis update."""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import nmnc_jax
from benchmarks.common import Row, interleaved, progress
from benchmarks.networks import loss_fn
from benchmarks.stepper import BATCH, Stepper, problem, strided_network
from benchmarks.throughput.steps import RANK
from nmnc_jax import Probe, pca
from nmnc_jax.models import ConvNet
from nmnc_jax.probes import Kind


def memory(full: bool) -> list[Row]:
    """Returns XLA's count of a step's temporary memory, over the number of probes."""
    model = strided_network()
    params, batch = problem(model)
    rows: list[Row] = []
    counts = (8, 32, 128, 512) if full else (8, 64, 512)
    kinds: dict[str, tuple[Kind, Callable[[int], int]]] = {
        "chunk 1": ("gaussian", lambda num: 1),
        "chunk 1, orthogonal": ("orthogonal", lambda num: 1),
        "all in one chunk": ("gaussian", lambda num: num),
    }
    for num, what in progress("memory", [(num, what) for num in counts for what in kinds]):
        kind, chunk = kinds[what]
        probe = Probe(num=num, kind=kind, chunk=chunk(num), difference="jvp", scope="all_taps")
        estimator = nmnc_jax.nmnc(model.apply, loss_fn, rank=RANK, probe=probe, update_every=1)
        used = Stepper(estimator, params, batch).compile().memory_analysis().temp_size_in_bytes
        first = next((row["megabytes"] for row in rows if row["what"] == what), used / 1e6)
        rows.append(
            {
                "part": "memory",
                "what": what,
                "probes": num,
                "megabytes": used / 1e6,
                "over_fewest": used / 1e6 / first,
            }
        )
    return rows


def compile_times(full: bool) -> list[Row]:
    """Measures the time to trace and compile a step, over the number of taps."""
    rows = []
    for taps in progress("compile times", (2, 4, 8, 16) if full else (2, 4, 8)):
        model = ConvNet((16,) * (taps - 1), (2,) + (1,) * (taps - 2), 64, 10)
        params, batch = problem(model)
        seconds = {}
        for scope in ("backprop", "each_tap", "all_taps"):
            estimator = nmnc_jax.backprop(model.apply, loss_fn)
            if scope != "backprop":
                probe = Probe(num=1, difference="jvp", scope=scope)  # pyright: ignore
                estimator = nmnc_jax.nmnc(model.apply, loss_fn, rank=RANK, probe=probe)
            stepper = Stepper(estimator, params, batch)
            start = time.perf_counter()
            stepper.compile()
            seconds[scope] = time.perf_counter() - start
            rows.append(
                {
                    "part": "compile",
                    "what": scope,
                    "taps": taps,
                    "seconds": seconds[scope],
                    "over_backprop": seconds[scope] / seconds["backprop"],
                }
            )
    return rows


def basis_updates(full: bool) -> list[Row]:
    """Measures the time of a basis update, and its share of a step at the default interval.

    The step is one of backpropagation in a strided network with 50,176 units at its first tap.
    """
    model = ConvNet((16, 32, 64), (2, 2, 2), 128, 10)
    params, batch = problem(model, side=112)
    functions: dict[str, Callable[[], Any]] = {
        "step": Stepper(nmnc_jax.backprop(model.apply, loss_fn), params, batch)
    }
    sizes = [(n, d) for n in (5_000, 50_000) for d in (64, 256)]
    for units, rank in sizes + ([(200_000, 512)] if full else []):
        rows = jax.random.normal(jax.random.key(0), (BATCH, units))
        manifold = pca(rank)
        state = jax.jit(manifold.init, static_argnums=0)("x", rows)
        update = jax.jit(manifold.update or manifold.init)
        functions[f"{units} {rank}"] = lambda update=update, state=state, rows=rows: update(
            state, rows
        )
    print("basis updates: timing", flush=True)
    times = interleaved(functions, rounds=10 if full else 4)
    rows = []
    for name, seconds in times.items():
        if name == "step":
            continue
        units, rank = map(int, name.split())
        rows.append(
            {
                "part": "basis update",
                "what": f"n = {units:,}, d = {rank}",
                "milliseconds": 1000 * float(np.median(seconds)),
                "share_of_step": float(np.median(seconds / times["step"]) / pca(rank).update_every),
            }
        )
    return rows
