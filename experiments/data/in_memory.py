"""Image data sets in memory: standardisation, held-out sets and augmentation."""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

from experiments.data.dataset import Examples, OfClasses, batch_indices, inverse_deviation
from experiments.errors import UserError
from nmnc_jax.types import Array


@dataclasses.dataclass(frozen=True)
class InMemory(OfClasses):
    """A `Dataset` in memory.

    Attributes:
        classes: number of classes.
        train_inputs: float32 images with mean 0 and variance 1 over the training set; channels that
            do not vary there are 0.
        train_targets: int32 classes.
        test_inputs: test images.
        test_targets: their classes.
        white: value of a white pixel before standardisation.
        mean: the mean that standardisation subtracts.
        scale: the factor by which standardisation then multiplies.
        augment: whether training images are shifted and mirrored at random.
    """

    train_inputs: np.ndarray
    train_targets: np.ndarray
    test_inputs: np.ndarray
    test_targets: np.ndarray
    white: float
    mean: np.ndarray
    scale: np.ndarray
    augment: bool = False

    @property
    def train_size(self) -> int:
        """Number of training examples."""
        return len(self.train_inputs)

    @property
    def test_size(self) -> int:
        """Number of test examples."""
        return len(self.test_inputs)

    def train_examples(self, indices: np.ndarray) -> Examples:
        """Returns training examples."""
        return self.train_inputs[indices], self.train_targets[indices]

    def test_examples(self, indices: np.ndarray) -> Examples:
        """Returns test examples."""
        return self.test_inputs[indices], self.test_targets[indices]

    def train_batches(
        self, batch: int, seed: int, *, steps: range, rows: np.ndarray
    ) -> Iterator[Examples]:
        """Yields the given rows of the batch of each step."""
        for step in steps:
            places = batch_indices(self.train_size, batch, seed, step)[rows]
            images, targets = self.train_examples(places)
            if self.augment:
                # Another sequence than that of the order in an epoch.
                random = np.random.default_rng((seed, step, 1))
                images = shifted_and_mirrored(images, random, rows)
            yield images, targets

    def presented(self, images: np.ndarray) -> np.ndarray:
        """Converts other images, uint8 [images, side, side, 3], to inputs of a trained network."""
        raw = images.astype(np.float32) * np.float32(self.white / 255)
        if self.train_inputs.shape[-1] == 1:
            raw = raw.mean(axis=-1, keepdims=True)
        return (raw - self.mean) * self.scale

    def normalise(self, inputs: Array) -> Array:
        """Returns inputs unchanged, because they are standardised in memory."""
        return inputs


def held_out(train: Examples) -> tuple[Examples, Examples]:
    """Splits a training set in nine tenths and the rest, by a fixed random order.

    Raises:
        UserError: if it has fewer than 10 examples.
    """
    if len(train[0]) < 10:
        raise UserError(
            f"the training set has {len(train[0])} examples, of which validation holds out a "
            "tenth; it takes at least 10"
        )
    order = np.random.default_rng(0).permutation(len(train[0]))
    held = len(order) // 10
    kept, rest = ((train[0][part], train[1][part]) for part in (order[held:], order[:held]))
    return kept, rest


def some_images(data: InMemory, count: int) -> InMemory:
    """Returns a data set with a number of its training images, chosen by a fixed random order.

    The images keep the standardisation of the whole training set.

    Raises:
        UserError: if there are fewer training images.
    """
    if count > data.train_size:
        raise UserError(f"train_images is {count}; there are {data.train_size}")
    chosen = np.random.default_rng(0).permutation(data.train_size)[:count]
    inputs, targets = data.train_examples(chosen)
    return dataclasses.replace(data, train_inputs=inputs, train_targets=targets)


def standardised(
    train: Examples, test: Examples, classes: int, *, each_channel: bool, white: float
) -> InMemory:
    """Standardises images by the training set's mean and deviation, over all pixels or by channel.

    A channel that does not vary in training is 0 in every image.
    """
    inputs, test_inputs = (part[0].astype(np.float32) for part in (train, test))
    mean = _pixel_mean(inputs, lambda block: block, each_channel)
    for images in (inputs, test_inputs):
        images -= mean
    variance = _pixel_mean(inputs, np.square, each_channel)
    scale = inverse_deviation(variance)
    for images in (inputs, test_inputs):
        images *= scale
    targets, test_targets = (part[1].astype(np.int32) for part in (train, test))
    return InMemory(classes, inputs, targets, test_inputs, test_targets, white, mean, scale)


def _pixel_mean(
    images: np.ndarray, function: Callable[[np.ndarray], np.ndarray], each_channel: bool
) -> np.ndarray:
    """Averages a function of the pixels, in float32 within blocks and in float64 over blocks."""
    rows = images.reshape(len(images), -1)
    blocks = (function(rows[at : at + 256]).sum(axis=0) for at in range(0, len(rows), 256))
    pixels = sum(block.astype(np.float64) for block in blocks) / len(rows)
    axis = 0 if each_channel else None
    return np.reshape(pixels, (-1, images.shape[-1])).mean(axis=axis).astype(np.float32)


def shifted_and_mirrored(
    images: np.ndarray, random: np.random.Generator, rows: np.ndarray
) -> np.ndarray:
    """Shifts images by up to an eighth of their side, fills with the mean, and mirrors half.

    Args:
        images: standardised images, [rows, height, width, channels].
        random: random generator of the step.
        rows: rows of the batch, which determine the shift of each image in any process.
    """
    _, height, width, _ = images.shape
    most = max(height, width) // 8
    drawn = random.integers((2 * most + 1, 2 * most + 1, 2), size=(rows.max(initial=0) + 1, 3))
    padded = np.pad(images, ((0, 0), (most, most), (most, most), (0, 0)))
    moved = np.empty_like(images)
    for place, (down, across, mirrored) in enumerate(drawn[rows]):
        part = padded[place, down : down + height, across : across + width]
        moved[place] = part[:, ::-1] if mirrored else part
    return moved
