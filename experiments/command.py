"""Functions that the command lines share: parsing, errors in one line, several processes."""

import contextlib
import io
import itertools
import os
import re
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar

import jax
import tyro

from experiments.configs import config_names, load_config
from experiments.configuration import Config
from experiments.errors import Stopped, UserError, in_one_line
from experiments.machine import keep_memory
from experiments.methods import TABLE

Options = TypeVar("Options")


def parse(command: str, options: Callable[..., Options], arguments: Sequence[str]) -> Options:
    """Parses ``CONFIG [--field value ...]``; the config file gives the defaults.

    Args:
        command: the module's name, for the help text.
        options: dataclass with a field `config`.
        arguments: the command line.

    Raises:
        UserError: if the config or a field is unknown.
    """
    names = config_names()
    named = [argument for argument in arguments[:1] if not argument.startswith("-")]
    if not named and not {"-h", "--help"} & set(arguments):
        raise UserError(f"name a config: python -m {command} CONFIG; there are {', '.join(names)}")
    name = named[0] if named else names[0]
    defaults: Any = options(config=load_config(name))
    parsed, unknown = take(
        options,
        arguments[len(named) :],
        default=defaults,
        prog=f"python -m {command} {name if named else 'CONFIG'}",
        description=(
            f"CONFIG is one of {', '.join(names)}. The defaults shown are those of {name}.\n\n"
            + "Methods:\n"
            + "\n".join(f"- {method}: {entry.summary}" for method, entry in TABLE.items())
        ),
        return_unknown_args=True,
    )
    if unknown:
        flags = [f"--{field.replace('_', '-')}" for field in defaults.config.fields()]
        near = "".join(f", like {flag}" for flag in get_close_matches(unknown[0], flags, 1))
        raise UserError(f"unknown field {unknown[0]!r}; --help lists the fields{near}")
    check_layers(defaults.config, parsed.config, arguments)
    return parsed


def check_layers(default: Config, config: Config, arguments: Sequence[str]) -> None:
    """Checks that the fields of layers belong to the chosen architecture.

    Raises:
        UserError: if `model` differs from the default's and `features` is not given, or a field of
            another architecture is given.
    """
    before, model = default.model, config.model
    named = {argument.partition("=")[0] for argument in arguments}
    if model.name != before.name and model.features and "--features" not in named:
        model.refuse(
            "features", f"they are {before.name}'s, and {model.name} takes --features of its layers"
        )
    for field in ("strides", "dense"):
        if model.name != "conv" and f"--{field}" in named and getattr(model, field):
            model.refuse(field, f"{model.name} does not use it, only conv does")


def take(options: Callable[..., Options], arguments: Sequence[str], **settings: Any) -> Any:
    """Parses a command line by `tyro.cli`, and reports its errors in one line.

    Args:
        options: dataclass of the options.
        arguments: the command line.
        **settings: as `tyro.cli` takes them.

    Returns:
        What `tyro.cli` returns.

    Raises:
        UserError: if an option is unknown, is missing or has a wrong value.
    """
    written = io.StringIO()
    try:
        with contextlib.redirect_stderr(written):
            return tyro.cli(options, args=list(arguments), **settings)
    except SystemExit as stopped:
        if not stopped.code:  # --help
            raise
        # tyro prints a box that contains the message, a rule and suggestions.
        lines = [
            line.strip("│ ") for line in written.getvalue().splitlines() if line[:1] not in "╭╰"
        ]
        message = itertools.takewhile(lambda line: not line.startswith("──"), lines)
        raise UserError(" ".join(message)) from None


def run_command(command: Callable[[Sequence[str]], None]) -> None:
    """Runs a command line; a user's mistake exits with status 1 and an error in one line."""
    keep_memory()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # A file's name may not be UTF-8.
            stream.reconfigure(errors="backslashreplace")
    try:
        command(sys.argv[1:])
    except (UserError, OSError) as error:
        sys.exit(f"error: {in_one_line(error)}")
    except MemoryError as error:
        sys.exit(f"error: not enough memory: {in_one_line(error)}")
    except KeyboardInterrupt:
        message = "error: interrupted; a command that takes --resume continues from what it saved"
        print(message, file=sys.stderr, flush=True)
        sys.stdout.flush()
        # Threads that still compile would end the process with a fault during an ordinary exit.
        os._exit(130)
    except Stopped as stopped:
        print(f"{stopped}; continue with the same command, --resume and --out", flush=True)


def join_processes(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Joins several processes into one run, before any device is used.

    Args:
        coordinator: HOST:PORT of process 0; "auto" if the cluster provides all settings; None for a
            single process.
        processes: number of processes.
        process: number of this process.

    Raises:
        UserError: if an argument is missing, or if the other processes cannot be reached.
    """
    if coordinator is None:
        if processes is not None or process is not None:
            raise UserError("processes and process take a coordinator: --coordinator HOST:PORT")
        return
    if coordinator != "auto" and not re.fullmatch(r".+:[0-9]{1,5}", coordinator):
        raise UserError(f"coordinator is {coordinator!r}; it takes HOST:PORT, or 'auto'")
    if processes is not None and process is not None and not 0 <= process < processes:
        raise UserError(f"process is {process}; it takes 0 to {processes - 1}")
    try:
        if coordinator == "auto":
            jax.distributed.initialize()
        elif processes is None or process is None:
            raise UserError(f"coordinator is {coordinator!r}; it takes --processes and --process")
        else:
            jax.distributed.initialize(coordinator, processes, process)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"coordinator {coordinator!r} could not join: {error}") from error
