"""Signs of a network that does not learn: constant units, a constant loss, or zero credit."""

from typing import Any

import numpy as np

FEW_STEPS = 100
"""Number of steps in which the loss may stay at its initial value and feedback may be zero."""


def signs(record: dict[str, Any], classes: int | None) -> list[str]:
    """Returns what is wrong with a network, each sign in one line with what may help.

    Args:
        record: a measurement.
        classes: number of classes; None if there are none.
    """
    found = []
    for tap, share in record.get("still_units", {}).items():
        if share > 0.99:
            found.append(
                f"{share:.0%} of the units of tap {tap!r} never change, so that no error reaches "
                "the layers before them; a smaller learning_rate or a normalisation may help"
            )
    loss, step = record.get("loss"), record["step"]
    if step < FEW_STEPS:
        return found
    chance = np.log(classes or 1)
    # A loss that falls from above may have this mean, so that accuracy decides too.
    guesses = record.get("test_accuracy", 0) < 2 / (classes or 1)
    if guesses and loss is not None and abs(loss - chance) < 0.01 * chance:
        found.append(
            f"the loss stays at {loss:.3f}, that of {classes} equally likely classes, after "
            f"{step} steps; another learning_rate or more probes may help"
        )
    for tap, aligned in record.get("alignment", {}).items():
        if aligned == 0 or not np.isfinite(aligned):
            found.append(
                f"the credit of tap {tap!r} is zero, because its feedback or the output error is"
            )
    return found
