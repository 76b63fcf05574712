"""Draws probes from one key and measures a network's response to them."""

from nmnc_jax.probes.drawing import coordinate_size, coordinates, draw, haar_frames
from nmnc_jax.probes.probe import DEFAULT, Kind, Probe
from nmnc_jax.probes.response import linear_response, linearized
from nmnc_jax.probes.rows import check_rows, places_of_rows, some_examples, spread_over_rows
from nmnc_jax.probes.variance import relative_variance, resolved

__all__ = [
    "DEFAULT",
    "Kind",
    "Probe",
    "check_rows",
    "coordinate_size",
    "coordinates",
    "draw",
    "haar_frames",
    "linear_response",
    "linearized",
    "places_of_rows",
    "relative_variance",
    "resolved",
    "some_examples",
    "spread_over_rows",
]
