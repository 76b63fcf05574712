"""The table: scores, shares of the way to backpropagation, costs, and which differences stand."""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from experiments.analysis.statistics import student_interval
from experiments.board.cells import REGIMES, Row
from experiments.methods import TABLE

LEVEL = 0.05
REFERENCE = "nmnc"
"""The method with which the others are compared."""


def summarised(
    method: str, task: str, regime: str, finals: list[Row], costs: Row, settings: Row, chance: float
) -> Row:
    """One line of the table: a method on a task in one regime."""
    scores = np.array([row["score"] for row in finals])
    aligned = [row["alignment"] for row in finals if row.get("alignment") is not None]
    mean, low, high = student_interval(scores)
    return {
        "method": method,
        "task": task,
        "regime": regime,
        "seeds": len(scores),
        "score": mean,
        "low": low,
        "high": high,
        "chance": chance,
        "diverged": sum(row["diverged"] for row in finals),
        "alignment": float(np.mean(aligned)) if aligned else None,
        **costs,
        "settings": " ".join(f"{name}={value}" for name, value in settings.items()),
        "needs": "; ".join(TABLE[method].needs),
        "scores": " ".join(f"{score:.4f}" for score in scores),
    }


def completed(rows: list[Row]) -> pd.DataFrame:
    """Adds the share of the way from chance to backpropagation, and the tests of differences.

    A method differs from `REFERENCE` on a task by a paired test over seeds; the p-values of all
    comparisons of a regime are corrected together (Benjamini and Yekutieli 2001), so that among
    the differences that are named at most one in twenty is expected to be none.
    """
    table = pd.DataFrame(rows)
    exact = table[table.method == "backprop"].set_index(["task", "regime"]).score
    ends = [exact.get((row.task, row.regime), np.nan) for row in table.itertuples()]
    table["share"] = (table.score - table.chance) / (np.array(ends) - table.chance)
    table["p"] = np.nan
    for regime in REGIMES:
        found = {
            place: _paired(table, row)
            for place, row in table[table.regime == regime].iterrows()
            if row.method != REFERENCE
        }
        known = {place: p for place, p in found.items() if np.isfinite(p)}
        if known:
            corrected = stats.false_discovery_control(list(known.values()), method="by")
            table.loc[list(known), "p"] = corrected
    return table


def _paired(table: pd.DataFrame, row: pd.Series) -> float:
    """p-value of a method's scores beside those of `REFERENCE`; NaN where there are too few."""
    beside = table[
        (table.method == REFERENCE) & (table.task == row.task) & (table.regime == row.regime)
    ]
    if beside.empty:
        return np.nan
    own, other = (np.array(scores.split(), float) for scores in (row.scores, *beside.scores))
    if len(own) < 2 or len(own) != len(other):
        return np.nan
    differences = own - other
    if np.ptp(differences) == 0:  # Without spread the test has no meaning.
        return np.nan
    return float(stats.ttest_1samp(differences, 0).pvalue)


def markdown(table: pd.DataFrame, regime: str) -> str:
    """Scores with the half width of their interval, by method and task, for one regime."""
    some = table[table.regime == regime]
    tasks = list(dict.fromkeys(some.task))
    lines = ["| method | " + " | ".join(tasks) + " | mean share |", "|---" * (len(tasks) + 2) + "|"]
    for method in dict.fromkeys(some.method):
        own = some[some.method == method].set_index("task")
        cells = [_cell(own.loc[task]) if task in own.index else "refused" for task in tasks]
        lines.append(f"| {method} | " + " | ".join(cells) + f" | {own.share.mean():.2f} |")
    return "\n".join(lines) + "\n"


def _cell(row: pd.Series) -> str:
    half = (row.high - row.low) / 2
    cell = f"{row.score:.3f}" + (f" ± {half:.3f}" if np.isfinite(half) else "")
    if row.p < LEVEL:
        cell += " ▲" if row.score > row.reference else " ▼"
    return cell


def with_reference(table: pd.DataFrame) -> pd.DataFrame:
    """Adds the score of `REFERENCE` on the same task, which ▲ and ▼ are about."""
    found = table[table.method == REFERENCE].set_index(["task", "regime"]).score
    table["reference"] = [found.get((row.task, row.regime), np.nan) for row in table.itertuples()]
    return table


def write(table: pd.DataFrame, directory: Path) -> None:
    """Writes leaderboard.csv and leaderboard.md."""
    table.to_csv(directory / "leaderboard.csv", index=False, float_format="%.4g")
    parts = [f"## {regime.capitalize()}\n\n{markdown(table, regime)}" for regime in REGIMES]
    (directory / "leaderboard.md").write_text("\n".join(parts))
