"""Data sets: embedded ones, and those of TensorFlow Datasets' catalogue."""

from pathlib import Path

from experiments.config import DATA_DIR, UserError
from experiments.data.catalogue import load_cifar10
from experiments.data.dataset import Dataset, Examples, InMemory, batches
from experiments.data.embedded import load_embedded

__all__ = ["Dataset", "Examples", "InMemory", "batches", "load", "load_in_memory"]

EMBEDDED = ("digits", "mnist5k", "photos")


def load(
    name: str, *, variant: str = "plain", validation: bool = False, data_dir: str = DATA_DIR
) -> Dataset:
    """Loads a data set.

    Args:
        name: "digits", "mnist5k", "photos", "cifar10" or "imagenet2012".
        variant: "plain", or "hard" (photos only).
        validation: whether the test part is held out of the training set instead.
        data_dir: where cifar10 and imagenet2012 were prepared.

    Raises:
        UserError: if the name or variant is unknown, or a package or the data are missing.
    """
    if name == "imagenet2012" and variant == "plain":
        from experiments.data.imagenet import load_imagenet

        return load_imagenet(Path(data_dir).expanduser(), validation)
    return load_in_memory(name, variant=variant, validation=validation, data_dir=data_dir)


def load_in_memory(
    name: str, *, variant: str = "plain", validation: bool = False, data_dir: str = DATA_DIR
) -> InMemory:
    """Loads one of the sets that fit into memory: all but imagenet2012; otherwise as `load`."""
    if variant == "hard" and name != "photos":
        raise UserError(f"variant is 'hard' with data {name!r}; only photos has one")
    if name == "cifar10":
        return load_cifar10(Path(data_dir).expanduser(), validation)
    if name not in EMBEDDED:
        raise UserError(
            f"unknown data {name!r}; in memory there are {', '.join(EMBEDDED)}, cifar10"
        )
    return load_embedded(name, variant, validation)
