"""Image files of every kind as 8-bit colours, or refused by name."""

import io
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from benchmarks.made_imagenet import encoded, photo
from experiments.data.imagenet import crop_centre
from experiments.data.pictures import picture
from experiments.errors import Unreadable

GREY16 = np.random.default_rng(0).integers(65536, size=(6, 9)).astype(np.uint16)
COLOUR16 = np.random.default_rng(1).integers(65536, size=(6, 9, 3)).astype(np.uint16)
COLOUR = (COLOUR16 >> 8).astype(np.uint8)
GREY = (GREY16 >> 8).astype(np.uint8)


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png16(values, kind, *chunks):
    """A PNG of 16 bits a channel, which Pillow does not write in colour."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
    content = [header, *chunks, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(content)


def tiff(values, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, values, **options)
    return file.getvalue()


def transparent(kind, **options):
    """Colours whose left columns are transparent black, and the same on white."""
    image, right = Image.fromarray(COLOUR).convert("RGBA"), COLOUR.copy()
    image.paste((0, 0, 0, 0), (0, 0, 4, 6))
    right[:, :4] = 255
    return encoded(image, kind, **options), right


def palette():
    image = Image.fromarray(COLOUR).quantize(16)
    right = np.asarray(image.getpalette()).reshape(-1, 3)[np.asarray(image)]
    right[np.asarray(image) == 3] = 255
    return encoded(image, "PNG", transparency=3), right


def turned(kind, orientation):
    exif, right = Image.Exif(), ImageOps.exif_transpose
    exif[0x0112] = orientation
    content = encoded(Image.fromarray(COLOUR), kind, exif=exif, lossless=True)
    return content, np.asarray(right(Image.open(io.BytesIO(content))).convert("RGB"))


def bits():
    black = GREY > 127
    return encoded(Image.fromarray(black), "PNG"), np.where(black, 255, 0)


def cmyk():
    image = Image.fromarray(COLOUR).convert("CMYK")
    return encoded(image, "TIFF"), COLOUR


KINDS = {
    "grey PNG of 16 bits": lambda: (png16(GREY16[..., None], 0), GREY),
    "colour PNG of 16 bits": lambda: (png16(COLOUR16, 2), COLOUR),
    "grey TIFF of 16 bits": lambda: (tiff(GREY16, photometric="minisblack"), GREY),
    "grey TIFF of 16 bits, big-endian": lambda: (tiff(GREY16, byteorder=">"), GREY),
    "grey TIFF of 16 bits, white is 0": lambda: (
        tiff(GREY16, photometric="miniswhite"),
        255 - GREY,
    ),
    "colour TIFF of 16 bits": lambda: (tiff(COLOUR16, photometric="rgb"), COLOUR),
    "colour TIFF by planes": lambda: (
        tiff(np.moveaxis(COLOUR, 2, 0), photometric="rgb", planarconfig="separate"),
        COLOUR,
    ),
    "BMP": lambda: (encoded(Image.fromarray(COLOUR), "BMP"), COLOUR),
    "GIF": lambda: (encoded(Image.fromarray(GREY), "GIF"), GREY),
    "WebP": lambda: (encoded(Image.fromarray(COLOUR), "WEBP", lossless=True), COLOUR),
    "transparent PNG": lambda: transparent("PNG"),
    "transparent WebP": lambda: transparent("WEBP", lossless=True),
    "palette with a transparent colour": palette,
    "one bit": bits,
    "CMYK": cmyk,
    **{f"PNG turned {way}": lambda way=way: turned("PNG", way) for way in range(1, 9)},
    "TIFF turned": lambda: turned("TIFF", 6),
    "WebP turned": lambda: turned("WEBP", 8),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_read_as_the_colours_that_it_shows(kind):
    content, right = KINDS[kind]()
    right = np.broadcast_to(right[..., None], (*right.shape, 3)) if right.ndim == 2 else right
    np.testing.assert_array_equal(picture(content, "x", None), right)


def frames(kind):
    images = [photo(number, (8, 8)) for number in range(3)]
    return encoded(images[0], kind, save_all=True, append_images=images[1:])


def truncated(kind):
    content = encoded(photo(0), kind)
    return content[: len(content) // 2]


REFUSED = {
    "animated GIF": (lambda: frames("GIF"), "has 3 frames"),
    "animated WebP": (lambda: frames("WEBP"), "has 3 frames"),
    "pages": (lambda: frames("TIFF"), "has 3 frames"),
    "float TIFF": (lambda: tiff(GREY16.astype(np.float32)), "floating-point, signed or 32-bit"),
    "float colour TIFF": (lambda: tiff(COLOUR16 / 65535, photometric="rgb"), "none of the kinds"),
    "signed TIFF": (lambda: tiff(GREY.astype(np.int8)), "floating-point, signed or 32-bit"),
    "32-bit TIFF": (lambda: tiff(GREY16.astype(np.uint32)), "floating-point, signed or 32-bit"),
    "fourth channel": (
        lambda: tiff(COLOUR[..., [0, 1, 2, 0]], photometric="rgb", extrasamples=[0]),
        "a channel that is neither a colour nor transparency",
    ),
    "planes of 16 bits": (
        lambda: tiff(np.moveaxis(COLOUR16, 2, 0), photometric="rgb", planarconfig="separate"),
        "plane by plane",
    ),
    "12 of 16 bits, all dark": (lambda: png16(GREY16[..., None] >> 8, 0), "would leave black"),
    "12 of 16 bits, grey": (lambda: png16(GREY16[..., None] >> 4, 0), "may have 12 bits"),
    "12 of 16 bits, colour": (lambda: png16(COLOUR16 >> 4, 2), "may have 12 bits"),
    "12 of 16 bits, TIFF": (lambda: tiff(COLOUR16 >> 4, photometric="rgb"), "may have 12"),
    "16 bits, one transparent": (
        lambda: png16(COLOUR16, 2, chunk(b"tRNS", struct.pack(">HHH", 0, 0, 300))),
        "takes an alpha channel",
    ),
    "empty": (lambda: b"", "none of the kinds"),
    "another kind": (lambda: encoded(photo(0), "PPM"), "none of the kinds"),
    "bomb": (lambda: encoded(Image.new("1", (15000, 15000)), "PNG"), "decompression bomb"),
    "large": (lambda: encoded(Image.new("1", (10000, 10000)), "PNG"), "decompression bomb"),
    **{f"truncated {kind}": (lambda kind=kind: truncated(kind), "cannot be read")
       for kind in ("PNG", "JPEG", "WEBP", "BMP", "TIFF")},
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_read_right_is_refused_by_name(kind):
    make, message = REFUSED[kind]
    with pytest.raises(Unreadable, match=message) as refused:
        picture(make(), "train/a/x.png", None)
    assert str(refused.value).startswith("train/a/x.png ")
    assert "\n" not in str(refused.value)


def test_a_phones_second_picture_does_not_count():
    images = [photo(number) for number in range(2)]
    content = encoded(images[0], "MPO", save_all=True, append_images=images[1:])
    alone = encoded(images[0], "JPEG")
    np.testing.assert_array_equal(picture(content, "x", 8), picture(alone, "x", 8))


def test_crops_of_a_turned_photograph_are_those_of_the_upright_one():
    upright = photo(3, (64, 96))
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = encoded(upright.rotate(90, expand=True), "JPEG", quality=95, exif=exif)
    right = crop_centre(encoded(upright, "JPEG", quality=95), 16).astype(int)
    assert np.abs(crop_centre(stored, 16) - right).mean() < 3
