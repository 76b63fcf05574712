"""Recordings of neurons, and dissimilarities of brain areas, with the images that were shown."""

import io
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from experiments.config import UserError
from experiments.data.folder import SUFFIXES, files_of, picture

LAYOUT = "images/*.{jpg,jpeg,png} with responses.npy, an assembly (*.nc) or rdms_*.npy"


class Neural(NamedTuple):
    """One recording.

    Attributes:
        name: of its file.
        images: uint8, [images, side, side, 3], in the order of their names.
        responses: [repeats, images, neurons], NaN where a repeat is missing; None without.
        rdms: name to dissimilarities, [subjects, images, images].
    """

    name: str
    images: np.ndarray
    responses: np.ndarray | None
    rdms: dict[str, np.ndarray]


def load_neural(path: Path, side: int) -> Neural:
    """Reads a folder or an archive of one recording; images are resized to `side`.

    Raises:
        UserError: naming what is missing or does not fit.
    """
    if not path.exists():
        raise UserError(f"neural is {path}, which does not exist; it takes {LAYOUT}")
    pictures: dict[str, np.ndarray] = {}
    arrays: dict[str, np.ndarray] = {}
    stimuli: list[str] = []
    for name, content in files_of(path):
        file = PurePosixPath(name)
        if file.suffix.lower() in SUFFIXES:
            pictures[name] = picture(content, name, side)
        elif file.suffix == ".npy":
            arrays[file.stem] = np.load(io.BytesIO(content), allow_pickle=False)
        elif file.suffix == ".nc":
            from experiments.assemblies import read_assembly

            stimuli, arrays["responses"] = read_assembly(content, name)
    if stimuli:
        by_stem = {PurePosixPath(name).stem: image for name, image in pictures.items()}
        missing = [stimulus for stimulus in stimuli if stimulus not in by_stem]
        if missing:
            raise UserError(f"neural is {path}, which has no image of stimulus {missing[0]!r}")
        pictures = {stimulus: by_stem[stimulus] for stimulus in stimuli}
    rdms = {name.removeprefix("rdms_"): a for name, a in arrays.items() if name.startswith("rdms_")}
    responses = arrays.get("responses")
    if not pictures or (responses is None and not rdms):
        raise UserError(f"neural is {path}, which lacks part of {LAYOUT}")
    count = len(pictures)
    if responses is not None and (responses.ndim != 3 or responses.shape[1] != count):
        raise UserError(
            f"responses of {path} have shape {responses.shape}; they take "
            f"[repeats, {count} images, neurons]"
        )
    for name, array in rdms.items():
        if array.ndim != 3 or array.shape[1:] != (count, count):
            raise UserError(
                f"rdms_{name} of {path} have shape {array.shape}; they take "
                f"[subjects, {count} images, {count} images]"
            )
    images = np.stack([pictures[name] for name in sorted(pictures)])
    return Neural(path.name.split(".")[0], images, responses, rdms)
