"""What the command lines share: parsing, errors in one line, output directories, progress."""

import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from experiments.config import Stopped, UserError, config_names, load_config
from experiments.files import write_whole
from experiments.memory import keep_memory

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
    parsed, unknown = tyro.cli(
        options,
        default=defaults,
        args=list(arguments[len(named) :]),
        prog=f"python -m {command} {name if named else 'CONFIG'}",
        description=f"CONFIG is one of {', '.join(names)}. The defaults shown are those of {name}.",
        return_unknown_args=True,
    )
    if unknown:
        raise UserError(f"unknown field {unknown[0]!r}; --help lists the fields")
    return parsed


def run_command(command: Callable[[Sequence[str]], None]) -> None:
    """Runs a command line; a mistake in it ends with a status of 1 and one line."""
    keep_memory()
    try:
        command(sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
    except Stopped as stopped:
        print(f"{stopped}; go on with the same command, --resume and --out", flush=True)


def open_directory(out: Path | None, name: str, *, occupied: bool = False) -> Path:
    """Makes an output directory; without one given, a new one below ``runs/``.

    Args:
        out: the directory.
        name: what a new one's begins with.
        occupied: whether it may hold something.

    Raises:
        UserError: if it is not empty or cannot be written.
    """
    out = out or Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()) and not occupied:
            raise UserError(f"out is {out}, which is not empty; it takes a new or empty directory")
        probe = out / "probe"
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"out is {out}, which cannot be written: {error.strerror}") from error
    return out


def write_json(path: Path, value: Any) -> None:
    """Writes one JSON file, whole or not at all."""
    write_whole(path, json.dumps(value, indent=2) + "\n")


def read_records(path: Path) -> list[dict[str, Any]]:
    """Reads ``metrics.jsonl``, where a run left one."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def write_records(path: Path, records: list[dict[str, Any]]) -> None:
    """Writes ``metrics.jsonl``, whole or not at all."""
    write_whole(path, "".join(json.dumps(record) + "\n" for record in records))


def join_processes(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Joins several processes into one run, before any device is used.

    Args:
        coordinator: HOST:PORT of process 0; "auto" where the cluster tells it all; None for one
            process alone.
        processes: their number.
        process: this one's.

    Raises:
        UserError: if a part is missing, or the others cannot be reached.
    """
    if coordinator is None:
        if processes is not None or process is not None:
            raise UserError("processes and process take a coordinator: --coordinator HOST:PORT")
        return
    try:
        if coordinator == "auto":
            jax.distributed.initialize()
        elif processes is None or process is None:
            raise UserError(f"coordinator is {coordinator!r}; it takes --processes and --process")
        else:
            jax.distributed.initialize(coordinator, processes, process)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"coordinator {coordinator!r} could not join: {error}") from error


@dataclasses.dataclass
class Reporter:
    """Shows how far a run is: a bar on a terminal, plain lines elsewhere."""

    console: Console

    @contextlib.contextmanager
    def follow(self, label: str, steps: int) -> Iterator[Callable[[dict[str, Any]], None]]:
        """Gives a function that shows each measurement of one run."""

        def told(record: dict[str, Any]) -> str:
            loss = "" if record["loss"] is None else f"loss {record['loss']:.3f}  "
            return f"{loss}test accuracy {record['test_accuracy']:.3f}"

        if not self.console.is_terminal:

            def line(record: dict[str, Any]) -> None:
                print(f"{label}  step {record['step']}/{steps}  {told(record)}", flush=True)

            yield line
            return
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
        with Progress(*columns, TimeRemainingColumn(), console=self.console) as progress:
            task = progress.add_task(label, total=steps)

            def bar(record: dict[str, Any]) -> None:
                progress.update(
                    task, completed=record["step"], description=f"{label}  {told(record)}"
                )

            yield bar
