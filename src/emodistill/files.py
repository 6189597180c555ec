"""Files that appear complete or not at all, outputs of every kind, and the cache folder."""

import errno
import io
import json
import os
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from emodistill.errors import ConfigError, EmodistillError

fcntl: Any
try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None

# How to write a file name that is not valid text (bytes of another encoding): as \udcXX. JSON reads it back.
UNENCODABLE = "backslashreplace"

MAX_LINKS = 40  # symbolic links from one to the next, as in Linux
MAX_WRITERS = 100  # processes that write the same file at the same time, and have a name for their folder
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF, errno.EINVAL, errno.ENOSYS)


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
    with _explain_no_space(path):
        real = real_path(path)
        if is_stream(real):
            with temporary_folder("output") as folder:
                partial = folder / f"output{path.suffix}"
                yield partial
                with partial.open("rb") as source, _open_descriptor(real) as stream:
                    shutil.copyfileobj(source, stream)
            return
        complete = _folder_name(real, 0)
        with partial_folder(real) as beside:
            partial = beside / real.name
            yield partial
            _to_disk(partial)
            if real.is_file():
                shutil.copymode(real, partial)
            partial.replace(complete)
        # The last step. After it, the same command need not write this file again, so nothing may be left.
        try:
            complete.replace(real)
        except FileNotFoundError:  # another process has given this content, or a newer one, its name
            if not real.is_file():
                raise


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder to fill. When the block ends, it has the name `path`, complete or not at all.

    An empty folder `path` is replaced. The folder that is given is the one of `partial_folder`.

    Raises `FileExistsError` if `path` is there then and is not empty; the content is deleted.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    folder, lock = _own_folder(path)
    try:
        _empty(folder)
        yield folder
        for file in folder.rglob("*"):
            if file.is_file():
                _to_disk(file)
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
        if path.exists():
            raise FileExistsError(errno.EEXIST, "is there already", str(path))
        folder.rename(path)
    except BaseException:
        _empty(folder)
        folder.rmdir()
        raise
    finally:
        os.close(lock)
        _delete_left_over(path)


@contextmanager
def partial_folder(path: Path) -> Iterator[Path]:
    """Give an empty hidden folder for the parts of `path`, beside it. It is deleted when the block ends.

    Its name is always the same, so the next run deletes what a killed one left there. The process holds a
    lock of the system on it, which ends with the process. Another process that writes `path` at the same time
    gets a folder with a number in its name. Where the file system has no such locks, the name is random, and
    a killed process leaves its folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    folder, lock = _own_folder(path)
    try:
        _empty(folder)
        yield folder
    finally:
        _delete_folder(folder, lock)
        _delete_left_over(path)


@contextmanager
def temporary_folder(name: str) -> Iterator[Path]:
    """Give an empty folder for temporary files, which is deleted when the block ends.

    A folder of the same name that a killed process left is deleted first. So it is in a folder of this user
    alone, in the system's folder for temporary files.
    """
    own = Path(tempfile.gettempdir()) / f"emodistill-{getattr(os, 'geteuid', int)()}"
    if fcntl is None or not _is_private(own):
        with tempfile.TemporaryDirectory(prefix="emodistill-") as folder:
            yield Path(folder)
        return
    try:
        with partial_folder(own / name) as partial:
            yield partial
    finally:
        with suppress(OSError):  # another process uses it
            own.rmdir()


def _is_private(folder: Path) -> bool:
    """Make a folder that this user alone can enter, and return whether it is one."""
    try:
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        state = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(state.st_mode) and state.st_uid == os.geteuid() and not state.st_mode & 0o077


def _own_folder(path: Path) -> tuple[Path, int]:
    """Create a partial folder that no other process uses; returns it and the descriptor of its lock."""
    for number in range(1, MAX_WRITERS if fcntl is not None else 1):
        folder = _folder_name(path, number)
        try:
            if (lock := _lock_folder(folder, create=True)) is not None:
                return folder, lock
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            break
    # Its own name keeps it apart from those of other processes, without any lock.
    folder = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    folder.mkdir()
    return folder, os.open(os.devnull, os.O_RDONLY)


def _folder_name(path: Path, number: int) -> Path:
    return path.with_name(f".{path.name}.partial" if number == 1 else f".{path.name}.{number}.partial")


def _lock_folder(folder: Path, create: bool = False) -> int | None:
    """Return the descriptor of a folder that this process has locked; None if another process has."""
    while True:
        if create:
            with suppress(FileExistsError):
                folder.mkdir()
        try:
            descriptor = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:
            if create:
                continue
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another process may have deleted the folder meanwhile, and a third one may have made it again.
            if os.path.samestat(os.fstat(descriptor), folder.stat()):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _delete_folder(folder: Path, lock: int) -> None:
    """Delete a folder as far as the system allows it, and release its lock."""
    with suppress(OSError):
        _empty(folder)
        folder.rmdir()
    os.close(lock)


def move_file(source: Path, target: Path) -> None:
    """Give a complete file its final name, after its content has reached the disk."""
    _to_disk(source)
    source.replace(target)


def copy_file(source: Path, target: Path) -> None:
    """Copy the content of a file; the copy appears complete or not at all."""
    with atomic_write(target) as partial:
        shutil.copyfile(source, partial)


def _delete_left_over(path: Path) -> None:
    """Delete the folders with numbers of killed processes, which wrote `path` beside another one."""
    for number in range(2, MAX_WRITERS):
        if not (folder := _folder_name(path, number)).is_dir():
            return
        if (lock := _lock_folder(folder)) is not None:
            _delete_folder(folder, lock)


def _to_disk(path: Path) -> None:
    """Wait until the content of a file has reached the disk."""
    with path.open("ab") as file:
        os.fsync(file.fileno())


@contextmanager
def only_writer(path: Path, doing: str) -> Iterator[None]:
    """Refuse other processes that enter this block with the same `path`, a file or a folder.

    `doing` is what this process does with it, for the message of the other one. A hidden file with a lock of
    the system marks `path`. The lock ends with the process, also if it is killed. Where the file system has
    no locks, no process is refused.

    Raises `ConfigError` where another process is in such a block.
    """
    if fcntl is None or is_stream(path):
        yield
        return
    real = real_path(path)
    mark = real / ".lock" if real.is_dir() else real.with_name(f".{real.name}.lock")
    mark.parent.mkdir(parents=True, exist_ok=True)
    file = _lock_file(mark, f"another process {doing} '{path}': wait for it, or name another output")
    try:
        yield
    finally:
        mark.unlink(missing_ok=True)
        file.close()


def _lock_file(mark: Path, refusal: str) -> BinaryIO:
    """Open and lock a file; raises `ConfigError` with this message where another process has locked it."""
    while True:
        file = mark.open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file.fileno()), mark.stat()):
                return file
        except BlockingIOError as error:
            file.close()
            raise ConfigError(refusal) from error
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return file
            if not isinstance(error, FileNotFoundError):  # else its last owner has deleted it
                file.close()
                raise
        file.close()


@contextmanager
def open_output(path: Path | None, append: bool = False) -> Iterator[TextIO]:
    """Give a text stream of UTF-8 to `path`, or standard output for None. Its `buffer` takes bytes.

    With `append`, a file is extended, and keeps what was written if the block raises an error. Otherwise it
    is written by `atomic_write`. A device, a FIFO or a pipe gets each line as soon as it is flushed.

    Raises `OSError` with the name `path` if there is no space left.
    """
    if path is None:
        with _explain_no_space("standard output"):
            yield sys.stdout
            sys.stdout.flush()
    elif is_stream(path):
        with _explain_no_space(path), _open_descriptor(real_path(path)) as raw, _text(raw) as stream:
            yield stream
    elif append:
        real = real_path(path)
        real.parent.mkdir(parents=True, exist_ok=True)
        with _explain_no_space(path), real.open("ab") as raw, _text(raw) as stream:
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


@contextmanager
def _explain_no_space(output: Path | str) -> Iterator[None]:
    """Name the output in the error of a full disk, and say what to do."""
    try:
        yield
    except OSError as error:
        of_other_file = error.filename is not None and ".partial" not in str(error.filename)
        if error.errno not in _NO_SPACE or of_other_file:
            raise
        message = "no space left; free some, or name an output on another disk, and run the command again"
        raise OSError(error.errno, message, str(output)) from error


def read_json(path: Path, error: type[EmodistillError], problem: str, remedy: str = "") -> dict[str, Any]:
    """Return the object of a JSON file.

    Raises `error` for a file that cannot be read, and for one that holds no JSON object. The message says
    that the file has the `problem`, e.g. "is damaged", and ends with the `remedy`.
    """
    try:
        return json_object(path.read_bytes(), error, f"'{path}' {problem}", remedy)
    except OSError as cause:
        raise error(f"'{path}' {problem}: {cause.strerror}{remedy}") from cause


def json_object(
    text: str | bytes, error: type[EmodistillError], problem: str, remedy: str = ""
) -> dict[str, Any]:
    """Return the object of a JSON text. Raises `error` for any other; the message begins with `problem`."""
    try:
        data = json.loads(text)
    except RecursionError as cause:
        raise error(f"{problem}: its JSON is nested too deeply{remedy}") from cause
    except ValueError as cause:  # no JSON, or no UTF-8
        raise error(f"{problem}: {cause}{remedy}") from cause
    if not isinstance(data, dict):
        raise error(f"{problem}: expected an object, got {type(data).__name__}{remedy}")
    return data


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
