"""Residual networks with group normalisation and taps after blocks or after convolutions."""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp

from nmnc_jax.taps import TapLike, no_tap
from nmnc_jax.types import Array, DType


class ResNet(nn.Module):
    """A residual network; taps stem, block0, block1, ..., and block0_conv0, ... where asked for.

    Group normalisation treats the examples of a batch separately, as estimators require: a
    perturbation of one example does not change the outputs of others.

    Attributes:
        blocks: number of residual blocks of each stage; each stage halves the resolution.
        bottleneck: whether a block has three convolutions (1x1, 3x3, 1x1 of four times the width)
            instead of two.
        outputs: number of units of the output layer, o.
        width: number of channels of the first stage, a multiple of `groups`.
        groups: number of groups of each GroupNorm.
        dtype: dtype of the computation; parameters and outputs are float32.
        small_images: whether the stem is a 3x3 convolution at full resolution, as for CIFAR-10,
            instead of a 7x7 convolution of stride 2 with max pooling.
        taps: "blocks" for taps after the stem and every block; "convolutions" for taps after the
            rectified convolutions inside blocks too, where no credit crosses a convolution and a
            step has fewer operations.

    Source:
        He et al. 2016 (arXiv 1512.03385), sections 4.1 and 4.2; Wu and He 2018 (arXiv 1803.08494)
        for GroupNorm.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from nmnc_jax.models import resnet18
        >>> from nmnc_jax.layout import tap_shapes
        >>> model, images = resnet18(outputs=1000), jnp.ones((2, 224, 224, 3))
        >>> params = jax.eval_shape(model.init, jax.random.key(0), images)
        >>> tap_shapes(model.apply, params, images)["block7"].shape
        (2, 7, 7, 512)
    """

    blocks: Sequence[int]
    bottleneck: bool
    outputs: int
    width: int = 64
    groups: int = 32
    dtype: DType = jnp.float32
    small_images: bool = False
    taps: Literal["blocks", "convolutions"] = "blocks"

    @nn.compact
    def __call__(self, inputs: Array, tap: TapLike = no_tap) -> Array:
        """Maps images [B, H, W, C] to outputs [B, o]."""
        convolution = partial(
            nn.Conv, use_bias=False, kernel_init=nn.initializers.he_normal(), dtype=self.dtype
        )
        norm = partial(nn.GroupNorm, num_groups=self.groups, dtype=self.dtype)

        def block(x: Array, name: str, channels: int, stride: int) -> Array:
            widths = (channels, channels, 4 * channels) if self.bottleneck else (channels,) * 2
            sides = (1, 3, 1) if self.bottleneck else (3, 3)
            strides = (1, stride, 1) if self.bottleneck else (stride, 1)
            y = x
            for place, (width, side, step) in enumerate(zip(widths, sides, strides, strict=True)):
                if place:
                    y = nn.relu(y)
                    if self.taps == "convolutions":
                        y = tap(f"{name}_conv{place - 1}", y)
                label = f"{name}_conv{place}"
                y = convolution(width, (side, side), strides=step, padding=side // 2, name=label)(y)
                y = norm(name=f"{name}_norm{place}")(y)
            if x.shape != y.shape:
                x = convolution(widths[-1], (1, 1), strides=stride, name=f"{name}_shortcut")(x)
                x = norm(name=f"{name}_shortcut_norm")(x)
            return nn.relu(x + y)

        side, stride = (3, 1) if self.small_images else (7, 2)
        x = convolution(
            self.width, (side, side), strides=stride, padding=side // 2, name="stem"
        )(inputs.astype(self.dtype))  # fmt: skip
        x = nn.relu(norm(name="stem_norm")(x))
        if not self.small_images:
            x = nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
        x = tap("stem", x)
        number = 0
        for stage, count in enumerate(self.blocks):
            for place in range(count):
                stride = 2 if stage and not place else 1
                name = f"block{number}"
                x = tap(name, block(x, name, self.width * 2**stage, stride))
                number += 1
        x = x.mean(axis=(1, 2))
        return nn.Dense(self.outputs, dtype=self.dtype, name="output")(x).astype(jnp.float32)


def resnet18(outputs: int, *, dtype: DType = jnp.float32) -> ResNet:
    """Returns ResNet-18, with eight blocks of two convolutions."""
    return ResNet((2, 2, 2, 2), bottleneck=False, outputs=outputs, dtype=dtype)


def resnet50(outputs: int, *, dtype: DType = jnp.float32) -> ResNet:
    """Returns ResNet-50, with sixteen bottleneck blocks."""
    return ResNet((3, 4, 6, 3), bottleneck=True, outputs=outputs, dtype=dtype)


def resnet20(outputs: int, *, dtype: DType = jnp.float32) -> ResNet:
    """Returns ResNet-20 for small images such as CIFAR-10, with 16, 32 and 64 channels."""
    return ResNet(
        (3, 3, 3), bottleneck=False, outputs=outputs, width=16, groups=8, dtype=dtype,
        small_images=True,
    )  # fmt: skip
