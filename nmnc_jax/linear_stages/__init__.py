"""Estimates the weights of linear stages from noise at their inputs.

A stage ``y = apply(weights, h)`` is linear in both arguments. Each weight connects one unit of h to
one output at each of a number of positions, where noise at h correlates with the response.
"""

from nmnc_jax.linear_stages.finding import Linear, find_linears
from nmnc_jax.linear_stages.positions import Positions, positions_of, positions_of_all
from nmnc_jax.linear_stages.trial import try_stages
from nmnc_jax.linear_stages.weights import estimate_weights, read_weights, weights_of_stages

__all__ = [
    "Linear",
    "Positions",
    "estimate_weights",
    "find_linears",
    "positions_of",
    "positions_of_all",
    "read_weights",
    "try_stages",
    "weights_of_stages",
]
