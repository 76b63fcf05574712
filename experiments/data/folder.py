"""A data set of a user: images in folders, or in an archive, which is not unpacked.

A folder that is too large for memory is read during training, an archive never.
"""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from experiments.data.cache import check_writable, damage_list, keep_set, kept_set
from experiments.data.damage import Damage
from experiments.data.dataset import Examples
from experiments.data.in_memory import InMemory, held_out, standardised
from experiments.data.listing import check_source, content_key, files_of, readable
from experiments.data.pictures import KINDS, is_picture, picture
from experiments.errors import UserError
from experiments.progress import shown

SPLITS = ("train", "test", "val")
LAYOUT = f"train/<class>/{KINDS} and test/<class>/... or val/<class>/..."
RULES = 3
"""Version of how images are read, so that data sets decoded by earlier versions are not used."""


class Member(NamedTuple):
    """One image.

    Attributes:
        split: the name of its split.
        label: the name of its class.
        path: its path in a printable form.
        stored: its path as it is stored.
        read: a function that reads its encoded content.
    """

    split: str
    label: str
    path: str
    stored: bytes
    read: Callable[[], bytes]


class Summed(NamedTuple):
    """What is kept of an image that is read again: its shape, and sums over its pixels.

    Attributes:
        shape: height, width and channels.
        sums: sums of values and of squares of each channel, [2, channels].
    """

    shape: tuple[int, ...]
    sums: np.ndarray


def load_folder(
    path: Path,
    image_size: int | None,
    validation: bool,
    cache: Path,
    skip_damaged: bool = False,
) -> InMemory:
    """Reads a folder or an archive of images.

    The test set is test/, or val/ if there is no test/. With `validation` it is a tenth of train/,
    or val/ if there are both. Images are decoded once and kept in a cache, which is keyed by the
    content of the archive.

    Args:
        path: directory, zip, or tar of any compression, of train/<class>/ and test|val/<class>/.
        image_size: side to which images are resized; None if all images have one size.
        validation: whether the test set is used to choose settings.
        cache: directory of decoded data sets.
        skip_damaged: whether images that cannot be read are left out, counted and listed.

    Raises:
        UserError: if images are missing, unreadable, of several sizes or in an unsafe archive.
    """
    parts = parts_of(path, image_size, cache, skip_damaged, whole=True)
    train, test = chosen_parts(parts, validation, readable(path))
    return standardised(train, test, len(parts["classes"]), each_channel=True, white=255)


def parts_of(
    path: Path, image_size: int | None, cache: Path, skip_damaged: bool, *, whole: bool
) -> dict[str, np.ndarray]:
    """Returns the splits, with whole images or with their names and sums, from the cache if there.

    Notes about files that are left out are printed.
    """
    check_source("data_path", path, LAYOUT)
    check_writable(cache)
    key = f"{content_key(path)}-{image_size or 'own'}-{'some' if skip_damaged else 'all'}-{RULES}"
    key += "" if whole else "-names"
    parts = kept_set(cache / f"{key}.npz")
    if parts is None:
        damage = Damage(skip_damaged)
        listed = damage_list(cache / f"{key}.npz")
        parts = _decode(path, image_size, damage, listed, whole=whole)
        keep_set(cache / f"{key}.npz", parts, list(damage.found.values()))
    for note in parts["notes"]:
        print(note, flush=True)
    return parts


def chosen_parts(
    parts: dict[str, np.ndarray], validation: bool, name: str
) -> tuple[Examples, Examples]:
    """Returns the training set and the test set."""
    of_split = {
        split: (parts[f"{split}_images"], parts[f"{split}_targets"])
        for split in SPLITS
        if f"{split}_images" in parts
    }
    train = of_split.pop("train")
    if len(of_split) == 2:
        used, other = ("val", "test") if validation else ("test", "val")
        print(f"{name} has test/ and val/: {used}/ is tested, {other}/ is not used", flush=True)
        return train, of_split[used]
    (only,) = of_split.values()
    return held_out(train) if validation else (train, only)


def _place(name: str) -> tuple[str, str] | None:
    """Returns split and class of a file; folders above that of the split are ignored."""
    parts = PurePosixPath(name).parts
    return (parts[-3], parts[-2]) if len(parts) >= 3 and parts[-3] in SPLITS else None


def _found(path: Path, damage: Damage) -> tuple[list[Member], set[str], list[str]]:
    """Returns images in the order of their paths, all classes, and files that are not images."""
    found: list[Member] = []
    labels: set[str] = set()
    others: list[str] = []
    for stored, read in files_of(path):
        name = readable(stored)
        place = _place(name)
        if place:
            labels.add(place[1])
        if not is_picture(name):
            others.append(name)
            continue
        if place is None:
            raise UserError(f"{name} is in no class of a split; data_path takes {LAYOUT}")
        if not path.is_dir():  # The next member of an archive can be read only after this one.
            content = damage.attempt(name, read)
            if content is None:
                continue
            read = partial(bytes, content)
        found.append(Member(*place, name, os.fsencode(stored), read))
    return sorted(found), labels, others


def _check_splits(path: Path, found: Iterable[Member], labels: set[str]) -> list[str]:
    """Returns the existing splits, and checks that each has images of every class."""
    name = readable(path)
    of_split = {split: {m.label for m in found if m.split == split} for split in SPLITS}
    if not any(of_split.values()):
        raise UserError(f"data_path is {name}, which holds no image; it takes {LAYOUT}")
    tested = [split for split in ("test", "val") if of_split[split]] or ["test"]
    for split in ("train", *tested):
        for label in sorted(labels - of_split[split]):
            raise UserError(
                f"class {label!r} of {name} has no {split} images ({KINDS}); each class takes some "
                "in each split"
            )
    return ["train", *tested]


def _decode(
    path: Path, image_size: int | None, damage: Damage, listed: Path, *, whole: bool
) -> dict[str, np.ndarray]:
    """Decodes every image, in the order of paths, and keeps it whole or its name and sums."""
    name = readable(path)
    found, labels, others = _found(path, damage)
    roots = {PurePosixPath(member.path).parts[:-3] for member in found}
    if len(roots) > 1:
        first, second = sorted("/".join(root) or "." for root in roots)[:2]
        raise UserError(f"{name} has splits in {first} and in {second}; it takes only one of them")
    _check_splits(path, found, labels)

    def read(member: Member) -> Any:
        label = f"{member.path} in {name}"
        image = damage.attempt(member.path, lambda: picture(member.read(), label, image_size))
        return image if whole or image is None else summed(image)

    images = _shown(read, found, f"decoding {readable(path.name)}")
    kept = [(m, image) for m, image in zip(found, images, strict=True) if image is not None]
    splits = _check_splits(path, [member for member, _ in kept], labels)
    first, size = kept[0][0], kept[0][1].shape
    for member, image in kept:
        if image.shape != size:
            raise UserError(
                f"{member.path} in {name} has {image.shape[:2]} pixels and {first.path} "
                f"{size[:2]}; image_size takes the side to which all are resized"
            )
    notes = []
    if others:
        notes.append(
            f"{name}: left out {len(others)} files that are no {KINDS}, such as {others[0]}"
        )
    if damage.found:
        notes.append(
            f"{name}: left out {len(damage.found)} of {len(kept) + len(damage.found)} images that "
            f"cannot be read, listed in {readable(listed)}"
        )
    classes = {label: number for number, label in enumerate(sorted(labels))}
    parts = {"classes": np.array(list(classes)), "notes": np.array(notes, str)}
    parts["pixels"] = np.array(size[0] * size[1])
    longest = max(len(member.stored) for member, _ in kept)
    names = np.dtype([("name", f"S{longest}"), ("sums", np.float64, (2, 3))])
    for split in splits:
        chosen = [(member, image) for member, image in kept if member.split == split]
        parts[f"{split}_images"] = (
            np.stack([image for _, image in chosen])
            if whole
            else np.array([(m.stored, image.sums) for m, image in chosen], names)
        )
        targets = [classes[member.label] for member, _ in chosen]
        parts[f"{split}_targets"] = np.array(targets, np.int32)
    return parts


def summed(image: np.ndarray) -> Summed:
    """Returns the sums over the pixels of an image, uint8 [height, width, channels]."""
    values = image.astype(np.int64)
    sums = np.stack([values.sum(axis=(0, 1)), np.square(values).sum(axis=(0, 1))])
    return Summed(image.shape, sums.astype(np.float64))


def _shown(read: Callable[[Member], Any], found: list[Member], label: str) -> list[Any]:
    """Reads in parallel, and shows the progress."""
    images: list[Any] = []
    with ThreadPoolExecutor() as pool, shown(label, len(found)) as show:
        for done, image in enumerate(pool.map(read, found), 1):
            images.append(image)
            show(done)
    return images
