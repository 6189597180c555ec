"""EmoDistill: speech emotion recognition from the waveform alone, taught by models that know more."""

from emodistill.card import Card
from emodistill.errors import (
    AudioError,
    ConfigError,
    CorpusError,
    EmodistillError,
    LeakError,
    MissingExtraError,
    ModelError,
)
from emodistill.recognizer import Prediction, Recognizer

__version__ = "0.1.0"

__all__ = [
    "AudioError",
    "Card",
    "ConfigError",
    "CorpusError",
    "EmodistillError",
    "LeakError",
    "MissingExtraError",
    "ModelError",
    "Prediction",
    "Recognizer",
]
