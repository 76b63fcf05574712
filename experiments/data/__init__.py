"""Data sets: embedded images and text, sets of TensorFlow Datasets, and tasks through time."""

import dataclasses
import os

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
    return load_in_memory(config)


def load_in_memory(config: Config) -> InMemory:
    """Loads an image data set that fits into memory, which are all except imagenet2012."""
    data = _in_memory(config.data)
    if config.data.train_images is not None:
        data = some_images(data, config.data.train_images)
    return data._replace(augment=config.data.augment)


def _in_memory(data: Data) -> InMemory:
    if data.name == "folder":
        from experiments.data.folder import load_folder

        cache = expanded(os.environ.get("NMNC_JAX_CACHE") or CACHE)
        path = expanded(data.data_path)
        return load_folder(path, data.image_size, data.validation, cache, data.skip_damaged)
    if data.name == "cifar10":
        return load_cifar10(expanded(data.data_dir), data.validation)
    if data.name not in EMBEDDED:
        raise UserError(
            f"data is {data.name!r}; in memory there are {', '.join(EMBEDDED)}, folder, cifar10"
        )
    return load_embedded(data.name, variant=data.variant, validation=data.validation)
