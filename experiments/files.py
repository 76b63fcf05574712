"""Files that are written whole or not at all: JSON and measurements."""

import json
import os
from pathlib import Path
from typing import Any

from experiments.errors import UserError


def expanded(path: str | Path) -> Path:
    """Returns a path with its ``~`` replaced; one of an unknown user stays as it is."""
    return Path(os.path.expanduser(path))


def write_whole(path: Path, text: str) -> None:
    """Writes a text so that a reader, or a kill, never meets half of it."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Writes one JSON file, whole or not at all."""
    write_whole(path, json.dumps(value, indent=2) + "\n")


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


def write_records(path: Path, records: list[dict[str, Any]]) -> None:
    """Writes ``metrics.jsonl``, whole or not at all."""
    write_whole(path, "".join(json.dumps(record) + "\n" for record in records))


def read_records(path: Path) -> list[dict[str, Any]]:
    """Reads ``metrics.jsonl``, where a run left one.

    Raises:
        UserError: if it is damaged.
    """
    if not path.exists():
        return []
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except ValueError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
