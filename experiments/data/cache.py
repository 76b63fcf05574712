"""The cache of decoded data sets, so that images are decoded once."""

import os
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from experiments.data.listing import readable
from experiments.errors import UserError
from experiments.files import write_whole


def check_writable(cache: Path) -> None:
    """Checks that the cache can be written, before anything is decoded.

    Raises:
        UserError: if the cache cannot be written.
    """
    existing = next(place for place in (cache, *cache.parents) if os.path.exists(place))
    try:
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        raise _unwritable(cache, error) from error


def kept_set(path: Path) -> dict[str, np.ndarray] | None:
    """Returns a data set that was decoded before; None if it is missing or damaged."""
    if not path.exists():
        return None
    try:
        with path.open("rb") as file, np.load(file) as stored:
            return dict(stored)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None


def keep_set(path: Path, parts: dict[str, np.ndarray], damaged: list[str]) -> None:
    """Writes a decoded data set atomically, and the list of the images that are left out of it.

    Raises:
        UserError: if the cache cannot be written.
    """
    temporary = path.with_suffix(f".{os.getpid()}.tmp.npz")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if damaged:
            write_whole(damage_list(path), "\n".join(damaged) + "\n")
        np.savez(temporary, allow_pickle=False, **parts)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _unwritable(path.parent, error) from error


def damage_list(path: Path) -> Path:
    """Returns the path of the list of images that are left out of a data set."""
    return path.with_suffix(".damaged.txt")


def _unwritable(cache: Path, error: OSError) -> UserError:
    return UserError(
        f"the cache is {readable(cache)}, which cannot be written: {error.strerror}; set "
        "the environment variable NMNC_JAX_CACHE to another directory"
    )
