"""One linear layer: an equation that becomes a stage with axes of examples and units."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nmnc_jax.taps import TapLike
from nmnc_jax.types import Array


class Layer(NamedTuple):
    """One equation that is a linear layer.

    Attributes:
        name: name of the stage.
        equation: a product of weights and activation.
        place: index of the weights among the two arguments.
        weights: the argument that holds the weights.
        activation: the other argument.
    """

    name: str
    equation: Any
    place: int
    weights: Array
    activation: Array

    def run(self, weights: Array, activation: Array) -> Array:
        """Runs the equation unchanged."""
        both = (weights, activation) if self.place == 0 else (activation, weights)
        return self.equation.primitive.bind(*both, **self.equation.params)

    def mark(self, tap: TapLike, longer: Sequence[int]) -> Array:
        """Runs the equation as a stage whose input has axes of examples, positions and units.

        Args:
            tap: the tap of the model.
            longer: shape of the activation for one more example.
        """
        shape = self.activation.shape
        grown = [axis for axis, size in enumerate(longer) if size != shape[axis]]
        if len(grown) != 1 or longer[grown[0]] != shape[grown[0]] + 1:
            raise ValueError(
                f"the layer of {self.name!r} takes an input of shape {shape}, and {tuple(longer)} "
                "for one more example; mirror_layers takes an input with one axis of only examples"
            )
        units = self._units()
        if grown[0] in units:
            raise ValueError(
                f"the layer of {self.name!r} sums over examples, axis {grown[0]} of its input of "
                f"shape {shape}; mirror_layers takes layers that treat each example separately"
            )
        positions = [axis for axis in range(len(shape)) if axis not in (*grown, *units)]
        order = (*grown, *positions, *units)
        back = tuple(order.index(axis) for axis in range(len(order)))

        def of_examples(activation: Array) -> Array:
            return self.run(self.weights, activation.transpose(back))

        one_more = jax.ShapeDtypeStruct(longer, self.activation.dtype)
        now = jax.eval_shape(of_examples, self.activation.transpose(order)).shape
        more = jax.eval_shape(lambda h: self.run(self.weights, h), one_more).shape
        example = next(axis for axis, size in enumerate(more) if size != now[axis])

        def stage(weights: Array, activation: Array) -> Array:
            return jnp.moveaxis(self.run(weights, activation.transpose(back)), example, 0)

        value = tap.linear(
            stage,
            self.weights,
            self.activation.transpose(order),
            name=self.name,
            time_axes=len(positions),
        )
        return jnp.moveaxis(value, 0, example)

    def _units(self) -> tuple[int, ...]:
        """Returns the axes of the activation along which weights are summed or differ."""
        if self.equation.primitive.name != "dot_general":
            # The positions of a convolution overlap, so that an example is one row.
            axes = self.equation.params["dimension_numbers"].lhs_spec
            return tuple(sorted(axes[1:]))
        summed, alike = self.equation.params["dimension_numbers"]
        return (*alike[1 - self.place], *summed[1 - self.place])


Mark = Callable[[Layer, TapLike], Array]


def other_layers(name: str) -> str:
    """Returns the error of a model whose layers differ with the number of examples."""
    return (
        f"the layer of {name!r} differs for one more example; mirror_layers takes a model whose "
        "layers do not depend on the number of examples"
    )
