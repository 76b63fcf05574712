"""Reads image files as 8-bit colours; images without a unique reading raise an error.

Images are rotated by their EXIF tag, palettes are applied, transparent images are placed on white,
CMYK is converted without colour profiles, and the upper 8 of 16 bits are kept: white is 65,535,
unless a TIFF names fewer bits. An image whose 16-bit values are all below 4,096 may have 12 bits
without saying so, and raises an error.
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from experiments.errors import Unreadable, in_one_line

SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
KINDS = f"*.{{{','.join(suffix[1:] for suffix in SUFFIXES)}}}"
BITS, PHOTOMETRIC, PLANES, EXTRA_SAMPLES, SAMPLE_FORMAT = 258, 262, 284, 338, 339
"""Tags of TIFF files."""
TWELVE = (
    "has only 16-bit values below 4,096, so that it may have 12 bits or be almost black; it takes "
    "values of which 65,535 is white"
)

# Above 89 million pixels Pillow warns of a decompression bomb; here the warning is an error.
warnings.simplefilter("error", Image.DecompressionBombWarning)


def is_picture(name: str) -> bool:
    """Returns whether a file's name has the suffix of a supported image format."""
    return PurePosixPath(name).suffix.lower() in SUFFIXES


def picture(content: bytes, name: str, side: int | None) -> np.ndarray:
    """Decodes an image.

    Args:
        content: content of the file.
        name: name of the file, for errors.
        side: side of the square to which the image is resized; None keeps its size.

    Returns:
        Colours, uint8 [height, width, 3].

    Raises:
        Unreadable: if the image cannot be read. The message names the file and the reason.
    """
    with opened(content, name) as image:
        found = colours(image)
        if side is not None:
            found = found.resize((side, side), Image.Resampling.BILINEAR)
        return np.asarray(found)


@contextmanager
def opened(content: bytes, name: str) -> Iterator[Image.Image]:
    """Opens an image without decoding it; errors in the context are raised with its name.

    Raises:
        Unreadable: if the image cannot be read.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            yield image
    except Unreadable as error:
        raise Unreadable(f"{name} {error}") from None
    except UnidentifiedImageError as error:
        kinds = ", ".join(FORMATS)
        raise Unreadable(f"{name} cannot be read: it is none of the kinds {kinds}") from error
    except Exception as error:  # Pillow's decoders raise many types of errors.
        raise Unreadable(f"{name} cannot be read: {in_one_line(error)}") from error


def colours(image: Image.Image) -> Image.Image:
    """Returns an opened image as RGB, upright and on white if it is transparent.

    Raises:
        Unreadable: if 8-bit colours cannot represent it; the message lacks the file's name.
    """
    _check(image)
    deep = _has_16_bits(image)
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I;16"):
        image = _upper_bits(image)
    elif deep and 0 < np.asarray(image.convert("RGB")).max() < 16:  # Pillow kept the upper 8.
        raise Unreadable(TWELVE)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Returns width and height of an opened image after its rotation, without decoding it."""
    width, height = image.size
    turned = image.getexif().get(0x0112) in (5, 6, 7, 8)
    return (height, width) if turned else (width, height)


def _check(image: Image.Image) -> None:
    """Raises an error if an image has no unique meaning as 8-bit colours."""
    tags = getattr(image, "tag_v2", {})
    frames = getattr(image, "n_frames", 1)
    # A phone's JPEG may hold a preview or a depth map as a further frame (MPO).
    if frames > 1 and image.format != "MPO":
        raise Unreadable(f"has {frames} frames; an image has one")
    if image.mode in ("I", "F") or set(tags.get(SAMPLE_FORMAT, (1,))) != {1}:
        raise Unreadable(
            f"holds floating-point, signed or 32-bit values (mode {image.mode!r}), of which none "
            "is white; it takes unsigned values of 1 to 16 bits"
        )
    if 0 in tags.get(EXTRA_SAMPLES, ()):
        raise Unreadable("has a channel that is neither a colour nor transparency")
    if tags.get(PLANES) == 2 and max(tags.get(BITS, (1,))) > 8:  # Pillow reads them wrong.
        raise Unreadable("has 16-bit channels plane by plane; it takes them pixel by pixel")
    if "transparency" in image.info and _has_16_bits(image):
        raise Unreadable("has 16-bit values of which one is transparent; it takes an alpha channel")


def _has_16_bits(image: Image.Image) -> bool:
    """Returns whether an image that is not yet decoded has 16 bits in each channel."""
    return any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))


def _upper_bits(image: Image.Image) -> Image.Image:
    """Returns the upper 8 bits of grey values of 9 to 16 bits."""
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(BITS, (16,))[0]
    values = np.asarray(image).astype(np.uint16)
    if tags.get(PHOTOMETRIC) == 0:  # White is 0, which Pillow heeds at 8 bits only.
        values = 2**bits - 1 - values
    if 0 < values.max() < 2 ** (bits - 8):
        raise Unreadable(
            f"holds {bits}-bit values up to {values.max()} alone, which 8 bits would leave black"
        )
    if bits == 16 and 0 < values.max() < 2**12:
        raise Unreadable(TWELVE)
    return Image.fromarray((values >> (bits - 8)).astype(np.uint8))
