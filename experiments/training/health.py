"""Signs of a network that does not learn: units that never change, a loss that stays, no credit."""

from typing import Any

import numpy as np

FEW_STEPS = 100
"""Steps in which a loss may stay where it began, and feedback may still be zero."""


def signs(record: dict[str, Any], classes: int | None) -> list[str]:
    """Names what is wrong with a network, each in one line with what may help.

    Args:
        record: a measurement.
        classes: their number; None where there are none.
    """
    found = []
    for tap, share in record.get("still_units", {}).items():
        if share > 0.99:
            found.append(
                f"{share:.0%} of the units of tap {tap!r} never change: no error reaches what is "
                "before them; a smaller learning_rate or a normalisation may help"
            )
    loss, step = record.get("loss"), record["step"]
    if step < FEW_STEPS:
        return found
    chance = np.log(classes or 1)
    if loss is not None and abs(loss - chance) < 0.01 * chance:
        found.append(
            f"the loss stays at {loss:.3f}, that of {classes} classes that are equally likely, "
            f"after {step} steps; another learning_rate or more probes may help"
        )
    for tap, aligned in record.get("alignment", {}).items():
        if aligned == 0 or not np.isfinite(aligned):
            found.append(f"the credit of tap {tap!r} is zero: its feedback is, or the output error")
    return found
