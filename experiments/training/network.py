"""Builds the network of a run, and checks it on a few examples before training is compiled."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import FlaxError

from experiments.configuration import Config
from experiments.data import Dataset
from experiments.errors import UserError, in_one_line
from experiments.methods import readout_of, with_mirrored_layers
from nmnc_jax import ModelReport, check_model
from nmnc_jax.models import (
    GRU,
    MLP,
    AlexNet,
    BinaryMLP,
    CausalTransformer,
    ConvNet,
    LeakyRNN,
    ResNet,
    RowReader,
    VisionTransformer,
    resnet18,
    resnet20,
    resnet50,
)


def build_model(config: Config, outputs: int) -> nn.Module:
    """Builds the network that a configuration describes."""
    chosen = config.model
    dtype, features = jnp.dtype(chosen.precision), chosen.features

    def residual(network: ResNet) -> ResNet:
        network = network.clone(taps=chosen.taps)
        if chosen.channels is None:
            return network
        groups = math.gcd(network.groups, chosen.channels)
        return network.clone(width=chosen.channels, groups=groups)

    makers: dict[str, Callable[[], nn.Module]] = {
        "mlp": lambda: MLP(features, outputs),
        "binary": lambda: BinaryMLP(features, outputs),
        "conv": lambda: ConvNet(features, chosen.strides, chosen.dense, outputs),
        "vit": lambda: VisionTransformer(features[0], len(features), chosen.patch, outputs),
        "alexnet": lambda: AlexNet(outputs, dtype),
        "resnet18": lambda: residual(resnet18(outputs, dtype=dtype)),
        "resnet20": lambda: residual(resnet20(outputs, dtype=dtype)),
        "resnet50": lambda: residual(resnet50(outputs, dtype=dtype)),
        "leaky": lambda: RowReader(LeakyRNN(features[0], outputs, chosen.leak, noise=chosen.noise)),
        "gru": lambda: RowReader(GRU(features[0], outputs)),
        "transformer": lambda: CausalTransformer(
            outputs, features[0], len(features), config.data.time_steps
        ),
    }
    return makers[chosen.name]()


@contextmanager
def refusals(config: Config) -> Iterator[None]:
    """Turns errors of the network or the method into user errors.

    Raises:
        UserError: if an error occurs. The message names the network, the data and the method.
    """
    try:
        yield
    except (ValueError, TypeError, ArithmeticError, FlaxError) as error:
        what = f"{config.model.name} on {config.data.name} by {config.method.estimator}"
        raise UserError(f"{what} is refused: {in_one_line(error)}") from error


_REPORTS: dict[tuple[Any, ...], ModelReport] = {}


def report_of(config: Config, model: nn.Module, data: Dataset) -> ModelReport | None:
    """Checks the model on a few examples, before training is compiled.

    Returns:
        The report on the model; None if the method assumes nothing of it.
    """
    readout = readout_of(config)
    if readout == "":
        return None
    known = readout, config.data, repr(model)
    if known not in _REPORTS:
        inputs, targets = data.train_examples(np.arange(min(8, data.train_size)))
        inputs = data.normalise(jax.tree.map(jnp.asarray, inputs))
        params = jax.jit(model.init)(jax.random.key(0), jax.tree.map(lambda x: x[:1], inputs))
        apply_fn: Any = model.apply
        if readout == "mirror":
            apply_fn = with_mirrored_layers(apply_fn)
        batch = inputs, targets
        _REPORTS[known] = check_model(apply_fn, data.loss, params, batch, readout=readout)
    return _REPORTS[known]
