"""Verdicts: what measurements over seeds say of a statement."""

from typing import Any, NamedTuple

import numpy as np

from experiments.analysis.statistics import student_interval


class Verdict(NamedTuple):
    """What the measurements say of one statement.

    Attributes:
        statement: what is claimed.
        verdict: "supported", "not supported" or "undecided".
        quantity: the number that decides, by its sign.
        mean: over replicates.
        low: lower end of its 95 % interval.
        high: upper end.
        test: how the interval was made.
    """

    statement: str
    verdict: str
    quantity: str
    mean: float
    low: float
    high: float
    test: str


def judge(statement: str, quantity: str, samples: Any, *, unit: str = "seed") -> Verdict:
    """Judges a statement that holds where a quantity is positive.

    Of the null a verdict other than "undecided" comes in one of twenty: the interval is of the mean
    over what was replicated, and what varies within a replicate (neurons, images, taps) is averaged
    before.

    Args:
        statement: what is claimed.
        quantity: the quantity's name.
        samples: its value for each replicate, [replicates].
        unit: what a replicate is: a seed, a session, an animal.

    Returns:
        "supported" where the 95 % Student interval of the mean is above zero, "not supported" where
        it is below, otherwise "undecided", as with one replicate. Replicates without a value (NaN)
        are left out.
    """
    values = np.asarray(samples, float)
    values = values[np.isfinite(values)]
    test = f"95 % Student interval of the mean over {len(values)} {unit}s"
    mean, low, high = student_interval(values)
    verdict = "supported" if low > 0 else "not supported" if high < 0 else "undecided"
    return Verdict(statement, verdict, quantity, mean, low, high, test)
