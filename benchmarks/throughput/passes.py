"""Time of one probe pass, relative to the floor of its operations."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.common import Row, interleaved, median_interval, progress
from benchmarks.stepper import BATCH, problem, strided_network
from benchmarks.throughput.steps import RANK, operations
from nmnc_jax import Probe, pca, run
from nmnc_jax.correlate import correlations
from nmnc_jax.layout import tap_shapes
from nmnc_jax.taps import Tap
from nmnc_jax.types import ApplyFn


def probe_passes(full: bool) -> list[Row]:
    """Measures the time of one more probe pass, relative to the floor of its operations.

    The floor is the time of the pass's operations, by XLA's count, at the rate of the clean pass.
    """
    model = strided_network()
    apply_fn: ApplyFn = model.apply
    params, (inputs, _) = problem(model)
    shapes = tap_shapes(apply_fn, params, inputs)
    clean = jax.jit(lambda p, x: run(model.apply, p, x))
    activations = clean(params, inputs)[1]
    bases = {
        name: pca(min(RANK, s.units)).init(name, activations[name].reshape(BATCH, -1)).basis
        for name, s in shapes.items()
    }

    def probing(names: list[str], num: int) -> Callable[[], Any]:
        probe = Probe(num=num, difference="jvp", chunk=1, scope="all_taps")

        @jax.jit
        def correlate(key, params, inputs, bases):
            def forward(tap: Tap) -> dict[str, Any]:
                return dict.fromkeys(names, apply_fn(params, inputs, tap))

            return correlations(
                forward,
                lambda name, z, dy: dy.T @ z,
                key=key,
                probe=probe,
                clean=run(model.apply, params, inputs)[1],
                shapes={name: shapes[name] for name in names},
                bases=bases,
                scales={name: jnp.ones(()) for name in names},
                pooled=True,
            )

        return lambda: correlate(jax.random.key(0), params, inputs, bases)

    def after(name: str) -> Callable[..., Any]:
        return jax.jit(lambda p, x, value: model.apply(p, x, Tap(replay={name: value})))

    flops = {"everything": operations(clean, params, inputs)}
    functions: dict[str, Callable[[], Any]] = {"everything": lambda: clean(params, inputs)}
    groups = {name: [name] for name in shapes} | {"all taps": list(shapes)}
    more = 8
    for what in progress("probe passes: compiling", groups):
        first = min(groups[what], key=lambda name: shapes[name].order)
        rest = after(first)
        flops[what] = operations(rest, params, inputs, activations[first])
        functions[f"{what}: rest"] = lambda rest=rest, first=first: rest(
            params, inputs, activations[first]
        )
        functions[f"{what}: 1"] = probing(groups[what], 1)
        functions[f"{what}: more"] = probing(groups[what], 1 + more)
    times = interleaved(functions, rounds=20 if full else 8)
    rows = []
    for what in groups:
        seconds = (times[f"{what}: more"] - times[f"{what}: 1"]) / more
        floor = times["everything"] * flops[what] / flops["everything"]
        ratio = median_interval(seconds / floor)
        rows.append(
            {
                "part": "probe pass",
                "what": what,
                "milliseconds": 1000 * float(np.median(seconds)),
                "over_floor": ratio["median"],
                "low": ratio["low"],
                "high": ratio["high"],
                "over_clean_rest": float(np.median(seconds / times[f"{what}: rest"])),
            }
        )
    return rows
