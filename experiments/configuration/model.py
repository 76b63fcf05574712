"""The section `Model` of a configuration."""

import dataclasses
from typing import Literal

from experiments.configuration.section import Section

RESIDUAL = ("resnet18", "resnet20", "resnet50")
PUBLISHED = ("alexnet", *RESIDUAL)
RECURRENT = ("leaky", "gru")


@dataclasses.dataclass(frozen=True)
class Model(Section):
    """The network."""

    model: Literal[
        "mlp", "binary", "conv", "vit", "alexnet", "resnet18", "resnet20", "resnet50", "leaky",
        "gru", "transformer",
    ]  # fmt: skip
    """Architecture: dense layers (mlp); dense layers of units that are 1 or -1 (binary); strided
    3x3 convolutions with GroupNorm and a dense layer (conv); a vision transformer (vit); AlexNet; a
    residual network with GroupNorm (resnet20 is for small images); a recurrent network of leaky
    units or a GRU, which read images row by row; or a causal transformer for text."""
    features: tuple[int, ...] = ()
    """Hidden units of each dense layer (mlp, binary), channels of each convolution (conv), width of
    the residual stream in each block, the same in all (vit, transformer), or units (leaky, gru)."""
    channels: int | None = None
    """resnets only: channels of the first stage, a multiple of 8; by default the published number,
    which is 64, and 16 for resnet20."""
    taps: Literal["blocks", "convolutions"] = "blocks"
    """resnets only: whether taps stand after the stem and every block, or after the convolutions
    inside blocks too."""
    strides: tuple[int, ...] = ()
    """Stride of each convolution (conv)."""
    dense: int = 128
    """Units of the dense layer after the convolutions (conv)."""
    leak: float = 0.2
    """Time step divided by the units' time constant (leaky)."""
    noise: float = 0.0
    """Standard deviation of the independent noise in each unit (leaky, tasks)."""
    patch: int = 8
    """Side of the image patches (vit)."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """alexnet and resnets only: dtype of the computation; parameters are float32."""

    @property
    def name(self) -> str:
        """Name of the architecture."""
        return self.model

    @property
    def has_given_layers(self) -> bool:
        """Whether it is a published network with fixed layers."""
        return self.model in PUBLISHED

    @property
    def is_recurrent(self) -> bool:
        """Whether it has recurrent weights."""
        return self.model in RECURRENT

    def __post_init__(self) -> None:
        """Checks that the fields fit the architecture.

        Raises:
            UserError: if a field does not fit.
        """
        self.counts("dense", "patch")
        for field in ("features", "strides"):
            self.require(field, min(getattr(self, field), default=1) >= 1, "numbers of at least 1")
        self.require("leak", 0 < self.leak <= 1, "a number above 0, up to 1")
        self.require("noise", 0 <= self.noise < float("inf"), "0 or a positive finite number")
        if self.has_given_layers == bool(self.features):
            takes = "none" if self.has_given_layers else "the width of each layer"
            self.refuse("features", f"{self.model} takes {takes}")
        if self.channels is not None:
            if self.model not in RESIDUAL:
                self.refuse("channels", f"{self.model} takes None")
            if self.channels < 8 or self.channels % 8:
                self.refuse("channels", f"{self.model} takes a multiple of 8")
        if self.taps != "blocks" and self.model not in RESIDUAL:
            self.refuse("taps", f"{self.model} takes 'blocks'")
        if self.precision != "float32" and not self.has_given_layers:
            self.refuse("precision", f"{self.model} takes 'float32'")
        if self.is_recurrent and len(self.features) != 1:
            self.refuse("features", f"{self.model} takes one number of units")
        if self.model == "conv":
            fits = len(self.strides) == len(self.features)
            self.require("strides", fits, f"one for each of {self.features}")
            if any(channels % 8 for channels in self.features):
                self.refuse("features", "conv takes multiples of 8")
        if self.model in ("vit", "transformer") and (
            len(set(self.features)) != 1 or self.features[0] % 4
        ):
            self.refuse("features", f"{self.model} takes one multiple of 4 for all blocks")
