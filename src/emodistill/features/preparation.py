"""Preparation of an utterance's waveform in training: decode, remove the DC offset, trim, cut."""

import numpy as np
import numpy.typing as npt

from emodistill.audio.waveform import SAMPLE_RATE, load, remove_offset, trim_silence
from emodistill.config import AudioConfig
from emodistill.corpora import Utterance
from emodistill.errors import CorpusError

# Part of every cache key. It names the steps of `prepare_waveform` that no setting of a recipe changes. Give
# it a new value when these steps change, so that arrays in a cache are computed again.
PREPARATION = "without offset"


def prepare_waveform(utterance: Utterance, audio: AudioConfig) -> npt.NDArray[np.float32]:
    """Return the waveform of an utterance (samples,), 16 kHz, as all models of a recipe use it in training.

    The offset is removed before silence is trimmed, as in the recogniser. Raises `CorpusError` for an
    utterance without audio, and `AudioError` for audio that cannot be decoded.
    """
    if utterance.path is None:
        raise CorpusError(f"utterance '{utterance.id}' has no audio; only a linguistic teacher can use it")
    waveform = remove_offset(load(utterance.path, utterance.start_s, utterance.end_s))
    if audio.trim_db is not None:
        waveform = trim_silence(waveform, audio.trim_db)
    return waveform[: round(audio.max_s * SAMPLE_RATE)]
