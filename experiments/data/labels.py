"""The classes of ImageNet's validation images, from the files that list them."""

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from experiments.data.listing import readable
from experiments.errors import UserError, in_one_line

KAGGLE = "LOC_val_solution.csv"
KIT = "ILSVRC2012_validation_ground_truth.txt"
SYNSETS = "meta.mat"
KIT_LINES = 50_000
KIT_FOLDERS = ("", "data", "ILSVRC2012_devkit_t12/data")
"""Folders of the development kit's files."""


def kaggle_labels(path: Path, root: Path) -> dict[str, str]:
    """Reads Kaggle's table.

    Args:
        path: the folder that was given.
        root: the folder of train/ and val/ in it.

    Returns:
        The class of each validation image, by its name without suffix; empty without a table.

    Raises:
        UserError: if the table cannot be read, has other columns, or lacks a class.
    """
    for place in _places(path, root):
        table = place / KAGGLE
        if table.is_file():
            return _kaggle_labels(table)
    return {}


def _kaggle_labels(table: Path) -> dict[str, str]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{readable(table)} cannot be read: {in_one_line(error)}") from error
    if not rows or not {"ImageId", "PredictionString"} <= set(rows[0]):
        raise UserError(f"{readable(table)} has no columns ImageId and PredictionString")
    labels = {row["ImageId"]: (row["PredictionString"] or "").split()[:1] for row in rows}
    for image, label in labels.items():
        if not label:
            raise UserError(f"{readable(table)} names no class of {image!r}")
    return {image: label for image, (label,) in labels.items()}


def kit_labels(path: Path, root: Path) -> list[str]:
    """Reads the ground truth of the development kit, whose numbers meta.mat explains.

    Args:
        path: the folder that was given.
        root: the folder of train/ and val/ in it.

    Returns:
        The class of each validation image, by its number; empty without the file.

    Raises:
        UserError: if meta.mat is missing, if one of the files cannot be read, or if there is not
            one class in each of the kit's lines.
    """
    for place in _places(path, root):
        for folder in KIT_FOLDERS:
            table = place / folder / KIT
            if table.is_file():
                return _kit_labels(table)
    return []


def _kit_labels(table: Path) -> list[str]:
    from scipy.io import loadmat

    meta = table.with_name(SYNSETS)
    if not meta.is_file():
        raise UserError(
            f"{readable(table)} numbers classes in the order of the development kit's {SYNSETS}, "
            "which is missing beside it"
        )
    try:
        synsets = np.atleast_1d(loadmat(meta, squeeze_me=True)["synsets"])
        names = {int(each["ILSVRC2012_ID"]): str(each["WNID"]) for each in synsets}
        lines = table.read_text().rstrip().splitlines()
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise UserError(
            f"{readable(table)} and {SYNSETS} cannot be read as the development kit's: "
            f"{in_one_line(error)}"
        ) from error
    # A line that is missing would give every later image the class of another one.
    if len(lines) != KIT_LINES:
        raise UserError(f"{readable(table)} has {len(lines)} lines; the kit's has {KIT_LINES}")
    for line, text in enumerate(lines, 1):
        if not text.strip().isdecimal() or int(text) not in names:
            raise UserError(f"line {line} of {readable(table)} is {text!r}, which {SYNSETS} lacks")
    return [names[int(text)] for text in lines]


def _places(path: Path, root: Path) -> Iterator[Path]:
    """Yields the folder of train/ and val/, and those above it up to the given folder's own."""
    for place in (root, *root.parents):
        yield place
        if place == path.parent:
            return
