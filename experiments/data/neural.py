"""Reads recordings of neurons and dissimilarities of brain areas, with the images shown."""

import contextlib
import io
import json
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from experiments.data.listing import check_source, files_of, readable
from experiments.data.pictures import KINDS, is_picture, picture
from experiments.data.stimuli import Stimuli, find_images, in_order, read_table
from experiments.errors import UserError

LAYOUT = f"images/{KINDS} with responses.npy, an assembly (*.nc) or rdms_*.npy"
TABLES = (".csv", ".tsv", ".json")


class Neural(NamedTuple):
    """One recording.

    Attributes:
        name: name of the recording's file.
        images: uint8, [images, side, side, 3], in the order of the responses.
        responses: [repeats, images, neurons], with NaN for missing repeats, or None.
        rdms: name to dissimilarities, [subjects, images, images].
        animal: the animal that ``meta.json`` names, or "".
    """

    name: str
    images: np.ndarray
    responses: np.ndarray | None
    rdms: dict[str, np.ndarray]
    animal: str = ""


def load_neural(path: Path, side: int) -> Neural:
    """Reads a folder or an archive of one recording; images are resized to `side`.

    Images are assigned to stimuli by an assembly's coordinate, by a table (CSV or JSON,
    `stimuli.read_table`), or otherwise by the names of the images (`stimuli.in_order`).

    Raises:
        UserError: if files are missing, do not fit or are ambiguous.
    """
    check_source("neural", path, LAYOUT)
    name = readable(path)
    pictures: dict[str, np.ndarray] = {}
    tables: dict[str, bytes] = {}
    arrays: dict[str, np.ndarray] = {}
    shown: list[str] = []
    for stored, read in files_of(path):
        file = readable(stored)
        suffix, stem = PurePosixPath(file).suffix.lower(), PurePosixPath(file).stem
        if is_picture(file):
            pictures[file] = picture(read(), f"{file} in {name}", side)
        elif suffix in TABLES:
            tables[file] = read()
        elif suffix in (".npy", ".nc"):
            key = "responses" if suffix == ".nc" else stem
            if key in arrays:
                raise UserError(f"neural is {name}, which has {key} twice; it takes each once")
            if suffix == ".npy":
                arrays[key] = _array(read(), f"{file} in {name}")
            else:
                from experiments.data.assemblies import read_assembly

                shown, arrays[key] = read_assembly(read(), file)
    rdms = {key.removeprefix("rdms_"): a for key, a in arrays.items() if key.startswith("rdms_")}
    responses = arrays.get("responses")
    animal = _animal(tables)
    pictures = _stimuli_alone(pictures, name)
    if not pictures or (responses is None and not rdms):
        raise UserError(f"neural is {name}, which lacks part of {LAYOUT}")
    images = _matched(list(pictures), _table(tables, list(pictures), name), shown, bool(rdms), name)
    count = len(images)
    if responses is not None and (responses.ndim != 3 or responses.shape[1] != count):
        raise UserError(
            f"responses of {name} have shape {responses.shape}; they take "
            f"[repeats, {count} images, neurons]"
        )
    for key, array in rdms.items():
        if array.ndim != 3 or array.shape[1:] != (count, count):
            raise UserError(
                f"rdms_{key} of {name} have shape {array.shape}; they take "
                f"[subjects, {count} images, {count} images]"
            )
        if not np.isfinite(array).all():
            raise UserError(f"rdms_{key} of {name} hold values that are not finite; they take none")
    stacked = np.stack([pictures[image] for image in images])
    return Neural(readable(path.name).split(".")[0], stacked, responses, rdms, animal)


def _animal(tables: dict[str, bytes]) -> str:
    """Returns the animal that ``meta.json`` names, or ""."""
    for file, content in tables.items():
        if PurePosixPath(file).name == "meta.json":
            with contextlib.suppress(ValueError):  # A damaged file raises an error as a table.
                meta = json.loads(content)
                return str(meta.get("animal", "")) if isinstance(meta, dict) else ""
    return ""


def _array(content: bytes, name: str) -> np.ndarray:
    """Reads an array of real numbers."""
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{name} cannot be read: {error}") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "buif":
        raise UserError(f"{name} contains {getattr(array, 'dtype', 'no array')}; it takes numbers")
    return array


def _stimuli_alone(pictures: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """Returns the pictures in the folder images/, or all if there is no such folder."""
    stimuli = {p: image for p, image in pictures.items() if "images" in PurePosixPath(p).parts[:-1]}
    if stimuli and len(stimuli) < len(pictures):
        count = len(pictures) - len(stimuli)
        print(f"{name}: left out {count} images that are not in images/", flush=True)
    return stimuli or pictures


def _table(tables: dict[str, bytes], images: list[str], name: str) -> Stimuli | None:
    """Returns the table that names stimuli, or None."""
    found = {file: read_table(file, content, images) for file, content in tables.items()}
    named = {file: stimuli for file, stimuli in found.items() if stimuli is not None}
    for file, stimuli in named.items():
        first = next(iter(named))
        if stimuli != named[first]:
            raise UserError(f"neural is {name}, whose {first} and {file} name different stimuli")
    return next(iter(named.values()), None)


def _matched(
    images: list[str], table: Stimuli | None, shown: list[str], rdms: bool, name: str
) -> list[str]:
    """Returns the paths of the images in the order of the responses.

    Args:
        images: paths of all images.
        table: the stimuli that a table names, in the order of arrays.
        shown: stimuli of an assembly, in the order of its responses.
        rdms: whether the recording also has dissimilarities.
        name: name of the recording.
    """
    files = dict(zip(*table, strict=True)) if table else {}
    by_assembly = find_images([files.get(each, each) for each in shown], images, name)
    if shown and not rdms:
        return by_assembly
    ordered = find_images(table.files, images, name) if table else in_order(images, name)
    if shown and by_assembly != ordered:
        raise UserError(
            f"neural is {name}, whose rdms_*.npy are in the order {ordered[:2]}... and whose "
            f"assembly is in the order {by_assembly[:2]}...; it takes one order"
        )
    if table and len(ordered) < len(images):
        count = len(images) - len(ordered)
        print(f"{name}: left out {count} images that the table does not name", flush=True)
    if not table and ordered != sorted(images):
        first, last = (PurePosixPath(ordered[place]).name for place in (0, -1))
        print(f"{name}: images in the order of their numbers, {first} to {last}", flush=True)
    return ordered
