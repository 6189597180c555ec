"""Preparation of an utterance's waveform in training: what the recogniser hears of the same recording."""

from functools import cache

import numpy as np
import numpy.typing as npt

from emodistill.audio.recording import Recording
from emodistill.audio.speech_activity import SpeechDetector
from emodistill.audio.waveform import (
    SAMPLE_RATE,
    Waveform,
    load,
    loud_span,
    remove_offset,
    trim_silence,
)
from emodistill.config import AudioConfig
from emodistill.corpora import Utterance
from emodistill.errors import CorpusError
from emodistill.inference.speech_windows import speech_spans

# Part of every cache key. It names the steps of `prepare_waveform` that no setting of a recipe changes. Give
# it a new value when these steps change, so that arrays in a cache are computed again.
PREPARATION = "speech without offset"


def prepare_waveform(utterance: Utterance, audio: AudioConfig) -> npt.NDArray[np.float32]:
    """Return the waveform of an utterance (samples,), 16 kHz, as all models of a recipe use it in training.

    It is the speech of the recording, as the recogniser finds it, and then trimmed by level. Where the
    recogniser finds no speech, the whole recording is used, because it has a label. Raises `CorpusError` for
    an utterance without audio, and `AudioError` for audio that cannot be decoded.
    """
    waveform = read_waveform(utterance)
    recording = Recording(waveform, SAMPLE_RATE)
    spans = speech_spans(recording, _detector())
    if not isinstance(spans, str):  # a reason why there are none
        waveform = np.concatenate(list(recording.windows(spans)))
    if audio.trim_db is not None:
        waveform = trim_silence(waveform, audio.trim_db)
    return waveform[: round(audio.max_s * SAMPLE_RATE)]


def prepared_spans(utterance: Utterance, audio: AudioConfig) -> list[tuple[int, int]]:
    """Return which samples of an utterance `prepare_waveform` keeps: spans (start, end) in ascending order.

    Raises as `prepare_waveform` does.
    """
    waveform = read_waveform(utterance)
    found = speech_spans(Recording(waveform, SAMPLE_RATE), _detector())
    spans = [(0, len(waveform))] if isinstance(found, str) else found
    joined = np.concatenate([waveform[start:end] for start, end in spans])
    first, last = (0, len(joined)) if audio.trim_db is None else loud_span(joined, audio.trim_db)
    last = min(last, first + round(audio.max_s * SAMPLE_RATE))
    kept, before = [], 0  # `before`: number of samples in the spans so far
    for start, end in spans:
        low, high = max(first - before, 0), min(last - before, end - start)
        if low < high:
            kept.append((start + low, start + high))
        before += end - start
    return kept


def read_waveform(utterance: Utterance) -> Waveform:
    """Return the whole waveform of an utterance (samples,), 16 kHz, without its offset.

    Raises as `prepare_waveform` does.
    """
    if utterance.path is None:
        raise CorpusError(f"utterance '{utterance.id}' has no audio; only a linguistic teacher can use it")
    return remove_offset(load(utterance.path, utterance.start_s, utterance.end_s))


@cache
def _detector() -> SpeechDetector:
    return SpeechDetector()
