"""Checks of arguments: each raises an error that names the argument, what it got and takes."""

import sys
import warnings
from collections.abc import Iterable, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from nmnc_jax.types import Batch


def warn(message: str) -> None:
    """Warns at the line of the user's code that called the library."""
    package, frame, level = Path(__file__).parent, sys._getframe(1), 2
    while frame.f_back and package in Path(frame.f_code.co_filename).parents:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


def check_kind(name: str, value: Any, kind: type) -> None:
    """Raises a ValueError if an argument is not of a class of this library."""
    if not isinstance(value, kind):
        raise ValueError(f"{name} is {value!r}; it takes a {kind.__name__}")


def check_count(name: str, count: int) -> None:
    """Raises a ValueError if a count is not a positive whole number."""
    if not isinstance(count, Real) or count != int(count) or count < 1:
        raise ValueError(f"{name} is {count!r}; it takes a whole number of at least 1")


def check_sigma(sigma: float) -> None:
    """Raises a ValueError if a perturbation scale is not a positive finite number."""
    if not isinstance(sigma, Real) or not 0 < sigma < float("inf"):
        raise ValueError(f"sigma is {sigma!r}; it takes a positive finite number")


def check_precision(
    difference: str, arrays: Mapping[str, Any], takes: str = 'difference="jvp"'
) -> None:
    """Checks that finite differences are taken in at least float32.

    Args:
        difference: how the response is measured.
        arrays: what is checked, by the name that a message gives it.
        takes: what the message offers beside a float32 pass.

    Raises:
        ValueError: if an array is bfloat16 or float16 and `difference` is not "jvp": the rounding
            of the two passes would be larger than their difference.
    """
    for name, array in arrays.items():
        floating = jnp.issubdtype(array.dtype, jnp.floating)
        if difference != "jvp" and floating and jnp.finfo(array.dtype).bits < 32:
            raise ValueError(
                f"difference is {difference!r} and {name} is {array.dtype}, whose rounding hides "
                f"the response; it takes {takes}, or a float32 pass"
            )


def check_batch(batch: Batch) -> Batch:
    """Checks that a batch is a pair (inputs, targets) with at least one example."""
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        got = type(batch).__name__ + (f" of {len(batch)}" if hasattr(batch, "__len__") else "")
        raise ValueError(f"batch is a {got}; it takes a pair (inputs, targets)")
    for part, tree in zip(("inputs", "targets"), batch, strict=True):
        leaves = named_leaves(tree)
        if isinstance(tree, list) and not any(hasattr(leaf, "shape") for _, leaf in leaves):
            raise ValueError(f"batch {part} are a list of numbers; they take an array")
        for place, leaf in leaves:
            if jnp.shape(leaf)[:1] == (0,):
                raise ValueError(
                    f"batch {part}{place} has shape {jnp.shape(leaf)}; it takes at least one "
                    "example"
                )
    return batch[0], batch[1]


def check_key(key: Any) -> None:
    """Checks that `key` is one key, and not another argument, a seed or an array of keys."""
    dtype, shape = getattr(key, "dtype", None), getattr(key, "shape", None)
    if dtype is None or shape is None:
        raise ValueError(f"key is of type {type(key).__name__}; it takes a key from jax.random.key")
    typed = jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if not (shape == () if typed else dtype == jnp.uint32 and len(shape) == 1):
        raise ValueError(
            f"key is an array {dtype}{list(shape)}; it takes one key from jax.random.key"
        )


def check_names(argument: str, given: Any, taps: Iterable[str]) -> None:
    """Raises a ValueError if a dict by tap name has an entry for a name that no tap has."""
    names = list(taps)
    for name in given if isinstance(given, Mapping) else ():
        if name not in names:
            raise ValueError(f"{argument} has an entry for {name!r}; the model has {names}")


def settings_of(kwargs: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Returns the keyword arguments of a model that are not arrays, such as flags, as text."""
    settings = []
    for name in sorted(kwargs):
        for place, leaf in named_leaves(kwargs[name]):
            if not hasattr(leaf, "dtype"):
                settings.append((name + place, repr(leaf)))
    return tuple(settings)


def check_losses(losses: Any, outputs: Any, batch: Batch) -> None:
    """Checks that the losses of the first batch are finite; traced values are not checked.

    Raises:
        ValueError: if a loss is not finite. The message names the example and the likely causes
            in the batch.
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
                    causes.append(f"batch {part}{place} holds a value that is not finite")
            elif part == "targets" and jnp.issubdtype(values.dtype, jnp.integer):
                shapes = [leaf.shape for leaf in jax.tree.leaves(outputs)]
                causes.append(
                    f"batch targets{place} are from {values.min()} to {values.max()}, of outputs "
                    f"{', '.join(map(str, shapes))}: labels are from 0 to the number of outputs - 1"
                )
    raise ValueError(
        f"loss_fn returned {np.asarray(losses, np.float32).reshape(len(finite), -1)[example][0]} "
        f"for example {example}; it takes finite losses at init: "
        + ("; ".join(causes) or "the batch is finite, so the parameters cause it")
    )


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
    """Returns the leaves of a tree, each with its path as messages show it."""
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree.leaves_with_path(tree)]
