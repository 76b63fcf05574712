"""Models with taps in Flax Linen, whose ``module.apply`` is an ``apply_fn`` of the library."""

from nmnc_jax.models.alexnet import AlexNet
from nmnc_jax.models.binary import BinaryMLP
from nmnc_jax.models.conv import ConvNet
from nmnc_jax.models.mlp import MLP
from nmnc_jax.models.recurrent import GRU, LeakyRNN, RowReader
from nmnc_jax.models.resnet import ResNet, resnet18, resnet20, resnet50
from nmnc_jax.models.transformer import CausalTransformer, VisionTransformer

__all__ = [
    "GRU",
    "MLP",
    "AlexNet",
    "BinaryMLP",
    "CausalTransformer",
    "ConvNet",
    "LeakyRNN",
    "ResNet",
    "RowReader",
    "VisionTransformer",
    "resnet18",
    "resnet20",
    "resnet50",
]
