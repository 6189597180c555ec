"""What is done to an utterance before any model hears it in training."""

import numpy as np
import numpy.typing as npt

from emodistill.audio.waveform import (
    SAMPLE_RATE,
    load,
    remove_offset,
    trim_silence,
)
from emodistill.config import AudioConfig
from emodistill.corpora import Utterance
from emodistill.errors import CorpusError

# Part of every cache key. It names what `conditioned` does besides the settings of the recipe.
PREPARATION = "without offset"


def prepare_waveform(utterance: Utterance, audio: AudioConfig) -> npt.NDArray[np.float32]:
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
