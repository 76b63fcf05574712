"""What the sections of a configuration share: each refuses what it cannot take."""

import math
from typing import Any

from experiments.errors import UserError


class Section:
    """Fields that belong together, checked when they are made."""

    def refuse(self, field: str, takes: str) -> None:
        """Refuses a field.

        Args:
            field: its name.
            takes: what takes what, such as "conv takes multiples of 8".

        Raises:
            UserError: with the field, what it got and what it takes.
        """
        raise UserError(f"{field} is {getattr(self, field)!r}; {takes}")

    def require(self, field: str, fits: bool, takes: str) -> None:
        """Refuses a field unless it fits; `takes` as in "a positive number"."""
        if not fits:
            self.refuse(field, f"it takes {takes}")

    def counts(self, *fields: str) -> None:
        """Refuses fields that are below 1; those without a number (None, "auto") pass."""
        for field in fields:
            value: Any = getattr(self, field)
            if isinstance(value, int):
                optional = type(self).__dataclass_fields__[field].default is None  # pyright: ignore[reportAttributeAccessIssue]
                self.require(field, value >= 1, "at least 1" + (", or nothing" if optional else ""))

    def positive(self, *fields: str) -> None:
        """Refuses fields that are no positive finite numbers."""
        for field in fields:
            value = getattr(self, field)
            self.require(field, 0 < value < math.inf, "a positive number")
