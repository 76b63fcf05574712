"""Stages between the nodes of a model: their derivative, and the call of a linear one."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from nmnc_jax.types import Array


@jax.custom_jvp
def with_derivative_of(activation: Array, value: Array) -> Array:
    """Returns `value` with the derivative of `activation`."""
    del activation
    return value


@with_derivative_of.defjvp
def _derivative_of(primals: tuple[Array, Array], tangents: tuple[Array, Array]):
    return primals[1], tangents[0]


Stage = Callable[[Array], Any]
"""Maps a tap's activation in one time step to what it adds to the derivative of a later node."""


class LinearStage(NamedTuple):
    """One call of a linear stage.

    Attributes:
        name: name of the stage.
        apply: ``apply(weights, activation) -> value``.
        weights: pytree of arrays.
        activation: the input of the stage, [B, ...].
        noise: noise for the stage in the input's shape, or None.
    """

    name: str
    apply: Callable[[Any, Array], Array]
    weights: Any
    activation: Array
    noise: Array | None

    @property
    def input(self) -> Array:
        """The input with its noise."""
        if self.noise is None:
            return self.activation
        return self.activation + self.noise.astype(self.activation.dtype)


Reader = Callable[[LinearStage, Any], tuple[Array, Any]]
"""Maps a stage and the arrays given for it to its output and the value to record."""


def read_input(stage: LinearStage, given: Any) -> tuple[Array, Any]:
    """Runs a stage unchanged, and records its input."""
    del given
    return stage.apply(stage.weights, stage.input), stage.activation
