"""How fresh the basis must be, how long feedback may remember, and how large noise may be.

Networks are trained by nmnc for several numbers of steps between updates of the components and
several decays of the feedback, with and without rotation of the feedback to each new basis; and,
with central differences, for several sizes of the perturbations.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.analysis.figures import mark_chance
from experiments.analysis.tables import where
from experiments.claims.study import Row, Study, band, trained
from experiments.claims.verdicts import Verdict, judge
from experiments.methods import COLOURS

DEFAULTS: dict[str, Any] = {"steps": 200, "log_every": 200, "rank": 128, "alignment_batch": 512}
REFRESHES = (10, 50)
"""Numbers of steps between updates of the components; bases that never move are also measured."""
ALL_REFRESHES = (5, 10, 25, 50, 100)
DECAYS = (0.5, 0.9, 0.98)
ALL_DECAYS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99)
SIGMAS = (1e-4, 1e-2, 1.0)
ALL_SIGMAS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)


def one_setting(study: Study, method: str, refresh: int, decay: float) -> list[Row]:
    """Returns the rows of a method at one refresh interval and decay, by exact derivatives."""
    config = study.config.replace(
        estimator=method, basis_update_every=refresh, feedback_decay=decay
    )
    setting = {"method": method, "refresh": refresh, "decay": decay, "sigma": 0.0}
    return [{**setting, **row} for row in trained(study, config)]


def one_size(study: Study, sigma: float) -> list[Row]:
    """Returns the rows of nmnc at one size of the perturbations, by central differences."""
    config = study.config.replace(estimator="nmnc", difference="central", sigma=sigma)
    setting = {"method": "nmnc", "refresh": config.method.basis_update_every,
               "decay": config.method.feedback_decay, "sigma": sigma}  # fmt: skip
    return [{**setting, **row} for row in trained(study, config)]


def judged(study: Study, rows: list[Row]) -> list[Verdict]:
    """Judges the moving basis, the rotation of feedback, and the size of noise."""
    setting = ["method", "refresh", "decay", "sigma", "seed"]
    found: Any = pd.DataFrame(rows).set_index(setting).sort_index()
    refreshes = sorted({row["refresh"] for row in rows if not row["sigma"]})
    decays = sorted({row["decay"] for row in rows if not row["sigma"]})
    sigmas = sorted({row["sigma"] for row in rows if row["sigma"]})
    often, never, slow = refreshes[0], refreshes[-1], decays[-1]

    def value(column: str, *setting: Any) -> np.ndarray:
        return found.loc[setting, column].to_numpy()

    def over_decays(function: Callable[[float], np.ndarray]) -> np.ndarray:
        return np.mean([function(decay) for decay in decays], axis=0)

    label = f"test accuracy with an update every {often} steps less that with none, over decays"
    return [
        judge(
            "the basis must be refreshed",
            label,
            over_decays(
                lambda decay: value("test_accuracy", "nmnc", often, decay, 0.0)
                - value("test_accuracy", "nmnc", never, decay, 0.0)
            ),
        ),
        judge(
            "feedback that remembers must turn with the basis",
            f"credit alignment with the rotation less that without, decay {slow}, update every "
            f"{often} steps",
            value("credit_alignment", "nmnc", often, slow, 0.0)
            - value("credit_alignment", "nmnc_unrotated", often, slow, 0.0),
        ),
        judge(
            "noise may be small",
            f"test accuracy at sigma {sigmas[0]:g} less that at {sigmas[-1]:g}",
            value("test_accuracy", "nmnc", study.config.method.basis_update_every,
                  study.config.method.feedback_decay, sigmas[0])
            - value("test_accuracy", "nmnc", study.config.method.basis_update_every,
                    study.config.method.feedback_decay, sigmas[-1]),
        ),
    ]  # fmt: skip


def _map(panel: Axes, study: Study, rows: Any, column: str, title: str) -> None:
    """Draws a map of means over seeds, by refresh interval and decay."""
    table = pd.DataFrame(rows).pivot_table(column, "refresh", "decay")
    means = table.to_numpy()
    panel.imshow(means, cmap="viridis", aspect="auto")
    middle = (means.min() + means.max()) / 2
    for place in np.ndindex(means.shape):
        colour = "white" if means[place] < middle else "black"
        panel.text(place[1], place[0], f"{means[place]:.3f}", ha="center", va="center",
                   color=colour)  # fmt: skip
    panel.set_xticks(range(means.shape[1]), [f"{decay:g}" for decay in table.columns])
    names = ["never" if r >= study.config.run.steps else str(r) for r in table.index]
    panel.set_yticks(range(len(names)), names)
    panel.set_title(title, fontsize=10)


def draw(study: Study, rows: list[Row]) -> Figure:
    """Draws maps of accuracy and alignment, and both over the size of noise."""
    figure = Figure(figsize=(12, 6.4), layout="constrained")
    panels = figure.subplots(2, 3)
    exact = [row for row in rows if not row["sigma"]]
    sized = [row for row in rows if row["sigma"]]
    columns = {"test_accuracy": "test accuracy", "credit_alignment": "credit alignment"}
    for line, (column, label) in zip(panels, columns.items(), strict=True):
        for panel, method in zip(line, ("nmnc", "nmnc_unrotated"), strict=False):
            some = where(exact, method=method)
            turned = "turns with the basis" if method == "nmnc" else "does not turn"
            _map(panel, study, some, column, f"{label}, feedback {turned}")
        band(line[2], sized, "sigma", column, colour=COLOURS["nmnc"], label="nmnc")
        if column == "test_accuracy":
            mark_chance(line[2], study.data.chance)
            line[2].legend(frameon=False)
        line[2].set_xscale("log")
        line[2].set_title(f"{label}, central differences", fontsize=10)
        line[0].set_ylabel("steps between updates of the basis")
    for panel in panels[1][:2]:
        panel.set_xlabel("decay of the feedback")
    panels[1][2].set_xlabel("sigma, over the tap's RMS activity")
    steps, rank = study.config.run.steps, study.config.method.rank
    figure.suptitle(f"{study.data_name}, {steps} steps, rank {rank}: mean of {len(study.seeds)} "
                    "seeds; curves with 95 % intervals")  # fmt: skip
    return figure


def main(study: Study) -> None:
    """Measures, judges and draws."""
    moving = ALL_REFRESHES if study.full else REFRESHES
    rows: list[Row] = []
    for decay in ALL_DECAYS if study.full else DECAYS:
        for method, refreshes in (
            ("nmnc", (*moving, study.config.run.steps)),
            ("nmnc_unrotated", moving),
        ):
            for refresh in refreshes:
                rows += study.part(
                    f"{method}-refresh{refresh}-decay{decay}",
                    partial(one_setting, study, method, refresh, decay),
                )
    for sigma in ALL_SIGMAS if study.full else SIGMAS:
        rows += study.part(f"sigma{sigma:g}", partial(one_size, study, sigma))
    study.finish("staleness", rows, judged(study, rows), draw(study, rows))
