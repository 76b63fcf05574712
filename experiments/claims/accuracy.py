"""Noise correlation in the manifold learns better than isotropic noise, nearly as backpropagation.

All methods perturb with one probe per example and step and with equal energy; accuracy is also
shown over passes through the network. Learning rate, decay, rank and refresh interval are chosen
for each method, one after the other, by accuracy on a held-out part of the training set, with a
separate seed. Then every seed trains on the whole training set and is tested on the test set. The
oracle subspace is spanned by the rows of the exact mean Jacobian.
"""

from functools import partial
from typing import Any, cast

import jax
import numpy as np
from matplotlib.figure import Figure

from experiments.analysis.figures import mark_chance
from experiments.analysis.tables import where
from experiments.claims.study import Row, Study, band
from experiments.claims.verdicts import Verdict, judge
from experiments.configuration import Config
from experiments.data import load_in_memory
from experiments.methods import COLOURS, TABLE, forward_passes
from experiments.training.loop import train
from experiments.training.network import build_model
from experiments.training.trainer import make_trainer
from nmnc_jax.layout import tap_shapes

DEFAULTS: dict[str, Any] = {"steps": 600, "log_every": 200, "rank": 256, "alignment_batch": 512,
                            "basis_update_every": 50}  # fmt: skip
SEARCHED: dict[str, tuple[Any, ...]] = {
    "learning_rate": (1e-3, 3e-3),
    "feedback_decay": (0.9, 0.97, 0.99),
    "rank": (64, 256),
    "basis_update_every": (50, 200),
}
"""The values that the search tries, in this order."""
METHODS = (
    "backprop",
    "oracle_subspace",
    "nmnc",
    "vnc",
    "random_subspace",
    "weight_mirror_manifold",
    "node_perturbation",
    "node_perturbation_manifold",
    "dfa",
)
SEARCH_SEED = 1000


def matters(method: str, field: str) -> bool:
    """Returns whether a method uses a setting."""
    entry = TABLE[method]
    having = {
        "feedback_decay": entry.cost == "learned",
        "rank": entry.subspace in ("manifold", "random"),
        "basis_update_every": entry.subspace in ("manifold", "jacobian"),
    }
    return having.get(field, True)


def searched(study: Study, method: str) -> list[Row]:
    """Searches each setting in turn by held-out accuracy after half the steps."""
    half = max(study.config.run.steps // 2, 1)
    config = study.config.replace(
estimator=method, validation=True, steps=half, log_every=half,
        seed=SEARCH_SEED,
    )  # fmt: skip
    data = load_in_memory(config)
    rows: list[Row] = []
    tried: dict[tuple[Any, ...], float] = {}

    def accuracy(one: Config) -> float:
        setting = {field: one.fields()[field] for field in SEARCHED}
        place = tuple(setting.values())
        if place not in tried:
            summary = train(make_trainer(one, data), one, data, lambda record: None)
            tried[place] = summary["test_accuracy"]
            rows.append({**setting, "held_out_accuracy": tried[place]})
        return tried[place]

    for field, values in SEARCHED.items():
        if matters(method, field):
            config = max((config.replace(**{field: v}) for v in values), key=accuracy)
    return rows


def one_method(study: Study, method: str, chosen: Row) -> list[Row]:
    """Returns the measurements of every seed at the chosen setting."""
    fields = {name: chosen[name] for name in SEARCHED}
    config = study.config.replace(estimator=method, **fields)
    trainer = make_trainer(config, study.data)
    sample = jax.ShapeDtypeStruct((1, *study.data.train_inputs.shape[1:]), np.float32)
    model = build_model(config, study.data.classes)
    params = jax.eval_shape(model.init, jax.random.key(0), sample)
    taps = len(tap_shapes(cast(Any, model.apply), params, sample))
    rows: list[Row] = []
    for seed in study.seeds:
        records: list[Row] = []
        train(trainer, config.replace(seed=seed), study.data, records.append)
        kept = ("step", "test_accuracy", "train_accuracy", "loss", "gradient_alignment")
        rows += [
            {
                "method": method,
                "seed": seed,
                **fields,
                "passes": record["step"] * forward_passes(config, taps),
                **{name: record[name] for name in kept},
            }
            for record in records
        ]
    return rows


def final(study: Study, rows: list[Row], method: str) -> np.ndarray:
    """Returns the test accuracy at the end of training, for each seed."""
    ends = where(rows, method=method, step=study.config.run.steps)
    return ends.sort_values("seed")["test_accuracy"].to_numpy()


def judged(study: Study, rows: list[Row]) -> list[Verdict]:
    """Compares NMNC with the other methods, seed by seed."""
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
    """Draws accuracy over steps and passes, and at the end."""
    figure = Figure(figsize=(14, 4.8), layout="constrained")
    curves, costs, bars = figure.subplots(1, 3)
    for place, method in enumerate(METHODS):
        some = where(rows, method=method)
        ends = band(curves, some, "step", "test_accuracy", colour=COLOURS[method], label=method)
        band(costs, some, "passes", "test_accuracy", colour=COLOURS[method], label=method)
        mean, low, high = ends[-1]
        bars.barh(place, mean, color=COLOURS[method], alpha=0.8)
        if len(study.seeds) > 1:
            bars.errorbar(mean, place, xerr=[[mean - low], [high - mean]], color="black", capsize=3)
    curves.set(title="over steps", xlabel="step", ylabel="test accuracy")
    costs.set(title="over passes", xlabel="passes, forward or backward, through the network")
    costs.sharey(curves)
    for panel in (curves, costs, bars):
        mark_chance(panel, study.data.chance, upright=panel is bars)
    handles, labels = curves.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
    bars.set_yticks(range(len(METHODS)), METHODS)
    bars.invert_yaxis()
    bars.set(title="at the end", xlabel="test accuracy")
    figure.suptitle(f"{study.data_name}, one probe per example and step: mean and 95 % interval "
                    f"of {len(study.seeds)} seeds")  # fmt: skip
    return figure


def main(study: Study) -> None:
    """Chooses settings, measures, judges and draws."""
    rows: list[Row] = []
    for method in METHODS:
        tried = study.part(f"search-{method}", partial(searched, study, method))
        chosen = max(tried, key=lambda row: row["held_out_accuracy"])
        rows += study.part(method, partial(one_method, study, method, chosen))
    study.finish("accuracy", rows, judged(study, rows), draw(study, rows))
