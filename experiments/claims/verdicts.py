"""Verdicts: what measurements over seeds say of a statement."""

from typing import Any, NamedTuple

import numpy as np

from experiments.analysis.statistics import bootstrap_interval, student_interval


class Verdict(NamedTuple):
    """What the measurements say of one statement.

    Attributes:
        statement: what is claimed.
        verdict: "supported", "not supported" or "undecided".
        quantity: the number that decides, by its sign.
        mean: over seeds.
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


def judge(statement: str, quantity: str, samples: Any) -> Verdict:
    """Judges a statement that holds where a quantity is positive.

    Args:
        statement: what is claimed.
        quantity: the quantity's name.
        samples: its value for each seed, [seeds].

    Returns:
        "supported" where the 95 % Student interval of the mean lies above zero, "not supported"
        where it lies below, otherwise "undecided", as with one seed. Seeds without a value (NaN)
        are left out.
    """
    values = np.asarray(samples, float)
    values = values[np.isfinite(values)]
    test = f"95 % Student interval of the mean over {len(values)} seeds"
    return _verdict(statement, quantity, *student_interval(values), test)


def judge_resampled(statement: str, quantity: str, samples: Any) -> Verdict:
    """Judges as `judge` does, by a bootstrap over seeds and neurons.

    With a single seed or neuron it is by `judge`, of the means over neurons.

    Args:
        statement: what is claimed.
        quantity: the quantity's name.
        samples: [seeds, neurons].
    """
    values = np.asarray(samples, float)
    seeds, neurons = values.shape
    if 1 in values.shape:
        return judge(statement, quantity, values.mean(axis=1))
    test = f"95 % bootstrap interval over {seeds} seeds and {neurons} neurons"
    return _verdict(statement, quantity, *bootstrap_interval(values), test)


def _verdict(
    statement: str, quantity: str, mean: float, low: float, high: float, test: str
) -> Verdict:
    verdict = "supported" if low > 0 else "not supported" if high < 0 else "undecided"
    return Verdict(statement, verdict, quantity, mean, low, high, test)
