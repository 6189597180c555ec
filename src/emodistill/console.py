"""Messages and progress, on standard error: standard output is for results alone."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TextIO, TypeVar

from rich.console import Console

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

T = TypeVar("T")

# How a file name is written that is no text (bytes of another encoding): as \udcXX, which JSON reads back as it was.
UNENCODABLE = "backslashreplace"

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


def print_failures(errors: Sequence[str], total: int) -> None:
    """What failed of so many inputs, at the end, where it has not scrolled away."""
    for error in errors:
        console.print(f"failed: {error}", style="red", markup=False)
    if errors and total > 1:
        rest = "nothing was judged" if len(errors) == total else "the rest is done"
        console.print(f"{len(errors)} of {total} failed, {rest}", style="red", markup=False)


def progress(description: str, total: int) -> tuple["Progress", "TaskID"]:
    """A progress bar, shown where there is a terminal."""
    # Imported here: it takes longer than all else of a short command that shows none.
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

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


def with_progress(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    """The same items, with a progress bar where there is a terminal."""
    if not console.is_terminal:
        yield from items
        return
    bar, task = progress(description, total)
    with bar:
        for item in items:
            yield item
            bar.advance(task)
