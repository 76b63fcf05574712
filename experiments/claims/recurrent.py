"""Recurrent networks: few probes learn more inside the manifold.

A network of leaky units learns three tasks. Noise in its rates is correlated with what they add to
the next step, so many times in a step of training (`probe_rows`, of batch times time steps), and
credit is chained backwards in time: isotropic (vnc) or in the rates' principal components (nmnc),
beside backpropagation through time, the same without its recurrent weights (one step), fixed random
feedback, and the loss to come correlated with noise in each trial. And in networks that
backpropagation has trained: their trajectories, the dimension of their activity over the number of
units, and the share of the recurrent weights inside it.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from experiments.claims.alignment import cumulative_share
from experiments.claims.dimensionality import measure
from experiments.claims.study import Row, Study, Verdict, band, judge, trained
from experiments.config import Config
from experiments.data import load
from experiments.figures import COLOURS
from experiments.loop import through_training
from experiments.trainer import build_model
from nmnc_jax import pca, run
from nmnc_jax.types import Array

DEFAULTS: dict[str, Any] = {
    "data": "flip_flop", "model": "leaky", "features": (64,), "strides": (), "steps": 400,
    "log_every": 400, "rank": 16, "alignment_batch": 512, "basis_batch": 256,
    "basis_update_every": 50, "basis_decay": 0.7,
}  # fmt: skip
TASKS = ("flip_flop", "match", "evidence")
PROBES = (4, 32, 256)
ALL_PROBES = (1, 4, 16, 64, 256, 1024, 3200)
ALL_UNITS = (64, 256, 1024)
RANKS = (8, 16)
ALL_RANKS = (4, 8, 16, 32)
REFERENCES = (
    "backprop",
    "one_step",
    "feedback_alignment",
    "node_perturbation",
    "node_perturbation_manifold",
)
SIZES = (64, 128, 256, 512)
"""Of the networks whose activity is measured."""
TRIALS = 64
NEAR = 1.2
"""The loss to be reached, over that of backpropagation through time."""


def on_task(study: Study, task: str, units: int, **fields: Any) -> tuple[Study, Config]:
    """The study and its configuration for one task and number of units."""
    config = dataclasses.replace(study.config, data=task, features=(units,), **fields)
    return study._replace(config=config, data=load(config)), config


def one_setting(
    study: Study, task: str, units: int, method: str, rank: int, probes: int | None
) -> list[Row]:
    """Every seed of a method."""
    rank = min(rank, units)
    inside, config = on_task(study, task, units, estimator=method, rank=rank, probe_rows=probes)
    told = {"task": task, "units": units, "method": method, "rank": rank, "probes": probes or 0}
    return [{**told, **row} for row in trained(inside, config)]


def activity(study: Study, task: str, units: int) -> list[Row]:
    """Dimension of the rates of one network, and the share of its weights inside components."""
    inside, config = on_task(study, task, units, estimator="backprop")
    inputs, _ = inside.data.test_examples(np.arange(TRIALS))
    ((_, params),) = through_training(config, inside.data, [config.steps])
    rates = rates_of(config, inside.data.outputs, params, inputs).reshape(-1, units)
    recurrent = params["params"]["network"]["recurrent"].T
    components = pca(units).init("rate", rates).basis
    assert components is not None
    share = cumulative_share(recurrent, components)
    found = measure(np.asarray(rates))
    return [
        {"task": task, "units": units, **found, "dimension": d, "share": share[d - 1]}
        for d in (2**k for k in range(int(np.log2(units)) + 1))
    ]


def rates_of(config: Config, outputs: int, params: Any, inputs: np.ndarray) -> Array:
    """Rates of a network, [B, T, n]."""
    apply_fn: Any = build_model(config, outputs).apply
    return jax.jit(lambda p, x: run(apply_fn, p, x)[1]["rate"])(params, inputs).swapaxes(0, 1)


def trajectories(study: Study, task: str) -> list[Row]:
    """First three principal components of the rates, and the condition of each time step."""
    inside, config = on_task(study, task, study.config.features[0], estimator="nmnc")
    inputs, targets = inside.data.test_examples(np.arange(8))
    ((_, params),) = through_training(config, inside.data, [config.steps])
    rates = np.asarray(rates_of(config, inside.data.outputs, params, inputs))
    rows = rates.reshape(-1, rates.shape[-1])
    centred = rows - rows.mean(axis=0)
    places = (centred @ np.linalg.svd(centred, full_matrices=False)[2][:3].T).reshape(8, -1, 3)
    wanted = targets[..., :-1] > 0
    condition = (wanted * 2 ** np.arange(wanted.shape[-1])).sum(axis=-1)
    return [
        {"trial": trial, "step": step, "condition": int(condition[trial, step]),
         **{f"component{c}": float(places[trial, step, c]) for c in range(3)}}
        for trial in range(8) for step in range(places.shape[1])
    ]  # fmt: skip


def losses(rows: Sequence[Row], **wanted: Any) -> np.ndarray:
    """Test loss of each seed where the columns have these values."""
    some = [row for row in rows if all(row[name] == value for name, value in wanted.items())]
    return np.array([row["test_loss"] for row in sorted(some, key=lambda row: row["seed"])])


def probes_needed(probes: Sequence[int], measured: np.ndarray, target: float) -> float:
    """log2 of the probes at which losses first reach a target; NaN if they never do."""
    if measured.min() > target:
        return float("nan")
    place = int(np.argmax(measured <= target))
    if place == 0:
        return float(np.log2(probes[0]))
    above, below = measured[place - 1], measured[place]
    share = (above - target) / (above - below)
    return float((1 - share) * np.log2(probes[place - 1]) + share * np.log2(probes[place]))


def ratio_of_probes(rows: list[Row], task: str, units: int, rank: int) -> np.ndarray:
    """log2 of the probes that vnc needs over those that nmnc needs, for each seed."""
    probes = sorted({row["probes"] for row in rows if row["probes"]})
    place = {"task": task, "units": units}
    curves = {
        "vnc": np.array([losses(rows, method="vnc", probes=p, **place) for p in probes]),
        "nmnc": np.array(
            [losses(rows, method="nmnc", probes=p, rank=rank, **place) for p in probes]
        ),
    }
    targets = NEAR * losses(rows, method="backprop", **place)
    needed = {
        method: [probes_needed(probes, curve, t) for curve, t in zip(found.T, targets, strict=True)]
        for method, found in curves.items()
    }
    return np.array(needed["vnc"]) - np.array(needed["nmnc"])


def judged(rows: list[Row]) -> list[Verdict]:
    """At each number of probes, and the probes for nearly backpropagation's loss."""
    verdicts = []
    for task, units in dict.fromkeys((row["task"], row["units"]) for row in rows):
        place = {"task": task, "units": units}
        ranks = sorted({row["rank"] for row in rows if row["method"] == "nmnc"})
        rank = min(ranks[-1], units)
        where = f"{task}, {units} units, rank {rank}"
        for probes in sorted({row["probes"] for row in rows if row["probes"]}):
            ahead = np.log2(
                losses(rows, method="vnc", probes=probes, **place)
                / losses(rows, method="nmnc", probes=probes, rank=rank, **place)
            )
            verdicts.append(
                judge(
                    f"{where}: with {probes} probes a step nmnc learns more",
                    "log2 of vnc's test loss over nmnc's",
                    ahead,
                )
            )
        ratios = ratio_of_probes(rows, task, units, rank)
        if np.isfinite(ratios).all():
            verdicts.append(
                judge(
                    f"{where}: nmnc needs fewer probes for {NEAR} times backpropagation's loss",
                    "log2 of vnc's probes over nmnc's",
                    ratios,
                )
            )
    return verdicts


def draw(study: Study, rows: list[Row], measured: list[Row], paths: list[Row]) -> Figure:
    """Loss over probes, task by task; trajectories, dimension and share below."""
    places = list(dict.fromkeys((row["task"], row["units"]) for row in rows))
    figure = Figure(figsize=(4.6 * max(len(places), 3), 8), layout="constrained")
    upper: Any
    lower: Any
    upper, lower = figure.subfigures(2, 1)  # pyright: ignore[reportGeneralTypeIssues]
    panels = upper.subplots(1, len(places), squeeze=False)[0]
    for panel, (task, units) in zip(panels, places, strict=True):
        here = [row for row in rows if (row["task"], row["units"]) == (task, units)]
        ranks = sorted({row["rank"] for row in here if row["method"] == "nmnc"})
        vnc = [row for row in here if row["method"] == "vnc"]
        band(panel, vnc, "probes", "test_loss", colour=COLOURS["vnc"], label="vnc")
        for place, rank in enumerate(ranks):
            some = [row for row in here if (row["method"], row["rank"]) == ("nmnc", rank)]
            colour = ("tab:red", "tab:orange", "tab:pink", "tab:brown")[place]
            band(panel, some, "probes", "test_loss", colour=colour, label=f"nmnc, rank {rank}")
        for method in REFERENCES:
            level = losses(here, method=method).mean()
            panel.axhline(level, color=COLOURS[method], linestyle="--", linewidth=1, label=method)
        panel.set_xscale("log", base=2)
        panel.xaxis.set_major_formatter("{x:g}")
        panel.set_yscale("log")
        panel.set(title=f"{task}, {units} units", xlabel="probes in a step", ylabel="test loss")
    handles, labels = panels[0].get_legend_handles_labels()
    upper.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)

    space = lower.add_subplot(1, 3, 1, projection="3d")
    for trial in sorted({row["trial"] for row in paths}):
        some = [row for row in paths if row["trial"] == trial]
        line = np.array([[row[f"component{c}"] for c in range(3)] for row in some])
        space.plot(*line.T, color="lightgray", linewidth=0.6)
        space.scatter(*line.T, c=[row["condition"] for row in some], cmap="tab10", s=5)  # pyright: ignore[reportArgumentType]
    space.set_title("rates of a network that nmnc has trained:\nprincipal components, "
                    f"by the state of {TASKS[0]}", fontsize=10)  # fmt: skip
    dimension, share = lower.add_subplot(1, 3, 2), lower.add_subplot(1, 3, 3)
    sizes = sorted({row["units"] for row in measured})
    for task in dict.fromkeys(row["task"] for row in measured):
        for column, style in (("participation_ratio", "o-"), ("components_95", "s--")):
            values = [next(row[column] for row in measured
                           if (row["task"], row["units"]) == (task, n)) for n in sizes]  # fmt: skip
            told = "participation ratio" if style == "o-" else "95 % of variance"
            dimension.plot(sizes, values, style, label=f"{task}, {told}",
                           color=f"C{TASKS.index(task)}", markersize=4)  # fmt: skip
        some = [row for row in measured if (row["task"], row["units"]) == (task, sizes[0])]
        share.plot([row["dimension"] for row in some], [row["share"] for row in some], "o-",
                   markersize=4, label=task, color=f"C{TASKS.index(task)}")  # fmt: skip
    ranks = np.arange(1, sizes[0] + 1)
    share.plot(ranks, ranks / sizes[0], "k:", label="d/n")
    for panel in (dimension, share):
        panel.set_xscale("log", base=2)
        panel.xaxis.set_major_formatter("{x:g}")
        panel.legend(frameon=False, fontsize=7)
    dimension.set_title("dimension of rates, trained by backpropagation", fontsize=10)
    # Room for the legend.
    dimension.set(xlabel="units", ylabel="dimension", ylim=(0, 1.7 * dimension.get_ylim()[1]))
    share.set_title(f"recurrent weights inside d components, {sizes[0]} units", fontsize=10)
    share.set(xlabel="d", ylabel="share")
    figure.suptitle(f"{study.config.steps} steps of {study.config.batch} trials: mean and 95 % "
                    f"interval of {len(study.seeds)} seeds; below, one network each")  # fmt: skip
    return figure


def main(study: Study) -> None:
    """Measures, judges and draws."""
    rows: list[Row] = []
    for units in ALL_UNITS if study.full else study.config.features:
        for task in TASKS:
            settings: list[tuple[str, int, int | None]] = [
                (method, study.config.rank, None) for method in REFERENCES
            ]
            for probes in ALL_PROBES if study.full else PROBES:
                settings.append(("vnc", study.config.rank, probes))
                settings += [("nmnc", rank, probes) for rank in
                             (ALL_RANKS if study.full else RANKS)]  # fmt: skip
            for method, rank, probes in settings:
                rows += study.part(
                    f"{task}-{units}-{method}-rank{rank}-probes{probes or 'all'}",
                    partial(one_setting, study, task, units, method, rank, probes),
                )
    measured = [
        row
        for task in TASKS
        for units in SIZES
        for row in study.part(f"activity-{task}-{units}", partial(activity, study, task, units))
    ]
    paths = study.part("trajectories", partial(trajectories, study, TASKS[0]))
    study.finish("recurrent", rows, judged(rows), draw(study, rows, measured, paths))
