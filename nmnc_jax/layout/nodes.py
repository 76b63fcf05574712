"""Finds the nodes of a model by tracing it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from nmnc_jax.layout.shapes import LinearShape, Nodes, TapShape
from nmnc_jax.taps import LinearStage, Tap, read_input
from nmnc_jax.types import Array, Inputs, Params


def trace_nodes(model: Callable[..., Any], params: Params, inputs: Inputs) -> Nodes:
    """Finds a model's nodes by tracing, without computing anything.

    Args:
        model: ``model(params, inputs, tap) -> outputs``.
        params: the model's parameters.
        inputs: the model's inputs, with examples along the first axis.

    Raises:
        ValueError: if the model has neither a tap nor a linear stage, if an output has no axis of
            examples, or if a tap's batch axis differs in size from that of the outputs.

    Example:
        >>> import jax.numpy as jnp
        >>> from nmnc_jax.layout import trace_nodes
        >>> model = lambda params, inputs, tap: tap("hidden", inputs * params)
        >>> trace_nodes(model, jnp.ones(()), jnp.ones((5, 4, 4, 2))).taps["hidden"].units
        32
    """
    nodes = _traced(model, params, inputs)
    if not nodes.taps and not nodes.linears:
        raise ValueError("apply_fn has no tap; pass each hidden activation through tap(name, x)")
    batch = examples_of(nodes.outputs)
    inputs_of_stages = {name: each.input for name, each in nodes.linears.items()}
    for name, shape in (nodes.taps | inputs_of_stages).items():
        if len(shape.shape) <= shape.batch_axis or shape.batch != batch:
            raise ValueError(
                f"tap {name!r} has shape {shape.shape}; it takes one row per example "
                f"({batch} outputs) along axis {shape.batch_axis}"
            )
    return nodes


def _traced(model: Callable[..., Any], params: Params, inputs: Inputs) -> Nodes:
    scopes: dict[str, tuple[str, ...]] = {}
    names: list[str] = []
    time_axes: dict[str, int] = {}
    mapped: set[str] = set()

    def forward(params: Params, inputs: Inputs) -> tuple[Any, Any, Any]:
        tap = Tap(reader=read_weights_and_input)
        outputs = model(params, inputs, tap)
        scopes.update(tap.scopes)
        time_axes.update(tap.time_axes)
        mapped.update(tap.mapped)
        names.extend(n for n in tap.scopes if n in tap.activations or n in tap.read)
        return outputs, tap.arrived, tap.read

    outputs, arrived, read = jax.eval_shape(forward, params, inputs)

    def shape_of(name: str, value: Any) -> TapShape:
        around = len(scopes[name])
        place = names.index(name)
        return TapShape(value.shape, value.dtype, around, place, time_axes.get(name, 0))

    taps = {name: shape_of(name, arrived[name]) for name in sorted({*names} - read.keys())}
    linears = {}
    for name in sorted(read):
        weights, activation = read[name]
        around = len(scopes[name])
        inside = jax.tree.map(
            lambda leaf, n=around: jax.ShapeDtypeStruct(leaf.shape[n:], leaf.dtype), weights
        )
        linears[name] = LinearShape(shape_of(name, activation), inside, name in mapped)
    return Nodes({node: arrived[node] for node in scopes}, scopes, outputs, taps, linears)


def read_weights_and_input(stage: LinearStage, given: Any) -> tuple[Array, Any]:
    """Runs a linear stage unchanged, and records its weights and its input."""
    value, activation = read_input(stage, given)
    return value, (stage.weights, activation)


def tap_shapes(model: Callable[..., Any], params: Params, inputs: Inputs) -> dict[str, TapShape]:
    """Returns only the taps of `trace_nodes`."""
    return trace_nodes(model, params, inputs).taps


def examples_of(outputs: Any) -> int:
    """Returns the number of examples B in a pytree of outputs.

    Raises:
        ValueError: if a leaf has no axis of examples, or if leaves differ in its size.
    """
    leaves = jax.tree.leaves(outputs)
    sizes = {leaf.shape[0] if leaf.shape else -1 for leaf in leaves}
    if len(sizes) != 1 or -1 in sizes:
        raise ValueError(
            f"apply_fn returned {jax.tree.map(lambda leaf: leaf.shape, outputs)}; it takes outputs "
            "with examples first, [B, ...], or a pytree of them"
        )
    return sizes.pop()


def with_one_more(inputs: Inputs, examples: int) -> Inputs:
    """Returns inputs with the shapes of one more example; arrays without examples are unchanged."""

    def longer(leaf: Any) -> Any:
        shape, kind = jnp.shape(leaf), jax.typeof(leaf)
        if shape[:1] != (examples,):
            return leaf
        longer = (examples + 1, *shape[1:])
        return jax.ShapeDtypeStruct(longer, kind.dtype, weak_type=kind.weak_type)

    return jax.tree.map(longer, inputs)


def check_batch_axes(
    model: Callable[..., Any], params: Params, inputs: Inputs, nodes: Nodes
) -> None:
    """Checks that each tap's examples are along the first axis after the time axes.

    The model is traced for one more example. A model that takes no other number of examples is not
    checked.

    Raises:
        ValueError: if a tap's examples are along another axis. The message names tap and axis.
    """
    try:
        more = _traced(model, params, with_one_more(inputs, examples_of(nodes.outputs)))
    except Exception:
        return
    for name, shape in nodes.taps.items():
        wide = more.taps[name].shape
        grown = [axis for axis, size in enumerate(wide) if size != shape.shape[axis]]
        if grown != [shape.batch_axis]:
            found = f"its examples are along axis {grown[0]}" if grown else "it has no examples"
            raise ValueError(
                f"tap {name!r} has shape {shape.shape} and {found}; it takes one row per example "
                f"along axis {shape.batch_axis}"
            )
