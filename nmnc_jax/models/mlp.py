"""A multilayer perceptron with a tap after every hidden layer."""

from collections.abc import Sequence

import flax.linen as nn

from nmnc_jax.taps import TapLike, no_tap
from nmnc_jax.types import Array


class MLP(nn.Module):
    """Dense layers with ReLU; taps dense0, dense1, ...

    Attributes:
        features: number of units of each hidden layer.
        outputs: number of units of the output layer, o.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from nmnc_jax import run
        >>> from nmnc_jax.models import MLP
        >>> model = MLP(features=(16,), outputs=10)
        >>> params = model.init(jax.random.key(0), jnp.ones((1, 8, 8, 1)))
        >>> run(model.apply, params, jnp.ones((5, 8, 8, 1)))[1]["dense0"].shape
        (5, 16)
    """

    features: Sequence[int]
    outputs: int

    @nn.compact
    def __call__(self, inputs: Array, tap: TapLike = no_tap) -> Array:
        """Maps inputs [B, ...] to outputs [B, o]."""
        x = inputs.reshape(len(inputs), -1)
        for layer, units in enumerate(self.features):
            name = f"dense{layer}"
            x = self.activation(name, tap.linear(nn.Dense(units, name=name)(x)), tap)
        return nn.Dense(self.outputs, name="output")(x)

    def activation(self, name: str, x: Array, tap: TapLike) -> Array:
        """Maps the sums of a hidden layer to its activity, and taps it."""
        return tap(name, nn.relu(x))
