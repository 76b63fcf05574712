"""Finds which results of a traced function depend on which of its arguments."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from nmnc_jax.types import DType

Origins = frozenset[int]


class Dependence(NamedTuple):
    """How the results of a function depend on its arguments.

    Attributes:
        results: for each result, the indices of the arguments that it depends on.
        carried: arguments that a scan receives step by step and passes on to the next step.
        sliced: arguments that a scan receives step by step.
    """

    results: list[Origins]
    carried: Origins
    sliced: Origins


def dependence(traced: ClosedJaxpr | Jaxpr) -> Dependence:
    """Finds the arguments that each result of a traced function depends on.

    A result of a primitive whose inside is unknown counts as dependent on all its arguments.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from nmnc_jax.dependence import dependence
        >>> def function(a, b, c):
        ...     return a + 1, jnp.where(b > 0, b, a)
        >>> [sorted(found) for found in dependence(jax.make_jaxpr(function)(1.0, 2.0, 3.0)).results]
        [[0], [0, 1]]
    """
    jaxpr = traced.jaxpr if isinstance(traced, ClosedJaxpr) else traced
    known: dict[Any, Origins] = {
        variable: frozenset([n]) for n, variable in enumerate(jaxpr.invars)
    }
    carried: Origins = frozenset()
    sliced: Origins = frozenset()

    for _, arguments, found in followed(jaxpr, known):
        carried |= _union(arguments, found.carried)
        sliced |= _union(arguments, found.sliced)
    return Dependence([_origins(known, variable) for variable in jaxpr.outvars], carried, sliced)


def followed(
    jaxpr: Jaxpr, known: dict[Any, Origins]
) -> Iterator[tuple[Any, list[Origins], Dependence]]:
    """Yields each equation with the origins of its arguments and how its results depend on them.

    Args:
        jaxpr: the trace.
        known: what each variable depends on; the results of an equation are added after it.
    """
    for equation in jaxpr.eqns:
        arguments = [_origins(known, variable) for variable in equation.invars]
        found = _of_equation(equation)
        yield equation, arguments, found
        for variable, places in zip(equation.outvars, found.results, strict=True):
            known[variable] = _union(arguments, places)


def _origins(known: dict[Any, Origins], variable: Any) -> Origins:
    return frozenset() if isinstance(variable, Literal) else known.get(variable, frozenset())


def _union(arguments: list[Origins], places: Origins) -> Origins:
    return frozenset().union(*(arguments[place] for place in places))


def results_of(equation: Any) -> list[Origins]:
    """Returns, for each result of an equation, the indices of the arguments it depends on."""
    return _of_equation(equation).results


def _of_equation(equation: Any) -> Dependence:
    """Returns how an equation's results depend on its arguments."""
    name, params = equation.primitive.name, equation.params
    everything = frozenset(range(len(equation.invars)))
    if name == "scan":
        return _of_scan(equation)
    if name == "while":
        return Dependence([everything] * len(equation.outvars), frozenset(), frozenset())
    if name == "cond":
        branches = [dependence(branch) for branch in params["branches"]]
        results = [
            frozenset([0]).union(*({place + 1 for place in branch} for branch in each))
            for each in zip(*(branch.results for branch in branches), strict=True)
        ]
        carried = frozenset().union(*({p + 1 for p in branch.carried} for branch in branches))
        sliced = frozenset().union(*({p + 1 for p in branch.sliced} for branch in branches))
        return Dependence(results, carried, sliced)
    inner = [value for value in params.values() if isinstance(value, ClosedJaxpr | Jaxpr)]
    if len(inner) == 1:
        jaxpr = inner[0].jaxpr if isinstance(inner[0], ClosedJaxpr) else inner[0]
        if len(jaxpr.invars) == len(equation.invars) and len(jaxpr.outvars) == len(
            equation.outvars
        ):
            return dependence(jaxpr)
    return Dependence([everything] * len(equation.outvars), frozenset(), frozenset())


def _alike(outside: list[Any], inside: list[Any]) -> int:
    """Counts the values of a scan that have as many axes outside as inside."""
    pairs = zip(outside, inside, strict=True)
    return sum(len(one.aval.shape) == len(other.aval.shape) for one, other in pairs)


def inputs_of_scan(equation: Any) -> tuple[int, int]:
    """Returns the number of constants and the number of carries that the body of a scan takes."""
    body = equation.params["jaxpr"]
    body = body.jaxpr if isinstance(body, ClosedJaxpr) else body
    # A sliced or stacked value has one more axis outside, in all versions of JAX.
    carries = _alike(equation.outvars, body.outvars)
    return _alike(equation.invars, body.invars) - carries, carries


def _of_scan(equation: Any) -> Dependence:
    inside = dependence(equation.params["jaxpr"])
    constants, carries = inputs_of_scan(equation)
    given = constants + carries
    sliced = frozenset(range(given, len(equation.invars)))
    carry = [inside.results[place] for place in range(carries)]

    def through_carry(origins: Origins) -> Origins:
        reached = origins
        while True:
            more = reached.union(
                *(carry[place] for place in range(carries) if constants + place in reached)
            )
            if more == reached:
                return reached
            reached = more

    results = [through_carry(found) for found in inside.results]
    # The final carry is the initial one if the scan has no steps.
    results = [
        found | {constants + place} if place < carries else found
        for place, found in enumerate(results)
    ]
    handed_on = frozenset().union(*carry) & sliced if carry else frozenset()
    return Dependence(results, inside.carried | handed_on, inside.sliced | sliced)


def inner_traces(equation: Any) -> Iterator[Jaxpr]:
    """Yields the traces inside an equation."""
    for value in equation.params.values():
        for inner in value if isinstance(value, tuple | list) else (value,):
            if isinstance(inner, ClosedJaxpr):
                yield inner.jaxpr
            elif isinstance(inner, Jaxpr):
                yield inner


def primitives_of(traced: ClosedJaxpr | Jaxpr) -> set[str]:
    """Returns the names of all primitives of a traced function, nested ones included."""
    jaxpr = traced.jaxpr if isinstance(traced, ClosedJaxpr) else traced
    names = set()
    for equation in jaxpr.eqns:
        names.add(equation.primitive.name)
        for inner in inner_traces(equation):
            names |= primitives_of(inner)
    return names


def dtypes_after(traced: ClosedJaxpr | Jaxpr, places: Origins) -> set[DType]:
    """Returns the dtypes of all values that depend on some arguments, nested ones included.

    Inside a loop or a branch every value counts as dependent.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from nmnc_jax.dependence import dtypes_after
        >>> def function(a, b):
        ...     return a.astype(jnp.bfloat16) + 1, b * 2
        >>> traced = jax.make_jaxpr(function)(1.0, 2.0)
        >>> [{str(dtype) for dtype in dtypes_after(traced, frozenset([n]))} for n in (0, 1)]
        [{'bfloat16'}, {'float32'}]
    """
    jaxpr = traced.jaxpr if isinstance(traced, ClosedJaxpr) else traced
    known = {variable: frozenset([n]) for n, variable in enumerate(jaxpr.invars)}
    dtypes = set()
    for equation, arguments, found in followed(jaxpr, known):
        reached = frozenset(n for n, origins in enumerate(arguments) if origins & places)
        if not reached:
            continue
        for variable, sources in zip(equation.outvars, found.results, strict=True):
            if sources & reached:
                dtypes.add(variable.aval.dtype)
        for inner in inner_traces(equation):
            alike = len(inner.invars) == len(equation.invars)
            straight = alike and equation.primitive.name not in ("scan", "while")
            dtypes |= dtypes_after(
                inner, reached if straight else frozenset(range(len(inner.invars)))
            )
    return dtypes


def narrowest_after(traced: ClosedJaxpr | Jaxpr, places: Origins) -> jax.ShapeDtypeStruct:
    """Returns the narrowest floating-point kind of what depends on some arguments, as a scalar."""
    dtypes = [d for d in dtypes_after(traced, places) if jnp.issubdtype(d, jnp.floating)]
    narrowest = min(dtypes, key=lambda dtype: dtype.itemsize, default=jnp.float32)
    return jax.ShapeDtypeStruct((), narrowest)
