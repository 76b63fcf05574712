"""The leaderboard's figure: a heat map, and score against cost."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.board.cells import REGIMES
from experiments.methods import COLOURS


def draw(table: pd.DataFrame) -> Figure:
    """A map of the shares by method and task, and their mean over each step's operations."""
    methods = list(dict.fromkeys(table.method))
    figure = Figure(figsize=(15, 1.6 + 0.34 * len(methods)), layout="constrained")
    maps = figure.subplots(1, 3, width_ratios=(1, 1, 0.9))
    for panel, regime in zip(maps, REGIMES, strict=False):
        _map(panel, table[table.regime == regime], methods, regime)
    _front(maps[2], table[table.regime == REGIMES[0]], methods)
    return figure


def _map(panel: Axes, table: pd.DataFrame, methods: list[str], regime: str) -> None:
    tasks = list(dict.fromkeys(table.task))
    shares = table.pivot(index="method", columns="task", values="share").reindex(methods)[tasks]
    panel.imshow(shares, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    for (row, column), share in np.ndenumerate(shares.to_numpy(float)):
        text = "refused" if np.isnan(share) else f"{share:.2f}"
        colour = "gray" if np.isnan(share) else "black" if share > 0.6 else "white"
        panel.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
    panel.set_xticks(range(len(tasks)), tasks, rotation=40, ha="right")
    panel.set_yticks(range(len(methods)), methods)
    panel.set_title(f"{regime}: share of the way from chance to backpropagation", fontsize=9)


def _front(panel: Axes, table: pd.DataFrame, methods: list[str]) -> None:
    for method in methods:
        own = table[table.method == method]
        panel.plot(own.operations.mean(), own.share.mean(), "o", color=COLOURS[method])
        panel.annotate(method, (own.operations.mean(), own.share.mean()), fontsize=8,
                       xytext=(4, 3), textcoords="offset points")  # fmt: skip
    panel.axhline(0, color="gray", linestyle=":")
    panel.axvline(1, color="lightgray", zorder=0)
    panel.set(xscale="log", xlabel="operations of a step over backpropagation's",
              ylabel="share, mean over the tasks it takes")  # fmt: skip
    panel.set_title("score against cost, equal steps", fontsize=9)
