"""The pitch of speakers: the mean fundamental frequency (F0), by SwiftF0 (arXiv 2508.18440)."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress

import numpy as np

from emodistill.audio.waveform import SAMPLE_RATE, Waveform, load
from emodistill.corpora.base import Utterance
from emodistill.errors import AudioError, MissingExtraError

MIN_UTTERANCES = 26  # of a speaker; ser-tests takes speakers with more than 25
RANGE_HZ = (50.0, 350.0)  # utterances with another mean are left out, as in ser-tests
_SEARCHED_HZ = (50.0, 600.0)  # in a frame
_VOICED = 0.5  # a frame with at least this confidence is voiced


def mean_f0_hz(waveforms: Iterable[Waveform]) -> list[float | None]:
    """Return the mean F0 of the voiced frames of each waveform, in Hz; None where it is outside `RANGE_HZ`.

    Raises `MissingExtraError` without the extra "stress".
    """
    try:
        from swift_f0 import SwiftF0
    except ImportError as error:
        raise MissingExtraError("swift-f0", "stress", "fairness by pitch") from error
    detector = SwiftF0(threads=1)
    low, high = RANGE_HZ
    means: list[float | None] = []
    for waveform in waveforms:
        found = detector.detect(waveform, SAMPLE_RATE, *_SEARCHED_HZ)
        voiced = found.pitch_hz[found.confidence >= _VOICED]
        mean = float(np.mean(voiced)) if len(voiced) else 0.0
        means.append(mean if low <= mean <= high else None)
    return means


def speaker_pitch_hz(utterances: Sequence[Utterance]) -> Mapping[str, float]:
    """Return the mean over the utterances of each speaker with `MIN_UTTERANCES` or more, in Hz.

    Audio that cannot be decoded is left out. Raises `MissingExtraError` without the extra "stress".
    """
    by_speaker: defaultdict[str, list[Utterance]] = defaultdict(list)
    for utterance in utterances:
        if utterance.path is not None:
            by_speaker[utterance.speaker].append(utterance)
    pitch_hz: dict[str, float] = {}
    for speaker, items in by_speaker.items():
        if len(items) < MIN_UTTERANCES:
            continue
        known = [mean for mean in mean_f0_hz(_loaded(items)) if mean is not None]
        if known:
            pitch_hz[speaker] = float(np.mean(known))
    return pitch_hz


def _loaded(utterances: Sequence[Utterance]) -> Iterator[Waveform]:
    """Yield the waveforms of utterances with audio that can be decoded; the others have no answer either."""
    for utterance in utterances:
        with suppress(AudioError):
            if utterance.path is not None:
                yield load(utterance.path, utterance.start_s, utterance.end_s)
