"""The Jacobian's row space aligns with the neural manifold.

Networks are trained by backpropagation, on the labels and on shuffled ones. At initialisation and
through training, for each tap: the share of the exact Jacobian's squared norm inside the first d
principal components of activity (2,048 training images), inside a random subspace of d dimensions,
and d/n; and the principal angles between the components and the Jacobian's own leading directions.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.analysis.activity import fixed_images, recorder
from experiments.claims.study import Row, Study, Verdict, judge
from experiments.configuration import Config
from experiments.data import InMemory
from experiments.training.loop import through_training
from experiments.training.trainer import build_model
from nmnc_jax import pca, random_subspace
from nmnc_jax.diagnostics import exact_jacobian

DEFAULTS: dict[str, Any] = {"estimator": "backprop", "steps": 600, "log_every": 600}
LARGEST = 512
JACOBIANS = 48
LEADING = 10


def measure(config: Config, data: InMemory, params: Any) -> list[Row]:
    """Shares and angles at every tap of a network, on fixed training images."""
    apply_fn: Any = build_model(config, data.classes).apply
    inputs = fixed_images(data)
    activations = recorder(config, data, params)(inputs)
    some = jnp.asarray(inputs[:JACOBIANS])
    jacobians = jax.jit(lambda p, x: exact_jacobian(apply_fn, p, x))(params, some)
    rows: list[Row] = []
    for name, rowed in activations.items():
        activity = jnp.asarray(rowed)
        units = activity.shape[1]
        rank = min(LARGEST, units)
        jacobian = jacobians[name].reshape(-1, units)
        components = pca(rank).init(name, activity).basis
        anywhere = random_subspace(rank).init(name, activity).basis
        assert components is not None
        assert anywhere is not None
        inside, outside = (
            cumulative_share(jacobian, components),
            cumulative_share(jacobian, anywhere),
        )
        leading = _leading_directions(jacobian)
        for d in sorted({*(2**k for k in range(10) if 2**k < rank), rank}):
            cosines = np.linalg.svd(leading.T @ np.asarray(components[:, :d]), compute_uv=False)
            rows.append(
                {
                    "tap": name,
                    "units": units,
                    "dimension": d,
                    "share": inside[d - 1],
                    "random": outside[d - 1],
                    "line": d / units,
                    "largest_cosine": float(cosines.max(initial=0)),
                    "mean_square_cosine": float((cosines**2).sum() / max(leading.shape[1], 1)),
                }
            )
    return rows


def cumulative_share(jacobian: jax.Array, basis: jax.Array) -> list[float]:
    """Share of the squared norm inside the first d directions, for every d.

    It is NaN for a Jacobian of zeros, as where training has silenced what follows.
    """
    squares = ((jacobian @ basis) ** 2).sum(axis=0)
    return [float(share) for share in jnp.cumsum(squares) / (jacobian**2).sum()]


def _leading_directions(jacobian: jax.Array) -> np.ndarray:
    """Right singular vectors of the Jacobians of all examples, [n, at most LEADING]."""
    rows = np.asarray(jacobian, np.float64)
    values, vectors = np.linalg.eigh(rows @ rows.T)
    keep = min(LEADING, int((values > 1e-9 * values[-1]).sum()))
    first = len(values) - keep
    return rows.T @ vectors[:, first:] / np.sqrt(values[first:])


def one_network(study: Study, labels: str, seed: int) -> list[Row]:
    """Rows of a network of one seed, on the labels or on shuffled ones."""
    data, steps = study.data, study.config.steps
    if labels == "shuffled":
        order = np.random.default_rng(seed).permutation(data.train_size)
        data = data._replace(train_targets=data.train_targets[order])
    config = dataclasses.replace(study.config, seed=seed)
    stages = [0, steps // 6, steps // 3, steps] if study.full else [0, steps // 6, steps]
    return [
        {"labels": labels, "seed": seed, "step": step, **row}
        for step, params in through_training(config, data, stages)
        for row in measure(config, data, params)
    ]


def judged(study: Study, rows: list[Row]) -> list[Verdict]:
    """The statements at the configuration's rank, over the taps that are wider than it."""
    rank, last = study.config.rank, study.config.steps

    def mean_over_taps(column: str, labels: str, step: int, seed: int) -> float:
        values = [
            np.log2(row[column])
            for row in rows
            if (row["labels"], row["step"], row["seed"]) == (labels, step, seed)
            and row["dimension"] == rank < row["units"]
        ]
        # NaN where a tap is silenced: the mean of others is no match for that of all.
        return float(np.mean(values))

    def difference(left: tuple[str, str, int], right: tuple[str, str, int]) -> list[float]:
        return [mean_over_taps(*left, seed) - mean_over_taps(*right, seed) for seed in study.seeds]

    trained = ("share", "true", last)
    return [
        judge(
            f"a trained network's Jacobian lies in the first {rank} principal components of "
            "activity by more than chance",
            "log2 of its share there over that in a random subspace, mean over taps",
            difference(trained, ("random", "true", last)),
        ),
        judge(
            f"noise correlation inside {rank} components aligns better than isotropic noise: the "
            "share exceeds d/n",
            "log2 of the share over d/n, mean over taps",
            difference(trained, ("line", "true", last)),
        ),
        judge(
            "training aligns them",
            "log2 of the trained network's share over its share at initialisation",
            difference(trained, ("share", "true", 0)),
        ),
        judge(
            "they align more where labels can be generalised than where they are shuffled",
            "log2 of the share over that after training on shuffled labels",
            difference(trained, ("share", "shuffled", last)),
        ),
    ]


def draw(study: Study, rows: list[Row]) -> Figure:
    """Share over d at each tap."""
    taps = list(dict.fromkeys(row["tap"] for row in rows))
    figure = Figure(figsize=(3.2 * len(taps), 3.8), layout="constrained")
    panels = figure.subplots(1, len(taps), sharey=True, squeeze=False)[0]
    last = study.config.steps
    lines = (
        ("trained", "share", "true", last, {"color": "tab:red"}),
        ("trained on shuffled labels", "share", "shuffled", last, {"color": "tab:orange"}),
        ("initialisation", "share", "true", 0, {"color": "tab:blue"}),
        ("random subspace", "random", "true", last, {"color": "gray"}),
        ("d/n", "line", "true", last, {"color": "black", "linestyle": ":"}),
    )
    for panel, tap in zip(panels, taps, strict=True):
        for label, column, labels, step, style in lines:
            some = [row for row in rows
                    if (row["tap"], row["labels"], row["step"]) == (tap, labels, step)]  # fmt: skip
            dimensions = sorted({row["dimension"] for row in some})
            values = np.array(
                [[row[column] for row in some if row["dimension"] == d] for d in dimensions]
            )
            # A silenced network has no share.
            values = values[:, np.isfinite(values).all(axis=0)]
            if not values.size:
                continue
            panel.plot(dimensions, values.mean(axis=1), label=label, **style)
            panel.fill_between(dimensions, values.min(axis=1), values.max(axis=1),
                               color=style["color"], alpha=0.2, linewidth=0)  # fmt: skip
        units = next(row["units"] for row in rows if row["tap"] == tap)
        panel.set_xscale("log", base=2)
        panel.set(title=f"{tap}, {units:,} units", xlabel="dimension d")
    panels[0].set_ylabel("share of the Jacobian inside")
    # The narrowest tap, where networks on shuffled labels fall silent last.
    handles, labels = panels[-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
    figure.suptitle(f"Jacobian and manifold, {study.data_name}: mean and range of "
                    f"{len(study.seeds)} seeds")  # fmt: skip
    return figure


def main(study: Study) -> None:
    """Measures, judges and draws."""
    rows: list[Row] = []
    for seed in study.seeds:
        for labels in ("true", "shuffled"):
            name = f"{labels}-seed{seed}"
            rows += study.part(name, partial(one_network, study, labels, seed))
    study.finish("alignment", rows, judged(study, rows), draw(study, rows))
