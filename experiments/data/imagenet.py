"""ImageNet, read by grain during training with random access, augmentation and exact resumption."""

import dataclasses
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageOps

from experiments.data.catalogue import open_sources
from experiments.data.dataset import Examples, OfClasses, batch_indices, check_batch
from experiments.data.distortion import DISTORTIONS
from experiments.data.extracted import LAYOUT, open_extracted
from experiments.data.listing import check_source, readable
from experiments.data.pictures import colours, opened, upright_size
from experiments.data.reading import THREADS, read_ahead
from experiments.errors import UserError
from nmnc_jax.types import Array

MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)
"""Mean and deviation of the training images' channels, from 0 to 1, as usually published."""
CENTRE = 224 / 256
"""Side of the square that is tested, relative to the image's shorter side."""
AREA = (0.08, 1.0)
RATIO = (3 / 4, 4 / 3)
"""Ranges of area and aspect ratio of random crops in training (Szegedy et al. 2015)."""
NAME = "an image of imagenet2012"
VALIDATION_LABELS = "datasets/imagenet2012/validation_labels.txt"
HELD_OUT = 10_000


@dataclasses.dataclass(frozen=True)
class ImageNet(OfClasses):
    """A `Dataset` of encoded photographs; images are uint8 until `normalise`.

    Attributes:
        classes: number of classes.
        train_source: random access to records of image (encoded) and label.
        test_source: the same for test images.
        train_places: indices of the training images in their source.
        test_places: indices of the test images in their source.
        side: side of the square images.
        distort: name of the distortion of training images, from `DISTORTIONS`; None for none.
    """

    train_source: Any
    test_source: Any
    train_places: np.ndarray
    test_places: np.ndarray
    side: int = 224
    distort: str | None = None

    @property
    def train_size(self) -> int:
        """Number of training images."""
        return len(self.train_places)

    @property
    def test_size(self) -> int:
        """Number of test images."""
        return len(self.test_places)

    def train_examples(self, indices: np.ndarray) -> Examples:
        """Reads the centres of training images."""
        return self._centres(self.train_source, self.train_places[indices])

    def test_examples(self, indices: np.ndarray) -> Examples:
        """Reads the centres of test images."""
        return self._centres(self.test_source, self.test_places[indices])

    def _centres(self, source: Any, places: np.ndarray) -> Examples:
        def read(place: int) -> tuple[np.ndarray, int]:
            record = source[int(place)]
            return crop_centre(record["image"], self.side, _name(record)), record["label"]

        with ThreadPoolExecutor(THREADS) as pool:
            images, labels = zip(*pool.map(read, places), strict=True)
        return np.stack(images), np.array(labels, np.int32)

    def train_batches(
        self, batch: int, seed: int, *, steps: range, rows: np.ndarray
    ) -> Iterator[Examples]:
        """Yields the given rows of each step's batch, cropped, flipped and distorted at random.

        Image, crop, flip and distortion depend only on the seed, the step and the row.
        """
        check_batch(self.train_size, batch)

        def read(step: int, row: int) -> tuple[np.ndarray, np.int32]:
            index = batch_indices(self.train_size, batch, seed, step)[row]
            record = self.train_source[int(self.train_places[index])]
            random = np.random.default_rng((seed, step, row))
            image = crop_at_random(record["image"], self.side, random, _name(record))
            if self.distort is not None:
                image = np.asarray(DISTORTIONS[self.distort](Image.fromarray(image), random))
            return image, np.int32(record["label"])

        return read_ahead(read, steps, rows)

    def normalise(self, inputs: Array) -> Array:
        """Standardises each channel."""
        scaled = inputs.astype(jnp.float32) / 255
        mean, deviation = (jnp.asarray(v)[None, None, None] for v in (MEAN, DEVIATION))
        return (scaled - mean) / deviation


def load_imagenet(data_dir: Path, validation: bool) -> ImageNet:
    """Opens a prepared ImageNet; if `validation`, 10,000 training images are the test set.

    Raises:
        UserError: if `open_sources` raises.
    """
    train, test = open_sources("imagenet2012", data_dir)
    return _split(train, test, 1000, validation)


def stream_imagenet(path: Path, validation: bool) -> ImageNet:
    """Opens extracted images with any number of classes, like `load_imagenet`.

    Raises:
        UserError: if `open_extracted` raises.
    """
    check_source("data_path", path, LAYOUT)
    found = open_extracted(path, official_labels())
    return _split(found.train, found.test, len(found.classes), validation)


def official_labels() -> list[str]:
    """Returns the classes of the official validation images by number; empty without TFDS."""
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        return []
    return tfds.core.tfds_path(VALIDATION_LABELS).read_text().split()


def _split(train: Any, test: Any, classes: int, validation: bool) -> ImageNet:
    places = np.arange(len(train))
    if not validation:
        return ImageNet(classes, train, test, places, np.arange(len(test)))
    if len(places) <= HELD_OUT:
        raise UserError(f"imagenet2012 has {len(places)} images; validation holds out {HELD_OUT}")
    order = np.random.default_rng(0).permutation(places)
    held, kept = np.sort(order[:HELD_OUT]), np.sort(order[HELD_OUT:])
    return ImageNet(classes, train, train, kept, held)


def _name(record: Any) -> str:
    """Returns the name of a record for errors, which is its file if it is known."""
    return readable(record["file"]) if "file" in record else NAME


def crop_centre(content: bytes, side: int, name: str = NAME) -> np.ndarray:
    """Decodes the central square of an image, [side, side, 3]."""
    with opened(content, name) as image:
        width, height = upright_size(image)
        length = CENTRE * min(width, height)
        left, top = (width - length) / 2, (height - length) / 2
        return np.asarray(_resized(image, (left, top, left + length, top + length), side))


def crop_at_random(
    content: bytes, side: int, random: np.random.Generator, name: str = NAME
) -> np.ndarray:
    """Decodes a random part of an image, mirrored half the time, [side, side, 3]."""
    with opened(content, name) as image:
        width, height = upright_size(image)
        area = width * height * random.uniform(*AREA)
        ratio = np.exp(random.uniform(*np.log(RATIO)))
        # A crop that does not fit is cut to the image.
        across, down = min((area * ratio) ** 0.5, width), min((area / ratio) ** 0.5, height)
        left, top = random.uniform(0, width - across), random.uniform(0, height - down)
        crop = _resized(image, (left, top, left + across, top + down), side)
        return np.asarray(ImageOps.mirror(crop) if random.integers(2) else crop)


def _resized(image: Image.Image, box: tuple[float, float, float, float], side: int) -> Image.Image:
    """Returns a part of an upright image as a square.

    JPEG is decoded at a reduced size, which is cheaper, but not below the size of the square.
    """
    width, height = upright_size(image)
    across = int(side * width / (box[2] - box[0])) + 1
    down = int(side * height / (box[3] - box[1])) + 1
    image.draft("RGB", (across, down) if image.size == (width, height) else (down, across))
    whole = colours(image)
    scale = whole.size[0] / width, whole.size[1] / height
    scaled = tuple(edge * scale[place % 2] for place, edge in enumerate(box))
    limits = (0.0, 0.0, *map(float, whole.size))
    inside = tuple(min(edge, limits[2 + place % 2]) for place, edge in enumerate(scaled))
    return whole.resize(
        (side, side), Image.Resampling.BILINEAR, (inside[0], inside[1], inside[2], inside[3])
    )
