"""Distortions of training images by Pillow: colour jitter, and RandAugment (Cubuk et al. 2020)."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

Distort = Callable[[Image.Image, np.random.Generator], Image.Image]
Operation = Callable[[Image.Image, float], Image.Image]
GREY = (124, 116, 104)
"""The mean colour of ImageNet, which fills what an image does not cover."""
JITTER = 0.4
"""Largest change of brightness, contrast and saturation by jitter, relative to the image's."""
OPERATIONS, STRENGTH = 2, 9 / 30
"""RandAugment's number of operations, and their strength: 9 on the scale that ends at 30."""


def jitter(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Changes brightness, contrast and saturation by random factors, in random order."""
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for place in random.permutation(len(enhancers)):
        image = enhancers[place](image).enhance(random.uniform(1 - JITTER, 1 + JITTER))
    return image


def randaugment(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Applies two operations, chosen with replacement, each with a random sign of its strength."""
    for place in random.integers(len(RANDAUGMENT), size=OPERATIONS):
        image = RANDAUGMENT[place](image, STRENGTH * random.choice((-1.0, 1.0)))
    return image


def _enhance(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    return lambda image, strength: kind(image).enhance(1 + 0.9 * strength)


def _moved(image: Image.Image, row: tuple[float, ...], column: tuple[float, ...]) -> Image.Image:
    """Applies an affine map; `row` and `column` give the source's x and y for (x, y, 1)."""
    kind = Image.Transform.AFFINE
    return image.transform(image.size, kind, (*row, *column), fillcolor=GREY)


RANDAUGMENT: tuple[Operation, ...] = (
    lambda image, strength: image,
    lambda image, strength: ImageOps.autocontrast(image),
    lambda image, strength: ImageOps.equalize(image),
    lambda image, strength: ImageOps.solarize(image, round(256 * (1 - abs(strength)))),
    lambda image, strength: ImageOps.posterize(image, 8 - round(4 * abs(strength))),
    _enhance(ImageEnhance.Brightness),
    _enhance(ImageEnhance.Contrast),
    _enhance(ImageEnhance.Color),
    _enhance(ImageEnhance.Sharpness),
    lambda image, strength: image.rotate(30 * strength, fillcolor=GREY),
    lambda image, strength: _moved(image, (1, 0.3 * strength, 0), (0, 1, 0)),
    lambda image, strength: _moved(image, (1, 0, 0), (0.3 * strength, 1, 0)),
    lambda image, strength: _moved(image, (1, 0, 150 / 331 * strength * image.width), (0, 1, 0)),
    lambda image, strength: _moved(image, (1, 0, 0), (0, 1, 150 / 331 * strength * image.height)),
)
"""The 14 operations, from (image, strength from -1 to 1); what has no sign takes the size alone."""
DISTORTIONS: dict[str, Distort] = {"jitter": jitter, "randaugment": randaugment}
