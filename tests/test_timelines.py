"""Timelines: the result, given segments, pictures, outputs in folders, and the command `timeline`."""

import csv
import io
import json
import os
import re
import tempfile
import threading
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

import factories as make
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from emodistill.audio.waveform import SAMPLE_RATE
from emodistill.errors import AudioError, AudioTooLongError, ConfigError, EmodistillError
from emodistill.inference import batch
from emodistill.inference.formats import FORMAT_BY_SUFFIX, FORMATS
from emodistill.inference.given_segments import GivenSegment, read_segments
from emodistill.inference.plots import plot_timeline
from emodistill.inference.recognizer import Recognizer
from emodistill.inference.resume import MadeWith
from emodistill.inference.segmentation import Segment
from emodistill.inference.timelines import (
    Timeline,
    timeline,
    timelines,
)

LOUD = make.LoudnessDetector()
EMOTIONS = tuple(make.TONES_HZ)


def recording(*parts: tuple[str, float]) -> bytes:
    """A WAV of tones."""
    sounds = [
        make.silence(length) if kind == "silence" else make.tone(kind, length) for kind, length in parts
    ]
    file = io.BytesIO()
    soundfile.write(file, np.concatenate(sounds), make.RATE, format="WAV", subtype="FLOAT")
    return file.getvalue()


TALK = recording(("silence", 0.5), ("angry", 3.0), ("silence", 1.0), ("sad", 2.0), ("silence", 0.5))


# --- the result ----------------------------------------------------------------------------------


def test_a_timeline_as_data() -> None:
    found = timeline(io.BytesIO(TALK), make.ToneRecognizer(), detector=LOUD)
    data = json.loads(json.dumps(found.as_dict()))
    assert list(data) == ["path", "duration_s", "segments", "summary", "reason", "error"]
    assert (data["path"], data["duration_s"], data["reason"], data["error"]) == ("", 7.0, None, None)
    assert all(
        list(row)
        == ["start_s", "end_s", "emotion", "confidence", "probabilities", "dimensions", "dimensions_from"]
        for row in data["segments"]
    )
    assert [(row["start_s"], row["end_s"], row["emotion"]) for row in data["segments"]] == [
        (0.5, 3.5, "angry"),
        (4.5, 6.5, "sad"),
    ]
    assert data["summary"] == {"angry": 3.0, "happy": 0.0, "sad": 2.0, "neutral": 0.0}
    assert found.trace is None


def test_timelines_are_equal_after_a_round_trip_through_json(tmp_path: Path) -> None:
    found = timeline(TALK, make.ToneRecognizer(min_confidence=0.9), detector=LOUD)
    given = timeline(TALK, make.ToneRecognizer(), given=[GivenSegment(0, 1, "anna"), GivenSegment(6.6, 7)])
    assert {segment.emotion for segment in found.segments} == {None}, "all segments are below the threshold"
    assert given.segments[1].probabilities == {}, "the second given segment is silent"
    for row in (
        found,
        given,
        Timeline("a.wav", 1.0, reason="silence"),
        Timeline("a.wav", error="no such file"),
    ):
        assert Timeline.from_dict(json.loads(json.dumps(row.as_dict()))) == row
        assert Timeline.from_dict(row.as_dict()) == row


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ([("silence", 2.0)], "silence"),
        ([("sad", 0.05)], "too_short"),
        ([("silence", 1.0), ("sad", 0.15), ("silence", 0.5)], "no_speech"),  # a click
    ],
)
def test_a_timeline_without_segments_has_a_reason(parts: list[tuple[str, float]], reason: str) -> None:
    found = timeline(recording(*parts), make.ToneRecognizer(), detector=LOUD)
    assert (found.segments, found.reason, sum(found.summary.values())) == ((), reason, 0)
    assert found.duration_s == pytest.approx(sum(length_s for _, length_s in parts))
    (read,) = csv.DictReader(io.StringIO(FORMATS["csv"].to_text([found], EMOTIONS)))
    assert (read["reason"], read["error"], read["emotion"]) == (reason, "", "")


@pytest.mark.parametrize("jobs", [1, 3])
def test_timelines_come_in_order_with_an_error_for_unreadable_recordings(tmp_path: Path, jobs: int) -> None:
    paths = []
    for number, emotion in enumerate(["sad", "angry", "happy", "neutral"] * 3):
        paths.append(tmp_path / f"{number}.wav")
        soundfile.write(paths[-1], make.tone(emotion, 0.5 + 0.1 * number), make.RATE)
    paths[4].write_text("no audio")
    paths[7].unlink()
    rows = list(timelines(paths, make.ToneRecognizer(), jobs=jobs, detector=LOUD))
    assert [row.path for row in rows] == [str(path) for path in paths]
    assert [row.error is None for row in rows] == [number not in (4, 7) for number in range(12)]
    assert "no such file" in str(rows[7].error)
    assert rows[4].duration_s is None
    assert [row.segments[0].emotion for row in rows if row.error is None] == [
        "sad", "angry", "happy", "neutral", "angry", "happy", "sad", "angry", "happy", "neutral",
    ]  # fmt: skip


# --- given segments ------------------------------------------------------------------------------


def segments_of(audio: bytes, *segments: GivenSegment) -> tuple[Segment, ...]:
    return timeline(audio, make.ToneRecognizer(), given=segments).segments


@given(start=st.integers(0, 60_000), length=st.integers(1600, 32_000))
@settings(max_examples=30, deadline=None)
def test_a_given_segment_of_one_window_has_the_probabilities_of_that_window(start: int, length: int) -> None:
    recognizer = make.ToneRecognizer()
    (found,) = timeline(
        TALK, recognizer, given=[GivenSegment(start / SAMPLE_RATE, (start + length) / SAMPLE_RATE, "anna")]
    ).segments
    waveform = soundfile.read(io.BytesIO(TALK), dtype="float32")[0][start : start + length]
    if not waveform.any():
        assert (found.emotion, found.confidence, found.probabilities) == (None, None, {})
        return
    expected = recognizer.probabilities(waveform)
    assert list(found.probabilities.values()) == pytest.approx(expected, abs=1e-4)
    assert (found.emotion, found.speaker) == (EMOTIONS[int(expected.argmax())], "anna")


def test_a_long_given_segment_is_the_mean_over_its_windows() -> None:
    recognizer = make.ToneRecognizer()
    waveform = soundfile.read(io.BytesIO(TALK), dtype="float32")[0]
    spans = [(8000, 40_000), (16_000, 48_000), (24_000, 56_000), (25_600, 57_600)]
    rows = [np.log(recognizer.probabilities(waveform[begin:end])) for begin, end in spans]
    expected = np.exp(np.mean(rows, axis=0))
    (found,) = segments_of(TALK, GivenSegment(0.5, 3.6))
    assert list(found.probabilities.values()) == pytest.approx(expected / expected.sum(), abs=1e-9)


def test_given_segments_may_overlap_and_end_after_the_audio() -> None:
    turns = [
        GivenSegment(4.0, 9.0, "bob"),
        GivenSegment(0.2, 3.0, "anna"),
        GivenSegment(2.0, 6.5),
        GivenSegment(3.6, 4.4),
        GivenSegment(1.0, 1.05),
    ]
    found = segments_of(TALK, *turns)
    assert [(turn.start_s, turn.end_s, turn.emotion, turn.speaker) for turn in found] == [
        (0.2, 3.0, "angry", "anna"),
        (1.0, 1.05, None, None),  # too short for an emotion
        (2.0, 6.5, found[2].emotion, None),
        (3.6, 4.4, None, None),  # silent
        (4.0, 7.0, "sad", "bob"),
    ]
    assert found[4].as_dict()["speaker"] == "bob"
    assert found == segments_of(TALK, *reversed(turns))


def test_given_segments_that_are_refused() -> None:
    with pytest.raises(
        AudioError, match=r"begins at 8\.0 s, the audio ends at 7\.0 s; were the segments made"
    ):
        segments_of(TALK, GivenSegment(8, 9))
    for start_s, end_s in ((2, 1), (1, 1), (-1, 2), (0, np.inf), (np.nan, 1)):
        with pytest.raises(ConfigError, match=r"bad segment from .* expected 0 ≤ start < end"):
            segments_of(TALK, GivenSegment(start_s, end_s))


RTTM = """;; written by hand
SPKR-INFO talk 1 <NA> <NA> <NA> unknown anna <NA> <NA>
SPEAKER talk 1 0.5 3.0 <NA> <NA> anna <NA> <NA>

SPEAKER talk 1 4.5 2.0 <NA> <NA> <NA> <NA> <NA>
SPEAKER other_call 1 0.1 0.2 <NA> <NA> zoé <NA> <NA>
"""


def test_segments_are_read_from_rttm(tmp_path: Path) -> None:
    (tmp_path / "turns.rttm").write_text(RTTM, encoding="utf-8")
    table = read_segments(tmp_path / "turns.rttm", num_recordings=2)
    assert table.for_recording("calls/talk.wav") == (
        GivenSegment(0.5, 3.5, "anna"),
        GivenSegment(4.5, 6.5, None),
    )
    assert table.for_recording("other call.mp3") == (GivenSegment(0.1, 0.3, "zoé"),)
    with pytest.raises(
        ConfigError, match=r"x\.wav: '.*turns\.rttm' has no segments of 'x'; it has segments of 'talk'"
    ):
        table.for_recording("x.wav")


def test_segments_are_read_from_csv(tmp_path: Path) -> None:
    path = tmp_path / "turns.csv"
    path.write_text("speaker,start_s,end_s,note\nanna,0.5,3.5,x\n,4,5,\n")
    assert read_segments(path).for_recording("any.wav") == (
        GivenSegment(0.5, 3.5, "anna"),
        GivenSegment(4.0, 5.0),
    )
    with pytest.raises(
        ConfigError, match="does not name the recording of each segment, and there are 2 recordings"
    ):
        read_segments(path, num_recordings=2)
    for text in (
        "start_s;end_s;speaker\n0.5;3.5;anna\n4;5;\n",
        "start_s, end_s, speaker\n0.5, 3.5, anna\n4, 5,\n",
    ):
        path.write_text(text)
        assert read_segments(path).for_recording("any.wav") == (
            GivenSegment(0.5, 3.5, "anna"),
            GivenSegment(4.0, 5.0),
        )
    path.write_text("path,start_s,end_s\na/b.wav,1,2\nc.wav,3,4\n")
    table = read_segments(path, num_recordings=2)
    assert (table.for_recording("a/b.wav"), table.for_recording("d/c.wav")) == (
        (GivenSegment(1.0, 2.0),),
        (GivenSegment(3.0, 4.0),),
    )


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "start,stop\n1,2\n", r"expected a CSV with the columns start,end.*got the columns"),
        ("a.csv", "", r"got the columns \[\]"),
        ("a.csv", "start_s,end_s\n", "holds no segments"),
        ("a.csv", "start_s,end_s\n1,2\n3,three\n",
         r"line 3: expected a start and an end as seconds, m:ss or hh:mm:ss, got '3' and 'three'"),
        ("a.csv", "start_s,end_s\n2,1\n",
         r"line 2: bad segment from 2\.0 s to 1\.0 s, expected 0 ≤ start < end"),
        ("a.csv", "start_s,end_s\n1\n", r"line 2: expected a start and an end"),
        ("a.rttm", "SPEAKER talk 1 0.5 long", r"line 1: expected SPEAKER file channel start duration"),
        ("a.rttm", "SPEAKER talk 1 0.5 0 <NA> <NA> anna", r"line 1: bad segment from 0\.5 s to 0\.5 s"),
        ("a.rttm", "LEXEME talk", "holds no segments"),
        ("none.csv", None, "no file"),
        ("a.csv", "start_s,end_s\n1,2,é".encode("latin-1"), "holds no segments: it is not UTF-8"),
    ],
)  # fmt: skip
def test_segment_files_that_are_refused(
    tmp_path: Path, name: str, text: str | bytes | None, message: str
) -> None:
    if text is not None:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=message):
        read_segments(tmp_path / name)


# --- where outputs go ------------------------------------------------------------------------------


def test_outputs_have_the_same_folders_as_their_recordings(tmp_path: Path) -> None:
    (tmp_path / "calls/deep").mkdir(parents=True)
    files = [
        tmp_path / "calls/a.wav",
        tmp_path / "calls/deep/a.wav",
        tmp_path / "calls/a.mp3",
        tmp_path / "b.wav",
    ]
    names = batch.output_names(files, [tmp_path / "calls", tmp_path / "b.wav"], ".rttm")
    assert [str(names[file]) for file in files] == ["a.wav.rttm", "deep/a.rttm", "a.mp3.rttm", "b.rttm"]
    with pytest.raises(ConfigError, match=r"would both be written to 'a\.wav\.srt'"):
        batch.output_names([tmp_path / "x/a.wav", tmp_path / "y/a.wav"], [], ".srt")


@given(
    st.lists(
        st.lists(st.sampled_from(["..", "a", "b", "c.wav", ".wav", "A", "..."]), min_size=1, max_size=4)
        .map(lambda parts: Path(*parts, "x.wav")),
        min_size=1,
        max_size=6,
        unique=True,
    )
)  # fmt: skip
def test_no_recording_is_written_outside_of_the_output_or_over_another_one(paths: list[Path]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "a").mkdir()
        try:
            names = batch.output_names([root / path for path in paths], [root, root / "a"], ".srt")
        except ConfigError as error:
            assert "would both be written to" in str(error)  # noqa: PT017
            return
        out = Path("/out")
        targets = [Path(os.path.normpath(out / name)) for name in names.values()]
        assert all(target.is_relative_to(out) and target != out for target in targets)
        assert len(set(targets)) == len(paths)


# --- pictures ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "turns", [None, [GivenSegment(0.5, 3.5, "anna"), GivenSegment(1.0, 1.05), GivenSegment(3.6, 7.0, "bob")]]
)
@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_a_picture_has_the_colours_of_the_emotions(
    tmp_path: Path, suffix: str, turns: list[GivenSegment] | None
) -> None:
    row = timeline(TALK, make.ToneRecognizer(), given=turns, detector=LOUD, traced=True)
    assert row.trace is not None
    assert len(row.trace.envelope) == 140
    assert float(row.trace.envelope.max()) == pytest.approx(0.3, abs=0.01)
    assert bool(row.trace.updates) == (turns is None)
    path = tmp_path / f"below/talk{suffix}"
    plot_timeline(row, EMOTIONS, path)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    if suffix == ".png":
        assert path.read_bytes().startswith(b"\x89PNG")
    else:
        svg = path.read_text(encoding="utf-8")
        assert ET.fromstring(svg).tag.endswith("svg")
        assert all(colour in svg for colour in ("#d62728", "#1f6fb4")), "angry and sad have their colours"


@pytest.mark.parametrize("length_s", [0.0, 0.02])
def test_a_picture_of_a_very_short_recording(tmp_path: Path, length_s: float) -> None:
    audio = recording(("silence", 0.01 + length_s))
    row = timeline(audio, make.ToneRecognizer(), detector=LOUD, traced=True)
    plot_timeline(row, EMOTIONS, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_the_trace_is_dropped_after_drawing(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, make.silence(1.0), make.RATE)
    outputs = batch.plan([path], [path], "json", None, tmp_path / "a.png")
    (row,) = batch.run(make.ToneRecognizer(), [path], outputs)
    assert (row.error, row.trace) == (None, None)
    assert (tmp_path / "a.png").is_file()


@pytest.mark.parametrize("text", ["", '{"model": '])
def test_a_damaged_settings_file_is_an_error(tmp_path: Path, text: str) -> None:
    note = tmp_path / ".made_with.json"
    note.write_text(text)
    with pytest.raises(
        ConfigError,
        match=r"made_with\.json', which holds the settings of .* is damaged: .* or add --force",
    ):
        MadeWith.read(note, tmp_path)
    assert MadeWith.read(note, tmp_path, force=True).settings == {}
    MadeWith(note, tmp_path).write({"model": "a"}, [])
    MadeWith.read(note, tmp_path).ensure_same_settings({"model": "a"})
    assert [file.name for file in tmp_path.iterdir()] == [note.name]


def test_pictures_that_cannot_be_drawn(tmp_path: Path) -> None:
    row = timeline(TALK, make.ToneRecognizer(), detector=LOUD)
    with pytest.raises(EmodistillError, match=r"was not traced: call timeline\(…, traced=True\) to draw it"):
        plot_timeline(row, EMOTIONS, tmp_path / "a.png")
    with pytest.raises(ConfigError, match=r"cannot draw to 'a\.bmp': expected \.png, \.svg or \.pdf"):
        plot_timeline(row, EMOTIONS, Path("a.bmp"))


# --- the command `timeline` -----------------------------------------------------------------------


@pytest.fixture
def run_timeline(emodistill: make.CommandLine, exported: Path) -> make.CommandLine:
    """Runs `emodistill timeline …` with the exported model."""
    return lambda *arguments: emodistill("timeline", *arguments, "--model", exported)


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    """Two calls, one of them in a subfolder, silence, and a text file named .wav."""
    folder = tmp_path / "calls"
    (folder / "below").mkdir(parents=True)
    for name, seed in (("a.wav", 1), ("below/c.flac", 2)):
        sound = [
            make.silence(0.5),
            make.speech(2.7, 120 * seed, seed),
            make.silence(0.6),
            make.speech(0.9, 200, seed),
        ]
        soundfile.write(folder / name, np.concatenate(sound), make.RATE)
    soundfile.write(folder / "d.wav", make.silence(1.0), make.RATE)
    (folder / "b.wav").write_text("no audio")
    return folder


def test_timeline_writes_json(run_timeline: make.CommandLine, calls: Path) -> None:
    code, out, err = run_timeline(calls, "--format", "json", "--jobs", 2)
    assert code == 1, "one input could not be read"
    rows = json.loads(out)
    names = ["a.wav", "b.wav", "below/c.flac", "d.wav"]
    assert [row["path"] for row in rows] == [str(calls / name) for name in names]
    assert [len(row["segments"]) > 0 for row in rows] == [True, False, True, False]
    assert "cannot be decoded" in rows[1]["error"]
    assert "cannot be decoded" in err
    for row in (rows[0], rows[2]):
        starts = [segment["start_s"] for segment in row["segments"]]
        assert abs(starts[0] - 0.5) < 0.15, "silence is no speech"
        assert sum(row["summary"].values()) == pytest.approx(3.6, abs=0.4)


def test_timeline_continues_a_folder(run_timeline: make.CommandLine, calls: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    args = (calls, "-f", "csv", "-o", out, "--plot", tmp_path / "pictures")
    assert run_timeline(*args)[0] == 1
    names = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert names == [".made_with.json", "a.csv", "below/c.csv", "d.csv", "failures.csv"]
    code, _, err = run_timeline(*args, "--min-confidence", 0.5)
    assert code == 2
    assert "was begun with another min_confidence: name another output" in err
    for option in ("smooth", "min-duration", "hop", "window"):
        code, _, err = run_timeline(*args, f"--{option}", 1)
        assert code == 2
        assert f"was begun with another {option.replace('-', '_')}_s: name another output" in err
    assert (tmp_path / "pictures/below/c.png").read_bytes().startswith(b"\x89PNG")
    complete = (out / "a.csv").read_bytes()
    (row,) = csv.DictReader((out / "failures.csv").read_text().splitlines())
    assert (row["path"], "cannot be decoded" in row["error"]) == (str(calls / "b.wav"), True)
    (out / "a.csv").unlink()
    (out / "d.csv").write_text("kept as it is")
    soundfile.write(calls / "b.wav", make.speech(1.0), make.RATE)
    code, printed, err = run_timeline(*args)
    assert (code, printed) == (0, "")
    assert "2 files were there already, 2 added" in err
    assert (out / "a.csv").read_bytes() == complete
    assert (out / "d.csv").read_text() == "kept as it is"
    assert (out / "b.csv").is_file()
    assert not (out / "failures.csv").exists()


def test_the_options_of_segmentation_reach_the_timeline(
    run_timeline: make.CommandLine, calls: Path, exported: Path
) -> None:
    (row,) = json.loads(
        run_timeline(
            calls / "a.wav", "-f", "json", "--smooth", 5, "--min-duration", 2, "--hop", 1, "--window", 3
        )[1]
    )
    chosen = {"smooth_s": 5.0, "min_duration_s": 2.0, "hop_s": 1.0, "window_s": 3.0}
    own = Recognizer(exported, threads=1).timeline(calls / "a.wav", **chosen).as_dict()
    assert row["segments"] == own["segments"]
    code, _, err = run_timeline(calls / "a.wav", "--smooth", 61)
    assert (code, "bad smooth_s 61.0, expected 0 to 60 s" in err) == (2, True)


def test_timeline_writes_the_same_segments_in_every_format(
    run_timeline: make.CommandLine, calls: Path, tmp_path: Path
) -> None:
    (row,) = json.loads(run_timeline(calls / "a.wav", "-f", "json")[1])
    emotions = [segment["emotion"] for segment in row["segments"]]
    for format in ("table", *(name for name, format in FORMATS.items() if format.to_text is not None)):
        code, out, err = run_timeline(calls / "a.wav", "-f", format)
        assert (code, err) == (0, "")
        assert len(re.findall("|".join(set(emotions)), out)) >= len(emotions), format
        assert run_timeline(calls / "a.wav", "-f", format, "-o", tmp_path / "one.file")[:2] == (0, "")
        assert (tmp_path / "one.file").read_text(encoding="utf-8") == out


def test_an_existing_file_stays_if_every_recording_fails(
    run_timeline: make.CommandLine, calls: Path, tmp_path: Path
) -> None:
    for suffix in FORMAT_BY_SUFFIX:
        out = tmp_path / f"kept{suffix}"
        assert run_timeline(calls / "a.wav", "-o", out)[0] == 0
        before = out.read_bytes()
        assert "│".encode() not in before, "the suffix chooses the format"
        code, printed, err = run_timeline(calls / "b.wav", "-o", out)
        assert (code, printed) == (1, "")
        assert "is not written: every recording failed" in err
        assert out.read_bytes() == before
    assert run_timeline(calls / "b.wav", "-f", "textgrid")[1] == ""


def test_the_table_ends_with_the_seconds_of_each_emotion(run_timeline: make.CommandLine, calls: Path) -> None:
    (row,) = json.loads(run_timeline(calls / "a.wav", "-f", "json")[1])
    most = max(row["summary"], key=lambda name: row["summary"][name])
    assert re.search(rf"in all .*{most} 0:0[0-9]\.[0-9]", run_timeline(calls / "a.wav")[1])
    assert re.search(
        r"in all [^a-z]*\? 0:0[0-9]\.[0-9] ", run_timeline(calls / "a.wav", "--min-confidence", 1)[1]
    )


def test_a_timeline_accepts_the_files_of_predict_and_no_other_source() -> None:
    data = TALK
    recognizer = make.ToneRecognizer()
    expected = timeline(data, recognizer, detector=LOUD).segments
    assert expected
    assert timeline(bytearray(data), recognizer, detector=LOUD).segments == expected
    out, into = os.pipe()

    def write() -> None:
        with os.fdopen(into, "wb") as file:
            file.write(data)

    writer = threading.Thread(target=write)
    writer.start()
    with os.fdopen(out, "rb") as pipe:
        assert timeline(pipe, recognizer, detector=LOUD).segments == expected
    writer.join()
    closed = io.BytesIO(data)
    closed.close()
    with pytest.raises(AudioError, match="expected an open file, got a closed one"):
        timeline(closed, recognizer, detector=LOUD)
    for source in (None, io.StringIO("text")):
        with pytest.raises(
            AudioError, match="expected a path, the bytes of a file, a file opened in binary mode or a NumPy"
        ):
            timeline(source, recognizer, detector=LOUD)


def test_timeline_recognises_given_segments(
    run_timeline: make.CommandLine, calls: Path, tmp_path: Path
) -> None:
    turns = tmp_path / "turns.rttm"
    turns.write_text(
        "SPEAKER a 1 0.5 2.0 <NA> <NA> anna <NA> <NA>\nSPEAKER a 1 3 1 <NA> <NA> bob <NA> <NA>\n"
    )
    code, out, _ = run_timeline(calls / "a.wav", "--segments", turns, "-f", "json", "--min-confidence", 1)
    (row,) = json.loads(out)
    assert code == 0
    assert [(part["start_s"], part["end_s"], part["speaker"]) for part in row["segments"]] == [
        (0.5, 2.5, "anna"),
        (3.0, 4.0, "bob"),
    ]
    assert all(part["emotion"] is None and part["confidence"] < 1 for part in row["segments"])
    assert set(row["summary"].values()) == {0.0}
    turns.write_text(turns.read_text() + "SPEAKER b 1 3 1 <NA> <NA> bob <NA> <NA>\n")
    code, out, _ = run_timeline(calls / "d.wav", "--segments", turns, "-f", "json")
    assert (code, "has no segments of 'd'" in json.loads(out)[0]["error"]) == (1, True)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ("-f", "srt"),
            "a file of the format srt holds one recording, but there are 4: name a folder with --output",
        ),
        (("--plot", "a.png"), "'a.png' is one picture, but there are 4 recordings: name a folder"),
        (("--plot", "a.jpg"), "cannot draw to 'a.jpg': expected .png, .svg or .pdf"),
        (("-o", "folder"), "a table can't go to the folder 'folder': add --format, e.g. json"),
        (("--segments", "none.csv"), "no file 'none.csv': expected the segments as CSV, RTTM"),
        (("--emotions", "angri"), "bad emotion 'angri'"),
    ],
)
def test_options_that_timeline_refuses(
    run_timeline: make.CommandLine, calls: Path, args: Sequence[str], message: str
) -> None:
    code, out, err = run_timeline(calls, *args)
    assert (code, out) == (2, "")
    assert message in err


def test_auto_with_segments_is_refused_before_the_work(
    run_timeline: make.CommandLine, calls: Path, tmp_path: Path
) -> None:
    turns = tmp_path / "turns.csv"
    turns.write_text("start,end\n0,1\n")
    out = tmp_path / "out"
    result = run_timeline(calls / "d.wav", "--segments", turns, "--adapt", "auto", "-f", "csv", "-o", out)
    assert (result.code, result.out) == (2, "")
    assert "adapt 'auto' is for speech that is found, but segments are given" in result.err
    assert not out.exists()


def test_clock_writes_times_for_reading() -> None:
    assert [batch.clock(time_s) for time_s in (0, 9.97, 61.04, 3599.96, 36_000)] == [
        "0:00.0", "0:10.0", "1:01.0", "1:00:00.0", "10:00:00.0",
    ]  # fmt: skip


@pytest.mark.parametrize("rate_hz", [8000, 16000, 44100])
@pytest.mark.parametrize("channels", [1, 2])
def test_the_timeline_of_an_array_is_the_one_of_its_file(rate_hz: int, channels: int) -> None:
    sound = make.tone("angry", 3.3, rate_hz)
    samples = np.stack([sound] * channels, axis=1) if channels > 1 else sound
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format="WAV", subtype="FLOAT")
    file.seek(0)
    expected = timeline(file, make.ToneRecognizer(), detector=LOUD)
    assert expected.segments
    found = timeline(samples, make.ToneRecognizer(), rate_hz, detector=LOUD)
    assert found == expected
    with pytest.raises(AudioTooLongError, match=r"the audio: longer than the limit of 2 s"):
        timeline(samples, make.ToneRecognizer(), rate_hz, detector=LOUD, max_s=2)
    with pytest.raises(AudioError, match="states no rate: give rate_hz"):
        timeline(samples, make.ToneRecognizer(), detector=LOUD)
