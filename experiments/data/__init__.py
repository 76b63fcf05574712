"""Data sets: embedded images and text, those of TensorFlow Datasets, tasks through time."""

import os

from experiments.configuration import Config, UserError
from experiments.data.catalogue import load_cifar10
from experiments.data.characters import load_characters
from experiments.data.dataset import Dataset, Examples, InMemory, batches
from experiments.data.embedded import load_embedded
from experiments.data.tasks import TASKS, Trials
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
        UserError: if it does not fit the other fields, or a package or the data are missing.
    """
    if config.data == "imagenet2012" and config.variant == "plain":
        from experiments.data.imagenet import load_imagenet

        return load_imagenet(expanded(config.data_dir), config.validation)
    if config.data in TASKS:
        return Trials(
            config.data, config.time_steps, config.rotation, config.noise > 0, config.validation
        )
    if config.data == "characters":
        _check_fields(config)
        return load_characters(config.time_steps, config.validation)
    return load_in_memory(config)


def load_in_memory(config: Config) -> InMemory:
    """Loads one of the sets that fit into memory: all but imagenet2012; otherwise as `load`."""
    return _in_memory(config)._replace(augment=config.augment)


def _in_memory(config: Config) -> InMemory:
    _check_fields(config)
    if config.data == "folder":
        from experiments.data.folder import load_folder

        cache = expanded(os.environ.get("NMNC_JAX_CACHE") or CACHE)
        path = expanded(config.data_path)
        return load_folder(path, config.image_size, config.validation, cache, config.skip_damaged)
    if config.data == "cifar10":
        return load_cifar10(expanded(config.data_dir), config.validation)
    if config.data not in EMBEDDED:
        raise UserError(
            f"data is {config.data!r}; in memory there are {', '.join(EMBEDDED)}, folder, cifar10"
        )
    return load_embedded(config.data, variant=config.variant, validation=config.validation)


def _check_fields(config: Config) -> None:
    """Refuses fields of another data set."""
    if config.variant == "hard" and config.data != "photos":
        raise UserError(f"variant is 'hard' with data {config.data!r}; only photos has one")
    if bool(config.data_path) != (config.data == "folder"):
        raise UserError(
            f"data_path is {config.data_path!r} with data {config.data!r}; "
            "'folder' takes a path, the others none"
        )
