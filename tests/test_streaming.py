"""Streams: any chunking gives the events of the file, bounded memory, and errors that lose no audio."""

import io
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise, product
from pathlib import Path
from typing import Any

import factories as make
import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emodistill.audio.waveform import SAMPLE_RATE, MonoStream, from_samples, load, load_blocks
from emodistill.errors import AudioError, ConfigError
from emodistill.inference.emotion_path import EmotionPath
from emodistill.inference.recognizer import Recognizer
from emodistill.inference.segmentation import (
    CHANGE_COST,
    MAX_UNDECIDED_CELLS,
    MIN_RUN_CELLS,
    Segment,
    WindowUpdate,
)
from emodistill.inference.streaming import (
    PAUSE_S,
    Event,
    SpeechEnded,
    SpeechStarted,
    StreamingRecognizer,
)
from emodistill.inference.timelines import timeline

Part = tuple[str, float]  # an emotion's tone, or "silence", and its length in seconds


def programme(parts: Sequence[Part], rate_hz: int = SAMPLE_RATE) -> np.ndarray:
    sounds = [
        make.silence(length, rate_hz) if kind == "silence" else make.tone(kind, length, rate_hz)
        for kind, length in parts
    ]
    return np.concatenate(sounds)


def stream(rate_hz: int = SAMPLE_RATE, **options: Any) -> StreamingRecognizer:
    return StreamingRecognizer(
        make.ToneRecognizer(), rate_hz, **{"detector": make.LoudnessDetector(), **options}
    )


def events_of(
    samples: np.ndarray, cuts: Sequence[int], rate_hz: int = SAMPLE_RATE, **options: float
) -> list[Event]:
    """All events of samples pushed in pieces between cuts."""
    live = stream(rate_hz, **options)
    events = [event for piece in np.split(samples, sorted(cuts)) for event in live.push(piece)]
    return events + live.finish()


def segments(events: Sequence[Event]) -> list[Segment]:
    return [event for event in events if isinstance(event, Segment)]


PROGRAMMES = st.lists(
    st.tuples(
        st.sampled_from(["angry", "happy", "sad", "silence", "silence"]),
        st.integers(1, 50).map(lambda number: number / 16),
    ),
    min_size=1,
    max_size=6,
)
OPTIONS = st.fixed_dictionaries(
    {
        "smooth_s": st.sampled_from([0.0, 0.5, 3.0, 8.0]),
        "min_duration_s": st.sampled_from([0.0, 1.2, 4.0]),
        "hop_s": st.sampled_from([0.25, 0.5]),
        "window_s": st.sampled_from([1.0, 2.0]),
    }
)


# --- any chunking is the file ---------------------------------------------------------------------


@given(
    parts=PROGRAMMES,
    rate_hz=st.sampled_from([8000, 16000, 22050, 44100, 48000]),
    fractions=st.lists(st.floats(0, 1), max_size=40),
    channels=st.sampled_from([0, 1, 2]),
    integers=st.booleans(),
    options=OPTIONS,
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_chunking_gives_the_events_of_the_file(
    parts: list[Part],
    rate_hz: int,
    fractions: list[float],
    channels: int,
    integers: bool,
    options: dict[str, float],
) -> None:
    samples = programme(parts, rate_hz)
    if channels:
        late = np.where(np.arange(len(samples)) < len(samples) // 2, 0, samples)  # a channel that begins late
        samples = np.stack([samples, late if late.any() else samples][:channels], axis=1)
    if integers:
        samples = np.round(samples * 32767).astype(np.int16)
    cuts = [round(fraction * len(samples)) for fraction in fractions]
    whole, cut = events_of(samples, [], rate_hz, **options), events_of(samples, cuts, rate_hz, **options)
    assert cut == whole
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format="WAV", subtype="PCM_16" if integers else "FLOAT")
    found = timeline(file.getvalue(), make.ToneRecognizer(), detector=make.LoudnessDetector(), **options)
    assert list(found.segments) == segments(cut)


@pytest.mark.parametrize("smooth_s", [0.0, 8.0])
def test_an_update_has_the_emotion_that_a_segment_would_have(smooth_s: float) -> None:
    """A short change of tone moves the probabilities, but a smooth update keeps its emotion."""
    parts = [("angry", 12.0), ("sad", 2.5), ("angry", 6.0), ("silence", 1.0), ("sad", 40.0), ("silence", 1.0)]
    events = events_of(programme(parts), range(8000, 990_000, 8000), smooth_s=smooth_s)
    updates = [event for event in events if isinstance(event, WindowUpdate)]
    named = [(event.end_s, event.emotion) for event in updates]
    raw = [max(event.probabilities, key=event.probabilities.__getitem__) for event in updates]
    assert "sad" in raw[: len([end_s for end_s, _ in named if end_s < 19.5])]
    switches = sum(one != two for (_, one), (_, two) in pairwise(named))
    assert switches == (1 if smooth_s else 3)
    assert {emotion for end_s, emotion in named if end_s > 45} == {"sad"}
    if smooth_s:
        assert {emotion for end_s, emotion in named if end_s < 19.5} == {"angry"}
        assert named[-1][1] == segments(events)[-1].emotion
    assert all("emotion" in event.as_dict() for event in updates)


@pytest.mark.parametrize("size", [1, 7, 160, 1601])
def test_very_small_chunks_give_the_events_of_the_file(size: int) -> None:
    samples = programme([("silence", 0.1), ("sad", 0.9), ("silence", 0.5)])
    assert events_of(samples, range(size, len(samples), size)) == events_of(samples, [])


@pytest.mark.parametrize("rate_hz", [16000, 44100])
def test_a_real_model_gives_the_same_segments_live_and_for_a_file(
    exported: Path, tmp_path: Path, rate_hz: int
) -> None:
    recognizer = Recognizer(exported, threads=1)
    parts = [make.speech(1.7, 120, 1, rate_hz), make.silence(0.6, rate_hz), make.speech(3.4, 220, 2, rate_hz)]
    samples = np.concatenate(parts)
    soundfile.write(tmp_path / "call.wav", samples, rate_hz, subtype="FLOAT")
    found = timeline(tmp_path / "call.wav", recognizer)
    for size in (rate_hz // 50, rate_hz // 7, len(samples)):
        live = StreamingRecognizer(recognizer, rate_hz)
        events: list[Event] = []
        for start in range(0, len(samples), size):
            events += live.push(samples[start : start + size])
        assert segments(events + live.finish()) == list(found.segments)


@given(
    rate_hz=st.sampled_from([8000, 11025, 16000, 44100, 96000]),
    channels=st.integers(1, 3),
    cuts=st.lists(st.integers(0, 9000), max_size=20),
    quiet=st.integers(0, 9000),
)
@settings(max_examples=40, deadline=None)
def test_a_mono_stream_is_the_same_for_every_chunking(
    rate_hz: int, channels: int, cuts: list[int], quiet: int
) -> None:
    samples = np.random.default_rng(quiet).uniform(-0.5, 0.5, (9000, channels)).astype(np.float32)
    samples[:quiet, 0] = 0  # a channel that begins later
    one, many = MonoStream(rate_hz), MonoStream(rate_hz)
    whole = np.concatenate([one.push(samples), one.finish()])
    pieces = [many.push(piece) for piece in np.split(samples, sorted(cuts))]
    assert np.array_equal(np.concatenate([*pieces, many.finish()]), whole)
    if channels == 1 or quiet < 9000:
        assert np.allclose(whole, from_samples(samples, rate_hz), atol=1e-6)


# --- decoding in blocks ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "rate_hz"),
    [
        ("a.wav", 8000), ("a.flac", 44100), ("a.ogg", 16000),
        ("a.mp3", 48000), ("a.m4a", 44100), ("a.webm", 48000),
    ],
)  # fmt: skip
def test_the_blocks_of_a_file_are_its_waveform(tmp_path: Path, name: str, rate_hz: int) -> None:
    path = tmp_path / name
    samples = np.stack([make.speech(3.3, seed=1, rate_hz=rate_hz), make.speech(3.3, 90, 2, rate_hz)], axis=1)
    if name.endswith(("m4a", "webm")):
        _encode(path, samples, rate_hz)
    else:
        soundfile.write(path, samples, rate_hz)
    for source in (path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes())):
        pieces = list(load_blocks(source))
        assert all(piece.dtype == np.float32 and piece.ndim == 1 for piece in pieces)
        assert max(map(len, pieces)) <= 2 * SAMPLE_RATE
        assert np.allclose(np.concatenate(pieces), load(path), atol=1e-6)


def _encode(path: Path, samples: np.ndarray, rate_hz: int) -> None:
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        codec = container.add_stream("aac" if path.suffix == ".m4a" else "libopus", rate=rate_hz)
        codec.layout = "stereo"
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T), format="fltp", layout="stereo")
        frame.sample_rate = rate_hz
        for packet in [*codec.encode(frame), *codec.encode(None)]:
            container.mux(packet)


def test_bad_recordings_are_refused_block_by_block_too(tmp_path: Path) -> None:
    late = np.zeros(50_000, dtype=np.float32)
    late[40_000] = np.nan
    soundfile.write(tmp_path / "nan.wav", late, SAMPLE_RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "empty.wav", late[:0], SAMPLE_RATE)
    (tmp_path / "text.wav").write_text("no audio")
    for name, message in {
        "nan.wav": "holds NaN or Inf",
        "empty.wav": "holds no samples",
        "text.wav": "cannot be decoded",
        "none.wav": "no such file",
    }.items():
        with pytest.raises(AudioError, match=rf"{name}: {message}"):
            list(load_blocks(tmp_path / name))


# --- what segments mean ---------------------------------------------------------------------------


@given(parts=PROGRAMMES)
@settings(max_examples=60, deadline=None)
def test_segments_tile_the_speech_and_come_before_its_end(parts: list[Part]) -> None:
    samples = programme(parts)
    events = events_of(samples, range(8000, len(samples), 8000), smooth_s=0.0)
    stretches: list[list[Segment]] = []
    start = -1.0
    for event in events:
        match event:
            case SpeechStarted(time_s):
                start = time_s
                stretches.append([])
            case Segment():
                stretches[-1].append(event)
            case SpeechEnded(time_s):
                found = stretches[-1]
                assert (found[0].start_s, found[-1].end_s) == (start, time_s), "they cover the stretch"
                assert all(one.end_s == two.start_s for one, two in pairwise(found)), "without a gap"
                assert all(one.emotion != two.emotion for one, two in pairwise(found))
                assert all(one.end_s - one.start_s >= 1.0 for one in found[:-1]), "nothing flickers"
            case WindowUpdate(begin, end, probabilities):
                assert 0 < end - begin <= 2.0 + 1e-9
                assert start <= begin
                assert sum(probabilities.values()) == pytest.approx(1)
    assert sum(map(len, stretches)) == len(segments(events)), "no segment outside of speech"
    for segment in segments(events):
        assert segment.end_s <= len(samples) / SAMPLE_RATE
        assert sum(segment.probabilities.values()) == pytest.approx(1)
        assert segment.confidence == max(segment.probabilities.values())
        assert segment.emotion is not None
        assert segment.probabilities[segment.emotion] == segment.confidence


def test_the_segments_of_a_conversation() -> None:
    parts = [
        ("silence", 0.5), ("angry", 3.2), ("sad", 4.1), ("silence", 0.2), ("sad", 1.0), ("silence", 0.7),
        ("happy", 0.9), ("silence", 1.0), ("neutral", 0.1), ("silence", 1.0),
    ]  # fmt: skip
    events = events_of(programme(parts), [], smooth_s=0.0)
    found = [(segment.start_s, segment.end_s, segment.emotion) for segment in segments(events)]
    # Speech lasts over the pause of 0.2 s and not over that of 0.7 s; the change is found within a hop.
    assert found == [(0.5, 3.5, "angry"), (3.5, 9.0, "sad"), (9.7, 10.6, "happy")]
    assert [event.time_s for event in events if isinstance(event, SpeechStarted)] == [0.5, 9.7]


def test_events_are_equal_after_a_round_trip_through_json() -> None:
    events = events_of(programme([("sad", 3.0), ("silence", 1.0)]), [])
    assert {type(event) for event in events} == {SpeechStarted, WindowUpdate, Segment, SpeechEnded}
    for event in events:
        assert type(event)(**json.loads(json.dumps(event.as_dict()))) == event


def test_a_moment_of_another_emotion_makes_no_segment() -> None:
    events = events_of(programme([("sad", 4.0), ("angry", 0.4), ("sad", 4.0)]), [])
    assert [segment.emotion for segment in segments(events)] == ["sad"]


def test_below_min_confidence_a_segment_has_no_emotion() -> None:
    samples = programme([("sad", 1.0), ("silence", 0.5)])
    for least, emotion in ((0.5, "sad"), (0.9, None)):
        live = StreamingRecognizer(make.ToneRecognizer(least), make.RATE, detector=make.LoudnessDetector())
        (segment,) = segments(live.push(samples) + live.finish())
        assert (segment.emotion, segment.confidence) == (emotion, max(segment.probabilities.values()))


@pytest.mark.parametrize("parts", [[("silence", 3.0)], [("silence", 1.0), ("sad", 0.1), ("silence", 1.0)]])
def test_silence_and_clicks_make_no_event(parts: list[Part]) -> None:
    assert events_of(programme(parts), [4000]) == []


def test_a_short_window_has_its_full_length_wherever_its_stretch_begins() -> None:
    class Listener(make.ToneRecognizer):
        def probabilities(self, waveform: np.ndarray) -> np.ndarray:
            lengths.append(len(waveform))
            return super().probabilities(waveform)

    for frames in range(10):
        lengths: list[int] = []
        live = StreamingRecognizer(
            Listener(), make.RATE, hop_s=0.1, window_s=0.1, detector=make.LoudnessDetector()
        )
        sound = programme([("silence", 1 + frames / 50), ("sad", 1.0), ("silence", 1.0)])
        assert segments(live.push(sound) + live.finish())
        assert set(lengths) == {1600}


def test_no_samples_make_no_event() -> None:
    live = stream()
    assert live.push(np.zeros(0)) == live.push(np.zeros((0, 1))) == live.finish() == live.finish() == []


@pytest.mark.parametrize("length_s", [0.3, 1.3, 2.0, 2.9, 6.25])
@pytest.mark.parametrize("rate_hz", [16000, 48000])
def test_without_smoothing_a_segment_comes_soon_after_its_speech(length_s: float, rate_hz: int) -> None:
    samples = programme([("silence", 0.33), ("happy", length_s), ("silence", 2.0)], rate_hz)
    live = stream(rate_hz, smooth_s=0.0)
    size = rate_hz // 50
    delays_s = [
        (start + size) / rate_hz - (0.33 + length_s)
        for start in range(0, len(samples), size)
        for event in live.push(samples[start : start + size])
        if isinstance(event, Segment)
    ]
    assert len(delays_s) == 1
    assert PAUSE_S <= delays_s[0] <= 0.7


# --- smoothing ------------------------------------------------------------------------------------


def changes(found: Sequence[Segment]) -> int:
    return sum(one.emotion != two.emotion for one, two in pairwise(found))


@given(parts=PROGRAMMES, options=OPTIONS)
@settings(max_examples=60, deadline=None)
def test_smooth_segments_tile_the_same_speech_in_order(parts: list[Part], options: dict[str, float]) -> None:
    samples = programme(parts)
    events = events_of(samples, [], **options)
    found = segments(events)
    spoken = [event.time_s for event in events if isinstance(event, (SpeechStarted, SpeechEnded))]
    edges = [time for one in found for time in (one.start_s, one.end_s)]
    assert edges == sorted(edges)
    inner = {one.end_s for one, two in pairwise(found) if one.end_s == two.start_s}
    assert [time for time in edges if time not in inner] == spoken
    plain = segments(events_of(samples, [], **{**options, "smooth_s": 0.0}))
    assert sum(one.end_s - one.start_s for one in found) == pytest.approx(
        sum(one.end_s - one.start_s for one in plain)
    )


def test_with_smoothing_one_word_of_another_emotion_is_no_change() -> None:
    samples = programme(
        [("sad", 3.0), ("silence", 0.5), ("angry", 0.6), ("silence", 0.5), ("sad", 3.0), ("silence", 0.5)]
    )
    plain = segments(events_of(samples, [], smooth_s=0.0))
    assert [one.emotion for one in plain] == ["sad", "angry", "sad"]
    assert [one.emotion for one in segments(events_of(samples, [], smooth_s=8.0))] == ["sad", "sad", "sad"]


def test_with_smoothing_a_long_change_is_found_where_it_begins() -> None:
    samples = programme(
        [*[("sad", 1.5), ("silence", 0.5)] * 6, *[("angry", 1.5), ("silence", 0.5)] * 6]
    )  # fmt: skip
    found = segments(events_of(samples, [], smooth_s=8.0))
    assert [one.emotion for one in found] == ["sad"] * 6 + ["angry"] * 6


@pytest.mark.parametrize("smooth_s", [1.0, 4.0, 8.0])
def test_a_smooth_segment_comes_at_most_smooth_s_later(smooth_s: float) -> None:
    parts: list[Part] = [("sad", 5.0), ("silence", 0.6), ("angry", 1.0), ("silence", 0.6), ("sad", 1.7)]
    live = stream(smooth_s=smooth_s)
    delays_s = []
    for chunk in np.split(programme([*parts, ("silence", 20.0)]), range(320, 464_000, 320)):
        delays_s += [live.time_s - one.end_s for one in segments(live.push(chunk))]
    assert live.finish() == []
    assert len(delays_s) >= 3
    assert max(delays_s) <= smooth_s + 2.0 + 0.7  # the next cell needs a window; the detector needs 0.4 s


@given(parts=PROGRAMMES, min_duration_s=st.sampled_from([1.0, 2.0, 3.5]))
@settings(max_examples=60, deadline=None)
def test_an_emotion_lasts_for_min_duration_s_of_speech(parts: list[Part], min_duration_s: float) -> None:
    found = segments(events_of(programme(parts), [], smooth_s=4.0, min_duration_s=min_duration_s))
    runs = [list(run) for _, run in groupby(found, key=lambda segment: segment.emotion)]
    for run in runs[:-1]:
        # A stretch may end with a part of a hop, which counts as a cell.
        missing_s = 0.5 * len(run)
        assert sum(one.end_s - one.start_s for one in run) >= min_duration_s - missing_s - 1e-6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"smooth_s": -1.0}, r"bad smooth_s -1\.0, expected 0 to 60 s"),
        ({"smooth_s": float("nan")}, "bad smooth_s nan, expected 0 to 60 s"),
        ({"min_duration_s": 61.0}, r"bad min_duration_s 61\.0, expected 0 to 60 s"),
    ],
)
def test_smoothing_out_of_range_is_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        stream(**options)


# --- the path of emotions -------------------------------------------------------------------------


def best_score(gains: np.ndarray) -> float:
    """The highest score of all paths whose runs have at least two cells, found by trying all of them."""
    best = -np.inf
    for emotions in product(range(gains.shape[1]), repeat=len(gains)):
        starts = [
            0,
            *(at for at in range(1, len(emotions)) if emotions[at] != emotions[at - 1]),
            len(emotions),
        ]
        if len(emotions) > 1 and min(np.diff(starts)) < 2:
            continue
        best = max(best, _score(gains, emotions))
    return best


def _score(gains: np.ndarray, emotions: Sequence[int]) -> float:
    changes = sum(one != two for one, two in pairwise(emotions))
    return (
        float(sum(gain[emotion] for gain, emotion in zip(gains, emotions, strict=True)))
        - CHANGE_COST * changes
    )


def path_of(gains: np.ndarray) -> list[int]:
    path = EmotionPath(CHANGE_COST, MIN_RUN_CELLS, MAX_UNDECIDED_CELLS)
    emotions = [emotion for gain in gains for emotion in path.push(gain)]
    return emotions + path.finish()


@given(st.integers(1, 8), st.integers(1, 3), st.integers(0, 10_000), st.floats(0.5, 6))
@settings(max_examples=80, deadline=None)
def test_the_path_has_the_highest_score_of_all_paths(
    cells: int, emotions: int, seed: int, spread: float
) -> None:
    gains = spread * np.random.default_rng(seed).standard_normal((cells, emotions))
    emotions = path_of(gains)
    assert len(emotions) == cells
    assert _score(gains, emotions) == pytest.approx(best_score(gains))


@given(st.integers(0, 10_000), st.floats(0.0, 2.0))
@settings(max_examples=30, deadline=None)
def test_no_cell_stays_undecided_for_long(seed: int, spread: float) -> None:
    gains = spread * np.random.default_rng(seed).standard_normal((80, 4))
    path = EmotionPath(CHANGE_COST, MIN_RUN_CELLS, MAX_UNDECIDED_CELLS)
    num_decided = 0
    for number, gain in enumerate(gains, start=1):
        num_decided += len(path.push(gain))
        assert number - num_decided <= MAX_UNDECIDED_CELLS
    assert num_decided + len(path.finish()) == len(gains)


# --- endless, and bad input -----------------------------------------------------------------------


def endless(parts: Sequence[Part], times: int) -> Iterator[np.ndarray]:
    samples = programme(parts)
    for _ in range(times):
        yield from np.array_split(samples, 7)


@pytest.mark.parametrize("parts", [[("sad", 4.0)], [("silence", 4.0)], [("sad", 0.1), ("silence", 0.2)]])
def test_memory_does_not_grow_with_the_stream(parts: list[Part]) -> None:
    live = stream()
    lengths = []
    for chunk in endless(parts, 50):
        live.push(chunk)
        lengths.append(live._scorer.num_samples - live._scorer._blocks[0][0] if live._scorer._blocks else 0)
    assert max(lengths) <= 3.5 * SAMPLE_RATE
    recognizer = live._scorer._recognizer
    assert isinstance(recognizer, make.ToneRecognizer)
    assert recognizer.longest <= 2 * SAMPLE_RATE
    assert live.time_s == pytest.approx(50 * len(programme(parts)) / SAMPLE_RATE)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.array([0.0, np.nan]), "holds NaN or Inf samples"),
        (np.array([np.inf, 0.0]), "holds NaN or Inf samples"),
        (np.array([1e300]), "holds NaN or Inf samples"),
        (np.zeros((2, 2, 2)), r"expected samples \(n,\) or \(n, channels\), got shape \(2, 2, 2\)"),
        (np.zeros((3, 2)), "a chunk has 2 channels, the chunks before it had 1"),
        (np.array(["a"]), "expected integer or float samples"),
    ],
)
def test_a_bad_chunk_is_refused_and_the_other_audio_is_kept(bad: np.ndarray, message: str) -> None:
    samples = programme([("sad", 1.5), ("silence", 0.5), ("happy", 1.0)])
    live = stream()
    events = live.push(samples[:12_345])
    with pytest.raises(AudioError, match=message):
        live.push(bad)
    events += live.push(samples[12_345:])
    assert events + live.finish() == events_of(samples, [])


def test_after_finish_a_chunk_is_refused() -> None:
    live = stream()
    live.finish()
    with pytest.raises(AudioError, match=r"a chunk came after the stream was finished; start a new stream"):
        live.push(np.zeros(10))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hop_s": 0.05}, r"bad hop_s 0\.05, expected at least 0\.1 s"),
        ({"hop_s": float("nan")}, "bad hop_s nan, expected at least"),
        ({"hop_s": float("inf")}, "bad hop_s inf, expected at least"),
        ({"window_s": float("nan")}, "bad window_s nan, expected a whole number of hops"),
        ({"window_s": float("inf")}, "bad window_s inf, expected a whole number of hops"),
        ({"window_s": -1.0}, r"bad window_s -1\.0, expected a whole number of hops"),
        ({"window_s": 1.8}, r"bad window_s 1\.8, expected a whole number of hops of 0\.5 s, e\.g\. 2"),
        ({"window_s": 0.0}, r"bad window_s 0\.0, expected a whole number of hops of 0\.5 s, e\.g\. 0\.5"),
    ],
)
def test_hops_and_windows_that_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        stream(**options)


def test_a_rate_of_zero_is_refused() -> None:
    with pytest.raises(AudioError, match="expected a rate in Hz, at least 2000, got 0"):
        stream(0)


def test_streams_and_timelines_load_no_optional_library() -> None:
    heavy = (
        "torch",
        "transformers",
        "lightning",
        "opensmile",
        "sklearn",
        "scipy",
        "matplotlib",
        "sounddevice",
        "av",
    )
    code = (
        "import sys, emodistill.inference.batch, emodistill.inference.listen\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
