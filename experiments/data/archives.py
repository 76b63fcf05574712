"""Official archives: found, checked against their published sha256, and read member by member."""

import hashlib
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from experiments.config import UserError

BLOCK = 1 << 22


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
        read: told the number of bytes of each block.

    Raises:
        UserError: if it is another file.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
            read(len(block))
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


def members(file: Path | IO[bytes], name: str) -> Iterator[tuple[str, bytes]]:
    """Yields name and content of each regular file of a tar archive, in its order.

    Raises:
        UserError: if a member is neither a file nor a directory, or its path leads out of the
            archive; or if the archive is damaged.
    """
    try:
        with (
            tarfile.open(file) if isinstance(file, Path) else tarfile.open(fileobj=file) as archive
        ):
            for member in archive:
                check_path(member.name, name)
                if not (member.isfile() or member.isdir()):
                    raise UserError(f"{name} holds {member.name!r}, which is not a regular file")
                content = archive.extractfile(member)
                if content is not None:
                    yield member.name, content.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f"{name} cannot be read as a tar archive: {error}") from error
