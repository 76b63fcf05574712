"""The operations of a traced program, with those of all iterations of its loops."""

import math
from typing import Any

from jax.extend.core import Jaxpr
from jax.interpreters.partial_eval import dce_jaxpr

from nmnc_jax.dependence import inner_traces


def all_operations(program: Jaxpr) -> float:
    """Returns the floating-point operations of a traced program, on all devices together.

    Products of matrices and convolutions count their products and sums, and every other operation
    counts its outputs. What no output depends on does not count, nor do factorisations. A loop
    without a fixed number of iterations counts once.

    Args:
        program: the traced program, as in ``jax.jit(function).trace(...).jaxpr.jaxpr``.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from experiments.planning.loops import all_operations
        >>> body = lambda h, x: (h @ x, None)
        >>> loop = jax.jit(lambda h, xs: jax.lax.scan(body, h, xs))
        >>> traced = loop.trace(jnp.ones((4, 8)), jnp.ones((10, 8, 8)))
        >>> all_operations(traced.jaxpr.jaxpr) == 10 * (2 * 4 * 8 * 8)
        True
    """
    return _counted(_needed(program), repeated=True)


def further_operations(program: Jaxpr) -> float:
    """Returns the operations of all iterations of scans but the first.

    A compiler's cost analysis counts the body of a loop once, for any number of iterations.
    """
    needed = _needed(program)
    return _counted(needed, repeated=True) - _counted(needed, repeated=False)


def _needed(program: Jaxpr) -> Jaxpr:
    """Removes what no output depends on, as compilers do."""
    return dce_jaxpr(program, [True] * len(program.outvars))[0]


def _counted(program: Jaxpr, *, repeated: bool) -> float:
    total = 0.0
    for equation in program.eqns:
        inner = [_counted(part, repeated=repeated) for part in inner_traces(equation)]
        if not inner:
            total += _one(equation)
        elif equation.primitive.name == "cond":
            total += max(inner)
        elif equation.primitive.name == "shard_map":
            # Its body has the shapes of one device's part.
            total += sum(inner) * equation.params["mesh"].size
        else:
            times = equation.params["length"] if equation.primitive.name == "scan" else 1
            total += sum(inner) * (times if repeated else 1)
    return total


def _one(equation: Any) -> float:
    """Returns the operations of one equation: products and sums, or one for each output."""
    shapes = [variable.aval.shape for variable in equation.invars]
    outputs = sum(math.prod(getattr(each.aval, "shape", ())) for each in equation.outvars)
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return 2.0 * outputs * math.prod(shapes[0][axis] for axis in contracted)
    if equation.primitive.name == "conv_general_dilated":
        dimensions = equation.params["dimension_numbers"]
        # Zeros between the entries of a dilated input are not multiplied.
        summed = math.prod(shapes[1]) / shapes[1][dimensions.rhs_spec[0]]
        return 2.0 * outputs * summed / math.prod(equation.params["lhs_dilation"])
    return float(outputs)
