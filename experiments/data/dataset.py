"""The interface of data sets, and the order of their examples."""

import dataclasses
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
    """Returns the cross entropy of each example, [B], for outputs [B, classes] and classes [B]."""
    return optax.softmax_cross_entropy_with_integer_labels(outputs, targets)


def class_correct(outputs: Array, targets: Array) -> Array:
    """Returns whether the most likely class of each example is correct, [B]."""
    return (outputs.argmax(axis=-1) == targets).astype(outputs.dtype)


def among_five(outputs: Array, targets: Array) -> Array:
    """Returns whether at most four other classes are as likely as the correct one, [B]."""
    own = jnp.take_along_axis(outputs, jnp.maximum(targets, 0)[..., None], axis=-1)
    # If outputs are NaN, no class is as likely as the correct one, not even itself.
    as_likely = (outputs >= own).sum(axis=-1)
    return ((as_likely > 0) & (as_likely <= 5)).astype(outputs.dtype)


class Dataset(Protocol):
    """A data set of images and their classes, or of the trials of a task."""

    @property
    def outputs(self) -> int:
        """Number of outputs of a network, one for each class if there are classes."""
        ...

    @property
    def chance(self) -> float:
        """Share of correct answers without information from the inputs."""
        ...

    @property
    def train_size(self) -> int:
        """Number of training examples."""
        ...

    @property
    def test_size(self) -> int:
        """Number of test examples."""
        ...

    def train_examples(self, indices: np.ndarray) -> Examples:
        """Returns training examples without augmentation."""
        ...

    def test_examples(self, indices: np.ndarray) -> Examples:
        """Returns test examples."""
        ...

    def train_batches(
        self, batch: int, seed: int, *, steps: range, rows: np.ndarray
    ) -> Iterator[Examples]:
        """Yields the given rows of the batch of each step.

        The batch of a step depends only on the seed and the step, so that a run can be resumed.
        Each of several processes reads other rows.

        Raises:
            UserError: if the batch is larger than the training set.
        """
        ...

    def normalise(self, inputs: Array) -> Inputs:
        """Converts examples to the network's inputs, float32; it runs on the device."""
        ...

    def loss(self, outputs: Array, targets: Array) -> Array:
        """Returns the loss of each example, [B], or of each time step, [B, T]."""
        ...

    def correct(self, outputs: Array, targets: Array) -> Array:
        """Returns the share of correct answers of each example, [B]."""
        ...


@dataclasses.dataclass(frozen=True)
class OfClasses:
    """What data sets of classified images share.

    Attributes:
        classes: number of classes, equally frequent.
    """

    classes: int

    loss = staticmethod(class_loss)
    correct = staticmethod(class_correct)

    @property
    def outputs(self) -> int:
        """Number of outputs, one for each class."""
        return self.classes

    @property
    def chance(self) -> float:
        """Chance level."""
        return 1 / self.classes


def inverse_deviation(variance: np.ndarray) -> np.ndarray:
    """Returns the factor that standardises what has a variance; 0 where it is 0."""
    return np.divide(1, np.sqrt(variance), out=np.zeros_like(variance), where=variance > 0)


def check_batch(examples: int, batch: int) -> None:
    """Checks that a training set has as many examples as a batch.

    Raises:
        UserError: if it has fewer.
    """
    if batch > examples:
        raise UserError(f"batch is {batch}; the training set takes at most {examples}")


def batch_indices(examples: int, batch: int, seed: int, step: int) -> np.ndarray:
    """Returns the indices of one step's examples.

    The order is a permutation that depends on (seed, epoch). The incomplete last batch of an epoch
    is left out.

    Raises:
        UserError: if the batch is larger than the data set.
    """
    check_batch(examples, batch)
    epoch, place = divmod(step, examples // batch)
    return _order(examples, seed, epoch)[place * batch : (place + 1) * batch]


@lru_cache(maxsize=2)
def _order(examples: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(examples)


def batches(examples: int, batch: int, seed: int, first_step: int = 0) -> Iterator[np.ndarray]:
    """Yields `batch_indices` of each step, without end."""
    for step in count(first_step):
        yield batch_indices(examples, batch, seed, step)
