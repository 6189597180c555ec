"""Preparation of an utterance's waveform in training: what the recogniser hears of the same recording."""

from functools import cache

import numpy as np
import numpy.typing as npt

from emodistill.audio.recording import Recording
from emodistill.audio.speech_activity import SpeechDetector
from emodistill.audio.waveform import SAMPLE_RATE, Waveform, load, remove_offset, trim_silence
from emodistill.config import AudioConfig
from emodistill.corpora import Utterance
from emodistill.errors import CorpusError
from emodistill.inference.speech_windows import speech_windows

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
    windows = speech_windows(Recording(waveform, SAMPLE_RATE), _detector())
    if not isinstance(windows, str):  # a reason why there are none
        waveform = np.concatenate(list(windows))
    if audio.trim_db is not None:
        waveform = trim_silence(waveform, audio.trim_db)
    return waveform[: round(audio.max_s * SAMPLE_RATE)]


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
