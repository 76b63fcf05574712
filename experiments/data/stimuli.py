"""Assigns images to stimuli, by names in the data or by an unambiguous order."""

import csv
import io
import json
import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from experiments.errors import UserError

FILES = ("filename", "image_file_name", "file", "path", "image", "image_name", "stimulus")
"""Columns that name an image's file."""
IDENTIFIERS = ("stimulus_id", "image_id")
"""Columns that name a stimulus; they also name its file if no other column does."""


class Stimuli(NamedTuple):
    """Stimuli in the order of the responses.

    Attributes:
        names: names of the stimuli.
        files: name of the image of each stimulus.
    """

    names: list[str]
    files: list[str]


def read_table(name: str, content: bytes, images: Sequence[str]) -> Stimuli | None:
    """Reads a table of stimuli.

    Args:
        name: name of the file, with the suffix .csv, .tsv or .json.
        content: content of the file: rows with a column of `FILES` or `IDENTIFIERS`. JSON may be a
            list of names or of such rows, an object of such columns, or an object with one of these
            as "stimuli" or "images".
        images: paths of the images.

    Returns:
        The stimuli in the order of the table; None if it names none.

    Raises:
        UserError: if the file cannot be read, names a stimulus twice, or names images in a column
            of another name.
    """
    try:
        text = content.decode("utf-8-sig")
        rows = _json_rows(json.loads(text)) if name.endswith(".json") else _csv_rows(text)
    except (ValueError, csv.Error, RecursionError) as error:
        raise UserError(f"{name} cannot be read: {error}") from error
    columns = {column.strip().lower(): column for column in (rows[0] if rows else {})}
    file, identifier = (
        next((columns[column] for column in kind if column in columns), None)
        for kind in (FILES, IDENTIFIERS)
    )
    file, identifier = file or identifier, identifier or file
    if file is None or identifier is None:
        _check_unnamed(name, text, images)
        return None
    stimuli = Stimuli([str(row[identifier]) for row in rows], [str(row[file]) for row in rows])
    for listed in stimuli:
        for each, count in Counter(listed).items():
            if count > 1:
                raise UserError(f"{name} names {each!r} twice; it takes each stimulus once")
    return stimuli


def _check_unnamed(name: str, text: str, images: Sequence[str]) -> None:
    """Raises an error if a table names images, but not as stimuli."""
    words = set(re.split(r"[^\w./-]+", text))
    for image in images:
        path = PurePosixPath(image)
        if words & {image, path.name}:
            raise UserError(
                f"{name} names the image {path.name} in no column of {', '.join(FILES)}; it takes "
                "one of them, in the order of the responses"
            )


def _csv_rows(text: str) -> list[dict[str, Any]]:
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, restval="")
    return [{column: value for column, value in row.items() if column} for row in rows]


def _json_rows(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, dict):
        columns = {column.lower(): each for column, each in value.items() if isinstance(each, list)}
        for whole in ("stimuli", "images"):
            if _are(columns.get(whole), str | dict):
                return _json_rows(columns[whole])
        known = [column for column in (*FILES, *IDENTIFIERS) if _are(columns.get(column), str)]
        values = zip(*(columns[column] for column in known), strict=True)
        return [dict(zip(known, row, strict=True)) for row in values]
    if _are(value, str):
        return [{FILES[0]: each} for each in value]
    if _are(value, dict) and all(value[0].keys() == row.keys() for row in value):
        return value
    raise ValueError("it takes a list of names, of rows with the same columns, or an object")


def _are(values: Any, kind: Any) -> bool:
    """Returns whether a list is not empty and all its values have a type."""
    return isinstance(values, list) and bool(values) and all(isinstance(v, kind) for v in values)


def find_images(files: Sequence[str], images: Sequence[str], recording: str) -> list[str]:
    """Finds the image of each stimulus.

    Args:
        files: names of the images in the data: a path or its end, with or without suffix.
        images: paths of the images.
        recording: name of the recording, for errors.

    Returns:
        The path of the image of each stimulus.

    Raises:
        UserError: if a stimulus has no image, or several.
    """
    known: dict[str, set[str]] = defaultdict(set)
    for image in images:
        parts = PurePosixPath(image).parts
        for place in range(len(parts)):
            end = PurePosixPath(*parts[place:])
            for name in {end.as_posix(), end.with_suffix("").as_posix()}:
                known[name].add(image)
    found = []
    for file in files:
        paths = sorted(known.get(file, ()))
        if len(paths) != 1:
            got = (
                f"several images of stimulus {file!r}: {paths[:2]}"
                if paths
                else (f"no image of stimulus {file!r}")
            )
            raise UserError(f"neural is {recording}, which has {got}")
        found.append(paths[0])
    return found


def in_order(images: Sequence[str], recording: str) -> list[str]:
    """Sorts images that no table names by their names, if the order is unambiguous.

    Args:
        images: paths of the images.
        recording: name of the recording, for errors.

    Returns:
        The paths, in the order of their numbers if the names differ only by one number, such as
        1.png, 2.png, 10.png; otherwise in alphabetical order.

    Raises:
        UserError: if the alphabetical order and that of the numbers disagree.
    """
    shared = posixpath.commonpath([posixpath.dirname(image) for image in images])
    inside = [posixpath.relpath(image, shared or ".") for image in images]
    stems = [PurePosixPath(name).with_suffix("").as_posix() for name in inside]
    natural = [
        tuple(int(p) if p.isascii() and p.isdecimal() else p for p in re.split("([0-9]+)", stem))
        for stem in stems
    ]
    # Alphabetical orders, with capitals sorted separately or not, and with suffixes or not.
    alphabets = [stems, [stem.casefold() for stem in stems], inside]
    orders = [
        [image for _, image in sorted(zip(keys, images, strict=True))]
        for keys in (natural, *alphabets)
    ]
    by_number = _differ_by_one_number(natural)
    signed = any(re.search(r"(^|/)-[0-9]|[0-9]\.[0-9]", stem) for stem in stems)
    alike = len(set(natural)) < len(images)
    disagree = not by_number and any(order != orders[0] for order in orders)
    if len(images) > 1 and (signed or alike or disagree):
        names = ", ".join(PurePosixPath(image).name for image in orders[1][:3])
        raise UserError(
            f"neural is {recording}, whose images ({names}, ...) have names in no one order: the "
            "alphabetical order and that of the numbers may differ; it takes stimuli.csv with a "
            "column filename, in the order of the responses"
        )
    return orders[0]


def _differ_by_one_number(natural: Sequence[tuple[str | int, ...]]) -> bool:
    """Returns whether names, split at their numbers, differ only by one number."""
    if len({tuple(type(part) for part in name) for name in natural}) > 1:
        return False
    varying = [column for column in zip(*natural, strict=True) if len(set(column)) > 1]
    return len(varying) == 1 and isinstance(varying[0][0], int)
