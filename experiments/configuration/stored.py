"""A configuration as it is written beside the results of its run."""

from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from experiments.configuration.config import Config
from experiments.errors import UserError
from experiments.files import read_object, write_json

NAME = "config.json"
VERSION = "version"
"""Where the file names the version of the package that wrote it."""
FREE = ("data_dir", "checkpoint_every", "devices", "divide_units")
"""Fields that may differ where a run goes on: from where it reads, and on what it runs."""


def write_config(directory: Path, config: Config, **more: Any) -> None:
    """Writes a configuration, and what else a command was asked for, with the version."""
    fields = {VERSION: metadata.version("nmnc_jax"), **config.fields(), **more}
    write_json(directory / NAME, fields)


def read_config(directory: Path, *more: str) -> tuple[Config, dict[str, Any]] | None:
    """Reads what `write_config` has written; None where there is nothing.

    Args:
        directory: of the run.
        *more: what else the command writes; other names are refused.

    Returns:
        The configuration, with the defaults of fields that it does not name, and the rest.

    Raises:
        UserError: if it is damaged, of an older layout, or of another command.
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
            f"{path} was written by {named}, and this is {here}, which cannot go on with it; use "
            "the version that wrote it, or begin anew"
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
    """Whether a directory holds what was begun with this configuration, and can go on.

    Args:
        directory: its place.
        config: the configuration.
        kind: of what it is, for the error.
        free: what else the command writes.
        **more: what else it was asked for, which must be the same.

    Raises:
        UserError: if it was begun with another; it names a field.
    """
    found = directory and read_config(directory, *free, *more)
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
    """The part of a version in which the layout of files may change."""
    return version.split(".")[:2]
