"""The manifold's dimension grows slowly with width.

Networks of several widths are trained by backpropagation. The measures at each tap, over up to
2,048 training images, are the participation ratio, the number of principal components that explain
90, 95 and 99 % of the variance, and the intrinsic dimension by TwoNN (Facco et al. 2017). The
exponent of their growth with the number of units is fitted by least squares in logarithms. No
verdict is given for a measure that exceeds half the number of images: more of them would raise it.
"""

from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.analysis.activity import fixed_images, recorder
from experiments.analysis.dimensionality import MEASURES, measure
from experiments.analysis.statistics import student_interval
from experiments.analysis.tables import where
from experiments.claims.study import Row, Study
from experiments.claims.verdicts import Verdict, judge
from experiments.training.loop import through_training

DEFAULTS: dict[str, Any] = {"estimator": "backprop", "steps": 300, "log_every": 300}


def one_network(study: Study, width: float, seed: int) -> list[Row]:
    """Returns the rows of one network with `width` times the configuration's units."""
    config = study.config.widened(width).replace(seed=seed)
    data = study.data
    ((_, params),) = through_training(config, data, [config.run.steps])
    found = recorder(config, data, params)(fixed_images(data))
    return [
        {"width": width, "seed": seed, "tap": name, "units": activity.shape[1], **measure(activity)}
        for name, activity in found.items()
    ]


def exponent(rows: list[Row], tap: str, seed: int, measured: str) -> float:
    """Returns the slope of log dimension over log units, for one tap and seed."""
    units, dimensions = np.log(where(rows, tap=tap, seed=seed)[["units", measured]]).to_numpy().T
    return float(np.polyfit(units, dimensions, 1)[0])


def exponents(study: Study, rows: list[Row], measured: str) -> np.ndarray:
    """Returns the mean over taps of the exponent, for each seed."""
    taps = sorted({row["tap"] for row in rows})
    return np.array(
        [np.mean([exponent(rows, tap, seed, measured) for tap in taps]) for seed in study.seeds]
    )


def judged(study: Study, rows: list[Row]) -> list[Verdict]:
    """Judges whether each measure grows slower than the square root of the number of units."""
    images = len(fixed_images(study.data))
    verdicts = []
    for measured, label in MEASURES.items():
        verdict = judge(
            f"{label} grows slower than the square root of the number of units",
            "1/2 less the exponent, mean over taps",
            0.5 - exponents(study, rows, measured),
        )
        most = max(row[measured] for row in rows)
        if most > images / 2:
            statement = f"{verdict.statement} (up to {most:,.0f}, limited by {images:,} images)"
            verdict = verdict._replace(statement=statement, verdict="undecided")
        verdicts.append(verdict)
    return verdicts


def draw(study: Study, rows: list[Row]) -> Figure:
    """Draws each measure over units, with one line per tap and the exponent."""
    table = pd.DataFrame(rows)
    taps = sorted(table["tap"].unique())
    figure = Figure(figsize=(3.3 * len(MEASURES), 3.8), layout="constrained")
    panels = figure.subplots(1, len(MEASURES))
    for panel, (measured, label) in zip(panels, MEASURES.items(), strict=True):
        for tap in taps:
            values = where(table, tap=tap).groupby("units")[measured]
            means, ends = values.mean(), values.agg(["min", "max"])
            spread = np.abs(ends.to_numpy().T - means.to_numpy())
            panel.errorbar(means.index, means, spread, fmt="o-", capsize=2, label=tap)
        mean, low, high = student_interval(exponents(study, rows, measured))
        panel.set_title(f"{label}\nexponent {mean:.2f} [{low:.2f}, {high:.2f}]", fontsize=9)
        panel.set_xscale("log", base=2)
        panel.set_yscale("log", base=2)
        panel.yaxis.set_major_formatter("{x:g}")
        panel.set_xlabel("units of the tap")
    panels[0].set_ylabel("dimension")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(taps), frameon=False)
    figure.suptitle(f"Dimension of activity over width, {study.data_name}: mean and range of "
                    f"{len(study.seeds)} seeds")  # fmt: skip
    return figure


def main(study: Study) -> None:
    """Measures, judges and draws."""
    widths = (0.25, 0.5, 1, 2, 4) if study.full else (0.25, 0.5, 1, 2)
    rows: list[Row] = []
    for seed in study.seeds:
        for width in widths:
            rows += study.part(
                f"width{width:g}-seed{seed}", partial(one_network, study, width, seed)
            )
    study.finish("dimensionality", rows, judged(study, rows), draw(study, rows))
