"""Verdicts on statements, from measurements over seeds."""

from typing import Any, NamedTuple

import numpy as np

from experiments.analysis.statistics import student_interval


class Verdict(NamedTuple):
    """The verdict on one statement.

    Attributes:
        statement: the statement.
        verdict: "supported", "not supported" or "undecided".
        quantity: name of the quantity whose sign decides.
        mean: mean of the quantity over replicates.
        low: lower end of its 95 % interval.
        high: upper end of the interval.
        test: how the interval was computed.
    """

    statement: str
    verdict: str
    quantity: str
    mean: float
    low: float
    high: float
    test: str


def judge(statement: str, quantity: str, samples: Any, *, unit: str = "seed") -> Verdict:
    """Judges a statement that holds if a quantity is positive.

    Under the null hypothesis one verdict in twenty is not "undecided". The interval is that of the
    mean over replicates; values within a replicate (neurons, images, taps) are averaged first.

    Args:
        statement: the statement.
        quantity: name of the quantity.
        samples: value of the quantity for each replicate, [replicates].
        unit: kind of the replicates: seed, session or animal.

    Returns:
        "supported" if the 95 % Student interval of the mean is above zero, "not supported" if it is
        below, and "undecided" otherwise, such as with one replicate. Replicates without a value
        (NaN) are left out.
    """
    values = np.asarray(samples, float)
    values = values[np.isfinite(values)]
    test = f"95 % Student interval of the mean over {len(values)} {unit}s"
    mean, low, high = student_interval(values)
    verdict = "supported" if low > 0 else "not supported" if high < 0 else "undecided"
    return Verdict(statement, verdict, quantity, mean, low, high, test)
