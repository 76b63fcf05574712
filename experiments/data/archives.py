"""Official archives: found, checked against their published sha256, and read member by member."""

import hashlib
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from experiments.errors import Unreadable, UserError, in_one_line

BLOCK = 1 << 22
LARGE = 1 << 30


class Archive(NamedTuple):
    """One file as its makers publish it."""

    name: str
    sha256: str
    source: str
    """Where a user gets it."""


def find(archive: Archive, directory: Path) -> Path:
    """Returns the archive's path.

    Raises:
        UserError: if it is not there; it says where to get it.
    """
    path = directory / archive.name
    if not path.is_file():
        raise UserError(f"{path} is missing: get {archive.name} from {archive.source}")
    return path


def verify(archive: Archive, path: Path, read: Callable[[int], None]) -> None:
    """Compares a file with the published checksum.

    Args:
        archive: what it should be.
        path: the file.
        read: called with the number of bytes that are read so far.

    Raises:
        UserError: if it is another file.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
            read(file.tell())
    if digest.hexdigest() != archive.sha256:
        raise UserError(
            f"{path} has sha256 {digest.hexdigest()}; {archive.name} has {archive.sha256}: "
            "it is incomplete or another file, fetch it again"
        )


def check_path(member: str, name: str) -> None:
    """Refuses a member of archive `name` whose path leads out of it."""
    path = PurePosixPath(member)
    if path.is_absolute() or ".." in path.parts or "\\" in member:
        raise UserError(f"{name} holds {member!r}, a path that leads out of it")


def check_size(name: str, size: int, compressed: int) -> None:
    """Refuses a file that would fill the memory from almost nothing: a decompression bomb.

    Raises:
        Unreadable: if it is larger than 1 GiB and a hundred times what it was compressed to.
    """
    if size > LARGE and size > 100 * compressed:
        raise Unreadable(f"{name} holds {size} bytes in {compressed}: it is a decompression bomb")


def lazy_members(file: Path | IO[bytes], name: str) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Yields the name of each regular file of a tar archive, and what reads it, in its order.

    A file is read before the next one is asked for.

    Raises:
        UserError: if a member is neither a file nor a directory, or its path leads out of the
            archive; or, here or from what reads a file, if the archive is damaged.
    """
    whole = file.stat().st_size if isinstance(file, Path) else LARGE
    with (
        _damage_named(name),
        tarfile.open(file) if isinstance(file, Path) else tarfile.open(fileobj=file) as archive,
    ):
        for member in archive:
            check_path(member.name, name)
            if not (member.isfile() or member.isdir()):
                raise UserError(f"{name} holds {member.name!r}, which is not a regular file")
            if member.isfile():
                yield member.name, partial(_content, archive, member, name, whole)


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo, name: str, whole: int) -> bytes:
    check_size(f"{member.name} in {name}", member.size, whole)
    content = archive.extractfile(member)
    assert content is not None
    with _damage_named(name):
        return content.read()


@contextmanager
def _damage_named(name: str) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError, ValueError) as error:
        raise UserError(f"{name} cannot be read as a tar archive: {in_one_line(error)}") from error


def members(file: Path | IO[bytes], name: str) -> Iterator[tuple[str, bytes]]:
    """Yields name and content of each regular file of a tar archive, in its order.

    Raises:
        UserError: as `lazy_members` does.
    """
    for member, read in lazy_members(file, name):
        yield member, read()
