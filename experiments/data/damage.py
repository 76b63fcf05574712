"""Handles files that cannot be read: they are left out and listed, or raise an error."""

from collections.abc import Callable
from typing import TypeVar

from experiments.errors import Unreadable

Value = TypeVar("Value")


class Damage:
    """Collects files that cannot be read, or raises an error at the first one.

    Attributes:
        found: name of a file to the reason why it cannot be read.
    """

    def __init__(self, skip: bool):
        self.found: dict[str, str] = {}
        self._skip = skip

    def attempt(self, name: str, read: Callable[[], Value]) -> Value | None:
        """Reads one file; returns None if it cannot be read and is left out.

        Raises:
            Unreadable: if the file cannot be read and damaged files are not left out.
        """
        try:
            return read()
        except Unreadable as error:
            if not self._skip:
                raise Unreadable(f"{error}; --skip-damaged leaves such files out") from error
            self.found[name] = str(error)
            return None
