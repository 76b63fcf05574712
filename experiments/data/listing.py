"""Lists the files of a folder or an archive, which is not unpacked."""

import hashlib
import os
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath

from experiments.data.archives import check_path, check_size, lazy_members
from experiments.errors import Unreadable, UserError, in_one_line

LEFT_BY_SYSTEMS = {
    "__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "@eadir", "$recycle.bin",
    "system volume information", "lost+found",
}  # fmt: skip


def check_source(field: str, path: Path, takes: str) -> None:
    """Checks that a path is a folder or a file.

    Args:
        field: name of the field, for the error.
        path: the path.
        takes: the layout that the field takes, for the error.

    Raises:
        UserError: if the path is neither a folder nor a file.
    """
    if not (os.path.isfile(path) or os.path.isdir(path)):
        why = "is neither file nor folder" if os.path.exists(path) else "does not exist"
        raise UserError(f"{field} is {readable(path)}, which {why}; it takes {takes}")


def readable(name: str | Path) -> str:
    """Returns a printable name, in which bytes that are not UTF-8 are escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def files_of(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Yields the name of each file in a folder or an archive with a function that reads it.

    Links are followed. Names that begin with a dot and files of operating systems (``__MACOSX``,
    ``Thumbs.db``) are left out. The function must be called before the next file is requested.

    Raises:
        Unreadable: (from the function) if the file cannot be read.
        UserError: if the folder or archive cannot be read, or has a name twice or a path that leads
            out of it.
    """
    names = set()
    for name, read in _folder(path) if path.is_dir() else _archive(path):
        name = PurePosixPath(name).as_posix()
        if not all(map(is_kept, PurePosixPath(name).parts)):
            continue
        if name in names:
            raise UserError(f"{readable(path)} contains {readable(name)!r} twice")
        names.add(name)
        yield name, read


def content_key(path: Path) -> str:
    """Returns a digest of an archive, or of a folder's names, sizes and times."""
    digest = hashlib.sha256()
    if not path.is_dir():
        try:
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()[:32]
        except OSError as error:
            raise UserError(f"{readable(path)} cannot be read: {error.strerror}") from error
    for name, file in _below(path):
        digest.update(os.fsencode(name))
        if file.exists():
            state = file.stat()
            digest.update(f" {state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:32]


def is_kept(part: str) -> bool:
    """Returns whether a name is neither hidden nor that of a file of an operating system."""
    return not part.startswith(".") and part.lower() not in LEFT_BY_SYSTEMS


def _folder(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    for name, file in _below(path):
        yield name, partial(read_file, file, f"{readable(name)} in {readable(path)}")


def _below(path: Path, inside: str = "", above: tuple[str, ...] = ()) -> Iterator[tuple[str, Path]]:
    """Yields the files in a folder and its subfolders, sorted, with their relative names."""
    here = os.path.realpath(path)
    if here in above:
        raise UserError(f"{readable(path)} is a link to a folder that it is in")
    try:
        names = sorted(filter(is_kept, os.listdir(path)))
    except OSError as error:
        raise UserError(f"{readable(path)} cannot be read: {error.strerror}") from error
    for name in names:
        if os.path.isdir(path / name):
            yield from _below(path / name, f"{inside}{name}/", (*above, here))
        else:
            yield inside + name, path / name


def read_file(file: Path, name: str) -> bytes:
    """Reads a file that is called `name` in errors.

    Raises:
        Unreadable: if it cannot be read.
    """
    if not os.path.isfile(file):
        raise Unreadable(f"{name} cannot be read: it is a broken link or not a regular file")
    try:
        return file.read_bytes()
    except OSError as error:
        raise Unreadable(f"{name} cannot be read: {error.strerror}") from error


def _archive(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    name = readable(path.name)
    try:
        zipped = zipfile.is_zipfile(path)
        if not zipped:
            yield from lazy_members(path, name)
            return
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                check_path(member.filename, name)
                if not member.is_dir():
                    yield member.filename, partial(_read_member, archive, member, name)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise UserError(f"{name} cannot be read as a zip archive: {in_one_line(error)}") from error


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> bytes:
    label = f"{member.filename} in {name}"
    check_size(label, member.file_size, member.compress_size)
    try:
        return archive.read(member)
    except Exception as error:  # Each compression raises other types of errors.
        raise Unreadable(f"{label} cannot be read: {in_one_line(error)}") from error
