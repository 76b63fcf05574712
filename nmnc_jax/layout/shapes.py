"""The shapes of a model's taps, linear stages and nodes in one call."""

import math
from typing import Any, NamedTuple

import jax

from nmnc_jax.types import DType


class TapShape(NamedTuple):
    """A tap in one call of the model.

    Attributes:
        shape: shape of the activation.
        dtype: dtype of the activation.
        batch_axis: index of the batch axis, after the time axes of the scans around the tap.
        order: index of the tap in the forward pass.
        time_axes: number of time axes after the batch axis.
    """

    shape: tuple[int, ...]
    dtype: DType
    batch_axis: int
    order: int
    time_axes: int = 0

    @property
    def batch(self) -> int:
        """Number of examples, B."""
        return self.shape[self.batch_axis]

    @property
    def times(self) -> tuple[int, ...]:
        """Steps of each scan around the tap, from the outermost, and sizes of its time axes."""
        start = self.batch_axis + 1
        return self.shape[: self.batch_axis] + self.shape[start : start + self.time_axes]

    @property
    def steps(self) -> int:
        """Number of time steps in the scans around the tap and its time axes, T; 1 without them."""
        return math.prod(self.times)

    @property
    def rows(self) -> int:
        """Examples times time steps, over which subspaces and feedback are fitted."""
        return self.batch * self.steps

    @property
    def units(self) -> int:
        """Units per example and time step, n."""
        return math.prod(self.unit_axes)

    @property
    def unit_axes(self) -> tuple[int, ...]:
        """The shape of one row."""
        return self.shape[self.batch_axis + 1 + self.time_axes :]

    def of_batch(self, batch: int) -> "TapShape":
        """Returns the same tap with another number of examples."""
        shape = list(self.shape)
        shape[self.batch_axis] = batch
        return self._replace(shape=tuple(shape))


class LinearShape(NamedTuple):
    """The shapes of one linear stage.

    Attributes:
        input: shape of the stage's input.
        weights: shapes of its weights, in one step of the scans around it.
        mapped: whether it is inside ``tap.vmap``.
    """

    input: TapShape
    weights: Any
    mapped: bool

    def labels(self, *, stacked: bool) -> tuple[tuple[str, int], ...]:
        """Returns the path and shape of each array of weights as text, with its size.

        Args:
            stacked: whether each step of the scan around the stage has separate weights.
        """
        steps = self.input.shape[: self.input.batch_axis] if stacked else ()
        shapes = [
            (place, (*steps, *leaf.shape))
            for place, leaf in jax.tree.leaves_with_path(self.weights)
        ]
        return tuple(
            (f"{jax.tree_util.keystr(place)}{list(shape)}", math.prod(shape))
            for place, shape in shapes
        )


class Nodes(NamedTuple):
    """The nodes of a model in one call, without values.

    Attributes:
        arrived: node name to the shapes of what arrives there, in the order of the calls.
        scopes: node name to the scans around it.
        outputs: shapes of the outputs.
        taps: tap name to `TapShape`, sorted by name (the fixed order in which keys are split).
        linears: name to `LinearShape` of the linear stages that are marked with their function,
            sorted by name.
    """

    arrived: dict[str, Any]
    scopes: dict[str, tuple[str, ...]]
    outputs: Any
    taps: dict[str, TapShape]
    linears: dict[str, LinearShape]
