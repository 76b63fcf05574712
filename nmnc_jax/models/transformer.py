"""Small transformers for images and for sequences of tokens, with taps in the residual stream."""

import flax.linen as nn

from nmnc_jax.taps import TapLike, no_tap
from nmnc_jax.types import Array


class VisionTransformer(nn.Module):
    """Pre-norm attention and MLP blocks on image patches; taps embedding, attention0, mlp0, ...

    Each tap holds the residual stream [B, patches, width] after the part it is named for.

    Attributes:
        width: width of the residual stream, a multiple of `heads`.
        depth: number of blocks.
        patch: side of a patch, which must divide the image's sides.
        outputs: number of units of the output layer, o.
        heads: number of attention heads.

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
        x = _blocks(x, tap, self.depth, self.heads)
        return nn.Dense(self.outputs, name="output")(nn.LayerNorm()(x).mean(axis=1))


class CausalTransformer(nn.Module):
    """A language model of pre-norm causal attention and MLP blocks; taps embedding, attention0, ...

    Each tap holds the residual stream [B, T, width] with positions as time, so that feedback is
    learned lag by lag and does not grow with the square of T.

    Attributes:
        vocabulary: number of tokens, V, which is also the number of outputs.
        width: width of the residual stream, a multiple of `heads`.
        depth: number of blocks.
        positions: largest number of tokens of a sequence.
        heads: number of attention heads.

    Raises:
        ValueError: (when applied) if a sequence is longer than `positions`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from nmnc_jax import run
        >>> from nmnc_jax.models import CausalTransformer
        >>> model = CausalTransformer(vocabulary=20, width=32, depth=1, positions=16)
        >>> params = model.init(jax.random.key(0), jnp.ones((1, 16), int))
        >>> run(model.apply, params, jnp.ones((5, 16), int))[0].shape
        (5, 16, 20)
    """

    vocabulary: int
    width: int
    depth: int
    positions: int
    heads: int = 4

    @nn.compact
    def __call__(self, inputs: Array, tap: TapLike = no_tap) -> Array:
        """Maps tokens [B, T] to the logits of the token after each, [B, T, V]."""
        steps = inputs.shape[1]
        if steps > self.positions:
            raise ValueError(
                f"inputs have {steps} tokens; positions is {self.positions}, the largest number of "
                "tokens"
            )
        x = nn.Embed(self.vocabulary, self.width, name="embedding")(inputs)
        position = nn.initializers.normal(0.02)
        x = x + self.param("position", position, (1, self.positions, self.width))[:, :steps]
        mask = nn.make_causal_mask(inputs)
        x = tap("embedding", x, time_axes=1)
        x = _blocks(x, tap, self.depth, self.heads, mask=mask, time_axes=1)
        return nn.Dense(self.vocabulary, name="output")(nn.LayerNorm()(x))


def _blocks(
    x: Array,
    tap: TapLike,
    depth: int,
    heads: int,
    *,
    mask: Array | None = None,
    time_axes: int = 0,
) -> Array:
    """Applies attention and MLP blocks to a residual stream, inside a compact module."""
    width = x.shape[-1]
    for block in range(depth):
        attention = nn.MultiHeadDotProductAttention(heads, name=f"attention{block}")
        x = x + attention(nn.LayerNorm()(x), mask=mask)
        x = tap(f"attention{block}", x, time_axes=time_axes)
        hidden = nn.gelu(nn.Dense(4 * width, name=f"expand{block}")(nn.LayerNorm()(x)))
        x = x + nn.Dense(width, name=f"contract{block}")(hidden)
        x = tap(f"mlp{block}", x, time_axes=time_axes)
    return x
