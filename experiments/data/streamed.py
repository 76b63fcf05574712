"""A folder of images that is read during training, with the same numbers as if in memory."""

import contextlib
import dataclasses
import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data.dataset import (
    Examples,
    OfClasses,
    batch_indices,
    check_batch,
    inverse_deviation,
)
from experiments.data.folder import chosen_parts, parts_of
from experiments.data.in_memory import shifted_and_mirrored
from experiments.data.listing import files_of, read_file, readable
from experiments.data.pictures import is_picture, opened, picture, upright_size
from experiments.data.reading import THREADS, read_ahead
from experiments.errors import Unreadable
from nmnc_jax.types import Array


@dataclasses.dataclass(frozen=True)
class Streamed(OfClasses):
    """A `Dataset` of files.

    Attributes:
        classes: number of classes.
        root: the folder.
        train: names of the training images and their classes.
        test: the same for test images.
        image_size: side to which images are resized; None keeps their size.
        mean: mean of each channel over the training images.
        scale: inverse of its deviation; 0 if it does not vary.
        augment: whether training images are shifted and mirrored at random.
    """

    root: Path
    train: Examples
    test: Examples
    image_size: int | None
    mean: np.ndarray
    scale: np.ndarray
    augment: bool

    @property
    def train_size(self) -> int:
        """Number of training examples."""
        return len(self.train[1])

    @property
    def test_size(self) -> int:
        """Number of test examples."""
        return len(self.test[1])

    def train_examples(self, indices: np.ndarray) -> Examples:
        """Reads training examples."""
        return self._examples(self.train, indices)

    def test_examples(self, indices: np.ndarray) -> Examples:
        """Reads test examples."""
        return self._examples(self.test, indices)

    def _examples(self, part: Examples, indices: np.ndarray) -> Examples:
        with ThreadPoolExecutor(THREADS) as pool:
            images = list(pool.map(self._image, part[0][indices]))
        return np.stack(images), part[1][indices]

    def _image(self, stored: Any) -> np.ndarray:
        """Reads one image, standardised."""
        name = os.fsdecode(stored)
        label = f"{readable(name)} in {readable(self.root)}"
        image = picture(read_file(self.root / name, label), label, self.image_size)
        return (image.astype(np.float32) - self.mean) * self.scale

    def train_batches(
        self, batch: int, seed: int, *, steps: range, rows: np.ndarray
    ) -> Iterator[Examples]:
        """Yields the given rows of the batch of each step."""
        check_batch(self.train_size, batch)

        def read(step: int, row: int) -> tuple[np.ndarray, np.int32]:
            place = batch_indices(self.train_size, batch, seed, step)[row]
            image = self._image(self.train[0][place])
            if self.augment:
                random = np.random.default_rng((seed, step, 1))
                (image,) = shifted_and_mirrored(image[None], random, np.array([row]))
            return image, np.int32(self.train[1][place])

        return read_ahead(read, steps, rows)

    def normalise(self, inputs: Array) -> Array:
        """Returns inputs unchanged, because they are standardised when they are read."""
        return inputs


def memory_of(path: Path, image_size: int | None) -> int:
    """Returns the bytes of a folder's images in memory; 0 for an archive, which is kept there.

    Without `image_size` all images have the size of the first one that can be read.
    """
    if not path.is_dir():
        return 0
    count, pixels = 0, image_size and image_size**2
    for name, read in files_of(path):
        if is_picture(name):
            count += 1
            if pixels is None:
                with contextlib.suppress(Unreadable), opened(read(), name) as image:
                    pixels = math.prod(upright_size(image))
    return count * (pixels or 0) * 3 * np.dtype(np.float32).itemsize


def stream_folder(
    path: Path,
    image_size: int | None,
    validation: bool,
    cache: Path,
    skip_damaged: bool,
    augment: bool,
) -> Streamed:
    """Opens a folder of images like `load_folder`, but reads them during training.

    All images are decoded once before, for the mean and deviation of the training images and to
    find damaged ones; names and sums are kept in the cache.

    Raises:
        UserError: as `load_folder`.
    """
    parts = parts_of(path, image_size, cache, skip_damaged, whole=False)
    train, test = chosen_parts(parts, validation, readable(path))
    pixels = len(train[0]) * parts["pixels"]
    mean, square = train[0]["sums"].sum(axis=0) / pixels
    variance = np.maximum(square - mean**2, 0)
    return Streamed(
        classes=len(parts["classes"]),
        root=path,
        train=(train[0]["name"], train[1]),
        test=(test[0]["name"], test[1]),
        image_size=image_size,
        mean=mean.astype(np.float32),
        scale=inverse_deviation(variance).astype(np.float32),
        augment=augment,
    )
