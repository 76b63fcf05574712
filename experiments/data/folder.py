"""A data set of the user's own: images in folders, or an archive of them, never unpacked."""

import hashlib
import io
import os
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from PIL import Image

from experiments.config import UserError
from experiments.data.archives import check_path, members
from experiments.data.dataset import InMemory, held_out, standardised

SUFFIXES = (".jpg", ".jpeg", ".png")
SPLITS = {"train": "train", "test": "test", "val": "test"}
LAYOUT = "train/<class>/*.{jpg,jpeg,png} and test/<class>/... or val/<class>/..."


class Member(NamedTuple):
    """One image: its split, class and path, and its encoded content."""

    split: str
    label: str
    path: str
    content: bytes


def load_folder(path: Path, image_size: int | None, validation: bool, cache: Path) -> InMemory:
    """Reads an image folder or an archive of one; its test part is a tenth of training's if asked.

    Images are decoded once and kept in a cache, under the content of the archive.

    Args:
        path: directory, zip, or tar of any compression, of train/<class>/ and test|val/<class>/.
        image_size: side to which images are resized; None where all have one size.
        validation: whether the test part is held out of the training set instead.
        cache: directory of decoded sets.

    Raises:
        UserError: naming what is missing, mixed, unsafe or unreadable.
    """
    if not path.exists():
        raise UserError(f"data_path is {path}, which does not exist; it takes {LAYOUT}")
    kept = cache / f"{_content_key(path)}-{image_size or 'own'}.npz"
    if not kept.exists():
        parts = _decode(path, image_size)
        cache.mkdir(parents=True, exist_ok=True)
        temporary = kept.with_suffix(f".{os.getpid()}.tmp.npz")
        np.savez(temporary, allow_pickle=False, **parts)
        temporary.replace(kept)
    with np.load(kept) as stored:
        train = stored["train_images"], stored["train_targets"]
        test = stored["test_images"], stored["test_targets"]
        classes = len(stored["classes"])
    if validation:
        train, test = held_out(train)
    return standardised(train, test, classes, each_channel=True, white=255)


def _content_key(path: Path) -> str:
    """Digest of an archive, or of a folder's names, sizes and times."""
    digest = hashlib.sha256()
    if path.is_file():
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
    else:
        for file in sorted(path.rglob("*")):
            state = file.stat()
            digest.update(
                f"{file.relative_to(path)} {state.st_size} {state.st_mtime_ns}\n".encode()
            )
    return digest.hexdigest()[:32]


def files_of(path: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of every file of a directory or an archive."""
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            if file.is_file():
                yield file.relative_to(path).as_posix(), file.read_bytes()
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                check_path(name, path.name)
                if not name.endswith("/"):
                    yield name, archive.read(name)
    else:
        yield from members(path, path.name)


def picture(content: bytes, told: str, side: int | None) -> np.ndarray:
    """Decodes an image as colours, [height, width, 3]; resized to a square if `side` is given.

    Raises:
        UserError: if it cannot be read; `told` names it.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            colours = image.convert("RGB")
            if side is not None:
                colours = colours.resize((side, side), Image.Resampling.BILINEAR)
            return np.asarray(colours)
    except OSError as error:
        raise UserError(f"{told} cannot be read: {error}") from error


def _member(name: str, content: bytes) -> Member:
    """Splits a path; what lies above the split's folder does not count."""
    parts = PurePosixPath(name).parts
    if len(parts) < 3 or parts[-3] not in SPLITS:
        raise UserError(f"{name} is in no class of a split; data_path takes {LAYOUT}")
    return Member(SPLITS[parts[-3]], parts[-2], name, content)


def _decode(path: Path, image_size: int | None) -> dict[str, np.ndarray]:
    """Decodes every image, in the order of their paths."""
    found = [
        _member(name, content)
        for name, content in files_of(path)
        if name.lower().endswith(SUFFIXES)
    ]
    if not found:
        raise UserError(f"data_path is {path}, which holds no image; it takes {LAYOUT}")
    roots = {PurePosixPath(member.path).parts[:-3] for member in found}
    if len(roots) > 1:
        first, second = sorted("/".join(root) or "." for root in roots)[:2]
        raise UserError(f"{path} holds splits in {first} and in {second}; it takes one of them")
    labels = {split: {m.label for m in found if m.split == split} for split in ("train", "test")}
    for split, other in (("train", "test"), ("test", "train")):
        for label in sorted(labels[other] - labels[split]):
            raise UserError(
                f"class {label!r} of {path} has no {split} images; it takes some in each"
            )
    classes = sorted(labels["train"])
    found.sort()

    def read(member: Member) -> np.ndarray:
        return picture(member.content, f"{member.path} in {path}", image_size)

    images = _shown(read, found, f"decoding {path.name}")
    size = images[0].shape
    for member, image in zip(found, images, strict=True):
        if image.shape != size:
            raise UserError(
                f"{member.path} in {path} has {image.shape[:2]} pixels and {found[0].path} "
                f"{size[:2]}; image_size takes the side that all are to have"
            )
    parts: dict[str, np.ndarray] = {"classes": np.array(classes)}
    for split in ("train", "test"):
        chosen = [place for place, member in enumerate(found) if member.split == split]
        parts[f"{split}_images"] = np.stack([images[place] for place in chosen])
        targets = [classes.index(found[place].label) for place in chosen]
        parts[f"{split}_targets"] = np.array(targets, np.int32)
    return parts


def _shown(
    read: Callable[[Member], np.ndarray], found: list[Member], label: str
) -> list[np.ndarray]:
    """Reads in parallel, showing how far it is."""
    from experiments.progress import shown

    with ThreadPoolExecutor() as pool, shown(label, len(found)) as counted:
        images = []
        for image in pool.map(read, found):
            images.append(image)
            counted(1)
    return images
