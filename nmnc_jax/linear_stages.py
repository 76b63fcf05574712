"""Estimates the weights of linear stages from noise at their inputs.

A stage ``y = apply(weights, h)`` is linear in both arguments. Each weight connects one unit of h to
one output at each of a number of positions, where noise at h correlates with the response.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from nmnc_jax.dependence import dependence
from nmnc_jax.layout import Layout, LinearShape, Nodes, at_least_float32, read_weights_and_input
from nmnc_jax.taps import LinearStage, Tap, read_input
from nmnc_jax.types import Array, Inputs, Params


class Positions(NamedTuple):
    """How often a stage uses its weights.

    Attributes:
        counts: number of positions in one example that use each weight, a pytree with the structure
            of the weights; an axis along which counts are equal has size 1.
        weights_each: largest number of weights that an output depends on, which is the number of
            units of noise that it sums.
        mean: number of positions in one example that use a weight, averaged over weights.
        any_batch: whether the stage takes another number of examples.
    """

    counts: Any
    weights_each: float
    mean: float
    any_batch: bool


def positions_of(stage: LinearStage) -> Positions:
    """Counts the positions that use each weight, by the stage's weight VJP of ones at ones.

    The counts depend only on shapes and are computed while the model is traced.

    Raises:
        ValueError: if the stage depends on values other than its weights and its input, or if
            these are not real numbers.
    """
    shape = stage.activation.shape
    for leaf in (*jax.tree.leaves(stage.weights), stage.activation):
        if not jnp.issubdtype(leaf.dtype, jnp.floating) or not leaf.size:
            raise ValueError(
                f"linear stage {stage.name!r} has an array of {leaf.dtype} and shape {leaf.shape}; "
                "readout 'mirror' takes real floating-point arrays that are not empty"
            )

    def count(weights: Any, activation: Array) -> tuple[Any, Array]:
        value, pullback = jax.vjp(lambda w: stage.apply(w, activation), weights)
        return pullback(jnp.ones_like(value))[0], value.max()

    # NumPy arrays, so that the ones of a large stage do not become constants of the compiled step.
    ones = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), stage.weights)
    try:
        examples = 1
        value = jax.eval_shape(
            stage.apply, ones, jax.ShapeDtypeStruct((1, *shape[1:]), stage.activation.dtype)
        )
        if value.shape[:1] != (1,):
            examples = shape[0]
    except (TypeError, ValueError):
        examples = shape[0]
    activation = np.ones((examples, *shape[1:]), stage.activation.dtype)
    with jax.ensure_compile_time_eval():
        counted = jax.jit(count)(ones, activation)
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(counted)):
        raise ValueError(
            f"linear stage {stage.name!r} depends on values other than its weights and its input; "
            "readout 'mirror' takes apply(weights, h) that depends only on these"
        )
    counts, weights_each = jax.device_get(counted)
    each = jax.tree.map(lambda leaf: leaf.astype(np.float32) / examples, counts)
    total = sum(float(leaf.sum()) for leaf in jax.tree.leaves(each))
    size = sum(leaf.size for leaf in jax.tree.leaves(each))
    short = jax.tree.map(_without_equal_axes, each)
    return Positions(short, float(weights_each), total / size, any_batch=examples == 1)


def _without_equal_axes(counts: np.ndarray) -> np.ndarray:
    for axis in range(counts.ndim):
        first = np.take(counts, [0], axis=axis)
        if (counts == first).all():
            counts = first
    return counts


def estimate_weights(stage: LinearStage, noise: Array, positions: Positions) -> Any:
    """Estimates a stage's weights from its response to noise of unit variance at its input.

    The expectation of the stage's weight VJP at the noise, with the response as cotangent, is each
    weight times the number of positions that use it.

    Args:
        stage: the stage.
        noise: noise in the shape of the stage's input, [B, ...].
        positions: the positions of the stage.

    Returns:
        A pytree with the structure of the weights, of at least float32. Noise in the span of a
        basis U gives U U^T applied to the weights.

    Source:
        Akrout, Wilson, Humphreys, Lillicrap and Tweed 2019 (arXiv 1904.05391), weight mirrors,
        generalised to any bilinear stage.
    """
    noise = noise.astype(stage.activation.dtype)
    response, pullback = jax.vjp(lambda weights: stage.apply(weights, noise), stage.weights)
    (correlation,) = pullback(response)
    examples = noise.shape[0]

    def mean(leaf: Array, counts: np.ndarray) -> Array:
        dtype = at_least_float32(leaf.dtype)
        return leaf.astype(dtype) / jnp.asarray(np.maximum(counts, 1) * examples, dtype)

    return jax.tree.map(mean, correlation, positions.counts)


class Linear(NamedTuple):
    """Static description of a linear stage.

    Attributes:
        shape: the shapes of the stage.
        needed: whether its input depends on parameters, so that credit passes through it.
        stacked: whether a scan around it gives each step separate weights.
    """

    shape: LinearShape
    needed: bool
    stacked: bool


def find_linears(model: Any, params: Params, inputs: Inputs, nodes: Nodes) -> dict[str, Linear]:
    """Finds the linear stages of a model that the readout `mirror` learns.

    Raises:
        ValueError: if a stage is inside ``tap.vmap``, if its weights depend on the inputs, or if
            only some of the scans around it give weights for each step. The message names it.
    """

    def read(params: Params, inputs: Inputs) -> dict[str, Any]:
        tap = Tap(reader=read_weights_and_input)
        model(params, inputs, tap)
        return {
            name: {"weights": weights, "input": activation}
            for name, (weights, activation) in tap.read.items()
        }

    traced, shapes = jax.make_jaxpr(read, return_shape=True)(params, inputs)
    found = dependence(traced)
    leaves = jax.tree.leaves((params, inputs))
    of_params = frozenset(range(len(jax.tree.leaves(params))))
    trained = {n for n in of_params if jnp.issubdtype(jnp.result_type(leaves[n]), jnp.floating)}
    needed, stacked = set(), set()
    for (path, _), origins in zip(jax.tree.leaves_with_path(shapes), found.results, strict=True):
        name, part = path[0].key, path[1].key
        if part == "input" and origins & trained:
            needed.add(name)
        if part == "weights":
            if origins - of_params:
                raise ValueError(
                    f"the weights of linear stage {name!r} depend on the inputs; readout 'mirror' "
                    "takes weights that are the same for all examples"
                )
            if nodes.scopes[name] and origins & found.sliced:
                stacked.add(name)
    for name in needed:
        if nodes.linears[name].mapped:
            raise ValueError(
                f"linear stage {name!r} is inside tap.vmap; readout 'mirror' takes stages of whole "
                "batches: call the stage outside tap.vmap"
            )
        if name in stacked and len(nodes.scopes[name]) > 1:
            raise ValueError(
                f"linear stage {name!r} has weights for each step of a scan inside another scan; "
                "readout 'mirror' takes one scan around such a stage"
            )
    return {
        name: Linear(shape, name in needed, name in stacked)
        for name, shape in nodes.linears.items()
    }


def positions_of_all(model: Any, params: Params, inputs: Inputs) -> dict[str, Positions]:
    """Returns `positions_of` each linear stage of a model, without computing the model."""
    found: dict[str, Positions] = {}

    def reader(stage: LinearStage, given: Any) -> tuple[Array, Any]:
        found[stage.name] = positions_of(stage)
        return read_input(stage, given)

    jax.eval_shape(lambda p, x: model(p, x, Tap(reader=reader)), params, inputs)
    return found


PROBES, TRIES = 64, 8
"""Number of probes per weight that a trial aims at, and its largest number of draws of noise."""


def weights_of_stages(read: Mapping[str, Any], nodes: Nodes, layout: Layout) -> dict[str, Any]:
    """Returns the weights of linear stages, with a leading axis if each step has separate weights.

    Args:
        read: name of a stage to ``(weights, input)``, as `read_weights_and_input` records them.
        nodes: the nodes of the model.
        layout: the layout of the state.
    """
    found = {}
    for tap in layout.taps:
        if tap.name in read:
            alike = 0 if tap.stacked else len(nodes.scopes[tap.name])
            found[tap.name] = jax.tree.map(lambda leaf, n=alike: leaf[(0,) * n], read[tap.name][0])
    return found


def read_weights(
    model: Any, params: Params, inputs: Inputs, nodes: Nodes, layout: Layout
) -> dict[str, Any]:
    """Returns `weights_of_stages` of a model; the rest of the model becomes dead code."""
    tap = Tap(reader=read_weights_and_input)
    model(params, inputs, tap)
    return weights_of_stages(tap.read, nodes, layout)


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
