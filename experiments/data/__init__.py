"""Data sets: embedded images and text, sets of TensorFlow Datasets, and tasks through time."""

import dataclasses
import os
from pathlib import Path

from experiments.configuration import Config, Data
from experiments.data.catalogue import load_cifar10
from experiments.data.characters import load_characters
from experiments.data.dataset import Dataset, Examples, batches
from experiments.data.embedded import load_embedded
from experiments.data.in_memory import InMemory, some_images
from experiments.data.tasks import TASKS, Trials
from experiments.errors import UserError
from experiments.files import expanded

__all__ = [
    "TASKS",
    "Dataset",
    "Examples",
    "InMemory",
    "Trials",
    "batches",
    "load",
    "load_in_memory",
]

EMBEDDED = ("digits", "mnist5k", "photos")
CACHE = "~/.cache/nmnc_jax"
LIMIT = 4 * 10**9
"""Bytes of a folder's images as float32 above which they are read during training."""


def load(config: Config) -> Dataset:
    """Loads the data set of a configuration.

    Raises:
        UserError: if a package or the data are missing, or if the data cannot be read.
    """
    data = config.data
    if data.name == "imagenet2012":
        from experiments.data.imagenet import load_imagenet, stream_imagenet

        if data.data_path:
            found = stream_imagenet(expanded(data.data_path), data.validation)
        else:
            found = load_imagenet(expanded(data.data_dir), data.validation)
        return dataclasses.replace(found, distort=data.distort)
    if data.is_task:
        seeded = config.model.noise > 0
        return Trials(data.name, data.time_steps, data.rotation, seeded, data.validation)
    if data.name == "characters":
        return load_characters(data.time_steps, data.validation)
    if data.name == "folder" and (streamed := _streamed(data)) is not None:
        return streamed
    return load_in_memory(config)


def _streamed(data: Data) -> Dataset | None:
    """Returns a folder that is read during training; None if it fits into memory."""
    from experiments.data.streamed import memory_of, stream_folder

    path = expanded(data.data_path)
    size = memory_of(path, data.image_size)
    if size <= LIMIT:
        return None
    if data.train_images is not None:
        data.refuse("train_images", "a folder that is read during training takes None")
    print(
        f"{data.data_path} is read during training: its images would take {size / 1e9:.1f} GB of "
        f"memory, more than {LIMIT / 1e9:g}",
        flush=True,
    )
    return stream_folder(
        path, data.image_size, data.validation, _cache(), data.skip_damaged, data.augment
    )


def _cache() -> Path:
    return expanded(os.environ.get("NMNC_JAX_CACHE") or CACHE)


def load_in_memory(config: Config) -> InMemory:
    """Loads an image data set that fits into memory, which are all except imagenet2012."""
    data = _in_memory(config.data)
    if config.data.train_images is not None:
        data = some_images(data, config.data.train_images)
    return dataclasses.replace(data, augment=config.data.augment)


def _in_memory(data: Data) -> InMemory:
    if data.name == "folder":
        from experiments.data.folder import load_folder

        path = expanded(data.data_path)
        return load_folder(path, data.image_size, data.validation, _cache(), data.skip_damaged)
    if data.name == "cifar10":
        return load_cifar10(expanded(data.data_dir), data.validation)
    if data.name not in EMBEDDED:
        raise UserError(
            f"data is {data.name!r}; in memory there are {', '.join(EMBEDDED)}, folder, cifar10"
        )
    return load_embedded(data.name, variant=data.variant, validation=data.validation)
