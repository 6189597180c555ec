"""A cache of arrays on disk, whose file names are keys of their content, and the loop that fills it."""

import errno
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import numpy.typing as npt

from emodistill.cached_files import mark_used
from emodistill.console import progress, say, warn
from emodistill.files import atomic_write, format_bytes

Array = npt.NDArray[Any]
_RUN_AGAIN = "run the same command again: it computes the file anew"


@dataclass(frozen=True)
class ArrayCache:
    """Arrays on disk, one file for each key. A key is a hash of everything that decides the array.

    A file appears only when it is complete, so an interrupted run leaves no partial file. Who asks for a key
    marks its file as used, so that `emodistill cache clean` keeps it.
    """

    folder: Path

    def path(self, key: str) -> Path:
        """Return the path of a key's file."""
        return self.folder / key[:2] / f"{key}.npy"

    def __contains__(self, key: str) -> bool:
        mark_used(self.path(key))
        return self.path(key).is_file()

    def read(self, key: str) -> Array:
        """Return the array of a key.

        Raises `FileNotFoundError` where its file is missing, and `OSError` where it is damaged.
        """
        path = self.path(key)
        try:
            with path.open("rb") as file:  # `np.load` would also open an archive.
                array = np.lib.format.read_array(file, allow_pickle=False)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                errno.ENOENT, f"no longer in the cache; {_RUN_AGAIN} and continues", str(path)
            ) from error
        except OSError:
            raise
        except Exception as error:  # NumPy parses a header as Python text, whose errors are of many kinds.
            raise OSError(errno.EIO, f"is damaged ({error}): delete it; {_RUN_AGAIN}", str(path)) from error
        mark_used(path)
        return np.asarray(array)

    def write(self, key: str, array: Array) -> None:
        """Write an array under a key. The file appears complete or not at all."""
        with atomic_write(self.path(key)) as partial, partial.open("wb") as file:
            np.save(file, array)


@contextmanager
def say_what_is_written(
    cache: ArrayCache, keys: Sequence[str], what: str, expected_bytes: float
) -> Iterator[None]:
    """Say where arrays go and about how much they take, and when the block ends, how much they took.

    Warns where the disk has less space.
    """
    if not keys:
        yield
        return
    say(
        f"cache: {what} of {len(keys)} inputs, about {format_bytes(expected_bytes)}, are written to "
        f"'{cache.folder}'; 'emodistill cache' shows and cleans it"
    )
    cache.folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(cache.folder).free
    if free < expected_bytes:
        warn(
            f"cache: only {format_bytes(free)} are free there: free some space, or set EMODISTILL_CACHE to a "
            "folder on another disk"
        )
    yield
    written = sum(cache.path(key).stat().st_size for key in keys if cache.path(key).is_file())
    say(f"cache: wrote {format_bytes(written)}")


def run_jobs(function: Callable[[Any], None], jobs: Sequence[Any], name: str, workers: int) -> None:
    """Call a function for each job, with a progress bar that shows `name`.

    It uses `workers` processes, unless there are too few jobs for them to be faster.
    """
    bar, task = progress(name, len(jobs))
    with bar:
        if workers == 1 or len(jobs) < 2 * workers:
            for job in jobs:
                function(job)
                bar.advance(task)
            return
        parallel = joblib.Parallel(workers, return_as="generator_unordered", batch_size=8)
        for _ in parallel(joblib.delayed(function)(job) for job in jobs):
            bar.advance(task)
