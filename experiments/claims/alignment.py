"""The Jacobian's row space aligns with the neural manifold.

Networks are trained by backpropagation on the labels and on shuffled labels. At initialisation and
during training, the share of the exact Jacobian's squared norm is measured at each tap inside the
first d principal components of activity (2,048 training images) and inside a random subspace of d
dimensions, and is compared with d/n. The principal angles between the components and the leading
directions of the Jacobian are also measured.
"""

import dataclasses
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.analysis.alignment import measure
from experiments.analysis.tables import where
from experiments.claims.study import Row, Study
from experiments.claims.verdicts import Verdict, judge
from experiments.training.loop import through_training

DEFAULTS: dict[str, Any] = {"estimator": "backprop", "steps": 600, "log_every": 600}


def one_network(study: Study, labels: str, seed: int) -> list[Row]:
    """Returns the rows of a network of one seed, trained on the labels or on shuffled labels."""
    data, steps = study.data, study.config.run.steps
    if labels == "shuffled":
        order = np.random.default_rng(seed).permutation(data.train_size)
        data = dataclasses.replace(data, train_targets=data.train_targets[order])
    config = study.config.replace(seed=seed)
    stages = [0, steps // 6, steps // 3, steps] if study.full else [0, steps // 6, steps]
    return [
        {"labels": labels, "seed": seed, "step": step, **row}
        for step, params in through_training(config, data, stages)
        for row in measure(config, data, params)
    ]


def judged(study: Study, rows: list[Row]) -> list[Verdict]:
    """Judges the statements at the configuration's rank, over the taps that are wider."""
    rank, last = study.config.method.rank, study.config.run.steps

    at_rank = where(rows, dimension=rank)
    wide = at_rank[at_rank["units"] > rank]

    def mean_over_taps(column: str, labels: str, step: int) -> Any:
        some = where(wide, labels=labels, step=step)
        by_tap = np.log2(some.pivot(index="seed", columns="tap", values=column))
        # If a tap is silenced the mean is NaN, because that of the other taps is not comparable.
        return by_tap.mean(axis=1, skipna=False)

    def difference(left: tuple[str, str, int], right: tuple[str, str, int]) -> Any:
        return mean_over_taps(*left) - mean_over_taps(*right)

    trained = ("share", "true", last)
    return [
        judge(
            f"a trained network's Jacobian is inside the first {rank} principal components of "
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
    """Draws the share over d at each tap."""
    table = pd.DataFrame(rows)
    taps = list(table["tap"].unique())
    figure = Figure(figsize=(3.2 * len(taps), 3.8), layout="constrained")
    panels = figure.subplots(1, len(taps), sharey=True, squeeze=False)[0]
    last = study.config.run.steps
    lines = (
        ("trained", "share", "true", last, {"color": "tab:red"}),
        ("trained on shuffled labels", "share", "shuffled", last, {"color": "tab:orange"}),
        ("initialisation", "share", "true", 0, {"color": "tab:blue"}),
        ("random subspace", "random", "true", last, {"color": "gray"}),
        ("d/n", "line", "true", last, {"color": "black", "linestyle": ":"}),
    )
    for panel, tap in zip(panels, taps, strict=True):
        for label, column, labels, step, style in lines:
            some = where(table, tap=tap, labels=labels, step=step)
            # A silenced network has no share.
            values = some.pivot(index="dimension", columns="seed", values=column).dropna(axis=1)
            if values.empty:
                continue
            panel.plot(values.index, values.mean(axis=1), label=label, **style)
            panel.fill_between(values.index, values.min(axis=1), values.max(axis=1),
                               color=style["color"], alpha=0.2, linewidth=0)  # fmt: skip
        units = next(row["units"] for row in rows if row["tap"] == tap)
        panel.set_xscale("log", base=2)
        panel.set(title=f"{tap}, {units:,} units", xlabel="dimension d")
    panels[0].set_ylabel("share of the Jacobian inside")
    # The legend of the narrowest tap, where networks on shuffled labels fall silent last.
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
