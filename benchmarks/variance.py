"""Bias, variance, cosine and signal-to-noise ratio: python -m benchmarks.variance.

(a) In linear networks each law is exact; every point gives z-scores, which decide the exit status.
(b) In a network on real digits, at the beginning, in the middle and at the end of training, each
method's estimates of one batch's gradient are measured over the number of probes.
"""

import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import linear
from benchmarks.common import (
    Row,
    double,
    parse,
    print_table,
    progress,
    save,
    write_table,
)
from benchmarks.estimates import bias_and_variance
from benchmarks.networks import Trained, correlation, loss_fn, train
from experiments.data.embedded import load_embedded
from nmnc_jax import direct_feedback_alignment, weight_perturbation
from nmnc_jax.diagnostics import exact_gradient
from nmnc_jax.models import MLP

KIND_COLOURS = {"gaussian": "tab:blue", "rademacher": "tab:green", "orthogonal": "tab:red"}
METHODS: dict[str, tuple[str, str, Callable[[int], Any]]] = {
    "vnc": ("tab:blue", "-", lambda k: correlation("output", subspace="all", num=k)),
    "nmnc": ("tab:red", "-", lambda k: correlation("output", subspace="manifold", num=k)),
    "nmnc, rademacher": (
        "tab:red",
        "--",
        lambda k: correlation("output", subspace="manifold", num=k, kind="rademacher"),
    ),
    "nmnc, orthogonal": (
        "tab:red",
        ":",
        lambda k: correlation("output", subspace="manifold", num=k, kind="orthogonal"),
    ),
    "nmnc, all taps at once": (
        "tab:pink",
        "-",
        lambda k: correlation("output", subspace="manifold", num=k, scope="all_taps"),
    ),
    "random subspace": (
        "tab:green",
        "-",
        lambda k: correlation("output", subspace="random", num=k),
    ),
    "node perturbation": ("tab:orange", "-", lambda k: correlation("loss", subspace="all", num=k)),
    "node p., manifold": (
        "tab:brown",
        "-",
        lambda k: correlation("loss", subspace="manifold", num=k),
    ),
    "node p., manifold, orthogonal": (
        "tab:brown",
        ":",
        lambda k: correlation("loss", subspace="manifold", num=k, kind="orthogonal"),
    ),
    "node p., manifold, control variate": (
        "tab:purple",
        "-",
        lambda k: correlation("loss", subspace="manifold", num=k, decay=0.9),
    ),
    "node p., all, control variate": (
        "tab:purple",
        "--",
        lambda k: correlation("loss", subspace="all", num=k, decay=0.9),
    ),
    "weight perturbation": (
        "tab:olive",
        "-",
        lambda k: lambda apply_fn: weight_perturbation(apply_fn, loss_fn, num=k),
    ),
    "dfa": (
        "tab:gray",
        "-",
        lambda k: lambda apply_fn: direct_feedback_alignment(apply_fn, loss_fn),
    ),
}
WARM_STEPS = 20
"""Number of estimates from which a control variate's feedback learns before the measurement."""


def main() -> None:
    """Runs both parts, writes variance.csv and variance.png, prints the verdict."""
    options = parse("variance", __doc__ or "")
    rows, scores, exact = [], [], []
    for point in progress("linear networks", linear.points(options.full)):
        row, found = linear.measure(point, 1500 if options.full else 400, options.seed)
        rows.append({"network": "linear", **row})
        scores += found
        exact += [row["exact"]] if "exact" in row else []
    real = on_digits(options.full, options.seed)
    write_table(options.out / "variance.csv", rows + real)
    save(draw(rows, real), options.out / "variance.png")
    columns = ["method", "probes", "stage", "bias", "variance", "cosine", "signal_to_noise"]
    print_table([row for row in real if row["stage"] == real[-1]["stage"]], columns)
    good = verdict(scores, exact)
    sys.exit(0 if good else 1)


def verdict(scores: list[float], exact: list[bool]) -> bool:
    """Prints whether the linear networks follow their laws."""
    values = np.abs(scores)
    square = float((values**2).mean())
    good = bool(values.max() < 4 and 0.8 < square < 1.2 and all(exact))
    print(
        f"verdict: {'the laws hold' if good else 'A LAW FAILS'}: {len(scores)} z-scores, "
        f"largest {values.max():.2f}, mean square {square:.3f}; "
        f"{sum(exact)} of {len(exact)} exact points exact"
    )
    return good


def on_digits(full: bool, seed: int) -> list[Row]:
    """Compares every method's gradient of one batch of digits with the exact gradient."""
    stages = (0, 300, 600)
    model = MLP((256, 256) if full else (64, 64), 10)
    trained = train(model, load_embedded("digits"), stages, seed=seed)
    rows = []
    counts = (1, 4, 16, 64, 256) if full else (1, 8, 64)
    work = [(name, k) for name in METHODS for k in (counts if name != "dfa" else (1,))]
    for name, probes in progress("digits", work):
        estimator = METHODS[name][2](probes)(trained.apply_fn)
        rows += [
            {"network": "digits", "method": name, "probes": probes, **row}
            for row in _along_training(trained, estimator, 128 if full else 32, seed)
        ]
    return rows


def _along_training(trained: Trained, estimator: Any, replicates: int, seed: int) -> list[Row]:
    warm = jax.jit(
        lambda key, params, batch, state: estimator.estimate(key, params, batch, state)[1]
    )
    draw_many = jax.jit(
        jax.vmap(
            lambda key, params, batch, state: _flat(
                estimator.estimate(key, params, batch, state)[0]
            ),
            in_axes=(0, None, None, None),
        )
    )
    rows = []
    for stage, params in trained.stages.items():
        state = estimator.init(params, trained.fit)
        warm_key, key = jax.random.split(jax.random.key(seed))
        for now in jax.random.split(warm_key, WARM_STEPS):
            state = warm(now, params, trained.batch, state)
        keys = jax.random.split(key, replicates)
        drawn = np.asarray(draw_many(keys, params, trained.batch, state), np.float64)
        exact = exact_gradient(trained.apply_fn, loss_fn, params, trained.batch)
        rows.append(
            {"stage": stage, **bias_and_variance(drawn, np.asarray(_flat(exact), np.float64))}
        )
    return rows


def _flat(tree: Any) -> jax.Array:
    return jax.numpy.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(tree)])


def draw(rows: list[Row], real: list[Row]) -> Figure:
    """Draws laws through the points (above), and methods on digits over probes (below)."""
    figure = Figure(figsize=(15, 8), layout="constrained")
    above, below = figure.subplots(2, 4)
    for panel, field in zip(above, NAMES, strict=True):
        some = [row for row in rows if row["varies"] == field]
        if field != "probes":
            # The point that all series share belongs to the series over probes.
            shared = [row for row in rows if row["varies"] == "probes" and row["probes"] == 4]
            some += [row for row in shared if field != "dimension" or row["dimension"] == 16]
        _draw_law(panel, sorted(some, key=lambda row: int(row[field])), field)
    above[0].set_ylabel("variance / squared norm of the Jacobian")
    above[2].legend(*above[0].get_legend_handles_labels(), frameon=False, fontsize=7, loc="center")
    stages = sorted({row["stage"] for row in real})
    titles = ("at initialisation", "midway", "at the end of training")
    for panel, stage, title in zip(below, stages, titles, strict=False):
        for name, (colour, style, _) in METHODS.items():
            some = [row for row in real if (row["stage"], row["method"]) == (stage, name)]
            x = np.array([row["probes"] for row in some])
            low, middle, high = (
                np.array([row[c] for row in some]) for c in ("cosine_low", "cosine", "cosine_high")
            )
            if len(some) == 1:
                panel.axhline(middle[0], color=colour, label=name, linewidth=1)
                continue
            panel.errorbar(x, middle, np.abs([middle - low, high - middle]), color=colour,
                           linestyle=style, label=name, capsize=2)  # fmt: skip
        double(panel)
        panel.set(title=f"digits, {title}", xlabel="probes K per example and tap",
                  ylim=(-0.05, 1.02))  # fmt: skip
    below[0].set_ylabel("cosine of one step's gradient with the exact one")
    handles, labels = below[0].get_legend_handles_labels()
    below[3].axis("off")
    below[3].legend(handles, labels, loc="center", frameon=False, title="method (95 % intervals)")
    return figure


def _draw_law(panel: Axes, rows: list[Row], field: str) -> None:
    for kind, colour in KIND_COLOURS.items():
        for dimension, marker, filled in ((True, "o", colour), (False, "s", "white")):
            some = [
                row
                for row in rows
                if row["kind"] == kind
                and row["readout"] == "output"
                and (row["dimension"] != "all") == dimension
            ]
            if not some:
                continue
            x = [row[field] for row in some]
            middle = np.array([row["variance"] for row in some])
            spread = np.abs(
                [
                    middle - [row["variance_low"] for row in some],
                    [row["variance_high"] for row in some] - middle,
                ]
            )
            where = "subspace, d = 16" if dimension else "all n = 64 directions"
            panel.errorbar(x, middle, spread, color=colour, marker=marker, linestyle="none",
                           markersize=4, markerfacecolor=filled,
                           label=f"{kind}, {where}")  # fmt: skip
            panel.plot(x, [row["variance_law"] for row in some], color=colour, linewidth=0.8)
    double(panel)
    panel.set(xlabel=NAMES[field], title="linear network (lines: the law)")
    panel.set_yscale("symlog", linthresh=1e-3)
    panel.set_ylim(bottom=-2e-4)


NAMES = {
    "probes": "probes K per example",
    "dimension": "subspace dimension d",
    "units": "units n",
    "batch": "examples B",
}


if __name__ == "__main__":
    main()
