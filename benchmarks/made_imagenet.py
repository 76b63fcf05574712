"""A made ImageNet: small photographs of noise in archives with the official names and layout."""

import io
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Member = tuple[str, bytes | tarfile.TarInfo]


def photo(seed: int, size: tuple[int, int] = (80, 64)) -> Image.Image:
    """Returns smooth noise of a size (width, height)."""
    random = np.random.default_rng(seed)
    small = random.integers(256, size=(4, 5, 3)).astype(np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    """Returns the content of an image's file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def tar(members: Iterable[Member], mode: Any = "w") -> bytes:
    """Returns an archive of named contents; a content may be a whole TarInfo instead."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for name, content in members:
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def write_archives(
    directory: Path, training: Mapping[str, Sequence[bytes]], validation: Mapping[int, bytes]
) -> None:
    """Writes both archives of imagenet2012.

    Args:
        directory: directory for the archives.
        training: name of each class to the contents of its images.
        validation: official number of each validation image to its content.
    """
    inner = [
        (f"{name}.tar", tar((f"{name}_{k}.JPEG", each) for k, each in enumerate(contents)))
        for name, contents in training.items()
    ]
    (directory / "ILSVRC2012_img_train.tar").write_bytes(tar(inner))
    images = [(f"ILSVRC2012_val_{number:08}.JPEG", each) for number, each in validation.items()]
    (directory / "ILSVRC2012_img_val.tar").write_bytes(tar(images))
