"""What the command lines share: parsing, errors in one line, output directories, progress."""

import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from experiments.config import UserError, config_names, load_config
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
    """Runs a command line; a mistake in it ends with status 2 and one line."""
    keep_memory()
    try:
        command(sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")


def open_directory(out: Path | None, name: str) -> Path:
    """Makes an output directory; without one given, a new one below ``runs/``.

    Raises:
        UserError: if it is not empty or cannot be written.
    """
    out = out or Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise UserError(f"out is {out}, which is not empty; it takes a new or empty directory")
        probe = out / "config.json"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"out is {out}, which cannot be written: {error.strerror}") from error
    return out


def write_json(path: Path, value: Any) -> None:
    """Writes one JSON file."""
    path.write_text(json.dumps(value, indent=2) + "\n")


@contextlib.contextmanager
def metrics_file(path: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Opens ``metrics.jsonl``; each record is on disk before the next step runs."""
    with path.open("w", buffering=1) as lines:
        yield lambda record: print(json.dumps(record), file=lines)


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
