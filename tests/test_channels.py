"""Channels: which are read, whether they differ, and a timeline for each speaker of a stereo call."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import factories as make
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from emodistill import Recognizer
from emodistill.audio.channels import ChannelMeter
from emodistill.audio.decoding import num_channels
from emodistill.audio.waveform import SAMPLE_RATE, load, load_blocks, load_bounded, load_channels
from emodistill.errors import AudioError, ConfigError
from emodistill.inference.given_segments import GivenSegment
from emodistill.inference.segmentation import Segment
from emodistill.inference.timelines import Timeline, timeline, timelines
from emodistill.inference.voices import Voice, leave_one_out

LOUD = make.LoudnessDetector()
RAVDESS = make.DATA / "corpora/ravdess"
needs_ravdess = pytest.mark.skipif(not RAVDESS.is_dir(), reason="no RAVDESS")


def wav(samples: np.ndarray, subtype: str = "FLOAT", rate_hz: int = SAMPLE_RATE) -> bytes:
    """Samples (n,) or (n, channels) as the bytes of a WAV."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format="WAV", subtype=subtype)
    return file.getvalue()


def tones(*parts: tuple[str, float]) -> np.ndarray:
    """Tones and silence, one after the other."""
    return np.concatenate(
        [make.silence(length) if kind == "silence" else make.tone(kind, length) for kind, length in parts]
    )


AGENT = tones(("silence", 0.5), ("angry", 3.0), ("silence", 3.5), ("happy", 2.0), ("silence", 1.0))
CUSTOMER = tones(("silence", 4.0), ("sad", 2.0), ("silence", 4.0))
CALL = np.stack([AGENT, CUSTOMER], axis=1)


def as_spoken(segments: Sequence[Segment]) -> list[tuple[float, float, str | None, int | None, str | None]]:
    """The facts of segments that a reader of a call looks for."""
    return [(part.start_s, part.end_s, part.emotion, part.channel, part.speaker) for part in segments]


# --- reading channels ----------------------------------------------------------------------------


@given(
    channels=st.integers(1, 4),
    rate_hz=st.sampled_from([8_000, 16_000, 44_100]),
    length=st.integers(800, 60_000),
    seed=st.integers(0, 9),
)
@settings(max_examples=25, deadline=None)
def test_a_channel_is_the_file_of_that_channel(channels: int, rate_hz: int, length: int, seed: int) -> None:
    samples = np.random.default_rng(seed).uniform(-1, 1, (length, channels)).astype(np.float32)
    whole = wav(samples, rate_hz=rate_hz)
    assert num_channels(whole) == channels
    lanes = list(load_channels(whole, [*range(channels), None]))
    for channel in range(channels):
        alone = wav(samples[:, channel], rate_hz=rate_hz)
        blocks = np.concatenate(list(load_blocks(alone)))
        assert np.array_equal(load(whole, channel=channel), load(alone))
        assert np.array_equal(load_bounded(whole, 60, channel), load_bounded(alone, 60))
        assert np.array_equal(np.concatenate(list(load_blocks(whole, channel=channel))), blocks)
        assert np.array_equal(np.concatenate([pieces[channel] for pieces in lanes]), blocks)
    mix = np.concatenate([pieces[-1] for pieces in lanes])
    assert np.array_equal(mix, np.concatenate(list(load_blocks(whole))))


def test_a_channel_that_there_is_not_is_an_error_with_the_number_of_channels(tmp_path: Path) -> None:
    path = tmp_path / "call.wav"
    path.write_bytes(wav(CALL))
    message = r"call\.wav: has no channel 2: it has 2 channels, counted from 0"
    recognizer = make.ToneRecognizer()
    with pytest.raises(AudioError, match=message):
        load(path, channel=2)
    with pytest.raises(AudioError, match=message):
        timeline(path, recognizer, channels=2, detector=LOUD)
    (row,) = timelines([path], recognizer, channels=2, detector=LOUD)
    assert row.error is not None
    assert "it has 2 channels" in row.error
    with pytest.raises(AudioError, match="it has 1 channel, counted from 0"):
        load(wav(AGENT), channel=1)


@pytest.mark.parametrize("channels", ["both", -1, True, 1.0, None, "0"])
def test_channels_that_no_recording_has_are_refused(channels: object) -> None:
    with pytest.raises(ConfigError, match="expected 'mix', 'split' or the number of a channel, from 0"):
        timeline(wav(CALL), make.ToneRecognizer(), channels=channels)  # type: ignore[arg-type]


# --- whether channels differ ---------------------------------------------------------------------


def differ(*columns: np.ndarray) -> bool:
    meter = ChannelMeter()
    samples = np.stack(columns, axis=1).astype(np.float32)
    for block in np.array_split(samples, 7):
        meter.add(block)
    assert meter.num_channels == len(columns)
    offsets = samples.mean(axis=0, dtype=np.float64)
    assert meter.peaks == pytest.approx(np.abs(samples - offsets).max(axis=0), abs=1e-6)
    return meter.differ


def test_channels_differ_by_their_sound_or_by_their_level() -> None:
    one, other = make.speech(3, 120, seed=1), make.speech(3, 210, seed=2)
    hiss = 1e-4 * np.random.default_rng(0).standard_normal(len(one))
    assert differ(one, other)
    assert differ(one, 0.02 * other), "34 dB below is still sound"
    assert differ(one, 0.2 * one), "14 dB below, the same sound"
    assert differ(one, hiss, other)
    assert not differ(one)
    assert not differ(one, one)
    assert not differ(one, 0.4 * one + hiss), "8 dB below, the same sound"
    assert not differ(one + 0.1, one - 0.2), "an offset is no sound"
    assert not differ(one, np.zeros_like(one)), "a dead channel"
    assert not differ(one, hiss), "a channel with noise alone"
    assert not differ(hiss, np.zeros_like(one))


# --- timelines of channels -----------------------------------------------------------------------


def test_split_gives_each_channel_a_speaker() -> None:
    found = timeline(wav(CALL), make.ToneRecognizer(), detector=LOUD, channels="split")
    assert as_spoken(found.segments) == [
        (0.5, 3.5, "angry", 0, "channel 0"),
        (4.0, 6.0, "sad", 1, "channel 1"),
        (7.0, 9.0, "happy", 0, "channel 0"),
    ]
    named = timeline(
        wav(CALL), make.ToneRecognizer(), detector=LOUD, channels="split", names=["agent", "customer"]
    )
    assert [part.speaker for part in named.segments] == ["agent", "customer", "agent"]
    none = dict.fromkeys(make.TONES_HZ, 0.0)
    assert named.speakers == {
        "agent": {**none, "angry": 3.0, "happy": 2.0},
        "customer": {**none, "sad": 2.0},
    }
    assert named.summary == {**none, "angry": 3.0, "happy": 2.0, "sad": 2.0}
    assert Timeline.from_dict(json.loads(json.dumps(named.as_dict()))) == named


def test_one_channel_and_the_mix_have_no_speakers() -> None:
    one = timeline(wav(CALL), make.ToneRecognizer(), detector=LOUD, channels=1)
    assert as_spoken(one.segments) == [(4.0, 6.0, "sad", 1, None)]
    mix = timeline(wav(CALL), make.ToneRecognizer(), detector=LOUD)
    assert {(part.channel, part.speaker) for part in mix.segments} == {(None, None)}
    assert one.speakers is mix.speakers is None


def test_a_mono_recording_is_split_into_one_channel() -> None:
    found = timeline(wav(AGENT), make.ToneRecognizer(), detector=LOUD, channels="split", names=["anna"])
    assert {(part.channel, part.speaker) for part in found.segments} == {(0, "anna")}
    assert list(found.speakers or ()) == ["anna"]


@pytest.mark.parametrize(
    ("names", "channels", "message"),
    [
        (["a", "b", "c"], "split", r"has 2 channels, but there are 3 names \(a, b, c\): give one for each"),
        (["a"], "split", r"has 2 channels, but there are 1 names \(a\)"),
        (["a", "a"], "split", "expected another name for each channel, got a, a"),
        (["a", " "], "split", r"bad names \['a', ' '\], expected a list"),
        ("ab", "split", "bad names 'ab', expected a list"),
        (["a", "b"], "mix", "names of channels need channels 'split'"),
        (["a", "b"], 0, "names of channels need channels 'split'"),
    ],
)
def test_names_that_are_refused(names: Sequence[str], channels: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        timeline(wav(CALL), make.ToneRecognizer(), channels=channels, names=names)  # type: ignore[arg-type]


def test_open_files_and_pipes_are_split() -> None:
    expected = timeline(wav(CALL), make.ToneRecognizer(), detector=LOUD, channels="split")
    opened = io.BytesIO(wav(CALL))
    assert timeline(opened, make.ToneRecognizer(), detector=LOUD, channels="split") == expected


def test_a_given_segment_is_read_from_its_channel() -> None:
    turns = [
        GivenSegment(4.5, 5.5, "customer", channel=1, text="never again"),
        GivenSegment(1.0, 3.0, "agent", channel=0),
        GivenSegment(7.5, 8.5),
    ]
    found = timeline(wav(CALL), make.ToneRecognizer(), given=turns)
    assert as_spoken(found.segments) == [
        (1.0, 3.0, "angry", 0, "agent"),
        (4.5, 5.5, "sad", 1, "customer"),
        (7.5, 8.5, "happy", None, None),
    ]
    assert [part.text for part in found.segments] == [None, "never again", None]
    assert list(found.speakers or ()) == ["agent", "customer"]
    silent = timeline(wav(CALL), make.ToneRecognizer(), given=[GivenSegment(4.5, 5.5, channel=0)])
    assert [part.emotion for part in silent.segments] == [None], "channel 0 is silent there"
    one = timeline(wav(CALL), make.ToneRecognizer(), given=[GivenSegment(4.5, 5.5)], channels=1)
    assert as_spoken(one.segments) == [(4.5, 5.5, "sad", 1, None)]
    split = timeline(
        wav(CALL), make.ToneRecognizer(), given=[replace(turns[0], speaker=None)], channels="split",
        names=["anna", "ben"],
    )  # fmt: skip
    assert as_spoken(split.segments) == [(4.5, 5.5, "sad", 1, "ben")]
    with pytest.raises(ConfigError, match=r"from 7\.5 s to 8\.5 s has no channel"):
        timeline(wav(CALL), make.ToneRecognizer(), given=turns, channels="split")


# --- real speech ---------------------------------------------------------------------------------


def conversation() -> np.ndarray:
    """Two RAVDESS speakers who take turns, each in a channel of their own: samples (n, 2) at 16 kHz."""
    clips = {actor: sorted((RAVDESS / f"Actor_{actor:02d}").glob("*.flac"))[8:48:8] for actor in (1, 2)}
    turns = [
        (channel, load(path))
        for pair in zip(*clips.values(), strict=True)
        for channel, path in enumerate(pair)
    ]
    columns: list[list[np.ndarray]] = [[], []]
    for channel, sound in turns:
        sound = 0.7 * sound / np.abs(sound).max()
        columns[channel].append(sound)
        columns[1 - channel].append(np.zeros_like(sound))
    return np.stack([np.concatenate(parts) for parts in columns], axis=1)


@pytest.fixture(scope="module")
def call() -> bytes:
    """The conversation as a WAV."""
    if not RAVDESS.is_dir():
        pytest.skip("no RAVDESS")
    return wav(conversation(), "PCM_16")


def channel_files(call: bytes) -> list[bytes]:
    """Each channel of a recording as a recording of its own."""
    samples, rate_hz = soundfile.read(io.BytesIO(call), dtype="int16")
    return [wav(column, "PCM_16", rate_hz) for column in samples.T]


@pytest.mark.parametrize("adapt", ["none", "running", "recording"])
def test_each_channel_of_a_split_call_is_the_timeline_of_its_file(
    bundled: Recognizer, call: bytes, adapt: str
) -> None:
    found = bundled.timeline(call, channels="split", adapt=adapt)  # type: ignore[arg-type]
    for channel, alone in enumerate(channel_files(call)):
        expected = bundled.timeline(alone, adapt=adapt)  # type: ignore[arg-type]
        assert expected.segments, "the speaker is found"
        own = [part for part in found.segments if part.channel == channel]
        assert [replace(part, channel=None, speaker=None) for part in own] == list(expected.segments)
        assert (found.speakers or {})[f"channel {channel}"] == expected.summary
        one = bundled.timeline(call, channels=channel, adapt=adapt)  # type: ignore[arg-type]
        assert [replace(part, channel=None) for part in one.segments] == list(expected.segments)
    assert [part.start_s for part in found.segments] == sorted(part.start_s for part in found.segments)


def test_predictions_and_statistics_of_a_channel_are_those_of_its_file(
    bundled: Recognizer, call: bytes
) -> None:
    for channel, alone in enumerate(channel_files(call)):
        expected = replace(bundled.predict(alone), channel=channel)
        assert expected.emotion is not None
        assert bundled.predict(call, channel=channel) == expected
        assert bundled.predict([call], channel=channel) == [expected]
        assert bundled.predict_statistics(bundled.statistics(call, channel=channel)) == expected
        assert bundled.enrol(call, channel=channel) == bundled.enrol(alone)
    assert bundled.predict(call).mixed_channels == 2
    assert bundled.predict(call, channel=0).mixed_channels is None
    assert bundled.timeline(call).mixed_channels == 2
    assert bundled.timeline(call, given=[GivenSegment(1.0, 3.0)]).mixed_channels is None
    assert "mixed_channels" not in bundled.predict(call).as_dict()
    with pytest.raises(AudioError, match="it has 2 channels"):
        bundled.predict(call, channel=2)
    (row,) = bundled.predict([call], channel=2)
    assert "it has 2 channels" in (row.error or "")


def test_each_channel_may_have_a_voice(bundled: Recognizer, call: bytes) -> None:
    files = channel_files(call)
    voices = {"anna": bundled.enrol(files[0]), "ben": bundled.enrol(files[1])}
    found = bundled.timeline(call, channels="split", names=["anna", "ben"], voice=voices)
    for channel, (name, voice) in enumerate(voices.items()):
        own = [part for part in found.segments if part.speaker == name]
        expected = bundled.timeline(files[channel], voice=voice).segments
        assert [replace(part, channel=None, speaker=None) for part in own] == list(expected)
    one = bundled.timeline(call, channels="split", names=["anna", "ben"], voice={"ben": voices["ben"]})
    assert {part.speaker: part.voice_utterances for part in one.segments} == {
        "anna": None,
        "ben": voices["ben"].utterances,
    }
    with pytest.raises(ConfigError, match="bad speaker of a voice 'eve', expected one of"):
        bundled.timeline(call, channels="split", names=["anna", "ben"], voice={"eve": voices["ben"]})
    with pytest.raises(ConfigError, match="need channels 'split' or given segments with speakers"):
        bundled.timeline(call, voice=voices)
    turns = [GivenSegment(part.start_s, part.end_s, part.speaker, part.channel) for part in found.segments]
    given_turns = bundled.timeline(call, given=turns, voice={"ben": voices["ben"]})
    assert {part.speaker: part.voice_utterances for part in given_turns.segments} == {
        "anna": None,
        "ben": voices["ben"].utterances,
    }


@needs_ravdess
@pytest.mark.parametrize("below_db", [34, 54, 60])
def test_a_quiet_channel_is_not_lost(bundled: Recognizer, call: bytes, below_db: int) -> None:
    samples, rate_hz = soundfile.read(io.BytesIO(call), dtype="float32")
    loud = bundled.timeline(wav(samples, rate_hz=rate_hz), channels="split")
    samples[:, 1] *= 10 ** (-below_db / 20)
    quiet = bundled.timeline(wav(samples, rate_hz=rate_hz), channels="split")
    for channel in (0, 1):
        expected = [part for part in loud.segments if part.channel == channel]
        found = [part for part in quiet.segments if part.channel == channel]
        same_s = sum(
            max(0.0, min(one.end_s, other.end_s) - max(one.start_s, other.start_s))
            for one in found
            for other in expected
            if one.emotion == other.emotion
        )
        assert same_s > 0.95 * sum(part.end_s - part.start_s for part in expected)


# --- the command line ----------------------------------------------------------------------------


@pytest.fixture
def call_file(call: bytes, tmp_path: Path) -> Path:
    """The conversation as a file."""
    path = tmp_path / "call.wav"
    path.write_bytes(call)
    return path


HINT = "its 2 channels differ; --channels split recognises each"


def test_timeline_splits_a_call_with_names(
    emodistill: make.CommandLine, call_file: Path, tmp_path: Path
) -> None:
    done = emodistill("timeline", call_file, "--channels", "split", "--names", "agent,customer", "-f", "json")
    assert (done.code, done.err) == (0, "")
    (row,) = json.loads(done.out)
    assert {(part["channel"], part["speaker"]) for part in row["segments"]} == {(0, "agent"), (1, "customer")}
    assert list(row["speakers"]) == ["agent", "customer"]
    table = emodistill("timeline", call_file, "--channels", "split", "--names", "agent,customer").out
    sums = [line.split("│")[4].strip() for line in table.splitlines() if "in all" in line]
    assert sums == ["agent", "customer", ""]
    rows = csv.DictReader(io.StringIO(emodistill("timeline", call_file, "--channels", "1", "-f", "csv").out))
    assert {(found["channel"], found["speaker"]) for found in rows} == {("1", "")}
    folder = tmp_path / "out"
    assert emodistill("timeline", call_file, "-f", "json", "-o", folder).code == 0
    other = emodistill("timeline", call_file, "-f", "json", "-o", folder, "--channels", "split")
    assert other.code == 2
    assert "begun with another channels" in other.err


def test_timeline_takes_a_voice_for_each_speaker(
    emodistill: make.CommandLine, bundled: Recognizer, call: bytes, call_file: Path, tmp_path: Path
) -> None:
    voices = {}
    for name, content in zip(("agent", "customer"), channel_files(call), strict=True):
        voices[name] = bundled.enrol(content)
        voices[name].save(tmp_path / f"{name}.json")
    agent, customer = (f"{name}={tmp_path / name}.json" for name in voices)
    split = ["timeline", call_file, "-f", "json", "--channels", "split", "--names", "agent,customer"]
    for listed, known in (
        ([agent, customer], voices),
        ([customer], {"customer": voices["customer"]}),
        ([str(tmp_path / "agent.json")], voices["agent"]),
    ):
        done = emodistill(*split, *(part for text in listed for part in ("--voice", text)))
        assert (done.code, done.err) == (0, "")
        own = bundled.timeline(call, channels="split", names=["agent", "customer"], voice=known)
        assert json.loads(done.out)[0] == {**json.loads(json.dumps(own.as_dict())), "path": str(call_file)}
    turns = tmp_path / "turns.csv"
    turns.write_text("start,end,speaker\n0,2,agent\n2,4,customer\n", encoding="utf-8")
    done = emodistill("timeline", call_file, "-f", "json", "--segments", turns, "--voice", customer)
    assert ["voice_utterances" in part for part in json.loads(done.out)[0]["segments"]] == [False, True]
    unknown = emodistill("timeline", call_file, "--segments", turns, "--voice", f"eve={tmp_path}/agent.json")
    assert unknown.code == 1
    assert "bad speaker of a voice 'eve', expected one of ['agent', 'customer']" in " ".join(
        unknown.err.split()
    )
    odd = tmp_path / "a=b.json"  # an existing file is a file
    voices["agent"].save(odd)
    assert emodistill("timeline", call_file, "--voice", odd).code == 0


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        (["a.json", "b.json"], "got 2 voices, and 'a.json' without a speaker"),
        (["a=v.json", "b.json"], "got 2 voices, and 'b.json' without a speaker"),
        (["a=v.json", "a=v.json"], "the speaker 'a' has two voices"),
        (["=v.json"], "bad --voice '=v.json', expected FILE or NAME=FILE"),
        (["a="], "bad --voice 'a=', expected FILE or NAME=FILE"),
        (["a=nowhere.json"], "the voice file 'nowhere.json' cannot be read"),
        (["a=v.json"], "voices of several speakers (a) need channels 'split' or given segments"),
        (["a=v.json", "--adapt", "auto"], "--voice and --adapt auto exclude each other"),
        (["eve=v.json", "--channels", "split", "--names", "ann,ben"], "bad speaker of a voice 'eve'"),
        (["a=v.json", "--channels", "split", "-o", "v.json"], "v.json"),
    ],
)
def test_voices_that_timeline_refuses(
    emodistill: make.CommandLine, bundled: Recognizer, call_file: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, listed: list[str], message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    bundled.enrol(call_file, channel=0).save("v.json")
    before = Path("v.json").read_bytes()
    words = [
        word
        for text in listed[:2]
        for word in (["--voice", text] if "json" in text or "=" in text else [text])
    ]
    done = emodistill("timeline", call_file, *words, *listed[2:])
    assert done.code == 2
    assert message in " ".join(done.err.split())
    assert Path("v.json").read_bytes() == before


@pytest.mark.parametrize("verb", ["timeline", "predict"])
def test_a_hint_names_recordings_whose_channels_differ(
    emodistill: make.CommandLine, call: bytes, call_file: Path, tmp_path: Path, verb: str
) -> None:
    mono = tmp_path / "mono.wav"
    mono.write_bytes(channel_files(call)[0])
    dead = tmp_path / "dead.wav"
    samples, rate_hz = soundfile.read(io.BytesIO(call))
    soundfile.write(dead, samples * [1, 0], rate_hz)
    done = emodistill(verb, call_file, mono, dead)
    assert done.err.splitlines() == [f"{call_file}: {HINT}"]
    assert emodistill(verb, call_file, "--channels", "0").err == ""
    calls = [tmp_path / f"{number}.wav" for number in range(5)]
    for path in calls:
        path.write_bytes(wav(samples[: 3 * rate_hz] + 0.01 * samples[::-1][: 3 * rate_hz]))
    err = emodistill(verb, *calls).err.splitlines()
    assert err == [*(f"{path}: {HINT}" for path in calls[:3]), "2 more files have channels that differ"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--channels", "both"], "bad channel 'both', expected 'mix', 'split' or the number of a channel"),
        (["--channels", "-1"], "bad channel '-1', expected 'mix', 'split' or the number of a channel"),
        (["--channels", "split", "--names", "a,a"], "expected another name for each channel, got a, a"),
        (["--names", "a,b"], "names of channels need channels 'split'"),
    ],
)
def test_options_that_timeline_refuses(
    emodistill: make.CommandLine, options: list[str], message: str
) -> None:
    done = emodistill("timeline", "call.wav", *options)
    assert done.code == 2
    assert message in done.err


def test_predict_gives_a_row_for_each_channel(
    emodistill: make.CommandLine, bundled: Recognizer, call: bytes, call_file: Path, tmp_path: Path
) -> None:
    mono = tmp_path / "mono.wav"
    mono.write_bytes(channel_files(call)[1])
    missing = tmp_path / "missing.wav"
    expected = [
        *(bundled.predict(call_file, channel=channel) for channel in (0, 1)),
        bundled.predict(mono, channel=0),
    ]
    done = emodistill("predict", call_file, mono, missing, "--channels", "split", "-f", "json", "--jobs", "2")
    assert done.code == 1
    *rows, failed = json.loads(done.out)
    assert [(row["path"], row["channel"]) for row in rows] == [(row.path, row.channel) for row in expected]
    for row, one in zip(rows, expected, strict=True):
        assert row["probabilities"] == pytest.approx(one.probabilities, abs=1e-5)
    assert failed["error"] == f"{missing}: no such file"
    text = emodistill("predict", call_file, mono, "--channels", "split", "-f", "csv").out
    assert [row["channel"] for row in csv.DictReader(io.StringIO(text))] == ["0", "1", "0"]
    mix = emodistill("predict", call_file, "-f", "csv").out
    assert [row["channel"] for row in csv.DictReader(io.StringIO(mix))] == [""]
    table = emodistill("predict", call_file, "--channels", "split").out
    assert [line.split("│")[2].strip() for line in table.splitlines()[3:5]] == ["0", "1"]
    (row,) = json.loads(emodistill("predict", call_file, "--channels", "1", "-f", "json").out)
    assert row["channel"] == 1
    assert row["probabilities"] == pytest.approx(expected[1].probabilities, abs=1e-5)


def test_a_channel_may_be_a_number_of_numpy(bundled: Recognizer, call: bytes) -> None:
    number: Any = np.int64(1)
    assert json.loads(json.dumps(bundled.predict(call, channel=number).as_dict()))["channel"] == 1
    assert [type(row.channel) for row in bundled.predict_all([call, b"x"], channel=number)] == [int, int]
    assert type(bundled.statistics(call, channel=number).channel) is int
    assert {type(part.channel) for part in bundled.timeline(call, channels=number).segments} == {int}


def test_predict_compares_a_channel_with_the_same_channel_of_other_files(
    emodistill: make.CommandLine, bundled: Recognizer, call: bytes, tmp_path: Path
) -> None:
    samples, rate_hz = soundfile.read(io.BytesIO(call))
    paths = [tmp_path / f"{number}.wav" for number in range(3)]
    for path, part in zip(paths, np.array_split(samples, 3), strict=True):
        soundfile.write(path, part, rate_hz)
    done = emodistill("predict", *paths, "--channels", "split", "--adapt", "together", "-f", "json")
    rows = json.loads(done.out)
    assert [(row["path"], row["channel"]) for row in rows] == [
        (str(path), c) for path in paths for c in (0, 1)
    ]
    for channel in (0, 1):
        statistics = list(bundled.statistics_all(paths, channel=channel))
        voices = leave_one_out(statistics, bundled.card.sha256)
        compared = [row for row in rows if row["channel"] == channel]
        for row, *pair in zip(compared, statistics, voices, strict=True):
            expected = bundled.predict_statistics(*pair)
            assert row["voice_utterances"] == expected.voice_utterances == 2
            assert row["probabilities"] == pytest.approx(expected.probabilities, abs=1e-5)


def test_parts_of_different_channels_have_no_voice(
    emodistill: make.CommandLine, call_file: Path, tmp_path: Path
) -> None:
    listed = tmp_path / "list.csv"
    listed.write_text(f"path,channel\n{call_file},0\n{call_file},1\n")
    err = emodistill("predict", "--from", listed, "--adapt", "together", "-f", "json").err
    assert "because no other file has speech in the same channel: " in err


def test_predict_continues_a_file_whose_channels_are_not_all_there(
    emodistill: make.CommandLine, call: bytes, tmp_path: Path
) -> None:
    paths = [tmp_path / f"{number}.wav" for number in range(2)]
    for path in paths:
        path.write_bytes(call)
    output = tmp_path / "rows.jsonl"
    assert emodistill("predict", *paths, "--channels", "split", "-o", output).code == 0
    whole = output.read_text()
    lines = whole.splitlines(keepends=True)
    for kept in ("".join(lines[:3]), "".join(lines[:3]) + lines[3][:40]):
        output.write_text(kept)
        assert emodistill("predict", *paths, "--channels", "split", "-o", output).code == 0
        found = [json.loads(line) for line in output.read_text().splitlines()]
        assert [(row["path"], row["channel"]) for row in found] == [
            (str(path), c) for path in paths for c in (0, 1)
        ]
    output.write_text(whole)
    again = emodistill("predict", *paths, "--channels", "split", "-o", output)
    assert "2 rows were there already, 0 added" in again.err
    assert output.read_text() == whole


def test_enrol_learns_the_voice_of_one_channel(
    emodistill: make.CommandLine, bundled: Recognizer, call_file: Path, tmp_path: Path
) -> None:
    output = tmp_path / "agent.voice.json"
    assert emodistill("enrol", call_file, "--channels", "1", "-o", output).code == 0
    expected = bundled.enrol(call_file, channel=1)
    assert Voice.load(output).mean == pytest.approx(expected.mean, abs=1e-4)
    done = emodistill("enrol", call_file, "--channels", "split", "-o", output)
    assert done.code == 2
    assert "a voice is of one speaker: choose the speaker's channel" in done.err
