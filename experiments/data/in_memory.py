"""Sets of images that are whole in memory: standardised, held out, shifted and mirrored."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from experiments.data.dataset import Examples, batch_indices, class_correct, class_loss
from experiments.errors import UserError
from nmnc_jax.types import Array


class InMemory(NamedTuple):
    """A `Dataset` that is whole in memory.

    Attributes:
        train_inputs: float32 images of mean 0 and variance 1 over the training set; channels that
            do not vary there are 0.
        train_targets: int32 classes.
        test_inputs: images that training never sees.
        test_targets: their classes.
        classes: number of classes.
        white: what a white pixel was before images were standardised.
        mean: what was subtracted from them.
        scale: by what they were multiplied then.
        augment: whether training images are shifted and mirrored at random.
    """

    train_inputs: np.ndarray
    train_targets: np.ndarray
    test_inputs: np.ndarray
    test_targets: np.ndarray
    classes: int
    white: float
    mean: np.ndarray
    scale: np.ndarray
    augment: bool = False

    loss = staticmethod(class_loss)
    correct = staticmethod(class_correct)

    @property
    def outputs(self) -> int:
        """One for each class."""
        return self.classes

    @property
    def chance(self) -> float:
        """Of classes that are equally frequent."""
        return 1 / self.classes

    @property
    def train_size(self) -> int:
        """Training examples."""
        return len(self.train_inputs)

    @property
    def test_size(self) -> int:
        """Test examples."""
        return len(self.test_inputs)

    def train_examples(self, indices: np.ndarray) -> Examples:
        """Takes training examples."""
        return self.train_inputs[indices], self.train_targets[indices]

    def test_examples(self, indices: np.ndarray) -> Examples:
        """Takes test examples."""
        return self.test_inputs[indices], self.test_targets[indices]

    def train_batches(
        self, batch: int, seed: int, *, steps: range, rows: np.ndarray
    ) -> Iterator[Examples]:
        """Yields these rows of each of these steps' batches."""
        for step in steps:
            places = batch_indices(self.train_size, batch, seed, step)[rows]
            images, targets = self.train_examples(places)
            if self.augment:
                random = np.random.default_rng((seed, step, 1))  # Not that of an epoch's order.
                images = shifted_and_mirrored(images, random, rows)
            yield images, targets

    def presented(self, images: np.ndarray) -> np.ndarray:
        """Makes other pictures, uint8 [images, side, side, 3], the inputs of a trained network."""
        raw = images.astype(np.float32) * np.float32(self.white / 255)
        if self.train_inputs.shape[-1] == 1:
            raw = raw.mean(axis=-1, keepdims=True)
        return (raw - self.mean) * self.scale

    def normalise(self, inputs: Array) -> Array:
        """Leaves inputs as they are: they were standardised in memory."""
        return inputs


def held_out(train: Examples) -> tuple[Examples, Examples]:
    """Parts a training set, at random but always alike, into nine tenths and the rest.

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
    """Takes a number of the training images, at random but always alike, standardised as all are.

    Raises:
        UserError: if there are fewer.
    """
    if count > data.train_size:
        raise UserError(f"train_images is {count}; there are {data.train_size}")
    chosen = np.random.default_rng(0).permutation(data.train_size)[:count]
    inputs, targets = data.train_examples(chosen)
    return data._replace(train_inputs=inputs, train_targets=targets)


def standardised(
    train: Examples, test: Examples, classes: int, *, each_channel: bool, white: float
) -> InMemory:
    """Standardises images by the training set's mean and deviation, over all or by channel.

    A channel that does not vary in training holds nothing to learn from: it is 0 in every image.
    """
    inputs, test_inputs = (part[0].astype(np.float32) for part in (train, test))
    mean = _pixel_mean(inputs, lambda block: block, each_channel)
    for images in (inputs, test_inputs):
        images -= mean
    variance = _pixel_mean(inputs, np.square, each_channel)
    scale = np.divide(1, np.sqrt(variance), out=np.zeros_like(variance), where=variance > 0)
    for images in (inputs, test_inputs):
        images *= scale
    targets, test_targets = (part[1].astype(np.int32) for part in (train, test))
    return InMemory(inputs, targets, test_inputs, test_targets, classes, white, mean, scale)


def _pixel_mean(
    images: np.ndarray, function: Callable[[np.ndarray], np.ndarray], each_channel: bool
) -> np.ndarray:
    """Mean of a function of the pixels; float32 is exact enough within a block of images."""
    rows = images.reshape(len(images), -1)
    blocks = (function(rows[at : at + 256]).sum(axis=0) for at in range(0, len(rows), 256))
    pixels = sum(block.astype(np.float64) for block in blocks) / len(rows)
    axis = 0 if each_channel else None
    return np.reshape(pixels, (-1, images.shape[-1])).mean(axis=axis).astype(np.float32)


def shifted_and_mirrored(
    images: np.ndarray, random: np.random.Generator, rows: np.ndarray
) -> np.ndarray:
    """Shifts images by up to an eighth of their side, filled with the mean, and mirrors half.

    Args:
        images: standardised, [rows, height, width, channels].
        random: of the step.
        rows: of the batch, which give each image's shift wherever it is read.
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
