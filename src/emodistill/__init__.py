"""EmoDistill: speech emotion recognition from the waveform alone.

A student that uses only the waveform is distilled from teachers that also use prosody and words.
`Recognizer` runs it, without torch. The public names are listed below, and loaded at their first use.
"""

from typing import TYPE_CHECKING

from emodistill.errors import (
    AudioError,
    AudioTooLongError,
    ConfigError,
    CorpusError,
    EmodistillError,
    LeakError,
    MissingExtraError,
    ModelError,
    ServerError,
)
from emodistill.lazy import lazy_names
from emodistill.version import __version__

if TYPE_CHECKING:
    from emodistill.config import load_recipe
    from emodistill.inference.data_frames import predictions_frame
    from emodistill.inference.embedding import Embedding
    from emodistill.inference.hub import push_to_hub
    from emodistill.inference.model_card import Card
    from emodistill.inference.prediction import Prediction
    from emodistill.inference.recognizer import Recognizer
    from emodistill.inference.segmentation import Segment, WindowUpdate
    from emodistill.inference.streaming import SpeechEnded, SpeechStarted, StreamingRecognizer
    from emodistill.inference.timelines import Timeline, timeline
    from emodistill.inference.voices import Voice
    from emodistill.serving.client import Client
    from emodistill.training.cross_validation import crossval


__all__ = [
    "AudioError",
    "AudioTooLongError",
    "Card",
    "Client",
    "ConfigError",
    "CorpusError",
    "Embedding",
    "EmodistillError",
    "LeakError",
    "MissingExtraError",
    "ModelError",
    "Prediction",
    "Recognizer",
    "Segment",
    "ServerError",
    "SpeechEnded",
    "SpeechStarted",
    "StreamingRecognizer",
    "Timeline",
    "Voice",
    "WindowUpdate",
    "__version__",
    "crossval",
    "load_recipe",
    "predictions_frame",
    "push_to_hub",
    "timeline",
]

__getattr__, __dir__ = lazy_names(
    "emodistill",
    {
        "Card": "emodistill.inference.model_card",
        "Client": "emodistill.serving.client",
        "Embedding": "emodistill.inference.embedding",
        "Prediction": "emodistill.inference.prediction",
        "Recognizer": "emodistill.inference.recognizer",
        "Segment": "emodistill.inference.segmentation",
        "SpeechEnded": "emodistill.inference.streaming",
        "SpeechStarted": "emodistill.inference.streaming",
        "StreamingRecognizer": "emodistill.inference.streaming",
        "Timeline": "emodistill.inference.timelines",
        "Voice": "emodistill.inference.voices",
        "WindowUpdate": "emodistill.inference.segmentation",
        "crossval": "emodistill.training.cross_validation",
        "load_recipe": "emodistill.config",
        "predictions_frame": "emodistill.inference.data_frames",
        "push_to_hub": "emodistill.inference.hub",
        "timeline": "emodistill.inference.timelines",
    },
)
