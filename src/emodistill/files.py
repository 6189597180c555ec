"""Files that appear complete or not at all, outputs of every kind, and the cache folder."""

import errno
import io
import os
import shutil
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO

from emodistill.errors import ConfigError
from emodistill.partial_folders import (
    HAS_LOCKS,
    explain_no_space,
    folder_name,
    lock_file,
    partial_folder,
    temporary_folder,
    to_disk,
)

# How to write a file name that is not valid text (bytes of another encoding): as \udcXX. JSON reads it back.
UNENCODABLE = "backslashreplace"

MAX_LINKS = 40  # symbolic links from one to the next, as in Linux


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a path to write to. When the block ends, `path` has the content that was written there.

    If the block raises an error, `path` stays as it was. The content is written in a `partial_folder` beside
    `path`, whose folder is created if it is missing. So a process that is killed leaves nothing that has the
    name `path`, and the next run deletes what it left. The content has the name of `path` there, because some
    writers choose their format by it.

    The content reaches the disk before it gets its name. So a power cut leaves the old file, the new one or
    none, and never a part of one. The name itself may be lost: then the same command writes the file again.

    A symbolic link stays, and its target gets the content. An existing file keeps its permissions. A device,
    a FIFO or a pipe is never replaced: the content is written to it when the block ends.

    Raises `OSError` with the name `path` if there is no space left.
    """
    real = real_path(path)
    if is_stream(real):
        with temporary_folder("output") as folder:
            partial = folder / f"output{path.suffix}"
            yield partial
            with partial.open("rb") as source, open_output(path) as stream:
                shutil.copyfileobj(source, stream.buffer)
        return
    complete = folder_name(real, 0)
    with partial_folder(real, named=path) as beside:
        partial = beside / real.name
        yield partial
        to_disk(partial)
        if real.is_file():
            shutil.copymode(real, partial)
        partial.replace(complete)
    # The last step. After it, the same command need not write this file again, so nothing may be left.
    try:
        complete.replace(real)
    except FileNotFoundError:  # another process has given this content, or a newer one, its name
        if not real.is_file():
            raise


def move_file(source: Path, target: Path) -> None:
    """Give a complete file its final name, after its content has reached the disk."""
    to_disk(source)
    source.replace(target)


def copy_file(source: Path, target: Path) -> None:
    """Copy the content of a file; the copy appears complete or not at all."""
    with atomic_write(target) as partial:
        shutil.copyfile(source, partial)


@contextmanager
def only_writer(path: Path, doing: str) -> Iterator[None]:
    """Refuse other processes that enter this block with the same `path`, a file or a folder.

    `doing` is what this process does with it, for the message of the other one. A hidden file with a lock of
    the system marks `path`. The lock ends with the process, also if it is killed. Where the file system has
    no locks, no process is refused.

    Raises `ConfigError` where another process is in such a block.
    """
    if not HAS_LOCKS or is_stream(path):
        yield
        return
    real = real_path(path)
    mark = real / ".lock" if real.is_dir() else real.with_name(f".{real.name}.lock")
    mark.parent.mkdir(parents=True, exist_ok=True)
    file = lock_file(mark, f"another process {doing} '{path}': wait for it, or name another output")
    try:
        yield
    finally:
        mark.unlink(missing_ok=True)
        file.close()


@contextmanager
def open_output(path: Path | None, append: bool = False) -> Iterator[TextIO]:
    """Give a text stream of UTF-8 to `path`, or standard output for None. Its `buffer` takes bytes.

    With `append`, a file is extended, and keeps what was written if the block raises an error. Otherwise it
    is written by `atomic_write`. A device, a FIFO or a pipe gets each line as soon as it is flushed.

    Raises `OSError` with the name `path` if there is no space left.
    """
    if path is None:
        with explain_no_space("standard output"):
            yield sys.stdout
            sys.stdout.flush()
    elif is_stream(path):
        with explain_no_space(path), _open_descriptor(real_path(path)) as raw, _text(raw) as stream:
            yield stream
    elif append:
        real = real_path(path)
        real.parent.mkdir(parents=True, exist_ok=True)
        with explain_no_space(path), real.open("ab") as raw, _text(raw) as stream:
            yield stream
    else:
        with atomic_write(path) as partial, partial.open("wb") as raw, _text(raw) as stream:
            yield stream


def ensure_writable(path: Path | None, binary: bool = False) -> None:
    """Raise `OSError` if `path` cannot be written: a folder, or in a place that is none or is read-only.

    None stands for standard output. It is no place for a `binary` format if it is a terminal. This function
    creates nothing, so that it can be called before the work starts.
    """
    if path is None:
        if binary and sys.stdout.isatty():
            raise OSError(errno.EINVAL, "this format is no text for a terminal: name a file with --output")
        return
    real = real_path(path)
    if is_stream(real):
        return
    if real.is_dir():
        raise IsADirectoryError(errno.EISDIR, "expected the name of a file, got a folder", str(path))
    folder = next(parent for parent in real.parents if parent.exists())
    if not folder.is_dir():
        raise NotADirectoryError(
            errno.ENOTDIR, f"cannot be written, since '{folder}' is no folder", str(path)
        )
    if not os.access(folder, os.W_OK):
        raise PermissionError(errno.EACCES, f"cannot be written, since '{folder}' is read-only", str(path))


def ensure_not_read(outputs: Iterable[Path | None], inputs: Iterable[Path | None]) -> None:
    """Raise `ConfigError` if an output is a file that the command reads, because it would replace it.

    Links are followed. None stands for no file. An input that cannot be found is ignored: its row will hold
    the error.
    """
    written = {identity: path for path in outputs if (identity := _identity(path)) is not None}
    for path in inputs if written else ():
        identity = _identity(path)
        if identity is not None and (output := written.get(identity)) is not None:
            raise ConfigError(
                f"'{output}' is an input of this command, and would be replaced: name another output"
            )


def _identity(path: Path | None) -> tuple[int, int] | None:
    """Return the device and the number of the file at the end of all links; None if there is no file."""
    try:
        state = None if path is None else path.stat()
    except (OSError, ValueError):  # missing, links in a circle, or no possible name
        return None
    return (state.st_dev, state.st_ino) if state is not None and stat.S_ISREG(state.st_mode) else None


def is_stream(path: Path) -> bool:
    """Return whether `path` takes bytes but holds no file: a device, a FIFO, a pipe or an open descriptor."""
    real = real_path(path)
    if _descriptor(real) is not None or real.is_relative_to("/proc"):
        return True
    return real.exists() and not real.is_file() and not real.is_dir()


def real_path(path: Path) -> Path:
    """Return the path at the end of all symbolic links; a descriptor like /dev/stdout is not followed."""
    for _ in range(MAX_LINKS):
        # Links in /proc lead to files that are open; their names may be those of pipes, or of other files.
        path = path.parent.resolve() / path.name
        if _descriptor(path) is not None or path.is_relative_to("/proc") or not path.is_symlink():
            return path
        path = path.parent / path.readlink()
    raise OSError(errno.ELOOP, "too many symbolic links", str(path))


def _descriptor(real: Path) -> int | None:
    """Return the number of a file that this process has open, for a path such as /dev/fd/63; else None."""
    if real.name.isdigit() and real.parent in (Path("/dev/fd"), Path(f"/proc/{os.getpid()}/fd")):
        return int(real.name)
    return None


def _open_descriptor(real: Path) -> BinaryIO:
    """Open a device, a FIFO, a pipe or a descriptor to write to it.

    A descriptor is duplicated: opened by its name, a file would lose what was written to it before.
    """
    descriptor = _descriptor(real)
    return real.open("wb") if descriptor is None else os.fdopen(os.dup(descriptor), "wb")


def _text(raw: BinaryIO) -> TextIO:
    return io.TextIOWrapper(raw, encoding="utf-8", errors=UNENCODABLE, newline="")


def is_in_folder(path: Path) -> bool:
    """Return whether a file is in its folder after its links are followed.

    A snapshot of the cache of the Hugging Face Hub has links to the folder "blobs" of the same model.
    """
    folder = Path(os.path.realpath(path.parent))
    allowed = [folder]
    if folder.parent.name == "snapshots":
        allowed.append(folder.parents[1] / "blobs")
    return any(Path(os.path.realpath(path)).is_relative_to(place) for place in allowed)


def cache_folder() -> Path:
    """Return the folder for computed and fetched files.

    It is EMODISTILL_CACHE, else `emodistill` in the platform's cache folder: XDG_CACHE_HOME or ~/.cache,
    ~/Library/Caches on macOS, LOCALAPPDATA on Windows.
    """
    if folder := os.environ.get("EMODISTILL_CACHE"):
        return Path(folder)
    platform_folder = {
        "darwin": Path.home() / "Library" / "Caches",
        "win32": Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")),
    }.get(sys.platform, Path.home() / ".cache")
    return Path(os.environ.get("XDG_CACHE_HOME", platform_folder)) / "emodistill"


def format_bytes(size: float) -> str:
    """Return a size for people, in the decimal units of disks.

    >>> format_bytes(1_640_000_000)
    '1.6 GB'
    """
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size:.0f} bytes"
