"""The base class of the sections of a configuration, which checks fields."""

import math
from typing import Any

from experiments.errors import UserError


class Section:
    """Fields that belong together and are checked when the section is made."""

    def refuse(self, field: str, takes: str) -> None:
        """Raises an error about a field.

        Args:
            field: name of the field.
            takes: clause that says what is accepted, such as "conv takes multiples of 8".

        Raises:
            UserError: always, with the field, its value and `takes`.
        """
        raise UserError(f"{field} is {getattr(self, field)!r}; {takes}")

    def require(self, field: str, fits: bool, takes: str) -> None:
        """Raises an error about a field unless it fits; `takes` is such as "a positive number"."""
        if not fits:
            self.refuse(field, f"it takes {takes}")

    def counts(self, *fields: str) -> None:
        """Raises an error if a number is below 1; None and "auto" are accepted."""
        for field in fields:
            value: Any = getattr(self, field)
            if isinstance(value, int):
                optional = type(self).__dataclass_fields__[field].default is None  # pyright: ignore[reportAttributeAccessIssue]
                self.require(field, value >= 1, "at least 1" + (", or nothing" if optional else ""))

    def positive(self, *fields: str) -> None:
        """Raises an error if a field is not a positive finite number."""
        for field in fields:
            value = getattr(self, field)
            self.require(field, 0 < value < math.inf, "a positive number")
