"""Probes of some of the rows of a tap, or of some of the examples of a batch."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from nmnc_jax.checks import named_leaves
from nmnc_jax.layout import Nodes, examples_of
from nmnc_jax.types import Array


def places_of_rows(key: Array, count: int, rows: int) -> Array:
    """Draws the indices of the rows of a tap that are perturbed, [count].

    Raises:
        ValueError: if the tap has fewer rows than `count`.
    """
    if count > rows:
        raise ValueError(f"perturbed is {count}; it takes at most {rows}, the rows of a batch")
    return jax.random.permutation(key, rows)[:count]


def spread_over_rows(z: Array, places: Array | None, rows: int) -> Array:
    """Places the coordinates of the perturbed rows among zeros for the other rows, [B T, d].

    They are scaled so that the mean of z z^T over all rows is still the identity.
    """
    if places is None:
        return z
    scaled = z * jnp.asarray(rows / len(places), z.dtype) ** 0.5
    return jnp.zeros((rows, z.shape[1]), z.dtype).at[places].set(scaled)


def check_rows(rows: int, kwargs: Mapping[str, Any], nodes: Nodes) -> None:
    """Checks that no keyword argument has a row per example, if a probe pass uses only some.

    Raises:
        ValueError: if a keyword argument may have a row per example.
    """
    batch = examples_of(nodes.outputs)
    for place, leaf in named_leaves(kwargs):
        if jnp.shape(leaf)[:1] == (batch,):
            raise ValueError(
                f"rows is {rows}, and the keyword argument {place} has shape {jnp.shape(leaf)} in "
                f"a batch of {batch}; pass arrays with a row per example in inputs"
            )


def some_examples(key: Array, count: int, nodes: Nodes, examples: Any) -> Any:
    """Gathers the arrays of a probe pass for some of the examples.

    If `count` divides the batch, each group of neighbours gives one example, so that a batch that
    is divided over devices stays so.

    Args:
        key: key for the choice of examples.
        count: number of examples.
        nodes: the nodes of the model with all examples.
        examples: (inputs, targets, what arrives at each node, activity at each tap [B T, n]).

    Returns:
        The same structure for `count` examples.

    Raises:
        ValueError: if the batch has fewer examples than `count`.
    """
    batch = examples_of(nodes.outputs)
    if count > batch:
        raise ValueError(f"rows is {count}; it takes at most {batch}, the examples of a batch")
    inputs, targets, arrived, activity = examples
    some = _one_of_each_group if batch % count == 0 else _any_of_all
    chosen = some(key, count, batch)

    def first_axis(leaf: Any) -> Any:
        return chosen(leaf, 0) if jnp.shape(leaf)[:1] == (batch,) else leaf

    def at_node(node: str, value: Any) -> Any:
        axis = len(nodes.scopes[node])
        return jax.tree.map(lambda leaf: chosen(leaf, axis), value)

    def at_tap(rows: Array) -> Array:
        return chosen(rows.reshape(batch, -1, rows.shape[1]), 0).reshape(-1, rows.shape[1])

    at_nodes = {node: at_node(node, value) for node, value in arrived.items()}
    at_taps = {name: at_tap(rows) for name, rows in activity.items()}
    return jax.tree.map(first_axis, inputs), jax.tree.map(first_axis, targets), at_nodes, at_taps


def _any_of_all(key: Array, count: int, batch: int) -> Callable[[Array, int], Array]:
    places = jax.random.permutation(key, batch)[:count]
    return lambda leaf, axis: jnp.take(leaf, places, axis=axis)


def _one_of_each_group(key: Array, count: int, batch: int) -> Callable[[Array, int], Array]:
    size = batch // count
    places = jax.random.randint(key, (count,), 0, size)

    def chosen(leaf: Array, axis: int) -> Array:
        first = jnp.moveaxis(leaf, axis, 0)
        groups = first.reshape(count, size, *first.shape[1:])
        # Under vmap the groups are a batch axis of the gather, which the compiler divides.
        one = jax.vmap(lambda group, place: group[place])(groups, places)
        return jnp.moveaxis(one, 0, axis)

    return chosen
