"""A small vision transformer with taps in the residual stream."""

import flax.linen as nn

from nmnc_jax.taps import TapLike, no_tap
from nmnc_jax.types import Array


class VisionTransformer(nn.Module):
    """Pre-norm attention and MLP blocks on image patches; taps embedding, attention0, mlp0, ...

    Each tap holds the residual stream [B, patches, width] after what it is named for was added.

    Attributes:
        width: of the residual stream, a multiple of `heads`.
        depth: number of blocks.
        patch: side of a patch; it divides the image's sides.
        outputs: units of the output layer, o.
        heads: attention heads.

    Raises:
        ValueError: (when applied) if `patch` does not divide the image's sides.

    Source:
        Dosovitskiy et al. 2021 (arXiv 2010.11929), with mean pooling in place of a class token.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from nmnc_jax import run
        >>> from nmnc_jax.models import VisionTransformer
        >>> model = VisionTransformer(width=32, depth=2, patch=8, outputs=10)
        >>> params = model.init(jax.random.key(0), jnp.ones((1, 32, 32, 3)))
        >>> run(model.apply, params, jnp.ones((5, 32, 32, 3)))[1]["mlp1"].shape
        (5, 16, 32)
    """

    width: int
    depth: int
    patch: int
    outputs: int
    heads: int = 4

    @nn.compact
    def __call__(self, inputs: Array, tap: TapLike = no_tap) -> Array:
        """Maps images [B, H, W, C] to outputs [B, o]."""
        if inputs.shape[1] % self.patch or inputs.shape[2] % self.patch:
            raise ValueError(
                f"patch is {self.patch}; it takes a divisor of the image's sides "
                f"{inputs.shape[1:3]}"
            )
        side = (self.patch, self.patch)
        x = nn.Conv(self.width, side, strides=side, padding="VALID", name="embedding")(inputs)
        x = x.reshape(len(x), -1, self.width)
        position = nn.initializers.normal(0.02)
        x = x + self.param("position", position, (1, *x.shape[1:]))
        x = tap("embedding", x)
        for block in range(self.depth):
            attention = nn.MultiHeadDotProductAttention(self.heads, name=f"attention{block}")
            x = tap(f"attention{block}", x + attention(nn.LayerNorm()(x)))
            hidden = nn.gelu(nn.Dense(4 * self.width, name=f"expand{block}")(nn.LayerNorm()(x)))
            x = tap(f"mlp{block}", x + nn.Dense(self.width, name=f"contract{block}")(hidden))
        return nn.Dense(self.outputs, name="output")(nn.LayerNorm()(x).mean(axis=1))
