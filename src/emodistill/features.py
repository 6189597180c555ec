"""eGeMAPSv02 low-level descriptors by opensmile, and the content-addressed cache of arrays."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import numpy.typing as npt

from emodistill.audio import (
    SAMPLE_RATE,
    SHORTEST_SAMPLES,
    content_hash,
    load,
    peak_normalise,
    remove_offset,
    trim_silence,
)
from emodistill.config import AudioConfig, stable_seed
from emodistill.console import progress
from emodistill.corpora import Utterance
from emodistill.errors import CorpusError, MissingExtraError

# Part of every cache key. It names what `conditioned` does besides the settings of the recipe.
CONDITIONING = "without offset"

NUM_LLDS = 25  # eGeMAPSv02, one vector every 10 ms; F0 in semitones from 27.5 Hz, 0 where unvoiced

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
        path = self.path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        with partial.open("wb") as file:
            np.save(file, array)
        partial.replace(path)


def conditioned(utterance: Utterance, audio: AudioConfig) -> npt.NDArray[np.float32]:
    """An utterance's waveform (samples,) as every model of a recipe hears it.

    It is decoded, its DC offset is removed, its ends are trimmed, and it is cut to `audio.max_s`. The recogniser
    removes the offset before it trims, too. Raises `CorpusError` for an utterance without audio.
    """
    if utterance.path is None:
        raise CorpusError(f"utterance '{utterance.id}' has no audio; only a linguistic teacher can use it")
    waveform = remove_offset(load(utterance.path, utterance.start_s, utterance.end_s))
    if audio.trim_db is not None:
        waveform = trim_silence(waveform, audio.trim_db)
    return waveform[: round(audio.max_s * SAMPLE_RATE)]


def lld_key(utterance: Utterance, audio: AudioConfig) -> str:
    """The cache key of an utterance's LLDs: recording, conditioning, feature set and its version."""
    if utterance.path is None:
        raise CorpusError(f"utterance '{utterance.id}' has no audio to take LLDs from")
    recording = content_hash(utterance.path, utterance.start_s, utterance.end_s)
    return f"{recording}-{stable_seed('eGeMAPSv02-lld, peak 1', CONDITIONING, _opensmile().__version__, audio):016x}"


def extract_llds(waveform: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The 25 LLDs of a waveform (samples,) as (frames, 25); at least one frame, by zero padding."""
    if len(waveform) < SHORTEST_SAMPLES:  # opensmile's longest window is 60 ms
        waveform = np.pad(waveform, (0, SHORTEST_SAMPLES - len(waveform)))
    table = _smile().process_signal(waveform, SAMPLE_RATE)
    return np.ascontiguousarray(table.to_numpy(dtype=np.float32))


def cached_llds(
    utterances: Sequence[Utterance], audio: AudioConfig, workers: int = 1, cache: ArrayCache | None = None
) -> list[str]:
    """Compute the LLDs that the cache does not hold yet, over processes; returns the keys in order."""
    cache = cache or ArrayCache(cache_folder() / "llds")
    keys = [lld_key(utterance, audio) for utterance in utterances]
    jobs = {key: (key, item, audio, cache) for key, item in zip(keys, utterances, strict=True)}
    missing = [job for key, job in jobs.items() if key not in cache]
    run_jobs(_write_llds, missing, "eGeMAPS LLDs", workers)
    return keys


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


def _write_llds(job: tuple[str, Utterance, AudioConfig, ArrayCache]) -> None:
    key, utterance, audio, cache = job
    cache.write(key, extract_llds(peak_normalise(conditioned(utterance, audio))))


def _opensmile() -> Any:
    try:
        import opensmile
    except ImportError as error:
        raise MissingExtraError("opensmile", "train") from error
    return opensmile


@lru_cache(maxsize=1)
def _smile() -> Any:
    opensmile = _opensmile()
    return opensmile.Smile(
        feature_set=opensmile.FeatureSet.eGeMAPSv02,
        feature_level=opensmile.FeatureLevel.LowLevelDescriptors,
    )
