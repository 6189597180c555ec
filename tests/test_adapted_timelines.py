"""Timelines and streams that are compared with a voice: a given one, or one of the recording itself."""

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import factories as make
import numpy as np
import pytest
import soundfile
from factories_voices import EMOTIONS, voice_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from emodistill import Recognizer, Voice, timeline
from emodistill.audio.recording import Recording
from emodistill.audio.waveform import SAMPLE_RATE, trim_silence
from emodistill.errors import ConfigError, ModelError
from emodistill.inference import adapted_windows, listen
from emodistill.inference.adapted_windows import ADAPT
from emodistill.inference.confidence import apply_temperature
from emodistill.inference.given_segments import GivenSegment
from emodistill.inference.model_card import AccuracyPoint
from emodistill.inference.segmentation import (
    MIN_PROBABILITY,
    Segment,
    SegmentTrack,
    WindowScore,
    WindowScorer,
    WindowUpdate,
)
from emodistill.inference.timelines import Timeline
from emodistill.inference.voices import shrinkage

LOUD = make.LoudnessDetector()
Part = tuple[str, float]  # an emotion's tone, or "silence", and its length in seconds
TURNS = [
    GivenSegment(0.0, 1.5, "anna"), GivenSegment(1.5, 4.0, "ben"), GivenSegment(3.0, 5.5, "anna"),
    GivenSegment(5.5, 8.5, "anna"), GivenSegment(8.5, 8.55, "anna"), GivenSegment(8.6, 9.4, "carl"),
    GivenSegment(9.4, 10.4), GivenSegment(10.4, 11.5),
]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model with voices, which is less certain with a voice."""
    return voice_model(tmp_path_factory.mktemp("voices") / "model", temperature_voice=2.5)


@pytest.fixture(scope="module")
def recognizer(model: Path) -> Recognizer:
    return Recognizer(model, threads=1)


@pytest.fixture(scope="module")
def voice(recognizer: Recognizer) -> Voice:
    return recognizer.enrol([make.speech(1.2, 120 + 30 * number, number) for number in range(3)], make.RATE)


def programme(parts: Sequence[Part]) -> np.ndarray:
    sounds = [
        make.silence(length) if kind == "silence" else make.tone(kind, length) for kind, length in parts
    ]
    return np.concatenate(sounds)


def wav(samples: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, SAMPLE_RATE, format="WAV", subtype="FLOAT")
    return file.getvalue()


def segments_of_chunks(
    recognizer: Recognizer, samples: np.ndarray, cuts: Sequence[int], **options: Any
) -> Any:
    """The segments of samples that a stream gets in pieces between cuts."""
    stream = recognizer.stream(make.RATE, **options)
    events = [event for piece in np.split(samples, sorted(cuts)) for event in stream.push(piece)]
    return tuple(event for event in events + stream.finish() if isinstance(event, Segment))


CALL = programme(
    [
        ("silence", 0.4), ("angry", 1.5), ("silence", 0.5), ("happy", 0.8), ("sad", 4.3), ("silence", 1.0),
        ("neutral", 2.5), ("silence", 0.5),
    ]
)  # fmt: skip
TALK = np.concatenate([make.speech(1.2 + 0.2 * n, 90 + 30 * n, n) for n in range(6)] + [make.speech(1.3)])


# --- what is computed, by hand -------------------------------------------------------------------


def statistics_of(recognizer: Recognizer, samples: np.ndarray, begin: int, end: int) -> np.ndarray:
    """The statistics (dim,) of a window, without its DC offset and the silence around it."""
    (window,) = Recording(samples[begin:end], SAMPLE_RATE).windows()
    return recognizer.run(trim_silence(window, 40.0))["statistics"]


def log_probabilities(
    recognizer: Recognizer, statistics: np.ndarray, weighted: np.ndarray | float, speech_s: float
) -> np.ndarray:
    """The log-probabilities of statistics that are compared with the mean of some seconds of speech."""
    if not speech_s:
        (output,) = recognizer.student.run_head(statistics[None])
        values = apply_temperature(output["probabilities"], 1.5)
    else:
        shrunk = shrinkage(speech_s / 3) * weighted / speech_s
        (output,) = recognizer.student.run_head(statistics[None], shrunk.astype(np.float32))
        values = apply_temperature(output["probabilities"], 2.5)
    return np.log(np.maximum(values, MIN_PROBABILITY))


def normalised(log_values: np.ndarray) -> list[float]:
    values = np.exp(log_values)
    return list(values / values.sum())


def spans(found: Timeline) -> list[tuple[int, int]]:
    """The windows of a traced timeline, in samples."""
    assert found.trace is not None
    return [(round(u.start_s * SAMPLE_RATE), round(u.end_s * SAMPLE_RATE)) for u in found.trace.updates]


def known_windows(found: Timeline) -> Iterator[tuple[int, int, float]]:
    """The windows that count, and the seconds of speech that they add; no stretch is over 4.3 s long."""
    windows = spans(found)
    covered = 0
    for place, (begin, end) in enumerate(windows):
        is_short = end - begin < 2 * SAMPLE_RATE
        is_last = place + 1 == len(windows) or windows[place + 1][0] > end
        if not is_short or is_last:
            yield begin, end, (end - max(begin, covered)) / SAMPLE_RATE
            covered = end


def assert_updates(
    recognizer: Recognizer, found: Timeline, known: Callable[[int], tuple[Any, float]]
) -> None:
    """Check the updates of a timeline of CALL. `known` returns the sums for the begin of a window."""
    assert found.trace is not None
    windows, last, last_end = spans(found), None, -1
    for (begin, end), update in zip(windows, found.trace.updates, strict=True):
        weighted, speech_s = known(begin)
        values = log_probabilities(
            recognizer, statistics_of(recognizer, CALL, begin, end), weighted, speech_s
        )
        smoothed = values if last is None or begin > last_end else (last + values) / 2
        assert list(update.probabilities.values()) == pytest.approx(normalised(smoothed), abs=1e-5)
        assert update.voice_utterances == (max(1, round(speech_s / 3)) if speech_s else 0)
        last, last_end = values, end


def test_recording_compares_all_windows_with_the_mean_over_its_speech(recognizer: Recognizer) -> None:
    found = timeline(wav(CALL), recognizer, detector=LOUD, adapt="recording", traced=True)
    windows = list(known_windows(found))
    speech_s = sum(seconds for *_, seconds in windows)
    assert speech_s == pytest.approx(1.5 + 5.1 + 2.5, abs=0.05), "each second of speech counts once"
    weighted = sum(s * statistics_of(recognizer, CALL, begin, end) for begin, end, s in windows)
    assert_updates(recognizer, found, lambda _: (weighted, speech_s))
    assert {segment.voice_utterances for segment in found.segments} == {3}
    # The first stretch is one window, so its segment is this window.
    assert found.trace is not None
    (alone,) = [u for u in found.trace.updates if u.end_s < 2.2][-1:]
    begin, end = round(alone.start_s * SAMPLE_RATE), round(alone.end_s * SAMPLE_RATE)
    values = log_probabilities(recognizer, statistics_of(recognizer, CALL, begin, end), weighted, speech_s)
    assert list(found.segments[0].probabilities.values()) == pytest.approx(normalised(values), abs=1e-5)


def test_running_compares_each_window_with_the_speech_before_it(recognizer: Recognizer) -> None:
    found = timeline(wav(CALL), recognizer, detector=LOUD, adapt="running", traced=True)
    windows = [(*w, statistics_of(recognizer, CALL, *w[:2])) for w in known_windows(found)]

    def known(begin: int) -> tuple[Any, float]:
        past = [(seconds, statistics) for _, end, seconds, statistics in windows if end <= begin]
        return sum(seconds * statistics for seconds, statistics in past), sum(seconds for seconds, _ in past)

    assert_updates(recognizer, found, known)
    assert [found.segments[0].voice_utterances, found.segments[-1].voice_utterances] == [0, 2]


@pytest.mark.parametrize("adapt", ["recording", "running"])
def test_given_speakers_have_voices_of_their_own(recognizer: Recognizer, adapt: Any) -> None:
    found = timeline(wav(TALK), recognizer, given=TURNS, adapt=adapt).segments
    assert [segment.speaker for segment in found] == [turn.speaker for turn in TURNS]

    def windows(turn: GivenSegment) -> Iterator[tuple[np.ndarray, float]]:
        """The statistics of a segment's windows, and the seconds that each adds."""
        begin = start = round(turn.start_s * SAMPLE_RATE)
        stop, covered = round(turn.end_s * SAMPLE_RATE), start
        if stop - start < 1600:
            return
        while covered < stop:
            end = min(stop, begin + 2 * SAMPLE_RATE)
            begin = max(start, end - 2 * SAMPLE_RATE)
            yield statistics_of(recognizer, TALK, begin, end), (end - covered) / SAMPLE_RATE
            begin, covered = begin + SAMPLE_RATE // 2, end

    parts = [list(windows(turn)) for turn in TURNS]
    for turn, own, segment in zip(TURNS, parts, found, strict=True):
        others = [
            window
            for other, part in zip(TURNS, parts, strict=True)
            for window in part
            if other.speaker == turn.speaker
            and (other.end_s <= turn.start_s or (adapt == "recording" and other.start_s >= turn.end_s))
        ]
        if not own:
            assert (segment.probabilities, segment.voice_utterances) == ({}, None), "it is too short"
            continue
        speech_s = sum(seconds for _, seconds in others)
        weighted = sum(seconds * statistics for statistics, seconds in others)
        rows = [log_probabilities(recognizer, statistics, weighted, speech_s) for statistics, _ in own]
        expected = normalised(np.mean(rows, axis=0))
        assert list(segment.probabilities.values()) == pytest.approx(expected, abs=1e-5)
        assert segment.voice_utterances == (max(1, round(speech_s / 3)) if speech_s else 0)
    numbers = [segment.voice_utterances for segment in found]
    assert numbers == ([2, 0, 2, 1, None, 0, 1, 1] if adapt == "recording" else [0, 0, 1, 1, None, 0, 0, 1])


@pytest.mark.parametrize("smooth_s", [0.0, 8.0])
def test_auto_is_recording_where_several_emotions_are_evident_else_none(
    recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch, smooth_s: float
) -> None:
    found = {
        adapt: recognizer.timeline(wav(TALK), adapt=adapt, smooth_s=smooth_s, traced=True)
        for adapt in ("none", "recording")
    }
    assert found["none"] != found["recording"]
    for accepted, expected in ((True, "recording"), (False, "none")):
        monkeypatch.setattr(SegmentTrack, "is_mixed", lambda _, least, accepted=accepted: accepted)
        row = recognizer.timeline(wav(TALK), adapt="auto", smooth_s=smooth_s, traced=True)
        assert row == found[expected]
        assert row.trace is not None
        assert found[expected].trace is not None
        assert row.trace.updates == found[expected].trace.updates


@pytest.mark.parametrize(
    ("emotions", "fit", "expected"),
    [
        ([0] * 40 + [1] * 40, 0.9, True),
        ([0] * 80, 0.9, False),  # one emotion
        ([0] * 40 + [1] * 40, 0.26, False),  # hardly better than chance
    ],
)
def test_a_recording_is_mixed_if_its_path_has_several_emotions_and_fits(
    emotions: list[int], fit: float, expected: bool
) -> None:
    track = SegmentTrack(WindowScorer(make.ToneRecognizer()))
    for number, emotion in enumerate(emotions):
        values = np.full(4, np.log((1 - fit) / 3))
        values[emotion] = np.log(fit)
        assert len(list(track.add(8000 * number, 8000 * number + 8000, WindowScore(values)))) <= 1
    found = [*track.finish(), *track.pause(640_000)]
    assert found[-1].end_s == 40.0
    assert bool(track.is_mixed(np.log(adapted_windows.MIXED_FIT / 4))) is expected


def test_auto_is_refused_for_given_segments_and_streams(recognizer: Recognizer) -> None:
    with pytest.raises(ConfigError, match="adapt 'auto' is for speech that is found"):
        recognizer.timeline(wav(TALK), given=TURNS, adapt="auto")
    with pytest.raises(ConfigError, match="a stream cannot know the whole recording"):
        recognizer.stream(make.RATE, adapt="auto")


def test_the_order_of_given_segments_does_not_matter(recognizer: Recognizer) -> None:
    for adapt in ADAPT:
        if adapt == "auto":
            continue
        found = recognizer.timeline(wav(TALK), given=TURNS, adapt=adapt)
        assert recognizer.timeline(wav(TALK), given=TURNS[::-1], adapt=adapt) == found


def test_a_given_voice_applies_to_all_windows(recognizer: Recognizer, voice: Voice) -> None:
    shrunk = voice.shrunk().astype(np.float64)
    found = timeline(wav(CALL), recognizer, detector=LOUD, voice=voice, traced=True)
    speech_s = 9.0  # shrinkage(3) is that of three utterances
    weighted = shrunk / shrinkage(3) * speech_s
    assert found.trace is not None
    for update, (begin, end) in zip(found.trace.updates[:1], spans(found), strict=False):
        values = log_probabilities(
            recognizer, statistics_of(recognizer, CALL, begin, end), weighted, speech_s
        )
        assert list(update.probabilities.values()) == pytest.approx(normalised(values), abs=1e-5)
    assert {segment.voice_utterances for segment in found.segments} == {3}
    (segment,) = recognizer.timeline(wav(TALK), given=[GivenSegment(1.0, 2.5, "anna")], voice=voice).segments
    expected = recognizer.probabilities(TALK[16_000:40_000], voice)
    assert list(segment.probabilities.values()) == pytest.approx(list(expected), abs=1e-5)
    assert (segment.voice_utterances, segment.speaker) == (3, "anna")


def test_without_adaptation_nothing_changes(recognizer: Recognizer) -> None:
    plain = recognizer.timeline(wav(CALL), detector=LOUD)
    assert recognizer.timeline(wav(CALL), detector=LOUD, adapt="none", voice=None) == plain
    assert all(segment.voice_utterances is None for segment in plain.segments)
    assert "voice_utterances" not in json.dumps(plain.as_dict())
    adapted = recognizer.timeline(wav(CALL), detector=LOUD, adapt="recording")
    assert adapted.segments[0].start_s == plain.segments[0].start_s
    assert adapted.segments != plain.segments


# --- a stream is a file --------------------------------------------------------------------------


@given(
    parts=st.lists(
        st.tuples(
            st.sampled_from(["angry", "happy", "sad", "silence", "silence"]),
            st.integers(1, 50).map(lambda number: number / 16),
        ),
        min_size=1,
        max_size=6,
    ),
    fractions=st.lists(st.floats(0, 1), max_size=30),
    known=st.sampled_from(["running", "none", "voice"]),
)
@settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
def test_any_chunking_gives_the_segments_of_the_file(
    recognizer: Recognizer, voice: Voice, parts: list[Part], fractions: list[float], known: str
) -> None:
    samples = programme(parts)
    options: dict[str, Any] = {"voice": voice} if known == "voice" else {"adapt": known}
    cuts = [round(fraction * len(samples)) for fraction in fractions]
    found = timeline(wav(samples), recognizer, detector=LOUD, **options)
    assert segments_of_chunks(recognizer, samples, cuts, detector=LOUD, **options) == found.segments


@pytest.mark.parametrize("size", [160, 7001, len(TALK)])
def test_an_exported_model_gives_the_same_segments_live_and_for_a_file(
    exported_voice: Path, size: int
) -> None:
    recognizer = Recognizer(exported_voice, threads=1)
    sound = np.concatenate([TALK, make.silence(0.7), TALK])
    found = recognizer.timeline(wav(sound), adapt="running")
    assert max(segment.voice_utterances or 0 for segment in found.segments) > 0
    live = segments_of_chunks(recognizer, sound, range(size, len(sound), size), adapt="running")
    assert [(s.start_s, s.end_s, s.emotion) for s in live] == [
        (s.start_s, s.end_s, s.emotion) for s in found.segments
    ]
    for one, two in zip(live, found.segments, strict=True):
        assert one.probabilities == pytest.approx(two.probabilities, abs=1e-4)


def test_a_running_voice_keeps_no_audio_and_few_statistics(recognizer: Recognizer) -> None:
    stream = recognizer.stream(make.RATE, adapt="running", detector=LOUD)
    for _ in range(20):
        stream.push(programme([("sad", 3.0), ("silence", 0.5)]))
        assert len(stream._scorer._recent) <= 5  # type: ignore[attr-defined]


# --- what it costs -------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [None, TURNS])
def test_the_trunk_runs_as_often_as_without_a_voice(
    recognizer: Recognizer, voice: Voice, given: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    run = recognizer.student.run
    monkeypatch.setattr(recognizer.student, "run", lambda *args: (calls.append(1), run(*args))[1])
    numbers = []
    ways = [adapt for adapt in ADAPT if given is None or adapt != "auto"]
    cases: list[dict[str, Any]] = [*({"adapt": adapt} for adapt in ways), {"voice": voice}]
    for options in cases:
        calls.clear()
        recognizer.timeline(wav(TALK), given=given, **options)
        numbers.append(len(calls))
    assert numbers[0] > 5
    assert set(numbers) == {numbers[0]}


def test_pipes_and_bytes_are_adapted_as_files(recognizer: Recognizer, tmp_path: Path) -> None:
    path = tmp_path / "call.wav"
    path.write_bytes(wav(CALL))
    expected = recognizer.timeline(path, adapt="recording")
    for source in (path.read_bytes(), io.BytesIO(path.read_bytes())):
        assert recognizer.timeline(source, adapt="recording") == replace(expected, path="")
    command = [sys.executable, "-c", f"import sys; sys.stdout.buffer.write(open({str(path)!r}, 'rb').read())"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        assert recognizer.timeline(program.stdout, adapt="recording") == replace(expected, path="")


@pytest.mark.parametrize("adapt", ["recording", "running"])
def test_a_recording_without_speech_has_its_reason(recognizer: Recognizer, adapt: Any) -> None:
    for sound, reason in ((make.silence(2.0), "silence"), (make.tone("sad", 0.05), "too_short")):
        found = recognizer.timeline(wav(sound), detector=LOUD, adapt=adapt)
        assert (found.segments, found.reason) == ((), reason)
    assert recognizer.timeline(wav(CALL), given=[], adapt=adapt).segments == ()


# --- what is refused -----------------------------------------------------------------------------


def test_options_that_are_refused(recognizer: Recognizer, voice: Voice, tmp_path: Path) -> None:
    path = tmp_path / "call.wav"
    path.write_bytes(wav(CALL))
    both = "a voice and adapt 'running' exclude each other: .*give one of them"
    other = Recognizer(voice_model(tmp_path / "other", seed=1), threads=1)
    uses: list[tuple[Callable[[], Any], type[Exception], str]] = [
        (lambda: recognizer.timeline(path, voice=voice, adapt="running"), ConfigError, both),
        (lambda: recognizer.stream(make.RATE, voice=voice, adapt="running"), ConfigError, both),
        (lambda: recognizer.timeline(path, adapt="on"), ConfigError,  # type: ignore[arg-type]
         "bad adapt 'on', expected one of"),
        (lambda: recognizer.stream(make.RATE, adapt="recording"), ConfigError,
         r"bad adapt 'recording', expected one of .*; a stream cannot know the whole recording"),
        (lambda: other.timeline(path, voice=voice), ModelError, "enrol the speaker again with this model"),
        (lambda: other.stream(make.RATE, voice=voice), ModelError, "enrol the speaker again with this model"),
        (lambda: timeline(path, make.ToneRecognizer(), adapt="running"), ConfigError,
         r"expected an emodistill\.Recognizer for a voice or adapt 'running', got factories\.ToneRecognizer"),
        (lambda: recognizer.stream(make.RATE, voice="anna.voice.json"), ConfigError,  # type: ignore[arg-type]
         "expected a Voice, got builtins.str"),
    ]  # fmt: skip
    for use, kind, message in uses:
        with pytest.raises(kind, match=message):
            use()


def test_a_model_without_voices_is_refused(exported: Path, voice: Voice) -> None:
    plain = Recognizer(exported, threads=1)
    uses: list[Callable[[], Any]] = [
        lambda: plain.timeline(wav(CALL), adapt="recording"), lambda: plain.timeline(wav(CALL), voice=voice),
        lambda: plain.stream(make.RATE, adapt="running"),
        lambda: plain.stream(make.RATE, voice=voice),
    ]  # fmt: skip
    for use in uses:
        with pytest.raises(ModelError, match=r"has no voices: choose a model"):
            use()


# --- the command line ----------------------------------------------------------------------------


@pytest.fixture
def call(tmp_path: Path) -> Path:
    path = tmp_path / "calls/call.wav"
    path.parent.mkdir()
    path.write_bytes(wav(np.concatenate([TALK, make.silence(0.7), TALK])))
    return path


@pytest.fixture
def voice_file(voice: Voice, tmp_path: Path) -> Path:
    path = tmp_path / "anna.voice.json"
    voice.save(path)
    return path


def test_timeline_is_adapted_on_the_command_line(
    emodistill: make.CommandLine,
    model: Path,
    recognizer: Recognizer,
    voice: Voice,
    call: Path,
    voice_file: Path,
) -> None:
    cases: list[tuple[tuple[object, ...], dict[str, Any]]] = [
        ((), {}), (("--adapt", "none"), {}), (("--adapt", "recording"), {"adapt": "recording"}),
        (("--adapt", "running"), {"adapt": "running"}), (("--voice", voice_file), {"voice": voice}),
    ]  # fmt: skip
    for options, arguments in cases:
        result = emodistill("timeline", call, "-m", model, "-f", "json", *options)
        (row,) = json.loads(result.out)
        assert (result.code, result.err) == (0, "")
        expected = recognizer.timeline(call, **arguments)
        assert Timeline.from_dict(row) == expected
        table = emodistill("timeline", call, "-m", model, *options).out
        rows = csv.DictReader(
            io.StringIO(emodistill("timeline", call, "-m", model, "-f", "csv", *options).out)
        )
        assert ("utterances known" in table) == bool(arguments)
        assert [row.get("voice_utterances") for row in rows] == [
            None if segment.voice_utterances is None else str(segment.voice_utterances)
            for segment in expected.segments
        ]


def test_timeline_adapts_to_given_speakers(
    emodistill: make.CommandLine, model: Path, recognizer: Recognizer, call: Path, tmp_path: Path
) -> None:
    turns = tmp_path / "turns.csv"
    lines = [f"{turn.start_s},{turn.end_s},{turn.speaker or ''}" for turn in TURNS]
    turns.write_text("\n".join(["start_s,end_s,speaker", *lines]))
    result = emodistill(
        "timeline", call, "-m", model, "-f", "json", "--segments", turns, "--adapt", "recording"
    )
    (row,) = json.loads(result.out)
    assert Timeline.from_dict(row) == recognizer.timeline(call, given=TURNS, adapt="recording")


def test_a_folder_is_continued_only_with_the_same_voice_and_adaptation(
    emodistill: make.CommandLine, model: Path, call: Path, voice_file: Path, tmp_path: Path
) -> None:
    def run(name: str, *options: object) -> make.CommandResult:
        return emodistill("timeline", call, "-m", model, "-f", "json", "-o", tmp_path / name, *options)

    assert run("plain").code == run("adapted", "--adapt", "running").code == 0
    assert run("voice", "--voice", voice_file).code == 0
    for name, options, message in (
        ("plain", (), None), ("adapted", ("--adapt", "running"), None),
        ("voice", ("--voice", voice_file), None), ("plain", ("--adapt", "recording"), "another adapt"),
        ("adapted", ("--adapt", "recording"), "another adapt"), ("adapted", (), "another adapt"),
        ("voice", (), "another voice"), ("plain", ("--voice", voice_file), "another voice"),
        ("voice", ("--adapt", "running"), "another voice and adapt"),
    ):  # fmt: skip
        result = run(name, *options)
        if message is None:
            assert (result.code, "1 files were there already" in result.err) == (0, True)
        else:
            assert (result.code, f"was begun with {message}: name another" in result.err) == (2, True)


def test_voices_that_timeline_and_listen_refuse(
    emodistill: make.CommandLine, model: Path, exported: Path, call: Path, voice_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.json"
    for options, message in (
        (("--voice", voice_file, "--adapt", "running"), "--voice and --adapt running exclude each other"),
        (("--voice", tmp_path / "none.json"), "cannot be read"),
        (("--voice", call), "is not a voice file"),
        (("--adapt", "together"), "together"),
        (("--voice", voice_file, "-m", exported), "has no voices"),
        (("--adapt", "running", "-m", exported), "has no voices"),
    ):  # fmt: skip
        for command in (("timeline", call, "-o", out), ("listen",)):
            result = emodistill(*command, "-m", model, *options)
            assert (result.code, result.out, out.exists()) == (2, "", False)
            assert message in result.err
    assert emodistill("listen", "--adapt", "recording").code == 2


def test_listen_is_adapted(model: Path, recognizer: Recognizer, voice: Voice, voice_file: Path) -> None:
    pcm = np.round(np.concatenate([TALK, make.silence(0.7), TALK]) * 32767).astype("<i2")
    cases: list[tuple[tuple[str, ...], dict[str, Any]]] = [
        (("--adapt", "running"), {"adapt": "running"}), (("--voice", str(voice_file)), {"voice": voice}),
    ]  # fmt: skip
    for options, arguments in cases:
        command = [sys.executable, "-m", "emodistill", "listen", "-", "-m", str(model), *options]
        done = subprocess.run(command, input=pcm.tobytes(), capture_output=True, check=True)
        stream = recognizer.stream(make.RATE, **arguments)
        events = stream.push(pcm) + stream.finish()
        lines = [json.loads(line) for line in done.stdout.decode().splitlines()]
        assert lines == [{"event": event.kind, **event.as_dict()} for event in events]
        for event, line in zip(events, lines, strict=True):
            assert ("voice_utterances" in line) == isinstance(event, (Segment, WindowUpdate))
            if isinstance(event, (Segment, WindowUpdate)):
                fields = {name: value for name, value in line.items() if name != "event"}
                assert type(event)(**fields) == event


def test_the_live_display_shows_how_many_utterances_are_known(recognizer: Recognizer) -> None:
    for adapt, text in (("none", None), ("running", "2 utterances known")):
        stream = recognizer.stream(make.RATE, adapt=adapt, detector=LOUD)  # type: ignore[arg-type]
        display = listen.Display(recognizer.emotions, "desk mic")
        display.update(stream.push(CALL), stream.time_s)
        console = Console(file=io.StringIO(), width=120)
        console.print(display)
        shown = console.file.getvalue()  # type: ignore[attr-defined]
        assert ("utterances known" in shown) == (text is not None)
        assert (text or "desk mic") in shown


def test_the_emotions_are_those_of_the_model(recognizer: Recognizer) -> None:
    found = recognizer.with_options(emotions=["sad", "angry"]).timeline(
        wav(CALL), adapt="running", detector=LOUD
    )
    assert {tuple(segment.probabilities) for segment in found.segments} == {("angry", "sad")}
    assert set(found.summary) <= set(EMOTIONS)


def test_segments_compared_with_their_own_recording_are_as_sure_as_without_a_voice(tmp_path: Path) -> None:
    """A recording may have one emotion only, which the table of known voices does not count."""
    low, high = (
        tuple(AccuracyPoint(confidence=confidence, accuracy=accuracy) for confidence in (0.0, 1.0))
        for accuracy in (0.6, 0.9)
    )
    own = Recognizer(voice_model(tmp_path / "model", accuracy=low, accuracy_voice=high), threads=1)
    for options in ({}, {"adapt": "auto"}, {"adapt": "recording"}, {"adapt": "running"}):
        segments = own.timeline(wav(TALK), **options).segments
        assert {part.surety for part in segments} == {"unsure"}, options
    turns = [GivenSegment(part.start_s, part.end_s) for part in segments] * 2
    given_turns = own.timeline(wav(TALK), given=[*turns, GivenSegment(0.0, 0.5)], adapt="recording").segments
    assert {part.surety for part in given_turns} == {"unsure"}
    known = own.timeline(wav(TALK), voice=own.enrol(wav(TALK))).segments
    assert {part.surety for part in known} == {"likely"}
