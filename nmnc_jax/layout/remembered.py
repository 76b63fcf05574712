"""What a state remembers of a model, which is the same for any number of examples."""

import dataclasses
from typing import NamedTuple

import jax


class TapLayout(NamedTuple):
    """What a state remembers of one tap.

    Attributes:
        name: name of the tap.
        units: number of units per example and time step, n.
        dimension: dimension of its subspace, d.
        lags: largest number of lags, from the tap's time step to that of an output, for which
            there is feedback.
        size: number of rows of its feedback; 0 without feedback.
        aligned: whether the response follows the tap's time, so that noise changes nothing earlier.
        stages: nodes that the tap feeds directly, each with its units per row, for chained credit.
            For a linear stage these are its arrays of weights, each with its size.
        stacked: whether each step of the scan around a linear stage has separate weights.
        shared: average number of positions in one row that share a weight of a linear stage.
        summed: number of units of a linear stage's input that one output depends on; 0 for all n.
    """

    name: str
    units: int
    dimension: int
    lags: int
    size: int
    aligned: bool
    stages: tuple[tuple[str, int], ...]
    stacked: bool = False
    shared: float = 1.0
    summed: int = 0

    @property
    def directions(self) -> int:
        """Number of directions of noise that one response sums."""
        return min(self.summed or self.dimension, self.dimension)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Layout:
    """The model and method that a state belongs to; static under compilation and in checkpoints.

    Attributes:
        subspace: name of the kind of subspace.
        readout: name of the readout.
        horizon: largest number of lags; None for all.
        has_aux: whether the model returns ``(outputs, aux)``.
        learned: whether feedback is learned; None without feedback.
        coupled: whether an example's response depends on other examples.
        taps: the taps of the model, sorted by name.
        settings: keyword arguments of the model at init that are not arrays.
    """

    subspace: str
    readout: str
    horizon: int | None
    has_aux: bool
    learned: bool | None
    coupled: bool = False
    taps: tuple[TapLayout, ...] = ()
    settings: tuple[tuple[str, str], ...] = ()

    def __getitem__(self, name: str) -> TapLayout:
        return next(tap for tap in self.taps if tap.name == name)
