"""Calls of a user's functions, whose errors say how the functions are called."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any


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
        signature = inspect.signature(function)
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
        name = f"the body {getattr(body, '__name__', '')}".rstrip()
        many = f"{len(arguments)} argument{'s' * (len(arguments) != 1)}"
        check_call(name, body, f"with {many} and the tap", *arguments, tap)
        raise
