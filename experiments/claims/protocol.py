"""Every method with the protocol of the paper's group, whose study has VNC and NMNC as baselines.

KempnerInstitute/conditioned-dfa trains a dense network of 1,024 and 512 units on 12,000 images of
CIFAR-10 for 12 epochs by SGD. Feedback is averaged with decay .8 and refreshed every 1, 20, 100 or
500 steps; the manifold, of rank 16, 32 or 64, is updated every 20 steps on 1,024 samples. Here each
update uses the step's 128 images, with a decay for which 1,024 images count. The images are those
of `--data cifar10`, or of `--data folder --data-path PATH`.
"""

from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.analysis.figures import mark_chance
from experiments.analysis.statistics import student_interval
from experiments.analysis.tables import where
from experiments.claims.study import Row, Study, band, trained
from experiments.claims.verdicts import Verdict, judge
from experiments.methods import COLOURS, TABLE

EPOCHS, IMAGES, BATCH = 12, 12_000, 128
DEFAULTS: dict[str, Any] = {
    "data": "cifar10",
    "train_images": IMAGES,
    "model": "mlp",
    "features": (1024, 512),
    "strides": (),
    "optimiser": "sgd",
    "learning_rate": 0.04,
    "schedule": "constant",
    "batch": BATCH,
    "steps": EPOCHS * IMAGES // BATCH,
    "log_every": EPOCHS * IMAGES // BATCH,
    "kind": "orthogonal",
    "feedback_decay": 0.8,
    "update_every": 20,
    "rank": 64,
    "basis_batch": 1024,
    "basis_update_every": 20,
    # With this decay the weights of all batches add up to 1,024 images.
    "basis_decay": 1 - BATCH / 1024,
    "alignment_batch": 512,
}
REFRESHES = (1, 20, 100, 500)
RANKS = (16, 32, 64)
LINES = {16: ":", 32: "--"}
REFRESHED = ("vnc", "nmnc")
"""Methods that are trained at every refresh interval; other methods are trained at 20 steps."""


def one_setting(study: Study, method: str, rank: int, refresh: int) -> list[Row]:
    """Returns the rows of every seed of a method at one rank and refresh interval."""
    config = study.config.replace(estimator=method, rank=rank, update_every=refresh)
    rows = trained(study, config)
    angles = [np.degrees(np.arccos(row.get("credit_alignment", np.nan))) for row in rows]
    setting = {"method": method, "rank": rank, "refresh": refresh}
    return [
        {**setting, "credit_angle": None if np.isnan(angle) else float(angle), **row}
        for row, angle in zip(rows, angles, strict=True)
    ]


def accuracies(rows: list[Row], method: str, rank: int, refresh: int) -> np.ndarray:
    """Returns the test accuracy of each seed at one setting."""
    some = where(rows, method=method, rank=rank, refresh=refresh)
    return some.sort_values("seed")["test_accuracy"].to_numpy()


def judged(study: Study, rows: list[Row]) -> list[Verdict]:
    """Judges whether the manifold helps, at each refresh interval."""
    rank = study.config.method.rank

    return [
        judge(
            f"with feedback refreshed every {refresh} steps nmnc learns more",
            f"test accuracy of nmnc, rank {rank}, less that of vnc",
            accuracies(rows, "nmnc", rank, refresh) - accuracies(rows, "vnc", rank, refresh),
        )
        for refresh in REFRESHES
    ]


def _over_refreshes(panel: Axes, rows: list[Row], column: str, title: str, rank: int) -> None:
    for method, some_rank in [("vnc", rank), *(("nmnc", rank) for rank in RANKS)]:
        some = where(rows, method=method, rank=some_rank)
        name = f"nmnc, rank {some_rank}" if method == "nmnc" else method
        line = LINES.get(some_rank, "-") if method == "nmnc" else "-"
        band(panel, some, "refresh", column, colour=COLOURS[method], label=name, line=line)
    panel.set(title=title, xlabel="steps between two refreshes of the feedback", xscale="log")
    panel.set_xticks(REFRESHES, [str(refresh) for refresh in REFRESHES])


def draw(study: Study, rows: list[Row], others: list[str]) -> Figure:
    """Draws accuracy and angle over the refresh interval, and the accuracy of every method."""
    rank, refresh = study.config.method.rank, study.config.method.update_every
    figure = Figure(figsize=(15, 4.6), layout="constrained")
    accuracy, angle, bars = figure.subplots(1, 3)
    _over_refreshes(accuracy, rows, "test_accuracy", "test accuracy", rank)
    _over_refreshes(angle, rows, "credit_angle", "angle between credit and exact credit", rank)
    angle.set_ylabel("degrees, mean over taps")
    exact = where(rows, method="backprop")["test_accuracy"]
    accuracy.axhline(exact.mean(), color=COLOURS["backprop"], label="backprop")
    mark_chance(accuracy, study.data.chance)
    accuracy.legend(frameon=False)
    names = [*others, *REFRESHED]
    ends = np.array([student_interval(accuracies(rows, name, rank, refresh)) for name in names])
    order = np.argsort(-ends[:, 0])
    spread = np.abs(ends[:, 1:] - ends[:, :1]).T if len(study.seeds) > 1 else None
    for place, at in enumerate(order):
        width = None if spread is None else spread[:, at : at + 1]
        bars.barh(place, ends[at, 0], xerr=width, color=COLOURS[names[at]])
    bars.set_yticks(range(len(names)), [names[at] for at in order])
    mark_chance(bars, study.data.chance, upright=True)
    bars.set(title=f"every method, refreshed every {refresh} steps", xlabel="test accuracy")
    bars.invert_yaxis()
    figure.suptitle(f"{study.data_name}, {study.config.run.steps} steps: mean and 95 % interval of "
                    f"{len(study.seeds)} seeds")  # fmt: skip
    return figure


def main(study: Study) -> None:
    """Measures, judges and draws."""
    rank, refresh = study.config.method.rank, study.config.method.update_every
    others = [name for name in TABLE if name not in REFRESHED and not TABLE[name].recurrent]
    settings = [
        *(("vnc", rank, some) for some in REFRESHES),
        *(("nmnc", some_rank, some) for some_rank in RANKS for some in REFRESHES),
        *((name, rank, refresh) for name in others),
    ]
    rows: list[Row] = []
    for method, some_rank, some in settings:
        name = f"{method}-rank{some_rank}-refresh{some}"
        rows += study.part(name, partial(one_setting, study, method, some_rank, some))
    study.finish("protocol", rows, judged(study, rows), draw(study, rows, others))
