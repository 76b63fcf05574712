"""Marks the layers of a model for the readout `mirror`."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr

from nmnc_jax.layers.layer import Layer, other_layers
from nmnc_jax.layers.running import Layers
from nmnc_jax.layout import with_one_more
from nmnc_jax.taps import TapLike, no_tap
from nmnc_jax.types import ApplyFn, Array, Inputs, Params


def mirror_layers(apply: Callable[..., Any]) -> ApplyFn:
    """Marks every linear layer of a model for the readout `mirror`, without changes to the model.

    The model may be written in Flax NNX, Equinox, Haiku, Flax Linen or plain JAX, and may be mapped
    over examples by ``jax.vmap``. Linear layers are dense layers, convolutions and einsums,
    including the projections of attention. Everything else is differentiated exactly: biases,
    transformations of weights (casts, standardisation), and layers whose weights are not
    parameters. A stage is named by the path of its weights in the parameters,
    ``"layers/0/weight"``; if weights are used more than once, the second use is named
    ``"layers/0/weight:2"``.

    Args:
        apply: ``apply(params, inputs, **kwargs) -> outputs``, for any number of examples.

    Returns:
        ``apply_fn(params, inputs, tap, **kwargs) -> outputs``, as every estimator takes it.

    Raises:
        ValueError: (when applied) if the model has no linear layer, has one inside a transformation
            other than ``jax.jit``, ``vmap``, ``checkpoint`` or ``lax.scan``, or if the input of a
            layer has no separate axis of examples.

    Example:
        >>> import equinox as eqx, jax, jax.numpy as jnp
        >>> from nmnc_jax import mirror_layers, weight_mirror
        >>> model = eqx.nn.MLP(3, 2, width_size=4, depth=1, key=jax.random.key(0))
        >>> params, static = eqx.partition(model, eqx.is_inexact_array)
        >>> apply_fn = mirror_layers(lambda p, x: jax.vmap(eqx.combine(p, static))(x))
        >>> estimator = weight_mirror(apply_fn, lambda outputs, targets: outputs.sum(-1))
        >>> state = estimator.init(params, (jnp.ones((5, 3)), None))
        >>> state.feedback["layers/1/weight"].coordinates.shape
        (2, 4)
    """

    def apply_fn(params: Params, inputs: Inputs, tap: TapLike = no_tap, **kwargs: Any) -> Any:
        if tap is no_tap:
            return apply(params, inputs, **kwargs)

        def traced(inputs: Inputs) -> tuple[ClosedJaxpr, Any]:
            called = functools.partial(apply, **kwargs)
            return jax.make_jaxpr(called, return_shape=True)(params, inputs)

        layers = Layers(params)
        jaxpr, outputs = traced(inputs)
        found: dict[str, Any] = {}
        examples = _examples(inputs)
        longer_inputs = with_one_more(inputs, examples)
        try:
            longer = traced(longer_inputs)[0]
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"apply fails with one example more than the {examples} along the first axis of "
                "the first array of inputs (each array of inputs whose first axis has that size "
                "gets one more, keyword arguments do not); mirror_layers takes a model of any "
                "number of examples: pass every array with a row per example in the inputs, and "
                "other arrays as parameters or keyword arguments"
            ) from error

        def record(layer: Layer, tap: TapLike) -> Array:
            del tap
            found[layer.name] = layer.activation.shape
            return layer.run(layer.weights, layer.activation)

        values = jax.tree.leaves((params, longer_inputs))
        jax.eval_shape(lambda values: layers.run(longer, values, no_tap, record), values)
        if not found:
            raise ValueError(
                "the model has no linear layer; mirror_layers takes a model with at least one"
            )

        def mark(layer: Layer, tap: TapLike) -> Array:
            if layer.name not in found:
                raise ValueError(other_layers(layer.name))
            return layer.mark(tap, found[layer.name])

        results = layers.run(jaxpr, jax.tree.leaves((params, inputs)), tap, mark)
        return jax.tree.unflatten(jax.tree.structure(outputs), results)

    return apply_fn


def _examples(inputs: Inputs) -> int:
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(inputs)]
    sizes = [shape[0] for shape in shapes if shape]
    if not sizes:
        raise ValueError(
            f"inputs have shapes {shapes}; mirror_layers takes arrays whose first axis is that of "
            "examples"
        )
    return sizes[0]
