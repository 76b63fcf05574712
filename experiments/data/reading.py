"""Reads the examples of batches in threads, ahead of training, by grain."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from experiments.data.dataset import Examples
from experiments.errors import UserError

THREADS = 16
AHEAD = 1024
"""Number of images that are decoded in advance."""
Read = Callable[[int, int], tuple[np.ndarray, np.int32]]
"""Function of step and row that returns an example and its class."""


def read_ahead(read: Read, steps: range, rows: np.ndarray) -> Iterator[Examples]:
    """Yields the given rows of the batch of each step.

    Raises:
        UserError: if grain is missing.
    """
    try:
        import grain
    except ImportError as error:
        raise UserError(
            "images that are read during training need grain: pip install 'nmnc_jax[imagenet]'"
        ) from error
    options = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=AHEAD)
    stream = grain.MapDataset.source(_Examples(read, steps, rows)).to_iter_dataset(options)
    yield from stream.batch(len(rows))


@dataclasses.dataclass(frozen=True)
class _Examples(Sequence[tuple[np.ndarray, np.int32]]):
    """Random access, for grain, to the examples of a range of steps."""

    read: Read
    steps: range
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.steps) * len(self.rows)

    def __getitem__(self, place: Any) -> Any:
        step, row = divmod(int(place), len(self.rows))
        return self.read(self.steps[step], int(self.rows[row]))
