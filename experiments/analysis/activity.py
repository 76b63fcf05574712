"""Activity of a trained network at its taps, with a row for each image."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.configuration import Config
from experiments.data import InMemory
from experiments.training.network import build_model
from nmnc_jax import run


def recorder(
    config: Config, data: InMemory, params: Any
) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Returns a function of inputs that returns the activity at each tap, [images, n]."""
    apply_fn: Any = build_model(config, data.classes).apply
    record = jax.jit(lambda params, inputs: run(apply_fn, params, inputs)[1])

    def activity(inputs: np.ndarray) -> dict[str, np.ndarray]:
        found = record(params, inputs)
        return {name: np.asarray(a).reshape(len(inputs), -1) for name, a in found.items()}

    return activity


def fixed_images(data: InMemory, count: int = 2048) -> np.ndarray:
    """Returns training images that are the same in every run."""
    return data.train_inputs[np.random.default_rng(0).permutation(data.train_size)[:count]]
