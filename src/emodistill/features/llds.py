"""eGeMAPSv02 low-level descriptors (LLDs) by opensmile, in the cache of arrays."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from emodistill.audio.waveform import MIN_INPUT_SAMPLES, SAMPLE_RATE, content_hash, peak_normalise
from emodistill.cached_files import LLDS
from emodistill.citations import Citation
from emodistill.config import AudioConfig, stable_seed
from emodistill.corpora import Utterance
from emodistill.corpora.base import audio_duration_s
from emodistill.errors import CorpusError, MissingExtraError
from emodistill.features.cache import ArrayCache, run_jobs, say_what_is_written
from emodistill.features.preparation import PREPARATION, prepare_waveform
from emodistill.files import cache_folder

LLD_HZ = 100  # frames a second
CITATIONS = (
    Citation(
        "eyben2010opensmile", "inproceedings",
        author=r'Eyben, Florian and W{\"o}llmer, Martin and Schuller, Bj{\"o}rn',
        title="{openSMILE}: The {Munich} Versatile and Fast Open-Source Audio Feature Extractor",
        year=2010, booktitle="ACM International Conference on Multimedia", pages="1459--1462",
        doi="10.1145/1873951.1874246",
    ),
    Citation(
        "eyben2016gemaps", "article",
        author=r'Eyben, Florian and Scherer, Klaus R. and Schuller, Bj{\"o}rn W. and Sundberg, Johan and '
        r"Andr{\'e}, Elisabeth and Busso, Carlos and Devillers, Laurence Y. and Epps, Julien and "
        "Laukka, Petri and Narayanan, Shrikanth S. and Truong, Khiet P.",
        title="The {Geneva} Minimalistic Acoustic Parameter Set ({GeMAPS}) for Voice Research and "
        "Affective Computing",
        year=2016, journal="IEEE Transactions on Affective Computing", volume="7", number="2",
        pages="190--202", doi="10.1109/TAFFC.2015.2457417",
    ),
)  # fmt: skip
NUM_LLDS = 25  # per frame of 10 ms; F0 is in semitones from 27.5 Hz, 0 where unvoiced


def lld_key(utterance: Utterance, audio: AudioConfig) -> str:
    """Return the cache key of an utterance's LLDs.

    It depends on the recording, its preparation, the feature set and the version of opensmile. Raises
    `CorpusError` for an utterance without audio.
    """
    if utterance.path is None:
        raise CorpusError(f"utterance '{utterance.id}' has no audio to compute LLDs from")
    recording = content_hash(utterance.path, utterance.start_s, utterance.end_s)
    settings = stable_seed("eGeMAPSv02-lld, peak 1", PREPARATION, _opensmile().__version__, audio)
    return f"{recording}-{settings:016x}"


def extract_llds(waveform: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the LLDs (frames, 25) of a waveform (samples,), 16 kHz. A short one is padded to give a
    frame."""
    if len(waveform) < MIN_INPUT_SAMPLES:  # opensmile's longest window is 60 ms
        waveform = np.pad(waveform, (0, MIN_INPUT_SAMPLES - len(waveform)))
    table = _extractor().process_signal(waveform, SAMPLE_RATE)
    return np.ascontiguousarray(table.to_numpy(dtype=np.float32))


def cache_llds(
    utterances: Sequence[Utterance], audio: AudioConfig, workers: int = 1, cache: ArrayCache | None = None
) -> list[str]:
    """Compute the LLDs that are missing in the cache, with several processes, and return all keys in
    order."""
    cache = cache or ArrayCache(cache_folder() / LLDS)
    keys = [lld_key(utterance, audio) for utterance in utterances]
    jobs = {key: (key, item, audio, cache) for key, item in zip(keys, utterances, strict=True)}
    missing = {key: job for key, job in jobs.items() if key not in cache}
    seconds = sum(item.duration_s or audio_duration_s(item) for _, item, *_ in missing.values())
    expected_bytes = seconds * LLD_HZ * NUM_LLDS * 4
    with say_what_is_written(cache, list(missing), "LLDs", expected_bytes):
        run_jobs(_write_llds, list(missing.values()), "eGeMAPS LLDs", workers)
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
def _extractor() -> Any:
    opensmile = _opensmile()
    return opensmile.Smile(
        feature_set=opensmile.FeatureSet.eGeMAPSv02,
        feature_level=opensmile.FeatureLevel.LowLevelDescriptors,
    )
