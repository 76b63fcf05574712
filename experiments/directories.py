"""Directories for results, which are new or empty and used by one command at a time."""

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
    """Makes an output directory, which is removed if an error occurs before any result.

    Args:
        out: the directory; None for a new one in ``runs/``.
        name: prefix of the name of a new directory.
        occupied: whether the directory may contain files.

    Raises:
        UserError: if the directory is not empty, cannot be written, or is used by another command.
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
            raise UserError(
                f"out is {out}, which is not empty; it takes a new or empty directory, or "
                "--resume, by which a command continues in its own"
            )
        try:
            yield out
        except Exception:
            if not occupied:
                _remove_empty(out, made)
            raise


@contextlib.contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    """Locks a directory against other commands; the lock ends with the process.

    If several processes train together, the first one holds the lock. On file systems without locks
    nothing is locked.

    Raises:
        UserError: if another command uses the directory.
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
            f"out is {out}, which another run is using; it takes another directory"
        ) from error
    except OSError:  # A file system without locks.
        pass
    try:
        yield
    finally:
        os.close(descriptor)


def _new_directory(wanted: Path) -> Path:
    """Makes a directory with a number in its name if another run began in the same second."""
    for number in itertools.count(1):
        path = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        with contextlib.suppress(FileExistsError):
            path.mkdir(parents=True)
            return path
    raise AssertionError


def _remove_empty(out: Path, made: list[Path]) -> None:
    """Removes the directories made for a run, if they contain only configurations."""
    if any(path.is_file() and path.name != "config.json" for path in out.rglob("*")):
        return
    for path in out.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in made:
        with contextlib.suppress(OSError):  # Another run may have written there since.
            path.rmdir()
