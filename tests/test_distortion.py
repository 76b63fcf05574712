"""Distortions of training images."""

import numpy as np
import pytest
from PIL import Image

from experiments.data.distortion import DISTORTIONS, RANDAUGMENT, jitter
from experiments.errors import UserError
from tests.cases import run_on

# Every value from 0 to 255 equally often in each channel.
RAMP = Image.fromarray(np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2))


@pytest.mark.parametrize("operation", RANDAUGMENT)
def test_an_operation_without_strength_changes_nothing(operation):
    changed = np.asarray(operation(RAMP, 0.0), int)
    assert np.abs(changed - np.asarray(RAMP, int)).max() <= 1


def test_operations_turn_shear_and_move_both_ways():
    width = 331
    columns, rows = np.meshgrid(np.arange(width), np.arange(width))
    image = Image.fromarray(np.stack([columns % 256, rows % 256, 0 * rows], -1).astype(np.uint8))
    for place, channel in ((-2, 0), (-1, 1)):
        for sign in (-1, 1):
            moved = np.asarray(RANDAUGMENT[place](image, sign * 0.3), int)
            # 45 of 331 pixels; elsewhere than at the border, where the mean colour shows.
            assert (moved - np.asarray(image))[100:200, 100:200, channel].mean() == sign * 45
    for place, channel in ((-4, 0), (-3, 1), (-5, 0)):
        there, back = (
            np.asarray(RANDAUGMENT[place](image, s), int)[..., channel] for s in (0.3, -0.3)
        )
        middle = slice(150, 181)
        assert np.abs(there[middle, middle] - back[middle, middle]).max() >= 2


def test_jitter_changes_brightness_within_its_range():
    grey = Image.new("RGB", (4, 4), (100, 100, 100))  # Contrast and saturation change nothing.
    values = [np.asarray(jitter(grey, np.random.default_rng(seed))).mean() for seed in range(200)]
    assert 59 <= min(values) < 65
    assert 135 < max(values) <= 141


@pytest.mark.parametrize("name", DISTORTIONS)
def test_a_distortion_follows_from_its_seed(name):
    colours = np.random.default_rng(0).integers(256, size=(32, 32, 3), dtype=np.uint8)
    first, again, *others = (
        np.asarray(DISTORTIONS[name](Image.fromarray(colours), np.random.default_rng(seed)))
        for seed in (0, 0, *range(1, 9))
    )
    assert (first.shape, first.dtype) == (colours.shape, colours.dtype)
    np.testing.assert_array_equal(first, again)
    assert all((first != other).any() for other in others)


def test_data_that_are_not_distorted_are_named():
    with pytest.raises(UserError, match="distort is 'jitter'; digits takes None"):
        run_on("digits", distort="jitter")
