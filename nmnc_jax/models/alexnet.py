"""AlexNet with a tap after every nonlinearity."""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp

from nmnc_jax.taps import TapLike, no_tap
from nmnc_jax.types import Array, DType

CONVOLUTIONS = (
    # channels, kernel, stride, padding, pooled after
    (64, 11, 4, 2, True),
    (192, 5, 1, 2, True),
    (384, 3, 1, 1, False),
    (256, 3, 1, 1, False),
    (256, 3, 1, 1, True),
)


class AlexNet(nn.Module):
    """Five convolutions and two dense layers; taps conv0 to conv4, dense5 and dense6.

    For images of 224 x 224 pixels, conv0 has 55 x 55 x 64 = 193,600 units. The network has no
    dropout, so that all passes of an estimator compute the same function.

    Attributes:
        outputs: number of units of the output layer, o.
        dtype: dtype of the computation; parameters and outputs are float32.

    Source:
        Krizhevsky 2014 (arXiv 1404.5997), in the one-column widths that torchvision made common.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from nmnc_jax.models import AlexNet
        >>> from nmnc_jax.layout import tap_shapes
        >>> model, images = AlexNet(outputs=1000), jnp.ones((2, 224, 224, 3))
        >>> params = jax.eval_shape(model.init, jax.random.key(0), images)
        >>> tap_shapes(model.apply, params, images)["conv0"].units
        193600
    """

    outputs: int
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, inputs: Array, tap: TapLike = no_tap) -> Array:
        """Maps images [B, H, W, C], of at least 63 pixels a side, to outputs [B, o]."""
        he = nn.initializers.he_normal()
        dense = partial(nn.Dense, kernel_init=he, dtype=self.dtype)
        x = inputs.astype(self.dtype)
        for layer, (channels, side, stride, padding, pooled) in enumerate(CONVOLUTIONS):
            convolution = nn.Conv(
                channels,
                (side, side),
                strides=stride,
                padding=padding,
                kernel_init=he,
                dtype=self.dtype,
                name=f"conv{layer}",
            )
            x = tap(f"conv{layer}", nn.relu(tap.linear(convolution(x))))
            if pooled:
                x = nn.max_pool(x, (3, 3), strides=(2, 2))
        x = x.reshape(len(x), -1)
        for name in ("dense5", "dense6"):
            x = tap(name, nn.relu(tap.linear(dense(4096, name=name)(x))))
        return nn.Dense(self.outputs, dtype=self.dtype, name="output")(x).astype(jnp.float32)
