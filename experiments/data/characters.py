"""Text to predict character by character: the language reference that Python contains."""

import re
from collections.abc import Iterator
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from experiments.data.dataset import Examples, batch_indices, class_correct, class_loss
from nmnc_jax.types import Array

ALPHABET = "\n" + "".join(map(chr, range(32, 127)))
"""Line end and printable ASCII. Other characters are replaced by a question mark."""
TEST_SHARE = 10
"""The last tenth of the text is the test set."""


class Characters(NamedTuple):
    """A `Dataset` of sequences that do not overlap: tokens [examples, T + 1] of one text.

    Attributes:
        train: sequences of the first part of the text.
        test: sequences of the last part, which are not used in training.
    """

    train: np.ndarray
    test: np.ndarray

    loss = staticmethod(class_loss)

    @property
    def outputs(self) -> int:
        """Number of outputs, one for each character of the alphabet."""
        return len(ALPHABET)

    @property
    def chance(self) -> float:
        """Share of the most frequent character."""
        return float(np.bincount(self.train.ravel()).max() / self.train.size)

    @property
    def train_size(self) -> int:
        """Number of training sequences."""
        return len(self.train)

    @property
    def test_size(self) -> int:
        """Number of test sequences."""
        return len(self.test)

    def train_examples(self, indices: np.ndarray) -> Examples:
        """Returns characters [examples, T] of training sequences and the character after each."""
        return self.train[indices, :-1], self.train[indices, 1:]

    def test_examples(self, indices: np.ndarray) -> Examples:
        """Returns the same for test sequences."""
        return self.test[indices, :-1], self.test[indices, 1:]

    def train_batches(
        self, batch: int, seed: int, *, steps: range, rows: np.ndarray
    ) -> Iterator[Examples]:
        """Yields the given rows of the batch of each step."""
        for step in steps:
            yield self.train_examples(batch_indices(self.train_size, batch, seed, step)[rows])

    def normalise(self, inputs: Array) -> Array:
        """Returns tokens unchanged."""
        return inputs

    def correct(self, outputs: Array, targets: Array) -> Array:
        """Returns the share of correctly predicted characters of each sequence, [B]."""
        return jnp.mean(class_correct(outputs, targets), axis=1)


def load_characters(steps: int, validation: bool) -> Characters:
    """Cuts the text into sequences of `steps` characters with their next characters.

    If `validation`, a held-out part of the training text is the test set.
    """
    text = _text()
    kept = len(text) - len(text) // TEST_SHARE
    train, test = text[:kept], text[kept:]
    if validation:
        kept = len(train) - len(train) // TEST_SHARE
        train, test = train[:kept], train[kept:]
    return Characters(_sequences(train, steps), _sequences(test, steps))


def _sequences(text: str, steps: int) -> np.ndarray:
    places = {character: place for place, character in enumerate(ALPHABET)}
    tokens = np.array([places.get(character, places["?"]) for character in text], np.int32)
    whole = len(tokens) // (steps + 1)
    return tokens[: whole * (steps + 1)].reshape(whole, steps + 1)


def _text() -> str:
    """Returns every paragraph once, because topics share paragraphs, in the order of topics."""
    from pydoc_data.topics import topics

    paragraphs = (
        re.sub(r"\s+", " ", paragraph).strip()
        for name in sorted(topics)
        for paragraph in topics[name].split("\n\n")
    )
    return "\n".join(dict.fromkeys(filter(None, paragraphs)))
