"""Tables: rows chosen by the values of their columns, and written as CSV."""

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


def write_table(path: Path, rows: Sequence[dict[str, Any]], form: str | None = None) -> None:
    """Writes rows as CSV; columns in the order in which they first occur.

    Args:
        path: the file.
        rows: column to value.
        form: format of floats, such as "%.4f".
    """
    # As objects: a whole number stays one where other rows lack the column.
    pd.DataFrame(rows, dtype=object).to_csv(path, index=False, float_format=form)
