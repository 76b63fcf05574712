"""Reads and writes JSON files and measurements; files are written atomically."""

import json
import os
from pathlib import Path
from typing import Any

from experiments.errors import UserError


def expanded(path: str | Path) -> Path:
    """Returns a path with ``~`` expanded; the ``~name`` of an unknown user is kept."""
    return Path(os.path.expanduser(path))


def write_whole(path: Path, text: str) -> None:
    """Writes a text atomically, so that the file is never incomplete."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Writes one JSON file atomically."""
    write_whole(path, json.dumps(value, indent=2) + "\n")


def read_object(path: Path) -> dict[str, Any]:
    """Reads a JSON file that contains one object.

    Raises:
        UserError: if the file cannot be read, or contains another type.
    """
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} contains a {type(value).__name__}; it takes one object")
    return value


def write_records(path: Path, records: list[dict[str, Any]]) -> None:
    """Writes ``metrics.jsonl`` atomically."""
    write_whole(path, "".join(json.dumps(record) + "\n" for record in records))


def read_records(path: Path) -> list[dict[str, Any]]:
    """Reads ``metrics.jsonl``; returns an empty list if it does not exist.

    Raises:
        UserError: if the file is damaged.
    """
    if not path.exists():
        return []
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except ValueError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
