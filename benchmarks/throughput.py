"""The cost of estimators: python -m benchmarks.throughput.

On strided 32x32 networks at batch 128 the benchmark measures the time of a step relative to
backpropagation, to one clean forward pass, and to a step with fixed feedback in a fixed subspace,
averaged over the method's schedule and for each kind of scheduled work; the time of one probe pass
relative to its floor; peak memory over the number of probes; compile time over the number of taps;
and the time of a basis update over units and rank. Ratios are measured in turn in one run.
"""

import multiprocessing
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
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
from nmnc_jax import Estimator, Probe, no_tap, pca, run
from nmnc_jax.correlate import correlations
from nmnc_jax.layout import tap_shapes
from nmnc_jax.models import ConvNet
from nmnc_jax.probes import Kind
from nmnc_jax.taps import Tap
from nmnc_jax.types import ApplyFn, Due

BATCH = 128
RANK = 64
SCHEDULE = 100
"""Number of steps that are averaged, which are whole intervals of probes and of bases."""
loss_fn = optax.softmax_cross_entropy_with_integer_labels


def strided_network() -> ConvNet:
    """Returns the strided network of `photos`, with 32/32/64 channels and a dense layer of 128."""
    return ConvNet((32, 32, 64), (2, 2, 1), 128, 10)


def problem(model: ConvNet, side: int = 32, seed: int = 0) -> tuple[Any, Any]:
    """Returns parameters and one batch; times do not depend on the content of images."""
    images, labels = jax.random.split(jax.random.key(seed))
    inputs = jax.random.normal(images, (BATCH, side, side, 3))
    targets = jax.random.randint(labels, (BATCH,), 0, 10)
    return jax.jit(model.init)(jax.random.key(1), inputs), (inputs, targets)


class Stepper:
    """One method's training step, with its state; calling it takes the next step.

    As in training, the scheduled work is decided outside the compiled program; a call may set it.
    """

    def __init__(self, estimator: Estimator, params: Any, batch: Any):
        optimiser = optax.adam(1e-4)

        def step(state, number, batch, due):
            params, moments, memory = state
            key = jax.random.fold_in(jax.random.key(0), number)
            gradients, memory, _ = estimator.estimate(key, params, batch, memory, due=due)
            updates, moments = optimiser.update(gradients, moments, params)
            return optax.apply_updates(params, updates), moments, memory

        self.step = jax.jit(step, donate_argnums=0, static_argnames="due")
        self.due = estimator.due
        self.batch = batch
        memory = estimator.init(params, batch)
        # The state is donated and the parameters are shared, so they are copied.
        self.state = jax.tree.map(jnp.copy, (params, optimiser.init(params), memory))
        self.number = 0

    def __call__(self, due: Due | None = None) -> Any:
        """Takes one step."""
        due = self.due(self.number) if due is None else due
        self.state = self.step(self.state, self.number, self.batch, due=due)
        self.number += 1
        return self.state

    def compile(self, due: Due | None = None) -> Any:
        """Compiles the step without running it; by default the first step, with all its work."""
        due = self.due(0) if due is None else due
        return self.step.lower(self.state, 0, self.batch, due=due).compile()


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
    flops: dict[Any, float] = {"clean forward": _flops(forward, params, batch[0])}
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

    flops = {"everything": _flops(clean, params, inputs)}
    functions: dict[str, Callable[[], Any]] = {"everything": lambda: clean(params, inputs)}
    groups = {name: [name] for name in shapes} | {"all taps": list(shapes)}
    more = 8
    for what in progress("probe passes: compiling", groups):
        first = min(groups[what], key=lambda name: shapes[name].order)
        rest = after(first)
        flops[what] = _flops(rest, params, inputs, activations[first])
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


def _flops(function: Any, *arguments: Any) -> float:
    return float(function.lower(*arguments).compile().cost_analysis()["flops"])


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


STEP_COLUMNS = [
    *("what", "milliseconds", "over_backprop", "low", "high", "over_fixed", "over_forward"),
    "flops_over_backprop",
]
PARTS = {
    "step": (steps, STEP_COLUMNS),
    UNKEPT: (steps_as_memory_comes, STEP_COLUMNS),
    "probe pass": (
        probe_passes,
        ["what", "milliseconds", "over_floor", "low", "high", "over_clean_rest"],
    ),
    "memory": (memory, ["what", "probes", "megabytes", "over_fewest"]),
    "compile": (compile_times, ["what", "taps", "seconds", "over_backprop"]),
    "basis update": (basis_updates, ["what", "milliseconds", "share_of_step"]),
}


def main() -> None:
    """Runs every part, writes throughput.csv and throughput.png."""
    options = parse("throughput", __doc__ or "")
    rows: dict[str, list[Row]] = {}
    for part, (measure, columns) in PARTS.items():
        rows[part] = measure(options.full)
        print(f"\n{part}")
        print_table(rows[part], columns)
        write_table(options.out / "throughput.csv", [row for some in rows.values() for row in some])
    save(draw(rows), options.out / "throughput.png")


def draw(rows: dict[str, list[Row]]) -> Figure:
    """Draws one panel for each part."""
    figure = Figure(figsize=(15, 7), layout="constrained")
    step, probe, used, unkept, basis, compiled = figure.subplots(2, 3).reshape(-1)
    for panel, part, column, title in (
        (step, "step", "over_backprop", "time of a step over backpropagation's"),
        (unkept, UNKEPT, "over_backprop", "the same, memory as it comes"),
        (probe, "probe pass", "over_floor", "time of a probe pass over its floor"),
    ):
        names = [row["what"] for row in rows[part]]
        middle = np.array([row[column] for row in rows[part]])
        ends = [[row[end] for row in rows[part]] for end in ("low", "high")]
        spread = np.abs([middle - ends[0], ends[1] - middle])
        panel.barh(names, middle, xerr=spread, color="tab:red", alpha=0.7)
        panel.axvline(1, color="gray", linewidth=1)
        panel.invert_yaxis()
        panel.set(title=title, xlabel="ratio (median of rounds, 95 % interval)")
    # The pass after the last tap is so short that its start dominates the cost.
    probe.set_xlim(
        0, 1.1 * max(row["high"] for row in rows["probe pass"] if row["what"] != "dense")
    )
    for place, row in enumerate(rows["probe pass"]):
        if row["what"] == "dense":
            text = f" {row['over_floor']:.0f} (off the scale: {1000 * row['milliseconds']:.0f} us)"
            probe.text(0, place, text, va="center")
    for panel, part, x, y, xlabel, ylabel, title in (
        (used, "memory", "probes", "megabytes", "probes K", "MB", "temporary memory of a step"),
        (compiled, "compile", "taps", "seconds", "taps", "seconds", "trace and compile a step"),
    ):
        for what in dict.fromkeys(row["what"] for row in rows[part]):
            some = [row for row in rows[part] if row["what"] == what]
            panel.plot([r[x] for r in some], [r[y] for r in some], "o-", label=what)
        double(panel)
        panel.set(title=title, xlabel=xlabel, ylabel=ylabel)
        panel.legend(frameon=False)
    used.set_yscale("log")
    for row in rows["basis update"]:
        basis.barh(row["what"], 100 * row["share_of_step"], color="tab:blue")
    basis.invert_yaxis()
    basis.set(title="basis update, at its default interval", xlabel="% of a backpropagation step")
    return figure


if __name__ == "__main__":
    main()
