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
        UserError: if the table has other columns.
    """
    for place in _places(path, root):
        table = place / KAGGLE
        if table.is_file():
            with table.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
            if not rows or not {"ImageId", "PredictionString"} <= set(rows[0]):
                raise UserError(f"{readable(table)} has no columns ImageId and PredictionString")
            return {row["ImageId"]: row["PredictionString"].split()[0] for row in rows}
    return {}


def kit_labels(path: Path, root: Path) -> list[str]:
    """Reads the ground truth of the development kit, whose numbers meta.mat explains.

    Args:
        path: the folder that was given.
        root: the folder of train/ and val/ in it.

    Returns:
        The class of each validation image, by its number; empty without the file.

    Raises:
        UserError: if meta.mat is missing, or if one of the files cannot be read.
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
        numbers = list(map(int, table.read_text().split()))
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise UserError(
            f"{readable(table)} and {SYNSETS} cannot be read as the development kit's: "
            f"{in_one_line(error)}"
        ) from error
    for line, number in enumerate(numbers, 1):
        if number not in names:
            raise UserError(f"line {line} of {readable(table)} is {number}, which {SYNSETS} lacks")
    return [names[number] for number in numbers]


def _places(path: Path, root: Path) -> Iterator[Path]:
    """Yields the folder of train/ and val/, and those above it up to the given folder's own."""
    for place in (root, *root.parents):
        yield place
        if place == path.parent:
            return
