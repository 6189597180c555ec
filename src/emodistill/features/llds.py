"""eGeMAPSv02 low-level descriptors by opensmile, and the content-addressed cache of arrays."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from emodistill.audio.waveform import (
    SAMPLE_RATE,
    SHORTEST_SAMPLES,
    content_hash,
    peak_normalise,
)
from emodistill.config import AudioConfig, stable_seed
from emodistill.corpora import Utterance
from emodistill.errors import CorpusError, MissingExtraError
from emodistill.features.cache import ArrayCache, cache_folder, run_jobs
from emodistill.features.preparation import PREPARATION, prepare_waveform

NUM_LLDS = 25  # eGeMAPSv02, one vector every 10 ms; F0 in semitones from 27.5 Hz, 0 where unvoiced


def lld_key(utterance: Utterance, audio: AudioConfig) -> str:
    """The cache key of an utterance's LLDs: recording, conditioning, feature set and its version."""
    if utterance.path is None:
        raise CorpusError(f"utterance '{utterance.id}' has no audio to take LLDs from")
    recording = content_hash(utterance.path, utterance.start_s, utterance.end_s)
    return f"{recording}-{stable_seed('eGeMAPSv02-lld, peak 1', PREPARATION, _opensmile().__version__, audio):016x}"


def extract_llds(waveform: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The 25 LLDs of a waveform (samples,) as (frames, 25); at least one frame, by zero padding."""
    if len(waveform) < SHORTEST_SAMPLES:  # opensmile's longest window is 60 ms
        waveform = np.pad(waveform, (0, SHORTEST_SAMPLES - len(waveform)))
    table = _smile().process_signal(waveform, SAMPLE_RATE)
    return np.ascontiguousarray(table.to_numpy(dtype=np.float32))


def cache_llds(
    utterances: Sequence[Utterance], audio: AudioConfig, workers: int = 1, cache: ArrayCache | None = None
) -> list[str]:
    """Compute the LLDs that the cache does not hold yet, over processes; returns the keys in order."""
    cache = cache or ArrayCache(cache_folder() / "llds")
    keys = [lld_key(utterance, audio) for utterance in utterances]
    jobs = {key: (key, item, audio, cache) for key, item in zip(keys, utterances, strict=True)}
    missing = [job for key, job in jobs.items() if key not in cache]
    run_jobs(_write_llds, missing, "eGeMAPS LLDs", workers)
    return keys


def _write_llds(job: tuple[str, Utterance, AudioConfig, ArrayCache]) -> None:
    key, utterance, audio, cache = job
    cache.write(key, extract_llds(peak_normalise(prepare_waveform(utterance, audio))))


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
