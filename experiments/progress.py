"""How far a long work on many things is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn


@contextmanager
def shown(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """Shows how much of a total is done: a bar on a terminal, a line for each tenth elsewhere."""
    console = Console()
    if console.is_terminal:
        columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn()
        with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
            task = progress.add_task(label, total=total)
            yield lambda count: progress.advance(task, count)
        return
    done = 0

    def line(count: int) -> None:
        nonlocal done
        tenths = 10 * done // total
        done += count
        if 10 * done // total > tenths:
            print(f"{label}: {10 * (10 * done // total)} %", flush=True)

    yield line
