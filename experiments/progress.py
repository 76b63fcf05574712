"""Shows the progress of long work, as a bar on a terminal and as lines elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def shown(label: str, total: int, console: Console | None = None) -> Iterator[Callable[..., None]]:
    """Shows how much of a total is done.

    Args:
        label: name of the work.
        total: amount of work.
        console: where to show the progress; None for standard output.

    Yields:
        ``show(done, note="")``, which shows the amount of work done and a note. Without a terminal
        it prints a line for each note, or for each tenth of the work if there are no notes.
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
