"""Checks at the door: each refuses bad input by name, with what it got and what it takes."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
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
    """Refuses what is no pair (inputs, targets), or has no example."""
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        got = type(batch).__name__ + (f" of {len(batch)}" if hasattr(batch, "__len__") else "")
        raise ValueError(f"batch is a {got}; it takes a pair (inputs, targets)")
    for part, tree in zip(("inputs", "targets"), batch, strict=True):
        for place, leaf in named_leaves(tree):
            if jnp.shape(leaf)[:1] == (0,):
                raise ValueError(
                    f"batch {part}{place} has shape {jnp.shape(leaf)}; it takes one example at "
                    "least"
                )
    return batch[0], batch[1]


def check_key(key: Any) -> None:
    """Refuses what is not one key: another argument, a seed, an array of keys."""
    dtype, shape = getattr(key, "dtype", None), getattr(key, "shape", None)
    if dtype is None or shape is None:
        raise ValueError(f"key is a {type(key).__name__}; it takes a key, as jax.random.key gives")
    typed = jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if not (shape == () if typed else dtype == jnp.uint32 and len(shape) == 1):
        raise ValueError(
            f"key is an array {dtype}{list(shape)}; it takes one key, as jax.random.key gives"
        )


def settings_of(kwargs: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Keyword arguments of a model that are no arrays, as text: train flags and the like."""
    found = []
    for name in sorted(kwargs):
        for place, leaf in named_leaves(kwargs[name]):
            if not hasattr(leaf, "dtype"):
                found.append((name + place, repr(leaf)))
    return tuple(found)


def check_losses(losses: Any, outputs: Any, batch: Batch) -> None:
    """Refuses a first batch whose losses are not finite; traced values pass.

    Raises:
        ValueError: naming the example, and what in the batch it may come from.
    """
    if isinstance(losses, Tracer):
        return
    finite = np.isfinite(np.asarray(losses, np.float32))
    if finite.all():
        return
    example = int(np.argwhere(~finite)[0][0])
    causes = []
    for part, tree in zip(("inputs", "targets"), batch, strict=True):
        for place, leaf in named_leaves(tree):
            values = np.asarray(leaf) if not isinstance(leaf, Tracer) else np.zeros(())
            if jnp.issubdtype(values.dtype, jnp.floating):
                if not np.isfinite(values.astype(np.float32)).all():
                    causes.append(f"batch {part}{place} hold a value that is not finite")
            elif part == "targets" and jnp.issubdtype(values.dtype, jnp.integer):
                shapes = [leaf.shape for leaf in jax.tree.leaves(outputs)]
                causes.append(
                    f"batch targets{place} are from {values.min()} to {values.max()}, of outputs "
                    f"{', '.join(map(str, shapes))}: labels take 0 to one less than the outputs"
                )
    raise ValueError(
        f"loss_fn returned {np.asarray(losses, np.float32).reshape(len(finite), -1)[example][0]} "
        f"for example {example}, it takes finite losses at init: "
        + ("; ".join(causes) or "the parameters give it")
    )


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
    """The leaves of a tree with their places in it, as messages name them."""
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree.leaves_with_path(tree)]
