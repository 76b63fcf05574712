"""Recurrent networks: few probes learn more inside the manifold.

A network of leaky units learns three tasks. Noise in its rates is correlated with their effect on
the next step, with a number of probes per training step (`--probe-rows`; by default each of
`PROBES`), and credit is chained backwards in time. Noise is isotropic (vnc) or in the principal
components of the rates (nmnc), whose number is chosen during training by the share of the variance
that they explain. The baselines are backpropagation through time, with and without the path through
the recurrent weights (one step). `--full` adds fixed ranks, fixed random feedback, and the later
loss correlated with noise in each trial. For trained networks the claim also shows trajectories,
the dimension of activity over the number of units, and the share of the recurrent weights inside.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from experiments.analysis.rates import (
    NOISE_PROBES,
    activity,
    draw_rates,
    noise_of_feedback,
    trajectories,
)
from experiments.analysis.tables import where
from experiments.claims.study import Row, Study, band, trained
from experiments.claims.verdicts import Verdict, judge
from experiments.configuration import Config
from experiments.data import load
from experiments.methods import COLOURS

DEFAULTS: dict[str, Any] = {
    "data": "flip_flop", "model": "leaky", "features": (64,), "strides": (), "steps": 400,
    "log_every": 400, "rank": 16, "alignment_batch": 512, "basis_batch": 256,
    "basis_update_every": 50, "basis_decay": 0.7,
}  # fmt: skip
TASKS = ("flip_flop", "match", "evidence")
PROBES = (1, 4, 32, 256, 3200)
"""Numbers of probes per step: perturbed rows, of 64 trials of 50 time steps."""
RANKS = (4, 8, 16, 32)
EXPLAINED = 0.99
"""Share of variance that chooses the rank during training; it was chosen among .9 to .999 on
held-out trials."""
MOST = 64
"""Largest rank that is chosen."""
FIXED = ("tab:pink", "tab:orange", "tab:brown", "tab:olive")
"""Colours of fixed ranks."""
CHOSEN = "chosen"
"""Stands for a rank that is chosen during training."""
CONTROLS = (
    "feedback_alignment",
    "node_perturbation",
    "node_perturbation_manifold",
)
SIZES = (64, 128, 256, 512)
"""Sizes of the networks whose activity is measured."""
NEAR = 1.2
"""The loss to reach, relative to that of backpropagation through time."""


def on_task(study: Study, task: str, units: int, **fields: Any) -> tuple[Study, Config]:
    """Returns the study and its configuration for one task and number of units."""
    config = study.config.replace(data=task, features=(units,), **fields)
    return study._replace(config=config, data=load(config)), config


def settings(config: Config, *, full: bool) -> Iterator[tuple[str, int | str, int | None]]:
    """Yields method, rank and probes per step (None for all rows) of everything that is trained."""
    for method in ("backprop", "one_step", *(CONTROLS if full else ())):
        yield method, config.method.rank, None
    for probes in (config.method.probe_rows,) if config.method.probe_rows else PROBES:
        yield "vnc", config.method.rank, probes
        for rank in (*(RANKS if full else ()), CHOSEN):
            yield "nmnc", rank, probes


def manifold(rank: int | str, units: int) -> dict[str, Any]:
    """Returns the fields of a configuration for a rank, or for one that is `CHOSEN` in training."""
    if rank == CHOSEN:
        return {"rank": min(MOST, units), "explained_variance": EXPLAINED}
    return {"rank": rank}


def one_setting(
    study: Study, task: str, units: int, method: str, rank: int | str, probes: int | None
) -> list[Row]:
    """Returns the rows of every seed of a method."""
    inside, config = on_task(
        study, task, units, estimator=method, probe_rows=probes, **manifold(rank, units)
    )
    setting = {"task": task, "units": units, "method": method, "rank": rank, "probes": probes or 0}
    return [{**setting, **row} for row in trained(inside, config)]


def losses(rows: Any, **wanted: Any) -> np.ndarray:
    """Returns the test loss of each seed in the rows whose columns have these values."""
    return where(rows, **wanted).sort_values("seed")["test_loss"].to_numpy()


def probes_needed(probes: Sequence[int], measured: np.ndarray, target: float) -> float:
    """Returns log2 of the probes at which losses reach a target; of twice the most if never."""
    if measured.min() > target:
        return float(np.log2(2 * probes[-1]))
    place = int(np.argmax(measured <= target))
    if place == 0:
        return float(np.log2(probes[0]))
    above, below = measured[place - 1], measured[place]
    share = (above - target) / (above - below)
    return float((1 - share) * np.log2(probes[place - 1]) + share * np.log2(probes[place]))


def probes_of(rows: Any, **wanted: Any) -> list[int]:
    """Returns the numbers of probes that were measured."""
    return sorted({*where(rows, **wanted)["probes"]} - {0})


def ranks_of(rows: Any, **wanted: Any) -> list[int]:
    """Returns the fixed ranks of nmnc that were measured."""
    return sorted({*where(rows, method="nmnc", **wanted)["rank"]} - {CHOSEN})


def ratio_of_probes(rows: list[Row], task: str, units: int, rank: int | str) -> np.ndarray:
    """Returns log2 of the ratio of the probes that vnc and nmnc need, for each seed."""
    place = {"task": task, "units": units}
    targets = NEAR * losses(rows, method="backprop", **place)
    needed = []
    for method in ({"method": "vnc"}, {"method": "nmnc", "rank": rank}):
        probes = probes_of(rows, **place, **method)
        curve = np.array([losses(rows, probes=p, **place, **method) for p in probes])
        needed.append([probes_needed(probes, c, t) for c, t in zip(curve.T, targets, strict=True)])
    return np.array(needed[0]) - np.array(needed[1])


def judged(rows: list[Row]) -> list[Verdict]:
    """Judges the loss at each number of probes, the probes that are needed, and the chosen rank."""
    verdicts = []
    for task, units in dict.fromkeys((row["task"], row["units"]) for row in rows):
        place = {"task": task, "units": units}
        named = f"{task}, {units} units"
        chosen = {"method": "nmnc", "rank": CHOSEN, **place}
        for probes in probes_of(rows, **chosen):
            ahead = np.log2(
                losses(rows, method="vnc", probes=probes, **place)
                / losses(rows, probes=probes, **chosen)
            )
            verdicts.append(
                judge(
                    f"{named}: with {probes} probes a step nmnc learns more",
                    "log2 of vnc's test loss over nmnc's",
                    ahead,
                )
            )
            fixed = {
                rank: losses(rows, method="nmnc", rank=rank, probes=probes, **place)
                for rank in ranks_of(rows, **place)
            }
            if len(fixed) > 1:
                best = min(fixed, key=lambda rank: fixed[rank].mean())
                verdicts.append(
                    judge(
                        f"{named}: with {probes} probes the rank chosen on the run learns more "
                        f"than the best fixed one ({best})",
                        "log2 of the fixed rank's test loss over the chosen one's",
                        np.log2(fixed[best] / losses(rows, probes=probes, **chosen)),
                    )
                )
        if len(probes_of(rows, **chosen)) > 1:
            verdicts.append(
                judge(
                    f"{named}: nmnc needs fewer probes for {NEAR} times backpropagation's loss",
                    "log2 of vnc's probes over nmnc's, where none suffice twice the most tried",
                    ratio_of_probes(rows, task, units, CHOSEN),
                )
            )
    return verdicts


def draw(
    study: Study, rows: list[Row], measured: list[Row], noises: list[Row], paths: list[Row]
) -> Figure:
    """Draws loss over probes for each task, and measurements of the rates below."""
    places = list(dict.fromkeys((row["task"], row["units"]) for row in rows))
    figure = Figure(figsize=(4.6 * max(len(places), 3), 8), layout="constrained")
    upper: Any
    lower: Any
    upper, lower = figure.subfigures(2, 1)  # pyright: ignore[reportGeneralTypeIssues]
    panels = upper.subplots(1, len(places), squeeze=False)[0]
    for panel, (task, units) in zip(panels, places, strict=True):
        here = where(rows, task=task, units=units)
        vnc = where(here, method="vnc")
        band(panel, vnc, "probes", "test_loss", colour=COLOURS["vnc"], label="vnc")
        for place, rank in enumerate((*ranks_of(here), CHOSEN)):
            some = where(here, method="nmnc", rank=rank)
            colour = COLOURS["nmnc"] if rank == CHOSEN else FIXED[place % len(FIXED)]
            label = f"nmnc, rank {rank}" + (" on the run" if rank == CHOSEN else "")
            filled = rank == CHOSEN
            band(panel, some, "probes", "test_loss", colour=colour, label=label, fill=filled)
        for method in where(here, probes=0)["method"].unique():
            level = losses(here, method=method).mean()
            panel.axhline(level, color=COLOURS[method], linestyle="--", linewidth=1, label=method)
        panel.set_xscale("log", base=2)
        panel.xaxis.set_major_formatter("{x:g}")
        panel.set_yscale("log")
        # An interval may reach below zero.
        panel.set_ylim(bottom=0.9 * here["test_loss"].min())
        panel.yaxis.set_major_formatter("{x:g}")
        low, high = panel.get_ylim()
        panel.yaxis.set_minor_formatter("{x:g}" if high < 5 * low else NullFormatter())
        panel.set(title=f"{task}, {units} units", xlabel="probes in a step", ylabel="test loss")
    handles, labels = panels[0].get_legend_handles_labels()
    upper.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)

    draw_rates(lower, measured, noises, paths, TASKS[0])
    figure.suptitle(f"{study.config.run.steps} steps of {study.config.run.batch} trials: mean of "
                    f"{len(study.seeds)} seeds, 95 % interval; below, one network")  # fmt: skip
    return figure


def main(study: Study) -> None:
    """Measures, judges and draws."""
    rows: list[Row] = []
    config = study.config
    units = config.model.features[0]
    for task in TASKS:
        for method, rank, probes in settings(config, full=study.full):
            rows += study.part(
                f"{task}-{units}-{method}-rank{rank}-probes{probes or 'all'}",
                partial(one_setting, study, task, units, method, rank, probes),
            )
    measured = []
    for task in TASKS:
        for size in SIZES:
            inside, settled = on_task(study, task, size, estimator="backprop")
            make = partial(activity, settled, inside.data)
            measured += study.part(f"activity-{task}-{size}", make)
    noises = []
    for size in SIZES:
        for method in ("vnc", "nmnc"):
            inside, settled = on_task(
                study, TASKS[0], size, estimator=method, probe_rows=NOISE_PROBES,
                **manifold(CHOSEN, size),
            )  # fmt: skip
            make = partial(noise_of_feedback, settled, inside.data)
            noises += study.part(f"noise-{method}-{size}", make)
    inside, settled = on_task(study, TASKS[0], units, estimator="nmnc")
    paths = study.part("trajectories", partial(trajectories, settled, inside.data))
    study.finish("recurrent", rows, judged(rows), draw(study, rows, measured, noises, paths))
