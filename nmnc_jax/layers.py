"""Finds the linear layers of a model of any framework in its trace and marks them as stages.

A layer is a product or a convolution (``dot_general``, ``conv_general_dilated``) of its weights,
which depend only on parameters, with a value that depends on the inputs. The trace is run again,
equation by equation, with ``tap.linear`` in place of these equations.
"""

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, DropVar, Jaxpr, Literal, jaxpr_as_fun

from nmnc_jax.dependence import Origins, inputs_of_scan, results_of
from nmnc_jax.layout import with_one_more
from nmnc_jax.taps import TapLike, no_tap
from nmnc_jax.types import ApplyFn, Array, Inputs, Params

PRODUCTS = ("dot_general", "conv_general_dilated")
INLINED = ("jit", "pjit", "closed_call", "core_call")
REMATERIALISED = ("checkpoint", "remat", "remat2")


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

        layers = _Layers(params)
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

        def record(layer: _Layer, tap: TapLike) -> Array:
            del tap
            found[layer.name] = layer.activation.shape
            return layer.run(layer.weights, layer.activation)

        values = jax.tree.leaves((params, longer_inputs))
        jax.eval_shape(lambda values: layers.run(longer, values, no_tap, record), values)
        if not found:
            raise ValueError(
                "the model has no linear layer; mirror_layers takes a model with at least one"
            )

        def mark(layer: _Layer, tap: TapLike) -> Array:
            if layer.name not in found:
                raise ValueError(_other_layers(layer.name))
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


def _other_layers(name: str) -> str:
    return (
        f"the layer of {name!r} differs for one more example; mirror_layers takes a model whose "
        "layers do not depend on the number of examples"
    )


class _Layer(NamedTuple):
    """One equation that is a linear layer.

    Attributes:
        name: name of the stage.
        equation: a product of weights and activation.
        place: index of the weights among the two arguments.
        weights: the argument that holds the weights.
        activation: the other argument.
    """

    name: str
    equation: Any
    place: int
    weights: Array
    activation: Array

    def run(self, weights: Array, activation: Array) -> Array:
        """Runs the equation unchanged."""
        both = (weights, activation) if self.place == 0 else (activation, weights)
        return self.equation.primitive.bind(*both, **self.equation.params)

    def mark(self, tap: TapLike, longer: Sequence[int]) -> Array:
        """Runs the equation as a stage whose input has axes of examples, positions and units.

        Args:
            tap: the tap of the model.
            longer: shape of the activation for one more example.
        """
        shape = self.activation.shape
        grown = [axis for axis, size in enumerate(longer) if size != shape[axis]]
        if len(grown) != 1 or longer[grown[0]] != shape[grown[0]] + 1:
            raise ValueError(
                f"the layer of {self.name!r} takes an input of shape {shape}, and {tuple(longer)} "
                "for one more example; mirror_layers takes an input with one axis of only examples"
            )
        units = self._units()
        if grown[0] in units:
            raise ValueError(
                f"the layer of {self.name!r} sums over examples, axis {grown[0]} of its input of "
                f"shape {shape}; mirror_layers takes layers that treat each example separately"
            )
        positions = [axis for axis in range(len(shape)) if axis not in (*grown, *units)]
        order = (*grown, *positions, *units)
        back = tuple(order.index(axis) for axis in range(len(order)))

        def of_examples(activation: Array) -> Array:
            return self.run(self.weights, activation.transpose(back))

        one_more = jax.ShapeDtypeStruct(longer, self.activation.dtype)
        now = jax.eval_shape(of_examples, self.activation.transpose(order)).shape
        more = jax.eval_shape(lambda h: self.run(self.weights, h), one_more).shape
        example = next(axis for axis, size in enumerate(more) if size != now[axis])

        def stage(weights: Array, activation: Array) -> Array:
            return jnp.moveaxis(self.run(weights, activation.transpose(back)), example, 0)

        value = tap.linear(
            stage,
            self.weights,
            self.activation.transpose(order),
            name=self.name,
            time_axes=len(positions),
        )
        return jnp.moveaxis(value, 0, example)

    def _units(self) -> tuple[int, ...]:
        """Returns the axes of the activation along which weights are summed or differ."""
        if self.equation.primitive.name != "dot_general":
            # The positions of a convolution overlap, so that an example is one row.
            axes = self.equation.params["dimension_numbers"].lhs_spec
            return tuple(sorted(axes[1:]))
        summed, alike = self.equation.params["dimension_numbers"]
        return (*alike[1 - self.place], *summed[1 - self.place])


Mark = Callable[[_Layer, TapLike], Array]


class _Layers:
    """Runs traces of one model with its layers marked.

    Args:
        params: the model's parameters, which are the first arguments of the traces.
    """

    def __init__(self, params: Params):
        paths = [path for path, _ in jax.tree.leaves_with_path(params)]
        self._paths = [_named(path) for path in paths]
        self._params = frozenset(range(len(paths)))
        self._names: dict[tuple[int, ...], tuple[str, str]] = {}
        self._uses: Counter[str] = Counter()

    def run(
        self, traced: ClosedJaxpr, values: Sequence[Any], tap: TapLike, mark: Mark
    ) -> list[Any]:
        """Runs a trace of the whole model."""
        origins = [frozenset([place]) for place in range(len(values))]
        return self._run(traced.jaxpr, traced.consts, values, origins, tap, mark, ())

    def _run(
        self,
        jaxpr: Jaxpr,
        consts: Sequence[Any],
        values: Sequence[Any],
        origins: Sequence[Origins],
        tap: TapLike,
        mark: Mark,
        place: tuple[int, ...],
    ) -> list[Any]:
        """Runs a trace, given the model's arguments that each of its arguments depends on."""
        known = dict(zip(jaxpr.constvars, consts, strict=True))
        known |= dict(zip(jaxpr.invars, values, strict=True))

        def read(variable: Any) -> Any:
            return variable.val if isinstance(variable, Literal) else known[variable]

        for number, (equation, sources) in enumerate(_with_origins(jaxpr, origins)):
            name, at = equation.primitive.name, (*place, number)
            arguments = [read(variable) for variable in equation.invars]
            weights = self._place_of_weights(equation, sources)
            if weights is not None:
                label = self._name(at, sources[weights])
                layer = _Layer(label, equation, weights, arguments[weights], arguments[1 - weights])
                found = [mark(layer, tap)]
            elif not self._holds_layer(equation, sources):
                found = _alone(jaxpr, equation, arguments)
            else:
                inside = functools.partial(
                    self._inside, _inner(equation), _origins_inside(equation, sources), mark, at
                )
                if name in INLINED:
                    found = inside(*arguments, tap)
                elif name in REMATERIALISED:
                    settings = {n: equation.params[n] for n in ("policy", "prevent_cse")}
                    found = tap.checkpoint(inside, **settings)(*arguments)
                elif name == "scan":
                    found = _scanned(equation, inside, arguments, tap)
                else:
                    path = next(self._paths_inside(equation, sources))
                    raise ValueError(
                        f"the layer of {path!r} is inside {name}; mirror_layers takes layers "
                        "inside jax.jit, vmap, checkpoint and lax.scan"
                    )
            known |= dict(zip(equation.outvars, found, strict=True))
        return [read(variable) for variable in jaxpr.outvars]

    def _inside(
        self,
        traced: tuple[Jaxpr, Sequence[Any]],
        origins: Sequence[Origins],
        mark: Mark,
        place: tuple[int, ...],
        *arguments: Any,
    ) -> list[Any]:
        """Runs the trace inside an equation on its arguments and a tap."""
        *values, tap = arguments
        return self._run(*traced, values, origins, tap, mark, place)

    def _place_of_weights(self, equation: Any, sources: Sequence[Origins]) -> int | None:
        """Returns which argument of a product holds weights; None if it is not a layer."""
        if equation.primitive.name not in PRODUCTS or not all(map(_learned, equation.invars)):
            return None
        for place in (0, 1):
            other = sources[1 - place]
            if sources[place] and sources[place] <= self._params and other - self._params:
                return place
        return None

    def _paths_inside(self, equation: Any, sources: Sequence[Origins]) -> Iterator[str]:
        """Yields the paths of the weights of an equation and of the layers inside it."""
        weights = self._place_of_weights(equation, sources)
        if weights is not None:
            yield self._path(sources[weights])
        for inner in _all_inner(equation):
            if len(inner.invars) <= len(sources):
                inside = _origins_inside(equation, sources)[-len(inner.invars) :]
                for each, origins in _with_origins(inner, inside):
                    yield from self._paths_inside(each, origins)

    def _holds_layer(self, equation: Any, sources: Sequence[Origins]) -> bool:
        return next(self._paths_inside(equation, sources), None) is not None

    def _path(self, sources: Origins) -> str:
        return "+".join(self._paths[place] for place in sorted(sources))

    def _name(self, at: tuple[int, ...], sources: Origins) -> str:
        """Returns the name of an equation; names are numbered in the order of the first run."""
        path = self._path(sources)
        if at not in self._names:
            self._uses[path] += 1
            uses = self._uses[path]
            self._names[at] = path, path if uses == 1 else f"{path}:{uses}"
        known, name = self._names[at]
        if known != path:
            raise ValueError(_other_layers(path))
        return name


def _learned(variable: Any) -> bool:
    """Returns whether an argument of a product is a non-empty array of real numbers."""
    kind = variable.aval
    return jnp.issubdtype(kind.dtype, jnp.floating) and kind.size > 0


def _named(path: tuple[Any, ...]) -> str:
    # A variable of NNX holds its array as an attribute.
    if getattr(path[-1] if path else None, "name", None) == "value":
        path = path[:-1]
    return jax.tree_util.keystr(path, simple=True, separator="/") or "params"


def _alone(jaxpr: Jaxpr, equation: Any, arguments: Sequence[Any]) -> list[Any]:
    """Runs one equation of a trace unchanged."""
    given = {
        variable: value
        for variable, value in zip(equation.invars, arguments, strict=True)
        if not isinstance(variable, Literal)
    }
    kept = [variable for variable in equation.outvars if not isinstance(variable, DropVar)]
    alone = jaxpr.replace(constvars=[], invars=[*given], outvars=kept, eqns=[equation])
    found = dict(zip(kept, jaxpr_as_fun(ClosedJaxpr(alone, ()))(*given.values()), strict=True))
    return [found.get(variable) for variable in equation.outvars]


def _with_origins(jaxpr: Jaxpr, origins: Sequence[Origins]) -> Iterator[tuple[Any, list[Origins]]]:
    """Yields each equation with what each of its arguments depends on."""
    known = dict(zip(jaxpr.invars, origins, strict=True))
    for equation in jaxpr.eqns:
        sources = [
            frozenset() if isinstance(v, Literal) else known.get(v, frozenset())
            for v in equation.invars
        ]
        yield equation, sources
        for variable, places in zip(equation.outvars, results_of(equation), strict=True):
            known[variable] = frozenset().union(*(sources[place] for place in places))


def _all_inner(equation: Any) -> Iterator[Jaxpr]:
    """Yields the traces inside an equation."""
    for value in equation.params.values():
        for inner in value if isinstance(value, tuple | list) else (value,):
            if isinstance(inner, ClosedJaxpr):
                yield inner.jaxpr
            elif isinstance(inner, Jaxpr):
                yield inner


def _inner(equation: Any) -> tuple[Jaxpr, Sequence[Any]]:
    """Returns the first trace inside an equation, and its constants."""
    for value in equation.params.values():
        if isinstance(value, ClosedJaxpr):
            return value.jaxpr, value.consts
    return next(_all_inner(equation)), ()


def _origins_inside(equation: Any, sources: Sequence[Origins]) -> list[Origins]:
    """Returns what each argument of the trace inside an equation depends on."""
    if equation.primitive.name != "scan":
        return list(sources)
    constants, carries = inputs_of_scan(equation)
    inside = list(sources)
    for place, results in enumerate(results_of(equation)[:carries]):
        inside[constants + place] = frozenset().union(*(sources[n] for n in results))
    return inside


def _scanned(
    equation: Any, inside: Callable[..., list[Any]], arguments: Sequence[Any], tap: TapLike
) -> list[Any]:
    constants, carries = inputs_of_scan(equation)
    given = constants + carries

    def body(carry: list[Any], xs: list[Any], tap: TapLike) -> tuple[list[Any], list[Any]]:
        found = inside(*arguments[:constants], *carry, *xs, tap)
        return found[:carries], found[carries:]

    carry, ys = tap.scan(
        body,
        list(arguments[constants:given]),
        list(arguments[given:]),
        equation.params["length"],
        reverse=equation.params["reverse"],
        unroll=equation.params["unroll"],
    )
    return [*carry, *ys]
