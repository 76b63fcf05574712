"""Directories for results: new or empty ones, each for one command at a time."""

import contextlib
import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import jax

from experiments.errors import UserError
from experiments.files import expanded

try:
    import fcntl
except ImportError:  # Not on Windows.
    fcntl = None


@contextlib.contextmanager
def output_directory(out: Path | None, name: str, *, occupied: bool = False) -> Iterator[Path]:
    """Makes an output directory; without one given, a new one below ``runs/``.

    A mistake that is found before anything was measured leaves none.

    Args:
        out: the directory.
        name: what a new one's begins with.
        occupied: whether it may hold something.

    Raises:
        UserError: if it is not empty, cannot be written, or another command writes to it.
    """
    if out is None:
        wanted = Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    else:
        wanted = expanded(out)
    made = [place for place in wanted.parents if not place.exists()]
    made = made if out is not None and wanted.exists() else [wanted, *made]
    try:
        if out is None:
            out = made[0] = _new_directory(wanted)
        else:
            out = wanted
            out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise UserError(f"out is {wanted}, which cannot be written: {error.strerror}") from error
    with _alone_in(out):
        if any(out.iterdir()) and not occupied:
            raise UserError(f"out is {out}, which is not empty; it takes a new or empty directory")
        try:
            yield out
        except Exception:
            if not occupied:
                _remove_empty(out, made)
            raise


@contextlib.contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    """Keeps other commands out of a directory; a lock ends with its process, however that ends.

    Of several processes that train together the first keeps it for all. Where there are no locks
    nothing is kept.

    Raises:
        UserError: if another command is in it.
    """
    if fcntl is None or jax.process_index() > 0:
        yield
        return
    descriptor = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise UserError(
            f"out is {out}, where another run is under way; it takes another directory"
        ) from error
    except OSError:  # A file system without locks.
        pass
    try:
        yield
    finally:
        os.close(descriptor)


def _new_directory(wanted: Path) -> Path:
    """Makes a directory that no other run has, as one that begins in the same second."""
    for number in itertools.count(1):
        path = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        with contextlib.suppress(FileExistsError):
            path.mkdir(parents=True)
            return path
    raise AssertionError


def _remove_empty(out: Path, made: list[Path]) -> None:
    """Removes the directories made for a run, if it has left nothing but configurations."""
    if any(path.is_file() and path.name != "config.json" for path in out.rglob("*")):
        return
    for path in out.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in made:
        with contextlib.suppress(OSError):  # Another run may have written there since.
            path.rmdir()
