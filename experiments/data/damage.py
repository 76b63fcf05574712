"""Files that cannot be read: left out and listed, or refused at once."""

from collections.abc import Callable
from typing import TypeVar

from experiments.errors import Unreadable

Value = TypeVar("Value")


class Damage:
    """What cannot be read: left out and listed, or refused at once.

    Attributes:
        found: names of files to why each cannot be read.
    """

    def __init__(self, skip: bool):
        self.found: dict[str, str] = {}
        self._skip = skip

    def attempt(self, name: str, read: Callable[[], Value]) -> Value | None:
        """Reads one file; returns None where it cannot be read and is left out.

        Raises:
            Unreadable: if damaged files are not left out.
        """
        try:
            return read()
        except Unreadable as error:
            if not self._skip:
                raise Unreadable(f"{error}; --skip-damaged leaves such files out") from error
            self.found[name] = str(error)
            return None
