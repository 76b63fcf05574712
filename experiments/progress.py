"""How far a long work is: a bar on a terminal, plain lines elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def shown(label: str, total: int, console: Console | None = None) -> Iterator[Callable[..., None]]:
    """Shows how much of a total is done.

    Args:
        label: what is under way.
        total: how much there is to do.
        console: where to show it; None: standard output.

    Yields:
        ``show(done, note="")``: how much is done, and a note on it. Where there is no terminal, it
        prints a line for each note, and for each tenth where there are no notes.
    """
    console = console or Console()
    if not console.is_terminal:
        tenths = 0

        def line(done: int, note: str = "") -> None:
            nonlocal tenths
            before, tenths = tenths, 10 * done // total
            if note:
                print(f"{label}  step {done}/{total}  {note}", flush=True)
            elif tenths > before:
                print(f"{label}: {10 * tenths} %", flush=True)

        yield line
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task(label, total=total)

        def bar(done: int, note: str = "") -> None:
            progress.update(task, completed=done, description=f"{label}  {note}")

        yield bar
