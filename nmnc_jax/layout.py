"""Static descriptions of a model: its taps, its stages and their alignment in time.

`TapShape` describes one call. `Layout` is what a state remembers of the model; it is the same for
any number of examples.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nmnc_jax.dependence import dependence
from nmnc_jax.taps import OUTPUTS, LinearStage, Tap, read_input
from nmnc_jax.types import Activations, Array, DType, Inputs, Params


class TapShape(NamedTuple):
    """A tap in one call of the model.

    Attributes:
        shape: shape of the activation.
        dtype: dtype of the activation.
        batch_axis: index of the batch axis, after the time axes of the scans around the tap.
        order: index of the tap in the forward pass.
        time_axes: number of time axes after the batch axis.
    """

    shape: tuple[int, ...]
    dtype: DType
    batch_axis: int
    order: int
    time_axes: int = 0

    @property
    def batch(self) -> int:
        """Number of examples, B."""
        return self.shape[self.batch_axis]

    @property
    def times(self) -> tuple[int, ...]:
        """Steps of each scan around the tap, from the outermost, and sizes of its time axes."""
        start = self.batch_axis + 1
        return self.shape[: self.batch_axis] + self.shape[start : start + self.time_axes]

    @property
    def steps(self) -> int:
        """Number of time steps in the scans around the tap and its time axes, T; 1 without them."""
        return math.prod(self.times)

    @property
    def rows(self) -> int:
        """Examples times time steps, over which subspaces and feedback are fitted."""
        return self.batch * self.steps

    @property
    def units(self) -> int:
        """Units per example and time step, n."""
        return math.prod(self.unit_axes)

    @property
    def unit_axes(self) -> tuple[int, ...]:
        """The shape of one row."""
        return self.shape[self.batch_axis + 1 + self.time_axes :]

    def of_batch(self, batch: int) -> "TapShape":
        """Returns the same tap with another number of examples."""
        shape = list(self.shape)
        shape[self.batch_axis] = batch
        return self._replace(shape=tuple(shape))


class LinearShape(NamedTuple):
    """The shapes of one linear stage.

    Attributes:
        input: shape of the stage's input.
        weights: shapes of its weights, in one step of the scans around it.
        mapped: whether it is inside ``tap.vmap``.
    """

    input: TapShape
    weights: Any
    mapped: bool

    def labels(self, *, stacked: bool) -> tuple[tuple[str, int], ...]:
        """Returns the path and shape of each array of weights as text, with its size.

        Args:
            stacked: whether each step of the scan around the stage has separate weights.
        """
        steps = self.input.shape[: self.input.batch_axis] if stacked else ()
        shapes = [
            (place, (*steps, *leaf.shape))
            for place, leaf in jax.tree.leaves_with_path(self.weights)
        ]
        return tuple(
            (f"{jax.tree_util.keystr(place)}{list(shape)}", math.prod(shape))
            for place, shape in shapes
        )


class Nodes(NamedTuple):
    """The nodes of a model in one call, without values.

    Attributes:
        arrived: node name to the shapes of what arrives there, in the order of the calls.
        scopes: node name to the scans around it.
        outputs: shapes of the outputs.
        taps: tap name to `TapShape`, sorted by name (the fixed order in which keys are split).
        linears: name to `LinearShape` of the linear stages that are marked with their function,
            sorted by name.
    """

    arrived: dict[str, Any]
    scopes: dict[str, tuple[str, ...]]
    outputs: Any
    taps: dict[str, TapShape]
    linears: dict[str, LinearShape]


class TapLayout(NamedTuple):
    """What a state remembers of one tap.

    Attributes:
        name: name of the tap.
        units: number of units per example and time step, n.
        dimension: dimension of its subspace, d.
        lags: largest number of lags, from the tap's time step to that of an output, for which
            there is feedback.
        size: number of rows of its feedback; 0 without feedback.
        aligned: whether the response follows the tap's time, so that noise changes nothing earlier.
        stages: nodes that the tap feeds directly, each with its units per row, for chained credit.
            For a linear stage these are its arrays of weights, each with its size.
        stacked: whether each step of the scan around a linear stage has separate weights.
        shared: average number of positions in one row that share a weight of a linear stage.
        summed: number of units of a linear stage's input that one output depends on; 0 for all n.
    """

    name: str
    units: int
    dimension: int
    lags: int
    size: int
    aligned: bool
    stages: tuple[tuple[str, int], ...]
    stacked: bool = False
    shared: float = 1.0
    summed: int = 0

    @property
    def directions(self) -> int:
        """Number of directions of noise that one response sums."""
        return min(self.summed or self.dimension, self.dimension)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Layout:
    """The model and method that a state belongs to; static under compilation and in checkpoints.

    Attributes:
        subspace: name of the kind of subspace.
        readout: name of the readout.
        horizon: largest number of lags; None for all.
        has_aux: whether the model returns ``(outputs, aux)``.
        learned: whether feedback is learned; None without feedback.
        coupled: whether an example's response depends on other examples.
        taps: the taps of the model, sorted by name.
        settings: keyword arguments of the model at init that are not arrays.
    """

    subspace: str
    readout: str
    horizon: int | None
    has_aux: bool
    learned: bool | None
    coupled: bool = False
    taps: tuple[TapLayout, ...] = ()
    settings: tuple[tuple[str, str], ...] = ()

    def __getitem__(self, name: str) -> TapLayout:
        return next(tap for tap in self.taps if tap.name == name)


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


def flatten(shape: TapShape, activation: Array) -> Array:
    """Reshapes one tap's activation to a matrix with a row per example and time step, [B T, n]."""
    return jnp.moveaxis(activation, shape.batch_axis, 0).reshape(shape.rows, shape.units)


def flatten_stage(shape: TapShape, value: Any) -> Array:
    """Reshapes what arrives at a node to a matrix with the rows of `flatten`, [B T, m]."""
    rows = [
        jnp.moveaxis(leaf, shape.batch_axis, 0)
        .reshape(shape.rows, -1)
        .astype(at_least_float32(leaf.dtype))
        for leaf in jax.tree.leaves(value)
    ]
    return jnp.concatenate(rows, axis=1)


def unflatten(shape: TapShape, rows: Array) -> Array:
    """Inverts `flatten`: [B T, n] back to the activation's shape."""
    wide = rows.reshape(shape.batch, *shape.times, *shape.unit_axes)
    return jnp.moveaxis(wide, 0, shape.batch_axis)


def floating_leaves(outputs: Any) -> list[Any]:
    """Returns the floating-point arrays of a pytree of outputs.

    Raises:
        ValueError: if there are none.
    """
    leaves = jax.tree.leaves(outputs)
    floating = [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]
    if not floating:
        raise ValueError(
            f"apply_fn returned {[str(leaf.dtype) for leaf in leaves]}; readout 'output' takes "
            "floating-point outputs"
        )
    return floating


def output_rows(outputs: Any) -> Array:
    """Reshapes a pytree of outputs to a matrix with a row per example, [B, o]."""
    rows = [
        leaf.reshape(leaf.shape[0], -1).astype(at_least_float32(leaf.dtype))
        for leaf in floating_leaves(outputs)
    ]
    return rows[0] if len(rows) == 1 else jnp.concatenate(rows, axis=1)


def has_time_of(shape: TapShape, response: Any) -> bool:
    """Returns whether all arrays of a response have the tap's time axes after that of examples."""
    axes = len(shape.times)
    return axes > 0 and all(
        leaf.shape[1 : axes + 1] == shape.times for leaf in jax.tree.leaves(response)
    )


def at_least_float32(dtype: DType) -> DType:
    """Returns the dtype in which activity is projected and correlated."""
    if not jnp.issubdtype(dtype, jnp.floating):
        return jnp.float32
    return jnp.float32 if jnp.finfo(dtype).bits < 32 else dtype


def matrices(shapes: Mapping[str, TapShape], activations: Activations) -> dict[str, Array]:
    """Returns activity as matrices [B T, n] of at least float32."""
    return {
        name: flatten(shape, activations[name]).astype(at_least_float32(shape.dtype))
        for name, shape in shapes.items()
    }
