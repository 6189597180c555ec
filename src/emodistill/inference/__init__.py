"""From waveforms to emotions, without torch: one `Recognizer` for files, long recordings, streams and servers.

The modules in the order of the data: `recognizer` classifies one utterance. `segmentation` cuts a stretch of speech
into segments, `streaming` does so for audio that arrives in chunks, and `timelines` for whole recordings. `formats`
and `plots` write timelines. `batch`, `prediction_rows` and `resume` write the results of many files, and `listen`
shows a live stream.
`model_card` describes a model, and `hub` shares it.
"""

from typing import TYPE_CHECKING

from emodistill.lazy import lazy_names

if TYPE_CHECKING:
    from emodistill.inference.hub import push_to_hub
    from emodistill.inference.model_card import Card, read_card
    from emodistill.inference.recognizer import Prediction, Recognizer
    from emodistill.inference.segmentation import Segment, WindowUpdate
    from emodistill.inference.streaming import SpeechEnded, SpeechStarted, StreamingRecognizer
    from emodistill.inference.timelines import GivenSegment, Timeline, read_segments, timeline

__all__ = [
    "Card",
    "GivenSegment",
    "Prediction",
    "Recognizer",
    "Segment",
    "SpeechEnded",
    "SpeechStarted",
    "StreamingRecognizer",
    "Timeline",
    "WindowUpdate",
    "push_to_hub",
    "read_card",
    "read_segments",
    "timeline",
]

__getattr__, __dir__ = lazy_names(
    "emodistill.inference",
    {
        "Card": "emodistill.inference.model_card",
        "GivenSegment": "emodistill.inference.timelines",
        "Prediction": "emodistill.inference.recognizer",
        "Recognizer": "emodistill.inference.recognizer",
        "Segment": "emodistill.inference.segmentation",
        "SpeechEnded": "emodistill.inference.streaming",
        "SpeechStarted": "emodistill.inference.streaming",
        "StreamingRecognizer": "emodistill.inference.streaming",
        "Timeline": "emodistill.inference.timelines",
        "WindowUpdate": "emodistill.inference.segmentation",
        "push_to_hub": "emodistill.inference.hub",
        "read_card": "emodistill.inference.model_card",
        "read_segments": "emodistill.inference.timelines",
        "timeline": "emodistill.inference.timelines",
    },
)
