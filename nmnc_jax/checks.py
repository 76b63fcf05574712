"""Checks at the door: each refuses bad input by name, with what it got and what it takes."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from nmnc_jax.types import Batch


def check_count(name: str, count: int) -> None:
    """Refuses a count that is not a positive whole number."""
    if count != int(count) or count < 1:
        raise ValueError(f"{name} is {count}; it takes a whole number of at least 1")


def check_sigma(sigma: float) -> None:
    """Refuses a perturbation scale that is not a positive finite number."""
    if not 0 < sigma < float("inf"):
        raise ValueError(f"sigma is {sigma}; it takes a positive finite number")


def check_precision(difference: str, arrays: Mapping[str, Any]) -> None:
    """Refuses finite differences through arrays of less than float32 precision.

    Raises:
        ValueError: if one is bfloat16 or float16 and `difference` is not "jvp": rounding of the
            two passes would be larger than their difference.
    """
    for name, array in arrays.items():
        floating = jnp.issubdtype(array.dtype, jnp.floating)
        if difference != "jvp" and floating and jnp.finfo(array.dtype).bits < 32:
            raise ValueError(
                f"difference is {difference!r} and {name} is {array.dtype}, whose rounding hides "
                'the response; it takes difference="jvp", or a float32 pass'
            )


def check_batch(batch: Batch) -> Batch:
    """Refuses what is no pair, or has a value that is not finite.

    Inside a transformation it cannot look at values.

    Raises:
        ValueError: if the batch is no pair (inputs, targets), or one of them holds a NaN or an
            infinity.
    """
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        got = type(batch).__name__ + (f" of {len(batch)}" if hasattr(batch, "__len__") else "")
        raise ValueError(f"batch is a {got}; it takes a pair (inputs, targets)")
    for part, tree in zip(("inputs", "targets"), batch, strict=True):
        for leaf in jax.tree.leaves(tree):
            if isinstance(leaf, Tracer):
                continue
            with jax.ensure_compile_time_eval():
                array = jnp.asarray(leaf)
                floating = jnp.issubdtype(array.dtype, jnp.floating)
                finite = not floating or bool(jnp.isfinite(array).all())
            if not finite:
                raise ValueError(
                    f"batch {part} hold a value that is not finite; they take finite ones"
                )
    return batch[0], batch[1]


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
    """The leaves of a tree with their places in it, as messages name them."""
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree.leaves_with_path(tree)]
