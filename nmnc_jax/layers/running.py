"""Runs the traces of a model with its layers marked."""

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from nmnc_jax.dependence import Origins, inner_traces, inputs_of_scan
from nmnc_jax.layers.layer import Layer, Mark, other_layers
from nmnc_jax.layers.traces import inner_trace, origins_inside, run_alone, with_origins
from nmnc_jax.taps import TapLike
from nmnc_jax.types import Params

PRODUCTS = ("dot_general", "conv_general_dilated")
INLINED = ("jit", "pjit", "closed_call", "core_call")
REMATERIALISED = ("checkpoint", "remat", "remat2")


class Layers:
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

        for number, (equation, sources) in enumerate(with_origins(jaxpr, origins)):
            name, at = equation.primitive.name, (*place, number)
            arguments = [read(variable) for variable in equation.invars]
            weights = self._place_of_weights(equation, sources)
            if weights is not None:
                label = self._name(at, sources[weights])
                layer = Layer(label, equation, weights, arguments[weights], arguments[1 - weights])
                found = [mark(layer, tap)]
            elif not self._holds_layer(equation, sources):
                found = run_alone(jaxpr, equation, arguments)
            else:
                inside = functools.partial(
                    self._inside, inner_trace(equation), origins_inside(equation, sources), mark, at
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
        for inner in inner_traces(equation):
            if len(inner.invars) <= len(sources):
                inside = origins_inside(equation, sources)[-len(inner.invars) :]
                for each, origins in with_origins(inner, inside):
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
            raise ValueError(other_layers(path))
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
