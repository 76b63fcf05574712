"""Describes and reads the data sets of TensorFlow Datasets."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.data.archives import Archive
from experiments.data.dataset import Examples
from experiments.data.in_memory import InMemory, held_out, standardised
from experiments.errors import UserError

TORONTO = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
IMAGENET = "https://image-net.org/download-images (after registration)"


class Entry(NamedTuple):
    """One data set."""

    archives: tuple[Archive, ...]
    splits: tuple[str, str]
    """Names of the training and the test split."""
    examples: int
    """Number of examples in both splits."""


CATALOGUE = {
    "cifar10": Entry(
        (
            Archive(
                "cifar-10-binary.tar.gz",
                "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
                TORONTO,
            ),
        ),
        ("train", "test"),
        60_000,
    ),
    "imagenet2012": Entry(
        (
            Archive(
                "ILSVRC2012_img_train.tar",
                "b08200a27a8e34218a0e58fde36b0fe8f73bc377f4acea2d91602057c3ca45bb",
                IMAGENET,
            ),
            Archive(
                "ILSVRC2012_img_val.tar",
                "c7e06a6c0baccf06d8dbeb6577d71efff84673a5dbdd50633ab44f8ea0456ae0",
                IMAGENET,
            ),
        ),
        ("train", "validation"),
        1_331_167,
    ),
}


def open_sources(name: str, data_dir: Path) -> tuple[Any, Any]:
    """Opens both splits of a prepared data set for random access to encoded images.

    Raises:
        UserError: if the data set is missing, with instructions to prepare it, or if the packages
            that read it are missing.
    """
    entry = CATALOGUE[name]
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise UserError(f"{name} needs TFDS: pip install 'nmnc_jax[imagenet]'") from error
    if not list((data_dir / name).glob("[0-9]*/dataset_info.json")):
        names = " and ".join(archive.name for archive in entry.archives)
        raise UserError(
            f"{name} is not in {data_dir}: get {names} from {entry.archives[0].source} into a "
            "directory DIR, and run: "
            f"python -m experiments.prepare {name} --archive DIR --data-dir {data_dir}"
        )
    skip = {"image": tfds.decode.SkipDecoding()}
    try:
        train, test = (
            tfds.data_source(name, split=split, data_dir=data_dir, decoders=skip, download=False)
            for split in entry.splits
        )
    except NotImplementedError as error:
        raise UserError(
            f"{name} in {data_dir} is not in the format array_record; prepare it elsewhere with: "
            f"python -m experiments.prepare {name}"
        ) from error
    return train, test


def load_cifar10(data_dir: Path, validation: bool) -> InMemory:
    """Reads CIFAR-10 into memory; if `validation`, 5,000 training images are the test set.

    Raises:
        UserError: if `open_sources` raises.
    """
    train_source, test_source = open_sources("cifar10", data_dir)
    train = _whole(train_source)
    if validation:
        train, test = held_out(train)
    else:
        test = _whole(test_source)
    return standardised(train, test, 10, each_channel=True, white=255)


def _whole(source: Any) -> Examples:
    """Returns all examples in the order of their names, which is the same for all preparations."""
    from experiments.data.pictures import picture

    records = sorted(source.__getitems__(range(len(source))), key=lambda record: record["id"])
    images = [picture(record["image"], record["id"].decode(), None) for record in records]
    return np.stack(images), np.array([record["label"] for record in records])
