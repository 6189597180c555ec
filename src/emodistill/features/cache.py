"""A cache of arrays on disk, whose file names are keys of their content, and the loop that fills it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import numpy.typing as npt

from emodistill.console import progress
from emodistill.files import atomic_write

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class ArrayCache:
    """Arrays on disk, one file for each key. A key is a hash of everything that decides the array.

    A file appears only when it is complete, so an interrupted run leaves no partial file.
    """

    folder: Path

    def path(self, key: str) -> Path:
        """Return the path of a key's file."""
        return self.folder / key[:2] / f"{key}.npy"

    def __contains__(self, key: str) -> bool:
        return self.path(key).is_file()

    def read(self, key: str) -> Array:
        """Return the array of a key. Raises `FileNotFoundError` for a key that was never written."""
        return np.asarray(np.load(self.path(key), allow_pickle=False))

    def write(self, key: str, array: Array) -> None:
        """Write an array under a key. The file appears complete or not at all."""
        with atomic_write(self.path(key)) as partial, partial.open("wb") as file:
            np.save(file, array)


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
