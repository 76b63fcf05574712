"""ImageNet as extracted files, in folders of classes or, for testing, in a flat folder.

Only the names and classes of the files are in memory. Links are followed. The layouts are those of
the unpacked official archives, of Kaggle's archive (in ``ILSVRC/Data/CLS-LOC``), and of the usual
scripts that rearrange both.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.data.labels import KAGGLE, KIT, SYNSETS, kaggle_labels, kit_labels
from experiments.data.listing import is_kept, read_file, readable
from experiments.data.pictures import is_picture
from experiments.errors import UserError

LAYOUT = (
    f"train/<class>/*.JPEG, and val/<class>/*.JPEG or a flat val/ with {KAGGLE} or {KIT} and "
    f"{SYNSETS} beside the folders, or of the official names ILSVRC2012_val_00000001.JPEG ..."
)


class Files(Sequence[dict[str, Any]]):
    """Random access to encoded images and their classes, by number."""

    def __init__(self, names: list[str], labels: list[int], root: Path):
        """Stores names as one array of bytes; a list of a million takes ten times the memory."""
        self.root = root
        self.names = np.array([os.fsencode(name) for name in names])
        self.labels = np.array(labels, np.int32)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, place: Any) -> Any:
        path = self.path(place)
        content = read_file(path, readable(path))
        return {"image": content, "label": self.labels[int(place)], "file": str(path)}

    def path(self, place: Any) -> Path:
        """Returns the path of an image."""
        return self.root / os.fsdecode(self.names[int(place)])


class Extracted(NamedTuple):
    """Both parts of an extracted ImageNet.

    Attributes:
        train: training images.
        test: validation images.
        classes: names of the classes, in the order of their numbers.
    """

    train: Files
    test: Files
    classes: list[str]


def open_extracted(path: Path, official_labels: Sequence[str] = ()) -> Extracted:
    """Lists the files of an extracted ImageNet with any number of classes.

    Args:
        path: the folder that contains train/ and val/, or a folder above it.
        official_labels: the class of each official validation image, in the order of their numbers;
            a development kit in the folder comes first.

    Raises:
        UserError: if folders, classes or images are missing or do not fit.
    """
    root = _root(path)
    classes = _class_folders(root / "train")
    if not classes:
        raise UserError(f"{readable(root / 'train')} has no folder of a class; it takes {LAYOUT}")
    numbers = {name: number for number, name in enumerate(classes)}
    train = _in_classes(root / "train", numbers)
    if any(entry.is_dir() for entry in _entries(root / "val")):
        test = _in_classes(root / "val", numbers)
    else:
        by_number = kit_labels(path, root) or official_labels
        test = _flat(root / "val", numbers, kaggle_labels(path, root), by_number)
    for part, files in (("train", train), ("val", test)):
        if not len(files):
            raise UserError(f"{readable(root / part)} holds no image; it takes {LAYOUT}")
    empty = set(range(len(classes))) - set(train.labels.tolist())
    if empty:
        name = classes[min(empty)]
        raise UserError(f"class {name!r} of {readable(root / 'train')} has no image")
    return Extracted(train, test, classes)


def _root(path: Path) -> Path:
    for below in ("", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC"):
        if (path / below / "train").is_dir() and (path / below / "val").is_dir():
            return path / below
    raise UserError(f"{readable(path)} has no folders train/ and val/; it takes {LAYOUT}")


def _entries(path: Path) -> Iterable[os.DirEntry[str]]:
    """Returns the entries of a folder, sorted, without files of the operating system."""
    try:
        with os.scandir(path) as entries:
            return sorted((e for e in entries if is_kept(e.name)), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{readable(path)} cannot be read: {error.strerror}") from error


def _images(path: Path) -> Iterator[str]:
    for entry in _entries(path):
        if is_picture(entry.name):
            yield entry.name


def _class_folders(path: Path) -> list[str]:
    """Returns the folders of classes, sorted.

    Raises:
        UserError: if an image is beside them, or a link to nothing, which would be left out.
    """
    names = []
    for entry in _entries(path):
        if entry.is_dir():
            names.append(entry.name)
        elif is_picture(entry.name) or not entry.is_file():
            raise UserError(f"{readable(entry.path)} is not a folder of a class; it takes {LAYOUT}")
    return names


def _in_classes(path: Path, numbers: dict[str, int]) -> Files:
    names: list[str] = []
    labels: list[int] = []
    for folder in _class_folders(path):
        if folder not in numbers:
            raise UserError(f"{readable(path)} has class {folder!r}, which train/ lacks")
        inside = [f"{folder}/{name}" for name in _images(path / folder)]
        names += inside
        labels += [numbers[folder]] * len(inside)
    return Files(names, labels, path)


def _flat(
    path: Path, numbers: dict[str, int], kaggle: dict[str, str], by_number: Sequence[str]
) -> Files:
    """Lists validation images without folders, with classes from Kaggle's table or by number."""
    names = list(_images(path))
    labels = []
    for name in names:
        stem = Path(name).stem
        number = stem.rpartition("_")[2]
        label = kaggle.get(stem)
        if label is None and not kaggle and stem.startswith("ILSVRC2012_val_"):
            place = int(number) - 1 if number.isdecimal() else -1
            label = by_number[place] if 0 <= place < len(by_number) else None
        if label not in numbers:
            why = f"of class {label!r}, which train/ lacks" if label else "of no known class"
            raise UserError(f"{readable(path / name)} is {why}; it takes {LAYOUT}")
        labels.append(numbers[label])
    return Files(names, labels, path)
