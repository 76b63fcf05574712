"""Data sets for plans, with the shapes and numbers of the real ones but without their files."""

import dataclasses
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from experiments.configuration import Config
from experiments.data import load
from experiments.data.dataset import Dataset
from experiments.data.imagenet import HELD_OUT, ImageNet
from experiments.data.in_memory import InMemory

IMAGENET = 1_281_167, 50_000
"""Numbers of training and validation images of imagenet2012."""
CIFAR = 50_000, 10_000
"""Numbers of training and test images of cifar10."""


def describe(config: Config) -> Dataset:
    """Returns the data set of a configuration for a plan.

    For cifar10 and a prepared imagenet2012 nothing is read: images are noise, in the same number.
    Other data sets are loaded.

    Raises:
        UserError: if `experiments.data.load` raises.
    """
    if config.data.name == "imagenet2012" and not config.data.data_path:
        train, test = IMAGENET
        if config.data.validation:
            train, test = train - HELD_OUT, HELD_OUT
        return ImageNet(1000, _Noise(train), _Noise(test), np.arange(train), np.arange(test))
    if config.data.name == "cifar10":
        # All images share the memory of one.
        noise = np.random.default_rng(0).normal(size=(32, 32, 3)).astype(np.float32)
        images, tested = (np.broadcast_to(noise, (size, *noise.shape)) for size in CIFAR)
        classes, test_classes = (np.arange(size, dtype=np.int32) % 10 for size in CIFAR)
        mean, scale = np.zeros(3, np.float32), np.ones(3, np.float32)
        return InMemory(10, images, classes, tested, test_classes, 255.0, mean, scale)
    return load(config)


@dataclasses.dataclass(frozen=True)
class _Noise(Sequence[dict[str, Any]]):
    """Random access to encoded images of noise."""

    size: int

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, place: Any) -> Any:
        pixels = np.random.default_rng(int(place)).integers(256, size=(256, 256, 3), dtype=np.uint8)
        encoded = io.BytesIO()
        Image.fromarray(pixels).save(encoded, "JPEG")
        return {"image": encoded.getvalue(), "label": int(place) % 1000}
