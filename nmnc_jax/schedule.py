"""Decides when occasional work is due, in plain Python or inside a compiled program."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.core import Tracer

from nmnc_jax.sharding import loop
from nmnc_jax.types import Array, Due

Tree = TypeVar("Tree")


def due_at(step: int | Array, every: int | None, *, first: bool) -> Any:
    """Returns whether work is due at a step.

    Args:
        step: number of the step, or a traced scalar.
        every: steps between two turns; None if it is never due.
        first: whether it is due at step 0.

    Returns:
        A bool if the answer does not depend on the step or the step is an int, otherwise a traced
        scalar.
    """
    if every is None:
        return False
    if first and every == 1:
        return True
    turn = step % every == 0
    return turn if first else (step > 0) & turn


def either(one: Any, other: Any) -> Any:
    """Returns whether one of two is due, as a bool if it is known."""
    if isinstance(one, bool) and isinstance(other, bool):
        return one or other
    return True if one is True or other is True else one | other


def check_due(due: Any) -> Due:
    """Raises a ValueError if `due` is not what ``estimator.due(step)`` returns."""
    if not isinstance(due, Due):
        raise ValueError(
            f"due is {due!r}; it takes what estimator.due(step) returns, as a static argument, or "
            "None"
        )
    if isinstance(due.probe, Tracer) or isinstance(due.move, Tracer):
        raise ValueError(
            "due is traced; it takes what estimator.due(step) returns, as a static argument: "
            'jax.jit(..., static_argnames="due")'
        )
    return due


def when(due: bool | Array, change: Callable[[Tree], Tree], tree: Tree) -> Tree:
    """Changes a tree if it is due.

    A loop of zero or one turns keeps its carry in place, whereas a conditional copies every basis.
    The carry is flat, because otherwise every step would transpose it to the layout that the
    factorisation uses.
    """
    if isinstance(due, bool):
        return change(tree) if due else tree
    leaves, structure = jax.tree.flatten(tree)

    def turn(flat: list[Array]) -> list[Array]:
        shaped = [leaf.reshape(like.shape) for leaf, like in zip(flat, leaves, strict=True)]
        return [leaf.reshape(-1) for leaf in jax.tree.leaves(change(structure.unflatten(shaped)))]

    flat = [leaf.reshape(-1) for leaf in leaves]
    flat = loop(due.astype(jnp.int32), turn, flat)
    return structure.unflatten(
        [f.reshape(like.shape) for f, like in zip(flat, leaves, strict=True)]
    )


def all_finite(tree: Any) -> Array:
    """Returns whether every floating-point array of a tree is finite."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()


def kept_if(finite: Array, new: Tree, old: Tree) -> Tree:
    """Returns the new tree if `finite`, otherwise the old one."""
    return jax.tree.map(lambda n, o: n if n is o else jnp.where(finite, n, o), new, old)
