"""Messages and progress, on standard error: standard output is for results alone."""

from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

console = Console(stderr=True, soft_wrap=True, highlight=False)


def results(file: TextIO | None = None) -> Console:
    """Standard output, or a file; wide enough for a table where it is no terminal."""
    out = Console(file=file)
    return out if out.is_terminal else Console(file=file, width=max(120, out.width))


def warn(message: str) -> None:
    """Something was left out or looks odd, and the work goes on."""
    console.print(message, style="yellow", markup=False)


def say(message: str) -> None:
    """What has been done."""
    console.print(message, markup=False)


def progress(description: str, total: int) -> tuple[Progress, TaskID]:
    """A progress bar, shown where there is a terminal."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    return bar, bar.add_task(description, total=total)
