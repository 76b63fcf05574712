"""What the command lines share: parsing, errors in one line, output directories, progress."""

import contextlib
import dataclasses
import io
import itertools
import json
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from experiments.configuration import Stopped, UserError, config_names, in_one_line, load_config
from experiments.files import expanded, write_whole
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
    parsed, unknown = take(
        options,
        arguments[len(named) :],
        default=defaults,
        prog=f"python -m {command} {name if named else 'CONFIG'}",
        description=f"CONFIG is one of {', '.join(names)}. The defaults shown are those of {name}.",
        return_unknown_args=True,
    )
    if unknown:
        raise UserError(f"unknown field {unknown[0]!r}; --help lists the fields")
    return parsed


def take(options: Callable[..., Options], arguments: Sequence[str], **settings: Any) -> Any:
    """Parses a command line by `tyro.cli`, with its errors in one line.

    Args:
        options: dataclass of the options.
        arguments: the command line.
        **settings: as `tyro.cli` takes them.

    Returns:
        What `tyro.cli` returns.

    Raises:
        UserError: if an option is unknown, missing or takes another value.
    """
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            return tyro.cli(options, args=list(arguments), **settings)
    except SystemExit as stopped:
        if not stopped.code:  # --help
            raise
        # A box: the message, a rule, and what else may help.
        lines = [line.strip("│ ") for line in told.getvalue().splitlines() if line[:1] not in "╭╰"]
        message = itertools.takewhile(lambda line: not line.startswith("──"), lines)
        raise UserError(" ".join(message)) from None


def run_command(command: Callable[[Sequence[str]], None]) -> None:
    """Runs a command line; a mistake in it ends with a status of 1 and one line."""
    keep_memory()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # A file's name may not be UTF-8.
            stream.reconfigure(errors="backslashreplace")
    try:
        command(sys.argv[1:])
    except (UserError, OSError) as error:
        sys.exit(f"error: {in_one_line(error)}")
    except MemoryError as error:
        sys.exit(f"error: there is not enough memory: {in_one_line(error)}")
    except KeyboardInterrupt:
        print("error: interrupted; nothing was saved since the last checkpoint", file=sys.stderr)
        sys.exit(130)
    except Stopped as stopped:
        print(f"{stopped}; go on with the same command, --resume and --out", flush=True)


@contextlib.contextmanager
def output_directory(out: Path | None, name: str, *, occupied: bool = False) -> Iterator[Path]:
    """Makes an output directory; without one given, a new one of its own below ``runs/``.

    A mistake that is found before anything was measured leaves none.

    Args:
        out: the directory.
        name: what a new one's begins with.
        occupied: whether it may hold something.

    Raises:
        UserError: if it is not empty or cannot be written.
    """
    if out is None:
        wanted = Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    else:
        wanted = expanded(out)
    made = [place for place in wanted.parents if not place.exists()]
    made = made if out is not None and wanted.exists() else [wanted, *made]
    try:
        if out is None:
            out = made[0] = _new_directory(wanted)
        else:
            out = wanted
            out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()) and not occupied:
            raise UserError(f"out is {out}, which is not empty; it takes a new or empty directory")
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise UserError(f"out is {wanted}, which cannot be written: {error.strerror}") from error
    try:
        yield out
    except Exception:
        if not occupied:
            _remove_empty(out, made)
        raise


def _new_directory(wanted: Path) -> Path:
    """Makes a directory that no other run has, as one that begins in the same second."""
    for number in itertools.count(1):
        path = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        with contextlib.suppress(FileExistsError):
            path.mkdir(parents=True)
            return path
    raise AssertionError


def _remove_empty(out: Path, made: list[Path]) -> None:
    """Removes the directories made for a run, if it has left nothing but configurations."""
    if any(path.is_file() and path.name != "config.json" for path in out.rglob("*")):
        return
    for path in out.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in made:
        with contextlib.suppress(OSError):  # Another run may have written there since.
            path.rmdir()


def write_json(path: Path, value: Any) -> None:
    """Writes one JSON file, whole or not at all."""
    write_whole(path, json.dumps(value, indent=2) + "\n")


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
    if coordinator != "auto" and not re.fullmatch(r".+:[0-9]{1,5}", coordinator):
        raise UserError(f"coordinator is {coordinator!r}; it takes HOST:PORT, or 'auto'")
    if processes is not None and process is not None and not 0 <= process < processes:
        raise UserError(f"process is {process}; of {processes} processes it takes 0 to one less")
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
