"""The windows of a recording that the recogniser classifies: its speech, without what is around it."""

from collections.abc import Iterator, Sequence

import numpy as np

from emodistill.audio.recording import Recording
from emodistill.audio.speech_activity import NO_SPEECH, SpeechDetector, find_speech
from emodistill.audio.waveform import SAMPLE_RATE, Waveform
from emodistill.inference.prediction import Reason

# Kept on both sides of the speech. In quiet recordings, `trim_silence` then cuts it as in training. In noise
# it cannot, and every 0.1 s of noise costs accuracy (benchmarks/invariance.py).
SPEECH_MARGIN_S = 0.05
# A longer pause between two stretches of speech is shortened to this. Otherwise the silence in a recording
# with long pauses decides the answer (benchmarks/pauses.py).
MAX_PAUSE_S = 0.3


def speech_windows(recording: Recording, detector: SpeechDetector) -> Iterator[Waveform] | Reason:
    """Return the windows of the speech, with pauses of at most `MAX_PAUSE_S`, or why there are none.

    Raises `AudioError` if the recording cannot be read.
    """
    spans = speech_spans(recording, detector)
    return spans if isinstance(spans, str) else recording.windows(spans)


def speech_spans(recording: Recording, detector: SpeechDetector) -> list[tuple[int, int]] | Reason:
    """Return the spans of samples that the recogniser classifies, in ascending order, or why there are none.

    Raises `AudioError` if the recording cannot be read.
    """
    if (unusable := recording.level.unusable_reason()) is not None:
        return unusable
    stream = detector.stream()
    # The whole recording is known here, so it is scaled to its peak, and the gain does not matter.
    parts = [stream.push(piece / np.float32(recording.peak)) for piece in recording.pieces()]
    activity = np.concatenate([*parts, stream.finish()])
    if activity.max() < NO_SPEECH:
        return "no_speech"
    spans = find_speech(activity)
    if not spans:  # a short word or a cry, for which the detector finds no start and end
        return [(0, recording.num_samples)]
    return without_long_pauses(spans, recording.num_samples)


def without_long_pauses(spans: Sequence[tuple[int, int]], num_samples: int) -> list[tuple[int, int]]:
    """Return the spans of samples to use: the speech, and of each pause between at most `MAX_PAUSE_S`.

    A longer pause keeps half of `MAX_PAUSE_S` on either side. `SPEECH_MARGIN_S` is kept before the first span
    and after the last.
    """
    margin, half_pause = round(SPEECH_MARGIN_S * SAMPLE_RATE), round(MAX_PAUSE_S / 2 * SAMPLE_RATE)
    kept = [(max(0, spans[0][0] - margin), spans[0][1])]
    for start, end in spans[1:]:
        if start - kept[-1][1] <= 2 * half_pause:
            kept[-1] = (kept[-1][0], end)
        else:
            kept[-1] = (kept[-1][0], kept[-1][1] + half_pause)
            kept.append((start - half_pause, end))
    kept[-1] = (kept[-1][0], min(kept[-1][1] + margin, num_samples))
    return kept
