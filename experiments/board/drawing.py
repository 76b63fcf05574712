"""The figure of the leaderboard: heat maps, and score over cost."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.board.cells import EQUAL_STEPS, REGIMES, Row
from experiments.methods import COLOURS


def draw(rows: list[Row]) -> Figure:
    """Draws maps of the shares by method and task, and mean shares over operations per step."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    figure = Figure(figsize=(15, 1.6 + 0.34 * len(methods)), layout="constrained")
    *maps, front = figure.subplots(1, 3, width_ratios=(1, 1, 0.9))
    for panel, regime in zip(maps, REGIMES, strict=True):
        _map(panel, [row for row in rows if row["regime"] == regime], methods, regime)
    _front(front, [row for row in rows if row["regime"] == EQUAL_STEPS], methods)
    return figure


def _map(panel: Axes, rows: list[Row], methods: list[str], regime: str) -> None:
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    shares = np.full((len(methods), len(tasks)), np.nan)
    for row in rows:
        shares[methods.index(row["method"]), tasks.index(row["task"])] = row["share"]
    panel.imshow(shares, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    for (line, column), share in np.ndenumerate(shares):
        style = {"color": "black" if share > 0.6 else "white", "fontsize": 8}
        text = f"{share:.2f}"
        if np.isnan(share):
            style, text = {"color": "gray", "fontsize": 5.5}, "refused"
        panel.text(column, line, text, ha="center", va="center", **style)
    panel.set_xticks(range(len(tasks)), tasks, rotation=40, ha="right")
    panel.set_yticks(range(len(methods)), methods)
    panel.set_title(f"{regime}: share of the way\nfrom chance to backpropagation", fontsize=9)


def _mean(rows: list[Row], column: str) -> float:
    return float(np.mean([row[column] for row in rows]))


def _front(panel: Axes, rows: list[Row], methods: list[str]) -> None:
    means = {
        method: (_mean(own, "operations"), _mean(own, "share"))
        for method in methods
        if (own := [row for row in rows if row["method"] == method])
    }
    # Names stand in a column beside the points, in the same order from bottom to top.
    order = sorted(means, key=lambda method: means[method][1])
    for height, method in zip(np.linspace(0, 1, len(order)), order, strict=True):
        colour = COLOURS[method]
        panel.plot(*means[method], "o", color=colour)
        line = {"arrowstyle": "-", "color": colour, "lw": 0.5, "relpos": (0, 0.5)}
        beside = {"xytext": (1.05, height), "textcoords": "axes fraction", "va": "center"}
        panel.annotate(method, means[method], fontsize=8, arrowprops=line, **beside)
    panel.axhline(0, color="gray", linestyle=":")
    panel.axvline(1, color="lightgray", zorder=0)
    panel.set(xscale="log", xlabel="operations of a step over backpropagation's",
              ylabel="share, mean over tasks")  # fmt: skip
    panel.xaxis.set_major_formatter("{x:g}")
    panel.xaxis.set_minor_formatter("{x:g}")
    panel.tick_params(axis="x", which="both", labelsize=7)
    panel.set_title("score against cost, equal steps", fontsize=9)
