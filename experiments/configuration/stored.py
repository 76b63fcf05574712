"""Writes a configuration beside the results of its run, and reads it."""

from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from experiments.configuration.config import Config
from experiments.errors import UserError
from experiments.files import expanded, read_object, write_json

NAME = "config.json"
VERSION = "version"
"""Key of the version of the package that wrote the file."""
FREE = ("data_dir", "checkpoint_every", "log_to", "devices", "divide_units")
"""Fields that may differ when a run is continued: where its data and its devices are, and what it
writes."""


def write_config(directory: Path, config: Config, **more: Any) -> None:
    """Writes a configuration, the further options of a command, and the version."""
    fields = {VERSION: metadata.version("nmnc_jax"), **config.fields(), **more}
    write_json(directory / NAME, fields)


def read_config(directory: Path, *more: str) -> tuple[Config, dict[str, Any]] | None:
    """Reads the file that `write_config` has written.

    Args:
        directory: directory of the run.
        *more: names of the further options that the command writes; other names are an error.

    Returns:
        The configuration, with defaults for missing fields, and the further options; None if there
        is no file.

    Raises:
        UserError: if the file is damaged, has an older layout, or belongs to another command.
    """
    path = directory / NAME
    if not path.exists():
        return None
    fields = read_object(path)
    here = metadata.version("nmnc_jax")
    there = fields.pop(VERSION, None)
    if not isinstance(there, str) or _layout(there) != _layout(here):
        named = f"nmnc_jax {there}" if there else "a version of nmnc_jax before 0.2.0"
        raise UserError(
            f"{path} was written by {named}, and this is {here}, which cannot continue it; use the "
            "version that wrote it, or start a new run"
        )
    rest = {name: fields.pop(name) for name in more if name in fields}
    try:
        lists = {name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()}
        return Config.of(**lists), rest
    except TypeError as error:
        raise UserError(f"{path} is not of such a run: {error}") from error


def same_config(
    directory: Path | None, config: Config, kind: str = "run", free: Sequence[str] = (), **more: Any
) -> bool:
    """Returns whether a directory contains a run with this configuration that can be continued.

    Args:
        directory: the directory.
        config: the configuration.
        kind: kind of the results, for the error.
        free: names of further options that may differ.
        **more: further options that must be the same.

    Raises:
        UserError: if the directory contains a run with another configuration. The message names a
            field that differs.
    """
    found = directory and read_config(expanded(directory), *free, *more)
    if not found:
        return False
    there, rest = found
    wanted, found = config.fields() | more, there.fields() | rest
    for field, value in wanted.items():
        if field not in FREE and found.get(field) != value:
            raise UserError(
                f"{field} is {value!r}; the {kind} in {directory} has {found.get(field)!r}"
            )
    return True


def _layout(version: str) -> list[str]:
    """Returns the part of a version that determines the layout of files."""
    return version.split(".")[:2]
