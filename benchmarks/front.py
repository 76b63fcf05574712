"""The front of cost against alignment: python -m benchmarks.front.

One network is trained on `photos` by backpropagation. In each step every setting also estimates the
gradient on the same batch and parameters and keeps its state, but the parameters follow
backpropagation. All settings therefore see the same parameters, and are timed in turn in one loop.
Settings without the name of another method are settings of `nmnc`, whose default is chosen from
this figure.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import nmnc_jax
from benchmarks.common import Row, bootstrap, parse, print_table, save, write_table
from benchmarks.networks import loss_fn
from benchmarks.stepper import strided_network
from experiments.data import batches
from experiments.data.embedded import load_embedded
from nmnc_jax import (
    Estimator,
    Probe,
    Subspace,
    credit_from_state,
    isotropic,
    learned_feedback,
    pca,
)
from nmnc_jax.diagnostics import alignment, cosine

BATCH = 128
RANK = 64
LARGE = 2048
CHUNK = 256
BLOCK = 20


def correlated(
    num: int,
    every: int = 1,
    *,
    subspace: Subspace = pca(RANK, update_every=100, decay=0.7),  # noqa: B008 (pure functions)
    readout: Any = "output",
    decay: float | None = 0.9,
    **probe: Any,
) -> Callable[[Any], Estimator]:
    """Returns a method of the family with all settings explicit, not those of the library."""
    chosen = Probe(num=num, **{"difference": "jvp", **probe})
    feedback = None if decay is None else learned_feedback(decay, update_every=every)
    return lambda apply_fn: nmnc_jax.noise_correlation(
        apply_fn, loss_fn, subspace=subspace, readout=readout, probe=chosen, feedback=feedback
    )


SETTINGS: dict[str, tuple[str, Callable[[Any], Estimator]]] = {
    "backprop": ("black", lambda f: nmnc_jax.backprop(f, loss_fn)),
    "dfa": ("tab:gray", lambda f: nmnc_jax.direct_feedback_alignment(f, loss_fn)),
    "vnc, 1 each step": ("tab:blue", correlated(1, subspace=isotropic())),
    "vnc, 1 every 10th": ("tab:blue", correlated(1, 10, subspace=isotropic())),
    "1 each step": ("tab:red", correlated(1, 1)),
    "1 each step, central": ("tab:orange", correlated(1, 1, difference="central", sigma=1e-3)),
    "1 each step, all taps": ("tab:pink", correlated(1, 1, scope="all_taps")),
    "1 each step, orthogonal": ("tab:purple", correlated(1, 1, kind="orthogonal")),
    "1 every 5th": ("tab:red", correlated(1, 5)),
    "1 every 10th": ("tab:red", correlated(1, 10)),
    "1 every 10th, orthogonal (default)": ("tab:purple", correlated(1, 10, kind="orthogonal")),
    "1 every 10th, all taps": ("tab:pink", correlated(1, 10, scope="all_taps")),
    "4 every 10th, decay 0.5": ("tab:red", correlated(4, 10, decay=0.5)),
    "1 every 20th": ("tab:red", correlated(1, 20)),
    "loss readout": ("tab:brown", correlated(1, readout="loss", decay=None)),
    "loss readout, control variate": ("tab:brown", correlated(1, readout="loss")),
}


def main() -> None:
    """Measures all settings during training, writes front.csv and front.png."""
    options = parse("front", __doc__ or "")
    rows = watch(1500 if options.full else 200, options.seed)
    write_table(options.out / "front.csv", rows)
    print_table(rows, ["setting", "over_backprop", "low", "high", "credit", "gradient"])
    save(draw(rows), options.out / "front.png")


def watch(steps: int, seed: int) -> list[Row]:
    """Trains by backpropagation while every setting estimates the gradient."""
    data = load_embedded("photos")
    inputs, targets = jnp.asarray(data.train_inputs), jnp.asarray(data.train_targets)
    apply_fn = strided_network().apply
    params = jax.jit(strided_network().init)(jax.random.key(seed), inputs[:BATCH])
    optimiser = optax.adam(optax.cosine_decay_schedule(1e-3, steps))
    order = batches(len(inputs), BATCH, seed)
    shuffled = np.random.default_rng(seed).permutation(len(inputs))
    first = shuffled[:512]
    large = [shuffled[at : at + CHUNK] for at in range(0, LARGE, CHUNK)]

    def step_of(estimator: Estimator) -> Callable[..., Any]:
        def step(params, moments, memory, key, inputs, targets, chosen):
            batch = inputs[chosen], targets[chosen]
            gradients, memory, _ = estimator.estimate(key, params, batch, memory)
            updates, moments = optimiser.update(gradients, moments, params)
            return optax.apply_updates(params, updates), moments, memory, gradients

        return jax.jit(step)

    estimators = {name: make(apply_fn) for name, (_, make) in SETTINGS.items()}
    take = {name: step_of(estimator) for name, estimator in estimators.items()}
    exact_of = jax.jit(_estimated(estimators["backprop"]))
    from_feedback = jax.jit(
        lambda key, params, batch, memory: credit_from_state(
            apply_fn, loss_fn, params, batch, memory
        )
    )
    # Per-example credit needs further probes; feedback is evaluated directly.
    credit_of = {
        name: jax.jit(lambda *a, e=e: _estimated(e)(*a)[1]) if "loss" in name else from_feedback
        for name, e in estimators.items()
        if name != "backprop"
    }
    memories = {
        name: estimator.init(params, (inputs[first], targets[first]))
        for name, estimator in estimators.items()
    }
    moments = optimiser.init(params)
    times: dict[str, list[float]] = {name: [] for name in SETTINGS}
    aligned: dict[str, list[list[float]]] = {name: [] for name in SETTINGS}
    gradients: dict[str, list[float]] = {name: [] for name in SETTINGS}
    start = time.perf_counter()
    for number in range(steps):
        chosen = jnp.asarray(next(order))
        key = jax.random.fold_in(jax.random.key(seed), number)
        results = {}
        for name in SETTINGS:
            began = time.perf_counter()
            results[name] = jax.block_until_ready(
                take[name](params, moments, memories[name], key, inputs, targets, chosen)
            )
            times[name].append(time.perf_counter() - began)
            memories[name] = results[name][2]
        if (number + 1) % (steps // 4) == 0 and number + 1 > steps // 4:
            parts = [(inputs[part], targets[part]) for part in large]
            exact = [exact_of(key, params, batch, ()) for batch in parts]
            mean = jax.tree.map(lambda *g: sum(g) / len(g), *[g for g, _ in exact])
            for name in SETTINGS:
                gradients[name].append(float(cosine(results[name][3], mean)))
                if name == "backprop":
                    continue
                cosines = [
                    alignment(
                        credit_of[name](jax.random.fold_in(key, at), params, batch, memories[name]),
                        credit,
                    )
                    for at, (batch, (_, credit)) in enumerate(zip(parts, exact, strict=True))
                ]
                aligned[name].append([float(np.mean(list(each.values()))) for each in cosines])
            print(f"step {number + 1}/{steps}  {time.perf_counter() - start:.0f} s", flush=True)
        params, moments = results["backprop"][:2]
    return [_row(name, times, aligned[name], gradients[name]) for name in SETTINGS]


def _estimated(estimator: Estimator) -> Callable[..., Any]:
    """Returns gradient and credit on a batch for the current state, which does not change."""

    def estimated(key, params, batch, memory):
        gradients, _, info = estimator.estimate(key, params, batch, memory)
        return gradients, info.credit

    return estimated


def _row(
    name: str, times: dict[str, list[float]], aligned: list[list[float]], gradients: list[float]
) -> Row:
    # Times are means over blocks, in which refreshes have their share; the first block compiles.
    blocks = np.array(times[name][BLOCK:]).reshape(-1, BLOCK).mean(axis=1)
    base = np.array(times["backprop"][BLOCK:]).reshape(-1, BLOCK).mean(axis=1)
    low, high = bootstrap(blocks / base, np.median)
    row: Row = {
        "setting": name,
        "milliseconds": 1000 * float(np.median(blocks)),
        "over_backprop": float(np.median(blocks / base)),
        "low": low,
        "high": high,
        "gradient": float(np.mean(gradients)),
        "gradient_spread": float(np.std(gradients, ddof=1)),
    }
    if aligned:
        row["credit"] = float(np.mean(aligned))
        row["credit_spread"] = float(np.mean(aligned, axis=1).std(ddof=1))
    return row


def draw(rows: list[Row]) -> Figure:
    """Draws alignment over cost, for the credit and for the gradient of one step."""
    figure = Figure(figsize=(13, 5.5), layout="constrained")
    panels = figure.subplots(1, 2)
    numbers = {row["setting"]: place + 1 for place, row in enumerate(rows)}
    for panel, what, title in (
        (panels[0], "credit", "credit against exact credit, mean over taps (2,048 examples)"),
        (panels[1], "gradient", "one step's gradient against the exact one of 2,048 examples"),
    ):
        for row in rows:
            if what not in row:
                continue
            panel.errorbar(
                row["over_backprop"],
                row[what],
                yerr=row[f"{what}_spread"],
                xerr=[[row["over_backprop"] - row["low"]], [row["high"] - row["over_backprop"]]],
                color=SETTINGS[row["setting"]][0],
                marker="o",
                capsize=2,
            )
            place = (row["over_backprop"], row[what])
            panel.annotate(str(numbers[row["setting"]]), place, (3, 3), fontsize=8,
                           textcoords="offset points")  # fmt: skip
        panel.axvline(1, color="lightgray", zorder=0)
        panel.set(title=title, ylabel="cosine (bars: spread over training)",
                  xlabel="time of a step over backpropagation's (95 % interval)")  # fmt: skip
    for name, number in numbers.items():
        panels[1].plot([], [], "o", color=SETTINGS[name][0], label=f"{number}  {name}")
    figure.legend(loc="outside right center", frameon=False, title="probes of each tap", fontsize=8)
    return figure


if __name__ == "__main__":
    main()
