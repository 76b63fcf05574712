"""The table of the leaderboard: scores, shares, costs, and significant differences."""

from pathlib import Path

import numpy as np
from scipy import stats

from experiments.analysis.statistics import student_interval
from experiments.analysis.tables import write_table
from experiments.board.cells import REGIMES, Row
from experiments.methods import TABLE

LEVEL = 0.05
REFERENCE = "nmnc"
"""The method with which other methods are compared."""


def summarised(
    method: str, task: str, regime: str, finals: list[Row], costs: Row, settings: Row, chance: float
) -> Row:
    """Returns one row of the table: a method on a task in one regime."""
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


def completed(rows: list[Row]) -> list[Row]:
    """Adds columns that need the rows of other methods: share, reference score and p-value.

    The share is that of the difference between backpropagation and chance. The p-value is that of a
    paired test over seeds against `REFERENCE`, and is corrected for all comparisons of a regime
    (Benjamini and Yekutieli 2001), so that at most one in twenty of the marked differences is
    expected to be false.
    """
    lines = {(row["method"], row["task"], row["regime"]): row for row in rows}
    found = []
    for row in rows:
        exact, other = (
            lines.get((method, row["task"], row["regime"])) for method in ("backprop", REFERENCE)
        )
        share = np.nan
        if exact is not None:
            share = (row["score"] - row["chance"]) / (exact["score"] - row["chance"])
        reference, p = (np.nan, np.nan) if other is None else (other["score"], _paired(row, other))
        found.append({**row, "share": share, "reference": reference, "p": p})
    for regime in REGIMES:
        tested = [row for row in found if row["regime"] == regime and np.isfinite(row["p"])]
        if tested:
            corrected = stats.false_discovery_control([row["p"] for row in tested], method="by")
            for row, p in zip(tested, corrected, strict=True):
                row["p"] = float(p)
    return found


def _paired(row: Row, other: Row) -> float:
    """Returns the p-value of a paired test; NaN for too few scores or without any spread."""
    own, beside = (np.array(each["scores"].split(), float) for each in (row, other))
    if len(own) < 2 or len(own) != len(beside) or np.ptp(own - beside) == 0:
        return np.nan
    return float(stats.ttest_rel(own, beside)[1])


def markdown(rows: list[Row], regime: str) -> str:
    """Returns scores with the half width of their interval, by method and task, for one regime.

    A triangle marks a significant difference from `REFERENCE`, upwards for a higher score.
    """
    some = {(row["method"], row["task"]): row for row in rows if row["regime"] == regime}
    methods, tasks = (list(dict.fromkeys(names)) for names in zip(*some, strict=True))
    lines = ["| method | " + " | ".join(tasks) + " | mean share |", "|---" * (len(tasks) + 2) + "|"]
    for method in methods:
        own = [some.get((method, task)) for task in tasks]
        cells = ["refused" if row is None else _cell(row) for row in own]
        mean = np.mean([row["share"] for row in own if row is not None])
        lines.append(f"| {method} | " + " | ".join(cells) + f" | {mean:.2f} |")
    return "\n".join(lines) + "\n"


def _cell(row: Row) -> str:
    half = (row["high"] - row["low"]) / 2
    cell = f"{row['score']:.3f}" + (f" ± {half:.3f}" if np.isfinite(half) else "")
    if row["p"] < LEVEL:
        cell += " ▲" if row["score"] > row["reference"] else " ▼"
    return cell


def write(rows: list[Row], directory: Path) -> None:
    """Writes leaderboard.csv and leaderboard.md."""
    write_table(directory / "leaderboard.csv", rows, ".4g")
    parts = [f"## {regime.capitalize()}\n\n{markdown(rows, regime)}" for regime in REGIMES]
    (directory / "leaderboard.md").write_text("\n".join(parts))
