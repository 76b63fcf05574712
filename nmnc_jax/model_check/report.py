"""The report on a model, a table of what was found at each tap."""

import dataclasses
from typing import NamedTuple

from nmnc_jax.model_check.memory import in_bytes

NOTHING = 1e-5
"""Relative change that is still attributed to rounding."""


class TapReport(NamedTuple):
    """The results of the checks for one tap.

    Attributes:
        name: name of the tap.
        units: number of units per example and time step, n.
        order: index of the tap in the forward pass.
        steps: number of time steps of the scans around it, T; 1 without scans.
        stages: for the readout `next`, the nodes that it feeds directly, with their units per row;
            for the readout `mirror`, the arrays of weights of the linear stage, with their sizes.
        aligned: whether the response follows the tap's time; None if the tap or the response has
            no time.
        effect: root mean square of the response's change over that of the response, for noise of a
            tenth of the tap's activity; None if it was not tried.
        coupling: change of the response of other examples relative to that of the examples with
            noise at this tap; None if it was not tried.
        stacked: whether each step of the scan around a linear stage has separate weights.
        shared: average number of positions in one row that share a weight of a linear stage.
        summed: number of units of a linear stage's input that one output depends on.
    """

    name: str
    units: int
    order: int
    steps: int
    stages: tuple[tuple[str, int], ...]
    aligned: bool | None
    effect: float | None
    coupling: float | None
    stacked: bool = False
    shared: float = 1.0
    summed: int = 0


@dataclasses.dataclass(frozen=True)
class ModelReport:
    """The results of the checks of a model; prints as a table.

    Attributes:
        readout: the given readout, or the model's default.
        coupling: change of the response of other examples relative to that of the examples with
            noise; None if it was not tried.
        taps: the results for each tap, in the order of the forward pass.
    """

    readout: str
    coupling: float | None
    taps: tuple[TapReport, ...]

    @property
    def coupled(self) -> bool:
        """Whether an example's response depends on other examples."""
        return self.coupling is not None and self.coupling > NOTHING

    @property
    def causal(self) -> dict[str, bool]:
        """Tap name to whether the response follows its time, as the argument `causal` takes it."""
        return {tap.name: bool(tap.aligned) for tap in self.taps}

    def __getitem__(self, name: str) -> TapReport:
        return next(tap for tap in self.taps if tap.name == name)

    def __str__(self) -> str:
        head = ("tap", "units", "steps", "feeds", "time", "effect", "coupling", "feedback")
        time = {None: "-", True: "lag by lag", False: "one block"}
        rows = [
            (
                tap.name,
                str(tap.units),
                str(tap.steps),
                ", ".join(node.rstrip(":") for node, _ in tap.stages) or "-",
                time[tap.aligned],
                _number(tap.effect),
                _number(tap.coupling),
                _feedback_bytes(self.readout, tap),
            )
            for tap in self.taps
        ]
        widths = [max(len(row[place]) for row in (head, *rows)) for place in range(len(head))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in (head, *rows)
        ]
        coupling = "not tried" if self.coupling is None else f"{self.coupling:.2g}"
        return "\n".join([f"readout {self.readout}, coupling of examples {coupling}", *lines])


def _feedback_bytes(readout: str, tap: TapReport) -> str:
    size = sum(count for _, count in tap.stages)
    if readout == "next":
        return in_bytes(4 * tap.units * max(size, 1))
    return in_bytes(4 * size) if readout == "mirror" else "-"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"
