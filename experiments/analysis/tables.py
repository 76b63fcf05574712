"""Selects rows of tables by the values of columns, and writes tables as CSV."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd


def where(rows: Any, **wanted: Any) -> Any:
    """Returns the rows whose columns have these values, as a `pandas.DataFrame`."""
    table = pd.DataFrame(rows)
    for column, value in wanted.items():
        table = table[table[column] == value]
    return table


def write_table(path: Path, rows: Sequence[dict[str, Any]], form: str = "") -> None:
    """Writes rows as CSV; columns in the order in which they first occur.

    Args:
        path: the file.
        rows: column to value.
        form: format of floats, such as ".4f"; "" for all digits.
    """
    written = [
        {name: format(v, form) if isinstance(v, float) else v for name, v in row.items()}
        for row in rows
    ]
    # With dtype object, whole numbers stay whole if other rows lack the column.
    pd.DataFrame(written, dtype=object).to_csv(path, index=False)
