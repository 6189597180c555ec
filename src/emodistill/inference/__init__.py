"""From waveforms to emotions, without torch: one `Recognizer` for files, streams and servers.

The modules in the order of the data:

- `recognizer` classifies one utterance (a `prediction`), and offers the functions of the modules below. It
  takes `sources`, finds their speech (`speech_windows`) and runs the `exported_student`. `confidence` decides
  when it abstains. `voices` hold what is known of a speaker.
- `segmentation` cuts a stretch of speech into segments. `streaming` does so for audio that arrives in chunks,
  and `timelines` for whole recordings, also with `given_segments`. `adapted_windows` compares windows with a
  voice.
- `formats` and `plots` write timelines. `batch`, `prediction_rows` and `resume` write the results of many
  files, with `thread_map`. `adaptation` compares the files of a group with each other.
- `data_frames` gives both as data frames of pandas, and `notebook` shows them in Jupyter.
- `listen` shows a live stream.
- `model_card` describes a model, and `hub` shares it. `fetch` completes a model of the package with published
  weights.
"""

from typing import TYPE_CHECKING

from emodistill.lazy import lazy_names

if TYPE_CHECKING:
    from emodistill.inference.data_frames import predictions_frame
    from emodistill.inference.embedding import Embedding
    from emodistill.inference.given_segments import GivenSegment, read_segments
    from emodistill.inference.hub import push_to_hub
    from emodistill.inference.model_card import Card, read_card
    from emodistill.inference.prediction import Prediction
    from emodistill.inference.recognizer import Recognizer
    from emodistill.inference.segmentation import Segment, WindowUpdate
    from emodistill.inference.streaming import SpeechEnded, SpeechStarted, StreamingRecognizer
    from emodistill.inference.timelines import Timeline, timeline
    from emodistill.inference.voices import SpeechStatistics, Voice

__all__ = [
    "Card",
    "Embedding",
    "GivenSegment",
    "Prediction",
    "Recognizer",
    "Segment",
    "SpeechEnded",
    "SpeechStarted",
    "SpeechStatistics",
    "StreamingRecognizer",
    "Timeline",
    "Voice",
    "WindowUpdate",
    "predictions_frame",
    "push_to_hub",
    "read_card",
    "read_segments",
    "timeline",
]

__getattr__, __dir__ = lazy_names(
    "emodistill.inference",
    {
        "Card": "emodistill.inference.model_card",
        "Embedding": "emodistill.inference.embedding",
        "GivenSegment": "emodistill.inference.given_segments",
        "Prediction": "emodistill.inference.prediction",
        "Recognizer": "emodistill.inference.recognizer",
        "Segment": "emodistill.inference.segmentation",
        "SpeechEnded": "emodistill.inference.streaming",
        "SpeechStarted": "emodistill.inference.streaming",
        "SpeechStatistics": "emodistill.inference.voices",
        "StreamingRecognizer": "emodistill.inference.streaming",
        "Timeline": "emodistill.inference.timelines",
        "Voice": "emodistill.inference.voices",
        "WindowUpdate": "emodistill.inference.segmentation",
        "predictions_frame": "emodistill.inference.data_frames",
        "push_to_hub": "emodistill.inference.hub",
        "read_card": "emodistill.inference.model_card",
        "read_segments": "emodistill.inference.given_segments",
        "timeline": "emodistill.inference.timelines",
    },
)
