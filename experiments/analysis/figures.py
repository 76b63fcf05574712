"""Figures of one run or of several methods, drawn from their measurements."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.analysis.statistics import interval
from experiments.methods import COLOURS

Runs = dict[str, list[list[dict[str, Any]]]]
"""Method to the measurements of each seed."""
Costs = dict[str, dict[str, float]]


def measurement(record: dict[str, Any], path: tuple[str, ...]) -> float:
    """Returns one number of a record by its path of names; NaN if it is None."""
    value: Any = record
    for part in path:
        value = value[part]
    return np.nan if value is None else float(value)


def mark_chance(panel: Axes, chance: float, *, upright: bool = False) -> None:
    """Draws the accuracy of chance into a panel, upright if accuracy is on its x axis."""
    line = panel.axvline if upright else panel.axhline
    line(chance, color="gray", linestyle=":", linewidth=1, label="chance")


def draw_all(directory: Path, runs: Runs, costs: Costs | None = None) -> None:
    """Writes curves.png, alignment.png (for methods with taps) and cost.png."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    accuracy, loss = figure.subplots(1, 2)
    _over_steps(accuracy, runs, "test_accuracy")
    _over_steps(accuracy, runs, "train_accuracy", linestyle=":")
    accuracy.set(title="test (solid) and training (dotted) accuracy", ylabel="accuracy")
    _over_steps(loss, runs, "loss")
    loss.set(title="training loss", ylabel="loss", yscale="log")
    accuracy.legend(frameon=False)
    figure.savefig(directory / "curves.png", dpi=120)

    tapped = {name: seeds for name, seeds in runs.items() if "alignment" in seeds[0][-1]}
    if tapped:
        taps = list(next(iter(tapped.values()))[0][-1]["alignment"])
        figure = Figure(figsize=(2.6 * len(taps) + 1, 3.2), layout="constrained")
        panels = figure.subplots(1, len(taps), sharey=True, squeeze=False)[0]
        for panel, tap in zip(panels, taps, strict=True):
            _over_steps(panel, tapped, "alignment", tap)
            panel.axhline(0, color="lightgray", zorder=0)
            panel.set_title(f"tap {tap}")
        panels[0].set_ylabel("cosine of credit with exact credit")
        panels[0].legend(frameon=False)
        figure.savefig(directory / "alignment.png", dpi=120)

    figure = Figure(figsize=(9 if costs else 5, 3.6), layout="constrained")
    panels = figure.subplots(1, 2 if costs else 1, squeeze=False)[0]
    for name, seeds in runs.items():
        seconds = np.mean([[r["seconds"] for r in records] for records in seeds], axis=0)
        values = np.mean([[r["test_accuracy"] for r in records] for records in seeds], axis=0)
        panels[0].plot(seconds, values, color=COLOURS[name], label=name)
    panels[0].set(title="accuracy against time", ylabel="test accuracy",
                  xlabel="seconds, with compilation and measurements")  # fmt: skip
    panels[0].legend(frameon=False)
    if costs:
        _cost_bars(panels[1], costs)
    figure.savefig(directory / "cost.png", dpi=120)


def draw_overview(path: Path, runs: Runs, costs: Costs, *, chance: float) -> None:
    """Writes one figure of the whole comparison, with accuracy, alignment and cost."""
    figure = Figure(figsize=(12, 4), layout="constrained")
    accuracy, aligned, cost = figure.subplots(1, 3)
    _over_steps(accuracy, runs, "test_accuracy")
    mark_chance(accuracy, chance)
    seeds = len(next(iter(runs.values())))
    band = f"mean and 95 % interval of {seeds} seeds" if seeds > 1 else "1 seed"
    accuracy.set(title=f"learning ({band})", ylabel="test accuracy")
    figure.legend(loc="outside lower center", ncols=5, frameon=False)
    tapped = {name: seeds for name, seeds in runs.items() if "alignment" in seeds[0][-1]}
    taps = list(next(iter(tapped.values()))[0][-1]["alignment"]) if tapped else []
    width = 0.8 / max(len(tapped), 1)
    for place, (name, group) in enumerate(tapped.items()):
        samples = np.array(
            [
                [np.mean([r["alignment"][tap] for r in records[1:]]) for tap in taps]
                for records in group
            ]
        )
        low, mean, high = interval(samples)
        at = np.arange(len(taps)) + (place - (len(tapped) - 1) / 2) * width
        aligned.bar(at, mean, width, yerr=np.stack([mean - low, high - mean]),
                    color=COLOURS[name], label=name)  # fmt: skip
    aligned.set_xticks(range(len(taps)), taps, rotation=90 if len(taps) > 4 else 0)
    aligned.set(title="alignment with exact credit, by tap", ylabel="cosine, mean over training")
    _cost_bars(cost, costs)
    figure.savefig(path, dpi=130)


def _cost_bars(panel: Axes, costs: Costs) -> None:
    names = list(costs)
    middle = np.array([costs[name]["over_backprop"] for name in names])
    spread = [
        middle - [costs[name]["least"] for name in names],
        [costs[name]["greatest"] for name in names] - middle,
    ]
    panel.barh(names, middle, xerr=spread, color=[COLOURS[name] for name in names])
    panel.axvline(1, color="lightgray", zorder=0)
    panel.invert_yaxis()
    panel.set(title="time of a step (whiskers: rounds)", xlabel="over backpropagation's")


def _over_steps(panel: Axes, runs: Runs, *path: str, linestyle: str = "-") -> None:
    """Draws a measurement over steps, with the interval over seeds."""
    for name, seeds in runs.items():
        steps = [record["step"] for record in seeds[0]]
        samples = np.array([[measurement(record, path) for record in records] for records in seeds])
        low, mean, high = interval(samples)
        label = name if linestyle == "-" else None
        panel.plot(steps, mean, linestyle, color=COLOURS[name], label=label)
        if len(seeds) > 1:
            panel.fill_between(steps, low, high, color=COLOURS[name], alpha=0.2, linewidth=0)
    panel.set_xlabel("step")
