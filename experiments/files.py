"""Files that are written whole or not at all, and tables."""

import csv
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.configuration import UserError


def expanded(path: str | Path) -> Path:
    """Returns a path with its ``~`` replaced; one of an unknown user stays as it is."""
    return Path(os.path.expanduser(path))


def read_object(path: Path) -> dict[str, Any]:
    """Reads a JSON file that holds one object.

    Raises:
        UserError: if it cannot be read, or holds something else.
    """
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds a {type(value).__name__}; it takes one object")
    return value


def write_whole(path: Path, text: str) -> None:
    """Writes a text so that a reader, or a kill, never meets half of it."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.replace(path)


def write_table(path: Path, rows: Sequence[dict[str, Any]], form: str = "") -> None:
    """Writes rows as CSV; columns in the order in which they first occur.

    Args:
        path: the file.
        rows: column to value.
        form: format of floats, such as ".4f".
    """
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        for row in rows:
            writer.writerow(
                {k: format(v, form) if isinstance(v, float) else v for k, v in row.items()}
            )
