"""Text to predict character by character: the language reference that Python itself ships."""

import re
from collections.abc import Iterator
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from experiments.data.dataset import Examples, batch_indices, class_correct, class_loss
from nmnc_jax.types import Array

ALPHABET = "\n" + "".join(map(chr, range(32, 127)))
"""Line end and printable ASCII. What else the text has is written as a question mark."""
TEST_SHARE = 10
"""One character in ten is tested, at the end of the text."""


class Characters(NamedTuple):
    """A `Dataset` of sequences that share no character: tokens [examples, T + 1] of one text.

    Attributes:
        train: sequences of the text's first part.
        test: of a part that training never sees.
    """

    train: np.ndarray
    test: np.ndarray

    loss = staticmethod(class_loss)

    @property
    def outputs(self) -> int:
        """One for each character of the alphabet."""
        return len(ALPHABET)

    @property
    def chance(self) -> float:
        """Of the most frequent character."""
        return float(np.bincount(self.train.ravel()).max() / self.train.size)

    @property
    def train_size(self) -> int:
        """Training sequences."""
        return len(self.train)

    @property
    def test_size(self) -> int:
        """Test sequences."""
        return len(self.test)

    def train_examples(self, indices: np.ndarray) -> Examples:
        """Takes characters [examples, T] and those that follow each of them."""
        return self.train[indices, :-1], self.train[indices, 1:]

    def test_examples(self, indices: np.ndarray) -> Examples:
        """Takes test sequences in the same way."""
        return self.test[indices, :-1], self.test[indices, 1:]

    def train_batches(
        self, batch: int, seed: int, *, steps: range, rows: np.ndarray
    ) -> Iterator[Examples]:
        """Yields these rows of each of these steps' batches."""
        for step in steps:
            yield self.train_examples(batch_indices(self.train_size, batch, seed, step)[rows])

    def normalise(self, inputs: Array) -> Array:
        """Leaves tokens as they are."""
        return inputs

    def correct(self, outputs: Array, targets: Array) -> Array:
        """Share of the characters of each sequence that were predicted."""
        return jnp.mean(class_correct(outputs, targets), axis=1)


def load_characters(steps: int, validation: bool) -> Characters:
    """Cuts the text into sequences of `steps` characters and the one that follows.

    The test part is held out of training if `validation`.
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
    """Every paragraph once, since topics repeat each other's, in the order of the topics."""
    from pydoc_data.topics import topics

    paragraphs = (
        re.sub(r"\s+", " ", paragraph).strip()
        for name in sorted(topics)
        for paragraph in topics[name].split("\n\n")
    )
    return "\n".join(dict.fromkeys(filter(None, paragraphs)))
