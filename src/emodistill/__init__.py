"""EmoDistill: speech emotion recognition from the waveform alone, taught by models that know more."""

from typing import TYPE_CHECKING, Any

from emodistill.errors import (
    AudioError,
    ConfigError,
    CorpusError,
    EmodistillError,
    LeakError,
    MissingExtraError,
    ModelError,
    ServerError,
)

if TYPE_CHECKING:
    from emodistill.card import Card
    from emodistill.client import Client
    from emodistill.recognizer import Prediction, Recognizer

__version__ = "0.1.0"

__all__ = [
    "AudioError",
    "Card",
    "Client",
    "ConfigError",
    "CorpusError",
    "EmodistillError",
    "LeakError",
    "MissingExtraError",
    "ModelError",
    "Prediction",
    "Recognizer",
    "ServerError",
]

# Loaded when they are asked for: the command line, and code that only catches errors, start without them.
_LAZY = {"Card": "card", "Client": "client", "Prediction": "recognizer", "Recognizer": "recognizer"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'emodistill' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f"emodistill.{_LAZY[name]}"), name)
