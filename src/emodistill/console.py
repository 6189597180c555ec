"""Messages and progress bars. They go to standard error, since standard output is for results alone."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TextIO, TypeVar

from rich.console import Console

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

MAX_HINTS = 3  # files that a hint names


class Row(Protocol):
    """A result that has the message of an error instead where its input could not be read."""

    @property
    def path(self) -> str: ...

    @property
    def error(self) -> str | None: ...

    @property
    def mixed_channels(self) -> int | None: ...


T = TypeVar("T")
RowT = TypeVar("RowT", bound=Row)

console = Console(stderr=True, soft_wrap=True, highlight=False)


def results(file: TextIO | None = None) -> Console:
    """A console for results: standard output, or a file. Without a terminal it has at least 120 columns."""
    out = Console(file=file)
    return out if out.is_terminal else Console(file=file, width=max(120, out.width))


def warn(message: str) -> None:
    """Print a warning, in yellow: something was left out or looks wrong, but the work continues."""
    console.print(message, style="yellow", markup=False)


def say(message: str) -> None:
    """Print a message about what has been done."""
    console.print(message, markup=False)


def report_failures(rows: Iterable[RowT], skipped: Collection[str] = ()) -> Iterator[RowT]:
    """The same rows. At the end, also after Ctrl-C, the errors of those that failed are printed together.

    `skipped` are the paths whose errors are counted in one line, by `skipped_message`.
    """
    errors: list[str] = []
    left_out: list[str] = []
    total = 0
    try:
        for row in rows:
            total += 1
            if row.error is not None and row.path in skipped:
                left_out.append(row.path)
            elif row.error is not None:
                errors.append(row.error)
            yield row
    finally:
        print_failures(errors, total - len(left_out))
        if left_out:
            console.print(skipped_message(left_out), style="red", markup=False)


def hint_at_channels(rows: Iterable[RowT]) -> Iterator[RowT]:
    """The same rows. At the end, also after Ctrl-C, a hint names the files whose mixed channels differ."""
    hints: dict[str, int] = {}
    try:
        for row in rows:
            if row.mixed_channels is not None:
                hints[row.path] = row.mixed_channels
            yield row
    finally:
        for path, num_channels in list(hints.items())[:MAX_HINTS]:
            say(f"{path}: its {num_channels} channels differ; --channels split recognises each")
        if len(hints) > MAX_HINTS:
            say(f"{len(hints) - MAX_HINTS} more files have channels that differ")


def print_failures(errors: Sequence[str], total: int) -> None:
    """Print each error and, for more than one input, how many of `total` failed."""
    for error in errors:
        console.print(f"failed: {error}", style="red", markup=False)
    if errors and total > 1:
        rest = "there are no results" if len(errors) == total else "the rest is done"
        console.print(f"{len(errors)} of {total} failed, {rest}", style="red", markup=False)


def skipped_message(paths: Iterable[str]) -> str:
    """Return the message for files that were skipped because the [media] extra is not installed.

    >>> skipped_message(["a/x.m4a", "b.mp4", "c.M4A"])
    "3 files skipped (.m4a 2, .mp4 1): pip install 'emodistill[media]'"
    """
    counts = Counter(Path(path).suffix.lower() for path in paths)
    listed = ", ".join(f"{suffix} {count}" for suffix, count in counts.most_common())
    total = counts.total()
    return f"{total} file{'' if total == 1 else 's'} skipped ({listed}): pip install 'emodistill[media]'"


def progress(description: str, total: int, count: str | None = None) -> tuple["Progress", "TaskID"]:
    """A progress bar and its task; the bar is visible only in a terminal.

    `count` is the text behind the bar, in which `task` is the task; None: how many items are done, of all.
    """
    # Imported here: the import takes longer than everything else in a short command without a progress bar.
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn() if count is None else TextColumn(count),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    return bar, bar.add_task(description, total=total)


def with_progress(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    """The same items, with a progress bar in a terminal."""
    if not console.is_terminal:
        yield from items
        return
    bar, task = progress(description, total)
    with bar:
        for item in items:
            yield item
            bar.advance(task)
