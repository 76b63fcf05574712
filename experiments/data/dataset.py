"""What a data set is to the training loop, and the order of its examples."""

from collections.abc import Iterator
from functools import lru_cache
from itertools import count
from typing import Protocol

import jax.numpy as jnp
import numpy as np
import optax

from experiments.errors import UserError
from nmnc_jax.types import Array, Inputs

Examples = tuple[np.ndarray, np.ndarray]
"""Images [examples, height, width, channels] and int32 classes [examples]."""


def class_loss(outputs: Array, targets: Array) -> Array:
    """Cross entropy of each example, [B], from outputs [B, classes] and classes [B]."""
    return optax.softmax_cross_entropy_with_integer_labels(outputs, targets)


def class_correct(outputs: Array, targets: Array) -> Array:
    """Whether each example's class was told, [B]."""
    return (outputs.argmax(axis=-1) == targets).astype(outputs.dtype)


def among_five(outputs: Array, targets: Array) -> Array:
    """Whether at most four classes are as likely as each example's own, [B]."""
    own = jnp.take_along_axis(outputs, jnp.maximum(targets, 0)[..., None], axis=-1)
    # None is, not even itself, where outputs are not numbers.
    as_likely = (outputs >= own).sum(axis=-1)
    return ((as_likely > 0) & (as_likely <= 5)).astype(outputs.dtype)


class Dataset(Protocol):
    """A data set: images and their classes, or the trials of a task."""

    @property
    def outputs(self) -> int:
        """Outputs of a network, one for each class where there are classes."""
        ...

    @property
    def chance(self) -> float:
        """Share of right answers without looking."""
        ...

    @property
    def train_size(self) -> int:
        """Training examples."""
        ...

    @property
    def test_size(self) -> int:
        """Examples that training never sees."""
        ...

    def train_examples(self, indices: np.ndarray) -> Examples:
        """Reads training examples as they are tested: without augmentation."""
        ...

    def test_examples(self, indices: np.ndarray) -> Examples:
        """Reads test examples."""
        ...

    def train_batches(
        self, batch: int, seed: int, *, steps: range, rows: np.ndarray
    ) -> Iterator[Examples]:
        """Yields these rows of each of these steps' batches.

        A step's batch is known from its number alone, so that a run resumes where it was. Each of
        several processes reads rows of its own.

        Raises:
            UserError: if the batch is larger than the training set.
        """
        ...

    def normalise(self, inputs: Array) -> Inputs:
        """Makes read images the network's inputs, float32; it runs on the device."""
        ...

    def loss(self, outputs: Array, targets: Array) -> Array:
        """Loss of each example, [B], or of each of its time steps, [B, T]."""
        ...

    def correct(self, outputs: Array, targets: Array) -> Array:
        """Share of right answers of each example, [B]."""
        ...


def batch_indices(examples: int, batch: int, seed: int, step: int) -> np.ndarray:
    """Indices of one step's examples.

    The order is a permutation keyed by (seed, epoch). A last incomplete batch of an epoch is left
    out.

    Raises:
        UserError: if the batch is larger than the data set.
    """
    if batch > examples:
        raise UserError(f"batch is {batch}; the training set takes at most {examples}")
    epoch, place = divmod(step, examples // batch)
    return _order(examples, seed, epoch)[place * batch : (place + 1) * batch]


@lru_cache(maxsize=2)
def _order(examples: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(examples)


def batches(examples: int, batch: int, seed: int, first_step: int = 0) -> Iterator[np.ndarray]:
    """Yields the indices of each step's examples, without end; otherwise as `batch_indices`."""
    for step in count(first_step):
        yield batch_indices(examples, batch, seed, step)
