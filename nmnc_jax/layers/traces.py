"""Equations of a trace: what their arguments depend on, what is inside them, and their values."""

from collections.abc import Iterator, Sequence
from typing import Any

from jax.extend.core import ClosedJaxpr, DropVar, Jaxpr, Literal, jaxpr_as_fun

from nmnc_jax.dependence import Origins, followed, inner_traces, inputs_of_scan, results_of


def run_alone(jaxpr: Jaxpr, equation: Any, arguments: Sequence[Any]) -> list[Any]:
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


def with_origins(jaxpr: Jaxpr, origins: Sequence[Origins]) -> Iterator[tuple[Any, list[Origins]]]:
    """Returns each equation with what each of its arguments depends on."""
    known = dict(zip(jaxpr.invars, origins, strict=True))
    return ((equation, sources) for equation, sources, _ in followed(jaxpr, known))


def inner_trace(equation: Any) -> tuple[Jaxpr, Sequence[Any]]:
    """Returns the first trace inside an equation, and its constants."""
    for value in equation.params.values():
        if isinstance(value, ClosedJaxpr):
            return value.jaxpr, value.consts
    return next(inner_traces(equation)), ()


def origins_inside(equation: Any, sources: Sequence[Origins]) -> list[Origins]:
    """Returns what each argument of the trace inside an equation depends on."""
    if equation.primitive.name != "scan":
        return list(sources)
    constants, carries = inputs_of_scan(equation)
    inside = list(sources)
    for place, results in enumerate(results_of(equation)[:carries]):
        inside[constants + place] = frozenset().union(*(sources[n] for n in results))
    return inside
