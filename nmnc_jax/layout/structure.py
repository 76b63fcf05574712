"""How the nodes of a model feed each other, and the stages between them."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from nmnc_jax.dependence import dependence
from nmnc_jax.layout.shapes import Nodes
from nmnc_jax.taps import OUTPUTS, Tap
from nmnc_jax.types import Inputs, Params


class Structure(NamedTuple):
    """How the nodes of a model depend on each other directly, not through other nodes.

    Attributes:
        feeds: tap or mark to the nodes that it feeds directly.
        carried: taps and marks whose values a step of their scan passes on to the next step.
        stacked: node to a parameter that it depends on and that a scan takes step by step.
    """

    feeds: dict[str, tuple[str, ...]]
    carried: frozenset[str]
    stacked: dict[str, str]


def find_structure(
    model: Callable[..., Any], params: Params, inputs: Inputs, nodes: Nodes
) -> Structure:
    """Finds which nodes each tap and each mark feeds, from the dependences in the traced model.

    Raises:
        ValueError: if the outputs do not depend on a tap, because its value is not used.
    """
    values = {node: value for node, value in nodes.arrived.items() if node != OUTPUTS}

    def arrivals(params: Params, inputs: Inputs, values: dict[str, Any]) -> dict[str, Any]:
        tap = Tap(replay=values)
        outputs = model(params, inputs, tap)
        return {OUTPUTS: outputs, **tap.arrived}

    traced, shapes = jax.make_jaxpr(arrivals, return_shape=True)(params, inputs, values)
    found = dependence(traced)
    places = [path for path, _ in jax.tree.leaves_with_path((params, inputs, values))]
    node_at = {place: path[1].key for place, path in enumerate(places) if path[0].idx == 2}
    feeds: dict[str, list[str]] = {node: [] for node in values}
    of_params = {n: jax.tree_util.keystr(p[1:]) for n, p in enumerate(places) if p[0].idx == 0}
    stacked: dict[str, str] = {}
    for (path, _), origins in zip(jax.tree.leaves_with_path(shapes), found.results, strict=True):
        for source in {node_at[place] for place in origins if place in node_at}:
            if path[0].key not in feeds[source]:
                feeds[source].append(path[0].key)
        for place in sorted(origins & found.sliced & of_params.keys()):
            stacked[path[0].key] = of_params[place]
    for name in nodes.taps:
        if OUTPUTS not in _reached(feeds, name):
            raise ValueError(
                f"tap {name!r} has no effect on the outputs: what it returns is not used; write "
                f"x = tap({name!r}, x) and use that x"
            )
    order = list(nodes.arrived)
    carried = frozenset(node_at[place] for place in found.carried if place in node_at)
    ordered = {node: tuple(sorted(to, key=order.index)) for node, to in feeds.items()}
    return Structure(ordered, carried, stacked)


def _reached(feeds: Mapping[str, list[str]], start: str) -> set[str]:
    reached, left = set(), [start]
    while left:
        for node in feeds.get(left.pop(), []):
            if node not in reached:
                reached.add(node)
                left.append(node)
    return reached


def stages_of(nodes: Nodes, structure: Structure, name: str) -> tuple[tuple[str, int], ...]:
    """Returns the nodes that a tap feeds, with their units per row.

    Raises:
        ValueError: if the tap feeds a node that does not have one row for each row of the tap.
    """
    shape = nodes.taps[name]
    remedy = (
        "in a scan, mark everything that it feeds by tap.linear in the same body; or use "
        'readout="output"'
    )
    if shape.time_axes:
        raise ValueError(
            f"tap {name!r} has time_axes={shape.time_axes}; readout 'next' takes none, as a stage "
            'may mix positions: tap each example as a whole, or use readout="output"'
        )
    if name in structure.carried:
        raise ValueError(
            f"tap {name!r} feeds later time steps unmarked; readout 'next' takes stages that end "
            f"at the same step: {remedy}"
        )
    stages = []
    for node in structure.feeds[name]:
        arrived = jax.tree.leaves(nodes.arrived[node])
        if nodes.scopes[node] != nodes.scopes[name]:
            raise ValueError(
                f"tap {name!r} feeds {node.rstrip(':')!r} across the boundary of a scan; readout "
                "'next' takes stages that begin and end in the same scan: mark what crosses the "
                "boundary by tap.linear"
            )
        if nodes.scopes[name] and node in structure.stacked:
            raise ValueError(
                f"tap {name!r} feeds a stage in a scan over the parameter "
                f"params{structure.stacked[node]}, which differs from step to step; readout 'next' "
                "takes one stage for all steps: call the layers one by one, or use "
                'readout="output"'
            )
        rows = shape.shape[: shape.batch_axis + 1]
        for leaf in arrived:
            if leaf.shape[: len(rows)] != rows:
                raise ValueError(
                    f"tap {name!r} feeds a stage of shape {leaf.shape}; readout 'next' takes one "
                    f"row per example, {rows}: {remedy}"
                )
        stages.append((node, sum(math.prod(leaf.shape[len(rows) :]) for leaf in arrived)))
    return tuple(stages)


def has_marks_in_scans(nodes: Nodes) -> bool:
    """Returns whether a model marks linear stages inside a scan; credit is then chained by default.

    The Jacobian of later outputs depends on state and input, so that an average over examples
    cannot represent it. The linear stage from one step to the next does not depend on them.
    """
    return any(
        scope and node not in nodes.taps for node, scope in nodes.scopes.items() if node != OUTPUTS
    )
