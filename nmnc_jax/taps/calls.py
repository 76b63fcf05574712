"""Calls of a user's functions, whose errors say how the functions are called."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from jax.tree_util import default_registry


def check_call(name: str, function: Any, called: str, *arguments: Any, **kwargs: Any) -> None:
    """Checks that a function takes the arguments with which it is called.

    Args:
        name: what the function is, for the error.
        function: the function.
        called: how it is called, for the error.
        arguments: its positional arguments.
        kwargs: its keyword arguments.

    Raises:
        ValueError: if it is not a function or does not take these arguments.
    """
    if not callable(function):
        raise ValueError(f"{name} is {function!r}; it takes a function")
    try:
        # A decorated function takes what its wrapper takes, whatever the wrapped function takes.
        signature = inspect.signature(function, follow_wrapped=False)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*arguments, **kwargs)
    except TypeError as error:
        raise ValueError(f"{name} is called {called}: {error}") from error


def call_body(body: Callable[..., Any], arguments: Sequence[Any], tap: Any) -> Any:
    """Calls the body of a transformation.

    Raises:
        ValueError: if the body does not take the arguments and the tap.
    """
    try:
        return body(*arguments, tap)
    except TypeError:
        # If the body does take them, the error is the user's own.
        name = f"the body {getattr(body, '__name__', None) or ''}".rstrip()
        many = f"{len(arguments)} argument{'s' * (len(arguments) != 1)}"
        check_call(name, body, f"with {many} and the tap", *arguments, tap)
        raise


def carry_and_y(result: Any) -> list[Any]:
    """Returns the two parts of what the body of a scan returned, as ``lax.scan`` finds them.

    Raises:
        ValueError: if it has another number of parts.
    """
    parts = default_registry.flatten_one_level(result)
    children = [] if parts is None else list(parts[0])
    if len(children) != 2:
        kind = type(result).__name__ + ("" if parts is None else f" of {len(children)}")
        raise ValueError(f"the body of a scan returned {kind}; it takes (carry, y)")
    return children
