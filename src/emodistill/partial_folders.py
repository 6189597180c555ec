"""Hidden folders for what is not complete, locks that end with a process, and the error of a full disk."""

import errno
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from emodistill.errors import ConfigError

fcntl: Any
try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None

HAS_LOCKS = fcntl is not None
MAX_WRITERS = 100  # processes that write the same file at the same time, and have a name for their folder
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF, errno.EINVAL, errno.ENOSYS)

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_SPACE = "no space left; free some, or name an output on another disk, and run the command again"
# What NumPy, torch and safetensors say of a full disk, in errors of their own.
_SHORT_WRITE = re.compile(
    r"[0-9]+ requested and [0-9]+ written|PytorchStreamWriter failed|unexpected pos [0-9]+ vs"
    r"|os error (27|28|122)"
)


@contextmanager
def explain_no_space(output: Path | str | None = None) -> Iterator[None]:
    """Say in the error of a full disk what to do. Name the output in it, unless another file has no space.

    Without an `output`, the error names the file that has no space, if it is known.
    """
    try:
        yield
    except Exception as error:
        number, file = getattr(error, "errno", None), getattr(error, "filename", None)
        if number is None and _SHORT_WRITE.search(str(error)):
            number = errno.ENOSPC
        is_other = output is not None and file is not None and ".partial" not in str(file)
        if number not in _NO_SPACE or is_other or NO_SPACE in str(error):
            raise
        name = output or file
        raise OSError(number, NO_SPACE, *([] if name is None else [str(name)])) from error


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder to fill. When the block ends, it has the name `path`, complete or not at all.

    An empty folder `path` is replaced. The folder that is given is the one of `partial_folder`.

    Raises:
        FileExistsError: `path` is there then and is not empty. The content is deleted.
        OSError: there is no space left. It has the name `path`.
    """
    with explain_no_space(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        folder, lock = _own_folder(path)
        try:
            _empty(folder)
            yield folder
            for file in folder.rglob("*"):
                if file.is_file():
                    to_disk(file)
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
            try:
                folder.rename(path)
            except OSError as error:
                if not path.exists():
                    raise
                raise FileExistsError(errno.EEXIST, "is there already", str(path)) from error
        except BaseException:
            _empty(folder)
            folder.rmdir()
            raise
        finally:
            os.close(lock)
            _delete_left_over(path)


@contextmanager
def partial_folder(path: Path, named: Path | None = None) -> Iterator[Path]:
    """Give an empty hidden folder for the parts of `path`, beside it. It is deleted when the block ends.

    Its name is always the same, so the next run deletes what a killed one left there. The process holds a
    lock of the system on it, which ends with the process. Another process that writes `path` at the same time
    gets a folder with a number in its name. Where the file system has no such locks, the name is random, and
    a killed process leaves its folder.

    Raises `OSError` with the name `named`, or `path`, if there is no space left.
    """
    with explain_no_space(named or path):
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
    if not HAS_LOCKS or not _is_private(own):
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
    for number in range(1, MAX_WRITERS if HAS_LOCKS else 1):
        folder = folder_name(path, number)
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


def folder_name(path: Path, number: int) -> Path:
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


def _delete_left_over(path: Path) -> None:
    """Delete the folders with numbers of killed processes, which wrote `path` beside another one."""
    for number in range(2, MAX_WRITERS):
        if not (folder := folder_name(path, number)).is_dir():
            return
        if (lock := _lock_folder(folder)) is not None:
            _delete_folder(folder, lock)


def to_disk(path: Path) -> None:
    """Wait until the content of a file has reached the disk."""
    with path.open("ab") as file:
        os.fsync(file.fileno())


def lock_file(mark: Path, refusal: str) -> BinaryIO:
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
