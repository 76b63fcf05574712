"""The tasks of the leaderboard, each an entry with data, network and number of steps.

A new task is a new entry: a name, a short description, and the configuration that all methods
share, as for ``python -m experiments.train``.
"""

from typing import NamedTuple

from experiments.configs import load_config
from experiments.configuration import Config, Data, Model


class Task(NamedTuple):
    """One task.

    Attributes:
        summary: description in a few words.
        config: the configuration that all methods share.
    """

    summary: str
    config: Config


def _task(summary: str, config: Config, *, steps: int, batch: int = 64) -> Task:
    """Returns a task with the library's schedule for the settings that are not searched."""
    shared = config.replace(
        kind="orthogonal", basis_update_every=100, basis_decay=0.7, basis_batch=512,
        steps=steps, log_every=steps, batch=batch, alignment_batch=256, devices=1,
    )  # fmt: skip
    return Task(summary, shared)


TASKS = {
    "digits": _task(
        "handwritten digits, dense layers",
        Config(Data("digits"), Model("mlp", features=(256, 256))),
        steps=400,
    ),
    "photos": _task(
        "photographs, convolutions",
        load_config("photos").replace(features=(64, 64, 64)),
        steps=200,
        batch=32,
    ),
    "photos_vit": _task(
        "photographs, vision transformer", load_config("photos_vit"), steps=200, batch=32
    ),
    "mnist5k_rows": _task(
        "handwritten digits row by row, GRU", load_config("rnn_mnist5k"), steps=300, batch=32
    ),
    "flip_flop": _task(
        "flip-flop memory, leaky units",
        load_config("rnn_flip_flop").replace(features=(128,)),
        steps=300,
        batch=32,
    ),
    "evidence": _task(
        "accumulation of evidence, leaky units",
        load_config("rnn_evidence").replace(features=(128,)),
        steps=300,
        batch=32,
    ),
    "characters": _task(
        "characters of text, causal transformer", load_config("characters"), steps=200, batch=32
    ),
    # Noise must be large enough to move units across their threshold.
    "binary": _task(
        "handwritten digits, units without a derivative",
        Config(Data("digits"), Model("binary", features=(256, 256))).replace(
            difference="central", sigma=0.1
        ),
        steps=400,
    ),
}
"""Tasks of embedded data."""


def with_images(path: str) -> dict[str, Task]:
    """Returns two further tasks with the images of CIFAR-10 in a folder or an archive."""
    images = {"data": "folder", "data_path": path, "train_images": 12_000}
    protocol = Config(Data("digits"), Model("mlp", features=(1024, 512)))
    return {
        "cifar10_dense": _task(
            "CIFAR-10, dense layers as in conditioned-dfa",
            protocol.replace(**images),
            steps=1125,
            batch=128,
        ),
        "cifar10_conv": _task(
            "CIFAR-10, strided convolutions",
            load_config("cifar10").replace(**images),
            steps=1000,
        ),
    }
