"""Finds the linear stages through which credit passes."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nmnc_jax.dependence import dependence
from nmnc_jax.layout import LinearShape, Nodes, read_weights_and_input
from nmnc_jax.taps import Tap
from nmnc_jax.types import Inputs, Params


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
