"""The answer to a recording does not depend on how long its pauses are."""

import itertools
from collections import defaultdict

import factories as make
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emodistill import Recognizer
from emodistill.audio.recording import Recording
from emodistill.audio.waveform import SAMPLE_RATE, load, peak_normalise, remove_offset
from emodistill.corpora import Utterance, read_corpus
from emodistill.inference.speech_windows import MAX_PAUSE_S, SPEECH_MARGIN_S, without_long_pauses
from emodistill.protocol import FIXED_SPLITS

MARGIN, MAX_PAUSE = round(SPEECH_MARGIN_S * SAMPLE_RATE), round(MAX_PAUSE_S * SAMPLE_RATE)


@st.composite
def speech_spans(draw: st.DrawFn) -> tuple[list[tuple[int, int]], int]:
    """Spans of speech in a recording, and its number of samples."""
    edges = sorted(draw(st.sets(st.integers(0, 200_000), min_size=2, max_size=12)))
    spans = list(zip(edges[::2], edges[1::2], strict=False))
    return spans, edges[-1] + draw(st.integers(0, 50_000))


@given(speech_spans())
@settings(deadline=None)
def test_all_speech_is_kept_and_no_pause_is_longer_than_the_maximum(
    found: tuple[list[tuple[int, int]], int],
) -> None:
    spans, num_samples = found
    kept = without_long_pauses(spans, num_samples)
    inside = np.zeros(num_samples, dtype=bool)
    for start, end in kept:
        assert 0 <= start < end <= num_samples
        assert not inside[start:end].any(), "no sample is used twice"
        inside[start:end] = True
    for start, end in spans:
        assert inside[start:end].all()
    for (_, start), (end, _) in itertools.pairwise(spans):
        assert inside[start:end].sum() == min(end - start, MAX_PAUSE)
    assert inside[: spans[0][0]].sum() == min(spans[0][0], MARGIN)
    assert inside[spans[-1][1] :].sum() == min(num_samples - spans[-1][1], MARGIN)


@given(speech_spans(), st.integers(0, 9))
@settings(deadline=None, max_examples=30)
def test_windows_are_the_joined_spans(found: tuple[list[tuple[int, int]], int], seed: int) -> None:
    spans, num_samples = found
    waveform = np.random.default_rng(seed).uniform(-1, 1, max(num_samples, 1)).astype(np.float32)
    recording = Recording(waveform, SAMPLE_RATE)
    expected = np.concatenate([remove_offset(waveform)[start:end] for start, end in spans])
    np.testing.assert_allclose(np.concatenate(list(recording.windows(spans))), expected, atol=1e-6)


def test_the_emotion_stays_when_pauses_grow() -> None:
    folder = make.DATA / "corpora/ravdess"
    if not folder.is_dir():
        pytest.skip("RAVDESS is not here")
    actors = {
        name.partition("/")[2] for name in FIXED_SPLITS["five-corpora"]["dev"] if name.startswith("ravdess/")
    }
    groups: dict[tuple[str, str | None], list[Utterance]] = defaultdict(list)
    for utterance in read_corpus("ravdess", folder, "seven"):
        if utterance.speaker in actors:
            groups[utterance.speaker, utterance.emotion].append(utterance)
    rng = np.random.default_rng(0)
    keys = sorted(groups, key=str)
    recognizer = Recognizer(threads=1)
    same = []
    for index in range(60):
        group = groups[keys[index % len(keys)]]
        chosen = [group[place] for place in rng.choice(len(group), 3, replace=False)]
        sounds = [peak_normalise(remove_offset(load(item.path))) for item in chosen if item.path is not None]
        noise_rms = 0.0 if index % 2 else 1e-3  # digital silence, or a quiet room

        def answer(pause_s: float, sounds: list[np.ndarray] = sounds, rms: float = noise_rms) -> str | None:
            pause = rms * np.random.default_rng(1).standard_normal(round(pause_s * SAMPLE_RATE))
            joined = np.concatenate([sounds[0], pause, sounds[1], pause, sounds[2]]).astype(np.float32)
            return recognizer.predict(joined, SAMPLE_RATE).emotion

        reference = answer(0.2)
        same += [answer(pause_s) == reference for pause_s in (0.5, 2.0, 6.0)]
    assert np.mean(same) >= 0.97
