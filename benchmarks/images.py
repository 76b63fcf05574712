"""Batches of images at ImageNet's size, random or of the prepared data set."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

SIDE = 224
CLASSES = 1000


def fake_images(batch: int, seed: int) -> Iterator[Any]:
    """Yields the same random images without end; the content does not affect the cost."""
    pixels, labels = jax.random.split(jax.random.key(seed))
    made = (
        jax.random.normal(pixels, (batch, SIDE, SIDE, 3)),
        jax.random.randint(labels, (batch,), 0, CLASSES),
    )
    while True:
        yield made


def real_images(batch: int, seed: int, data_dir: Path) -> Iterator[Any]:
    """Yields training images of the prepared data set."""
    from experiments.data.imagenet import load_imagenet

    data = load_imagenet(data_dir, validation=False)
    normalise = jax.jit(data.normalise)
    rows = np.arange(batch)
    for inputs, targets in data.train_batches(batch, seed, steps=range(1_000_000), rows=rows):
        yield normalise(jnp.asarray(inputs)), jnp.asarray(targets)
