"""Tries whether stages are linear, and whether noise finds their weights."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from nmnc_jax.linear_stages.finding import Linear
from nmnc_jax.linear_stages.positions import positions_of, positions_of_all
from nmnc_jax.linear_stages.weights import estimate_weights
from nmnc_jax.taps import LinearStage, Tap
from nmnc_jax.types import Array, Inputs, Params

PROBES, TRIES = 64, 8
"""Number of probes per weight that a trial aims at, and its largest number of draws of noise."""


def try_stages(
    model: Any, params: Params, inputs: Inputs, linears: dict[str, Linear]
) -> dict[str, tuple[float, float]]:
    """Measures how far linear stages deviate from what a mirror assumes; the worst step of a scan.

    Returns:
        A dict from the name of a stage to ``(nonlinear, excess)``. The first is the relative
        difference of ``apply(v + w/2, x + z/2)`` from what bilinearity gives. The second is the
        difference between the product of two independent estimates of the weights and the square
        of the weights, relative to what chance allows. Both are near 0 if a mirror learns the
        weights.
    """
    uses = positions_of_all(model, params, inputs)
    random = np.random.default_rng(0)

    def drawn(shape: Sequence[int], dtype: Any) -> np.ndarray:
        return random.standard_normal(tuple(shape), np.float32).astype(dtype)

    given = {}
    for name, found in linears.items():
        shape = found.shape.input.shape[found.shape.input.batch_axis :]
        rows = min(shape[0], 8) if uses[name].any_batch else shape[0]
        tries = min(max(round(PROBES / (rows * max(uses[name].mean, 1e-9))), 1), TRIES)
        weights = [
            jax.tree.map(lambda leaf: drawn(leaf.shape, leaf.dtype), found.shape.weights)
            for _ in range(2)
        ]
        noise = drawn((2, tries, rows, *shape[1:]), found.shape.input.dtype)
        given[name] = (*weights, noise)

    def read(params: Params, inputs: Inputs, given: dict[str, Any]) -> dict[str, Any]:
        tap = Tap(reader=_try_stage, given=given, whole=frozenset(given))
        model(params, inputs, tap)
        return {name: (tap.read[name][0].max(), tap.read[name][1].max()) for name in given}

    with jax.ensure_compile_time_eval():
        found = jax.device_get(jax.jit(read)(params, inputs, given))
    return {name: (float(n), float(e)) for name, (n, e) in found.items()}


def _try_stage(stage: LinearStage, given: Any) -> tuple[Array, Any]:
    value = stage.apply(stage.weights, stage.activation)
    if given is None:
        return value, None
    positions = positions_of(stage)
    first, second, (noise, other_noise) = given
    x, z = noise[0], other_noise[0]
    both = jax.tree.map(lambda a, b: a + b / 2, first, second)
    parts = [stage.apply(w, h).astype(jnp.float32) for w in (first, second) for h in (x, z)]
    expected = parts[0] + parts[1] / 2 + parts[2] / 2 + parts[3] / 4
    difference = stage.apply(both, x + z / 2).astype(jnp.float32) - expected
    nonlinear = jnp.linalg.norm(difference.ravel()) / jnp.linalg.norm(expected.ravel())

    def estimate(noise: Array) -> Any:
        return estimate_weights(stage._replace(weights=first), noise, positions)

    def mean(draws: Array) -> list[Array]:
        each = lax.map(estimate, draws) if len(draws) > 1 else estimate(draws[0])
        leaves = jax.tree.leaves(each)
        return [leaf.mean(0) for leaf in leaves] if len(draws) > 1 else leaves

    product = sum(jnp.vdot(a, b) for a, b in zip(mean(noise), mean(other_noise), strict=True))
    # Weights that only padding reaches are not estimated.
    squares = jax.tree.map(
        lambda leaf, n: jnp.where(n > 0, leaf.astype(jnp.float32) ** 2, 0), first, positions.counts
    )
    square = sum(leaf.sum() for leaf in jax.tree.leaves(squares))
    size = sum(leaf.size for leaf in jax.tree.leaves(first))
    probes = noise.shape[0] * noise.shape[1] * max(positions.mean, 1e-9)
    chance = 0.3 + 3 * positions.weights_each / probes / size**0.5 + 6 * (probes * size) ** -0.5
    return value, (nonlinear, jnp.abs(product / square - 1) / chance)
