"""How often a linear stage uses each of its weights."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

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


def positions_of_all(model: Any, params: Params, inputs: Inputs) -> dict[str, Positions]:
    """Returns `positions_of` each linear stage of a model, without computing the model."""
    found: dict[str, Positions] = {}

    def reader(stage: LinearStage, given: Any) -> tuple[Array, Any]:
        found[stage.name] = positions_of(stage)
        return read_input(stage, given)

    jax.eval_shape(lambda p, x: model(p, x, Tap(reader=reader)), params, inputs)
    return found
