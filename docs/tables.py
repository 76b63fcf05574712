"""Tables of the site, made by the build from the measurements that are committed."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import HTML

from experiments.analysis.statistics import student_interval

ROOT = Path(__file__).parents[1]


def read(path: str) -> pd.DataFrame:
    """Reads a committed table by its path in the repository."""
    return pd.read_csv(ROOT / path)


def spread(values: pd.Series, digits: int = 3) -> str:
    """The mean over seeds with half of its 95 % interval; the mean alone for one seed."""
    mean, low, _ = student_interval(values.dropna().to_numpy())
    shown = f"{mean:.{digits}f}"
    return shown if np.isinf(low) else f"{shown} ± {mean - low:.{digits}f}"


def interval(values: pd.Series, digits: int = 3) -> str:
    """The mean over seeds with its 95 % interval, as "mean [low, high]"."""
    mean, low, high = student_interval(values.dropna().to_numpy())
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def difference(frame: pd.DataFrame, left: str, right: str, value: str, digits: int = 3) -> str:
    """The mean difference of two methods, paired by seed, with its 95 % interval."""
    by_seed = frame.pivot(index="seed", columns="method", values=value)
    return interval(by_seed[left] - by_seed[right], digits)


def pivot(
    frame: pd.DataFrame, rows: str | list[str], columns: str, value: str, digits: int = 3
) -> pd.DataFrame:
    """The spread of a value over seeds, by rows and columns in the order of the table."""
    cells = frame.groupby([*np.atleast_1d(rows), columns], sort=False)[value]
    return cells.agg(lambda values: spread(values, digits)).unstack(columns).fillna("")


def show(frame: pd.DataFrame, *, index: bool = True, digits: int = 3) -> HTML:
    """Draws a table; numbers that are not integers have `digits` after the point."""
    frame = frame.rename_axis(columns=None)
    if index:
        frame = frame.reset_index()
    frame = frame.rename(columns=lambda name: str(name).replace("_", " "))
    number = f"{{:.{digits}f}}".format
    style = {"index": False, "border": 0, "classes": "docutils", "justify": "left"}
    return HTML(frame.to_html(na_rep="", float_format=number, **style))


def accuracies(frame: pd.DataFrame) -> pd.Series:
    """The accuracies of a table of ``experiments.compare``, with half of the 95 % interval."""
    half = (frame["interval_high"] - frame["interval_low"]) / 2
    accuracy = frame["test_accuracy"].map("{:.3f}".format)
    return accuracy.where(frame["seeds"] == 1, accuracy + half.map(" ± {:.3f}".format))


def comparison(path: str, order: Sequence[str] = ()) -> HTML:
    """Draws the table that ``experiments.compare`` leaves.

    Args:
        path: of the table in the repository.
        order: methods first to last; by default as in the table.
    """
    frame = read(path).set_index("estimator")
    frame = frame.loc[list(order)] if order else frame
    shown = pd.DataFrame(
        {
            "test accuracy": accuracies(frame),
            "step, over backprop's": frame["over_backprop"].map("{:.2f}".format),
        }
    )
    taps = [name for name in frame if name.startswith("alignment_")]
    aligned = frame[taps].map(lambda value: "" if np.isnan(value) else f"{value:.2f}")
    shown[[f"alignment, {name.removeprefix('alignment_')}" for name in taps]] = aligned
    return show(shown.rename_axis("method"))
