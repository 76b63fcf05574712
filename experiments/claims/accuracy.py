"""Noise correlation in the manifold learns better than isotropic noise, nearly as backpropagation.

All methods perturb with one probe per example and step and with equal energy. Learning rate and
decay are chosen for each method by its accuracy on a held-out part of the training set, with
a seed of its own; then every seed trains on the whole training set, and the test set is read.
"""

import dataclasses
import itertools
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.claims.study import Row, Study, Verdict, band, judge
from experiments.config import Config
from experiments.data import load_in_memory
from experiments.figures import COLOURS
from experiments.loop import train
from experiments.trainer import make_trainer

DEFAULTS: dict[str, Any] = {"steps": 600, "log_every": 200, "rank": 256, "alignment_batch": 512}
RATES = (1e-3, 3e-3)
DECAYS = (0.9, 0.99)
LEARNED = ("nmnc", "vnc", "random_subspace", "weight_mirror_manifold")
"""Methods with a decay to choose."""
METHODS = (
    "backprop",
    "nmnc",
    "vnc",
    "random_subspace",
    "weight_mirror_manifold",
    "node_perturbation",
    "node_perturbation_manifold",
    "dfa",
)
SEARCH_SEED = 1000


def settings(config: Config, method: str) -> list[Config]:
    """What the search tries for one method."""
    decays = DECAYS if method in LEARNED else (config.feedback_decay,)
    return [
        dataclasses.replace(config, estimator=method, learning_rate=rate, feedback_decay=decay)
        for rate, decay in itertools.product(RATES, decays)
    ]


def searched(study: Study, method: str) -> list[Row]:
    """Held-out accuracy of every setting, after half the steps."""
    half = max(study.config.steps // 2, 1)
    config = dataclasses.replace(
        study.config, validation=True, steps=half, log_every=half, seed=SEARCH_SEED
    )
    data = load_in_memory(config)
    rows: list[Row] = []
    for tried in settings(config, method):
        summary = train(make_trainer(tried, data), tried, data, lambda record: None)
        rows.append(
            {
                "learning_rate": tried.learning_rate,
                "feedback_decay": tried.feedback_decay,
                "held_out_accuracy": summary["test_accuracy"],
            }
        )
    return rows


def one_method(study: Study, method: str, chosen: Row) -> list[Row]:
    """Every seed's measurements, at the chosen setting."""
    fields = {name: chosen[name] for name in ("learning_rate", "feedback_decay")}
    config = dataclasses.replace(study.config, estimator=method, **fields)
    trainer = make_trainer(config, study.data)
    rows: list[Row] = []
    for seed in study.seeds:
        records: list[Row] = []
        train(trainer, dataclasses.replace(config, seed=seed), study.data, records.append)
        kept = ("step", "test_accuracy", "train_accuracy", "loss", "gradient_alignment")
        rows += [
            {"method": method, "seed": seed, **fields, **{name: record[name] for name in kept}}
            for record in records
        ]
    return rows


def final(study: Study, rows: list[Row], method: str) -> np.ndarray:
    """Test accuracy at the end, for each seed."""
    last = {
        row["seed"]: row["test_accuracy"]
        for row in rows
        if (row["method"], row["step"]) == (method, study.config.steps)
    }
    return np.array([last[seed] for seed in study.seeds])


def judged(study: Study, rows: list[Row]) -> list[Verdict]:
    """NMNC against the others, seed by seed."""
    nmnc = final(study, rows, "nmnc")
    within = judge(
        "nmnc is within .02 of backpropagation",
        "test accuracy of nmnc less that of backprop, plus .02",
        nmnc - final(study, rows, "backprop") + 0.02,
    )
    return [within] + [
        judge(
            f"nmnc is ahead of {other}, each at its best setting",
            f"test accuracy of nmnc less that of {other}",
            nmnc - final(study, rows, other),
        )
        for other in METHODS
        if other not in ("nmnc", "backprop")
    ]


def draw(study: Study, rows: list[Row]) -> Figure:
    """Accuracy over steps, and at the end."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    curves, bars = figure.subplots(1, 2)
    for place, method in enumerate(METHODS):
        some = [row for row in rows if row["method"] == method]
        ends = band(curves, some, "step", "test_accuracy", colour=COLOURS[method], label=method)
        mean, low, high = ends[-1]
        bars.barh(place, mean, color=COLOURS[method], alpha=0.8)
        if len(study.seeds) > 1:
            bars.errorbar(mean, place, xerr=[[mean - low], [high - mean]], color="black", capsize=3)
    curves.set(title="test accuracy", xlabel="step", ylabel="accuracy")
    bars.set_yticks(range(len(METHODS)), METHODS)
    bars.invert_yaxis()
    bars.set(title="at the end", xlabel="test accuracy")
    figure.suptitle(f"{study.data_name}, one probe per example and step: mean and 95 % interval "
                    f"of {len(study.seeds)} seeds")  # fmt: skip
    return figure


def main(study: Study) -> None:
    """Chooses, measures, judges and draws."""
    rows: list[Row] = []
    for method in METHODS:
        tried = study.part(f"search-{method}", partial(searched, study, method))
        chosen = max(tried, key=lambda row: row["held_out_accuracy"])
        rows += study.part(method, partial(one_method, study, method, chosen))
    study.finish("accuracy", rows, judged(study, rows), draw(study, rows))
