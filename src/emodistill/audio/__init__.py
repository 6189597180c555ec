"""From recordings in any format to waveforms at 16 kHz, and the speech in them.

The modules in the order of the data: `decoding` opens a recording, `waveform` brings it to float32 mono at 16
kHz, `recording` cuts it into windows, `speech_activity` finds the speech. `onnx_session` and `wav_header`
help them.
"""

from typing import TYPE_CHECKING

from emodistill.lazy import lazy_names

if TYPE_CHECKING:
    from emodistill.audio.recording import Recording
    from emodistill.audio.speech_activity import SpeechDetector, SpeechStream
    from emodistill.audio.waveform import SAMPLE_RATE, MonoStream, Waveform, from_samples, load, load_blocks

__all__ = [
    "SAMPLE_RATE",
    "MonoStream",
    "Recording",
    "SpeechDetector",
    "SpeechStream",
    "Waveform",
    "from_samples",
    "load",
    "load_blocks",
]

__getattr__, __dir__ = lazy_names(
    "emodistill.audio",
    {
        "MonoStream": "emodistill.audio.waveform",
        "Recording": "emodistill.audio.recording",
        "SAMPLE_RATE": "emodistill.audio.waveform",
        "SpeechDetector": "emodistill.audio.speech_activity",
        "SpeechStream": "emodistill.audio.speech_activity",
        "Waveform": "emodistill.audio.waveform",
        "load_blocks": "emodistill.audio.waveform",
        "from_samples": "emodistill.audio.waveform",
        "load": "emodistill.audio.waveform",
    },
)
