"""The content-addressed cache of arrays, and the loop that fills it."""

import os
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


def cache_folder() -> Path:
    """Where derived arrays are kept: EMODISTILL_CACHE, else `emodistill` in the user's cache folder."""
    if folder := os.environ.get("EMODISTILL_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "emodistill"


@dataclass(frozen=True)
class ArrayCache:
    """Arrays on disk, each in a file named by what it was computed from.

    A file appears only when it is complete, so a killed run leaves nothing half-written behind.
    """

    folder: Path

    def path(self, key: str) -> Path:
        """The file of a key."""
        return self.folder / key[:2] / f"{key}.npy"

    def __contains__(self, key: str) -> bool:
        return self.path(key).is_file()

    def read(self, key: str) -> Array:
        """The array of a key; raises `FileNotFoundError` where it was never written."""
        return np.asarray(np.load(self.path(key), allow_pickle=False))

    def write(self, key: str, array: Array) -> None:
        """Write an array under a key, at once or not at all."""
        with atomic_write(self.path(key)) as partial, partial.open("wb") as file:
            np.save(file, array)


def run_jobs(function: Callable[[Any], None], jobs: Sequence[Any], name: str, workers: int) -> None:
    """Run a function over jobs with a progress bar, over processes where there are several of both."""
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
