"""Finds official archives, checks their published sha256, and reads them member by member."""

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
    """One file as it is published."""

    name: str
    sha256: str
    source: str
    """Address from which users download it."""


def find(archive: Archive, directory: Path) -> Path:
    """Returns the path of an archive in a directory.

    Raises:
        UserError: if the archive is missing. The message says where to get it.
    """
    path = directory / archive.name
    if not path.is_file():
        raise UserError(f"{path} is missing: get {archive.name} from {archive.source}")
    return path


def verify(archive: Archive, path: Path, read: Callable[[int], None]) -> None:
    """Compares a file with the published checksum.

    Args:
        archive: the published archive.
        path: the file.
        read: function that is called with the number of bytes read so far.

    Raises:
        UserError: if the checksums differ.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
            read(file.tell())
    if digest.hexdigest() != archive.sha256:
        raise UserError(
            f"{path} has sha256 {digest.hexdigest()}; {archive.name} has {archive.sha256}: "
            "the file is incomplete or another one; download it again"
        )


def check_path(member: str, name: str) -> None:
    """Raises a UserError if the path of a member leads out of the archive `name`."""
    path = PurePosixPath(member)
    if path.is_absolute() or ".." in path.parts or "\\" in member:
        raise UserError(f"{name} holds {member!r}, a path that leads out of it")


def check_size(name: str, size: int, compressed: int) -> None:
    """Checks that a compressed file is not a decompression bomb.

    Raises:
        Unreadable: if it is larger than 1 GiB and than a hundred times its compressed size.
    """
    if size > LARGE and size > 100 * compressed:
        raise Unreadable(
            f"{name} has {size} bytes, compressed to {compressed}: it is a decompression bomb"
        )


def lazy_members(file: Path | IO[bytes], name: str) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Yields the name of each regular file of a tar archive with a function that reads it.

    The function must be called before the next file is requested.

    Raises:
        UserError: if a member is neither a file nor a directory, or if its path leads out of the
            archive; here or from the function, if the archive is damaged.
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
    """Yields name and content of each regular file of a tar archive, in order.

    Raises:
        UserError: if `lazy_members` raises.
    """
    for member, read in lazy_members(file, name):
        yield member, read()
