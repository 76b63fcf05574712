"""A strided convolutional network with group normalisation and a tap after every hidden layer."""

from collections.abc import Sequence

import flax.linen as nn

from nmnc_jax.taps import TapLike, no_tap
from nmnc_jax.types import Array


class ConvNet(nn.Module):
    """3x3 convolutions, GroupNorm and ReLU, then one dense layer; taps conv0, conv1, ..., dense.

    It takes images of any size. Strides instead of pooling keep its backward pass fast on CPU.

    Attributes:
        features: number of channels of each convolution, each a multiple of `groups`.
        strides: stride of each convolution.
        dense: number of units of the dense layer.
        outputs: number of units of the output layer, o.
        groups: number of groups of each GroupNorm.
        largest: side of the maps that the dense layer takes. Larger maps are averaged to it,
            because a dense layer with tens of thousands of inputs becomes silent in its first
            steps.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from nmnc_jax import run
        >>> from nmnc_jax.models import ConvNet
        >>> model = ConvNet(features=(8, 16), strides=(2, 2), dense=32, outputs=10)
        >>> params = model.init(jax.random.key(0), jnp.ones((1, 32, 32, 3)))
        >>> run(model.apply, params, jnp.ones((5, 32, 32, 3)))[1]["conv1"].shape
        (5, 8, 8, 16)
    """

    features: Sequence[int]
    strides: Sequence[int]
    dense: int
    outputs: int
    groups: int = 8
    largest: int = 8

    @nn.compact
    def __call__(self, inputs: Array, tap: TapLike = no_tap) -> Array:
        """Maps images [B, H, W, C] to outputs [B, o]."""
        x = inputs
        for layer, (channels, stride) in enumerate(zip(self.features, self.strides, strict=True)):
            # The normalisation has a bias, so the convolution has none.
            convolution = nn.Conv(
                channels, (3, 3), strides=stride, use_bias=False, name=f"conv{layer}"
            )
            x = tap.linear(convolution(x))
            x = nn.GroupNorm(num_groups=self.groups, name=f"norm{layer}")(x)
            x = tap(f"conv{layer}", nn.relu(x))
        window = -(-max(x.shape[1:3]) // self.largest)
        if window > 1:
            x = nn.avg_pool(x, (window, window), (window, window))
        x = nn.relu(tap.linear(nn.Dense(self.dense, name="dense")(x.reshape(len(x), -1))))
        return nn.Dense(self.outputs, name="output")(tap("dense", x))
