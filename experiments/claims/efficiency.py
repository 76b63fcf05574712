"""Noise correlation in the manifold needs fewer probes than isotropic noise.

With one probe per example and step, a feedback estimate averages N = B (1 + decay) / (1 - decay)
probes of this and earlier steps. Networks that differ only in the subspace are trained at several
decays. Test accuracy after the same number of steps shows how many probes each method needs.
"""

from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.analysis.tables import where
from experiments.claims.study import Row, Study, draw_leads, effective_probes, trained
from experiments.claims.verdicts import Verdict, judge

DEFAULTS: dict[str, Any] = {"steps": 600, "log_every": 600, "rank": 256, "alignment_batch": 1024}
METHODS = ("nmnc", "vnc")
DECAYS = (0.0, 0.5, 0.9, 0.97)
ALL_DECAYS = (0.0, 0.5, 0.8, 0.9, 0.97, 0.99)


def one_setting(study: Study, method: str, decay: float) -> list[Row]:
    """Returns the rows of every seed of a method at one decay."""
    config = study.config.replace(estimator=method, feedback_decay=decay)
    setting = {"method": method, "decay": decay, "probes": effective_probes(config)}
    return [{**setting, **row} for row in trained(study, config)]


def values(rows: list[Row], column: str, method: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns numbers of probes, ascending, and the values of a column, for a method and seed."""
    some = where(rows, method=method, seed=seed).sort_values("probes")
    return some["probes"].to_numpy(), some[column].to_numpy()


def ratio_at_equal_accuracy(rows: list[Row], seed: int) -> float:
    """Returns log2 of the ratio of the probes that VNC and NMNC need, for one seed.

    It is the mean over the accuracies that both reach, with probes interpolated in logarithms; NaN
    if they reach no common accuracy.
    """
    curves = {}
    for method in METHODS:
        probes, accuracies = values(rows, "test_accuracy", method, seed)
        curves[method] = np.log2(probes), np.maximum.accumulate(accuracies)
    low = max(accuracies[0] for _, accuracies in curves.values())
    high = min(accuracies[-1] for _, accuracies in curves.values())
    if high <= low:
        return float("nan")
    targets = np.linspace(low, high, 50)
    needed = {
        method: np.interp(targets, accuracies + 1e-9 * np.arange(len(accuracies)), probes)
        for method, (probes, accuracies) in curves.items()
    }
    return float(np.mean(needed["vnc"] - needed["nmnc"]))


def judged(study: Study, rows: list[Row]) -> list[Verdict]:
    """Judges accuracy at the fewest probes, and probes at equal accuracy."""
    fewest = min(row["probes"] for row in rows)
    ahead = [
        values(rows, "test_accuracy", "nmnc", seed)[1][0]
        - values(rows, "test_accuracy", "vnc", seed)[1][0]
        for seed in study.seeds
    ]
    verdicts = [
        judge(
            f"with the {fewest:.0f} probes of one step alone nmnc learns more",
            "test accuracy of nmnc less that of vnc",
            ahead,
        )
    ]
    ratios = [ratio_at_equal_accuracy(rows, seed) for seed in study.seeds]
    if np.isfinite(ratios).all():
        statement = "nmnc needs fewer probes for equal accuracy"
        verdicts.append(judge(statement, "log2 of vnc's probes over nmnc's", ratios))
    return verdicts


def draw(study: Study, rows: list[Row]) -> Figure:
    """Draws accuracy and alignment over probes."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    label = "probes behind an estimate of the feedback"
    draw_leads(figure.subplots(1, 2), rows, "probes", label, chance=study.data.chance)
    figure.suptitle(f"{study.data_name}, {study.config.run.steps} steps: mean and 95 % interval of "
                    f"{len(study.seeds)} seeds")  # fmt: skip
    return figure


def main(study: Study) -> None:
    """Measures, judges and draws."""
    rows: list[Row] = []
    for decay in ALL_DECAYS if study.full else DECAYS:
        for method in METHODS:
            rows += study.part(f"{method}-decay{decay}", partial(one_setting, study, method, decay))
    study.finish("efficiency", rows, judged(study, rows), draw(study, rows))
