"""Files of given segments: their formats, times, channels and messages, and the words in the output."""

import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import factories as make
import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from test_inputs import Stdin

from emodistill.errors import ConfigError
from emodistill.inference.formats import FORMATS
from emodistill.inference.given_segments import GivenSegment, parse_segments, read_segments
from emodistill.inference.given_segments.base import seconds
from emodistill.inference.timelines import timeline

TURNS = (
    GivenSegment(1.0, 3.0, "anna", text="stop that now"),
    GivenSegment(62.5, 63.25, "ben", text="no, never again"),
    GivenSegment(3661.0, 3662.0),
)


def call() -> bytes:
    """A WAV of two channels: angry from 0.5 to 3.5 s in the first, sad from 4 to 6 s in the second."""
    agent = np.concatenate([make.silence(0.5), make.tone("angry", 3.0), make.silence(3.5)])
    customer = np.concatenate([make.silence(4.0), make.tone("sad", 2.0), make.silence(1.0)])
    file = io.BytesIO()
    soundfile.write(file, np.stack([agent, customer], axis=1), make.RATE, format="WAV", subtype="FLOAT")
    return file.getvalue()


def segments_of(text: str, recording: str = "call.wav") -> tuple[GivenSegment, ...]:
    return parse_segments(text, "'turns'").for_recording(recording)


def as_csv(start: str, end: str, clock: Callable[[float], str]) -> str:
    lines = [f"{start},{end},speaker,text"]
    for turn in TURNS:
        text = f'"{turn.text}"' if turn.text else ""
        lines.append(f"{clock(turn.start_s)},{clock(turn.end_s)},{turn.speaker or ''},{text}")
    return "\n".join(lines)


def minutes(time_s: float) -> str:
    return f"{int(time_s // 60)}:{time_s % 60:06.3f}"


def hours(time_s: float) -> str:
    return f"{int(time_s // 3600):02d}:{int(time_s // 60 % 60):02d}:{time_s % 60:g}"


@pytest.mark.parametrize("clock", [str, minutes, hours])
@pytest.mark.parametrize(("start", "end"), [("start", "end"), ("start_s", "end_s"), ("Start", " END ")])
def test_a_table_may_write_times_as_people_do(start: str, end: str, clock: Callable[[float], str]) -> None:
    assert segments_of(as_csv(start, end, clock)) == TURNS
    assert segments_of(as_csv(start, end, clock).replace("\n", "\r\n")) == TURNS


@given(st.integers(0, 10**8))
def test_a_time_is_the_same_in_every_notation(ms: int) -> None:
    time_s = ms / 1000
    whole, rest = divmod(ms, 60_000)
    for text in (str(time_s), f"{whole}:{rest / 1000:.3f}", f"{whole // 60}:{whole % 60}:{rest / 1000:.3f}"):
        assert seconds(text) == pytest.approx(time_s, abs=1e-6)


@pytest.mark.parametrize("text", ["1:75", "1:60:00", "1:2:3:4", "-1:30", "1:-3", "a:10", "", ":", "1:", True])
def test_times_that_are_refused(text: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        seconds(text)


def whisperx() -> dict[str, object]:
    return {
        "segments": [
            {"start": 1.0, "end": 3.0, "text": " stop that now ", "speaker": "anna", "words": []},
            {
                "words": [
                    {"word": "no,", "start": 62.5, "end": 62.7, "speaker": "ben"},
                    {"word": "never", "speaker": "anna"},
                    {"word": "again", "start": 63.0, "end": 63.25, "speaker": "ben"},
                ]
            },
            {"start": 3661, "end": 3662},
        ],
        "language": "en",
    }


def test_transcripts_of_whisperx_are_read() -> None:
    assert segments_of(json.dumps(whisperx())) == TURNS


def test_diarizations_of_pyannote_are_read() -> None:
    turns = [
        {"start": 1.0, "end": 3.0, "speaker": "SPEAKER_00"},
        {"start": 2, "end": 4, "speaker": "SPEAKER_01"},
    ]
    assert segments_of(json.dumps({"diarization": turns})) == (
        GivenSegment(1.0, 3.0, "SPEAKER_00"),
        GivenSegment(2.0, 4.0, "SPEAKER_01"),
    )


def test_the_content_decides_the_format_and_not_the_suffix(tmp_path: Path) -> None:
    path = tmp_path / "turns.txt"
    for text in (
        "start,end\n1,2\n",
        "start\tend\n1\t2\n",
        "start;end\n1,0;2,0\n",
        ";; comment\n\nSPEAKER call 1 1 1 <NA> <NA> <NA> <NA> <NA>\n",
        json.dumps({"diarization": [{"start": 1, "end": 2}]}),
        json.dumps({"segments": [{"start": 1, "end": 2}]}, indent=2),
    ):
        path.write_text(text)
        assert read_segments(path).for_recording("call.wav") == (GivenSegment(1.0, 2.0),)


def test_an_rttm_about_one_recording_serves_the_one_at_hand() -> None:
    text = "SPEAKER waveform 1 1 1 <NA> <NA> anna <NA> <NA>\n"
    assert segments_of(text, "any.wav") == (GivenSegment(1.0, 2.0, "anna"),)
    with pytest.raises(ConfigError, match="no segments of 'any'"):
        parse_segments(text, "'turns'", num_recordings=2).for_recording("any.wav")
    with pytest.raises(ConfigError, match="no segments of 'any'"):
        segments_of(text + text.replace("waveform", "other"), "any.wav")
    with pytest.raises(ConfigError, match="no segments of 'any'"):
        segments_of("path,start,end\nother.wav,1,2\n", "any.wav")


def test_channels_come_from_a_table_and_from_an_rttm_of_several() -> None:
    assert [turn.channel for turn in segments_of("start,end,channel\n1,2,0\n3,4,1\n5,6,\n")] == [0, 1, None]
    line = "SPEAKER call {} {} 1 <NA> <NA> x <NA> <NA>\n"
    both = line.format(1, 0) + line.format(2, 5)
    assert [turn.channel for turn in segments_of(both)] == [0, 1]
    mix = line.format(1, 0) + line.format(1, 5)
    assert [turn.channel for turn in segments_of(mix)] == [None, None], "most diarizers write 1 for a mix"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"segments": [{"start": 1, "end": 2}, {"start": "x", "end": 2}]}',
         r"'turns', segments\[1\]: expected a start and an end as seconds, m:ss or hh:mm:ss, got 'x' and 2"),
        ('{"segments": [{"text": "a"}]}', r"segments\[0\]: expected a start and an end .*got None and None"),
        ('{"segments": [7]}', r"segments\[0\]: expected an object with start and end, got 7"),
        ('{"segments": []}', "'turns' holds no segments"),
        ('{"diarization": [{"start": 2, "end": 1}]}', r"diarization\[0\]: bad segment from 2\.0 s to 1\.0 s"),
        ('{"turns": []}', "known formats: expected CSV, RTTM, JSON of pyannote or JSON of whisperX"),
        ('{"segments": [', r"none of the known formats, and is no JSON \(Expecting value: line 1 column 15"),
        ("[1, 2]", "none of the known formats"),
        (f'{{"segments": {"[" * 100_000}{"]" * 100_000}}}', "and its JSON is nested too deeply"),
        (f'{{"segments": [{{"start": 0, "end": 1{"0" * 400}}}]}}', r"segments\[0\]: expected a start and an"),
        (f"start,end\n0,{'9' * 400}:00:00\n", "line 2: expected a start and an end"),
        ('{"segments": [{"start": 0, "end": 1, "channel": 1e999}]}', "expected a channel from 0 on, got inf"),
        ('{"segments": [{"start": 0, "end": 1, "channel": 0.5}]}', "expected a channel from 0 on, got 0.5"),
        ("start,end,channel\n1,2,left\n", r"line 2: expected a channel from 0 on, got 'left'"),
        ("start,end,channel\n1,2,-1\n", r"line 2: expected a channel from 0 on, got '-1'"),
        ("start,end\n1:75,2:00\n", r"line 2: expected a start and an end as seconds, m:ss or hh:mm:ss"),
        ("", r"got the columns \[\]"),
    ],
)  # fmt: skip
def test_content_that_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        segments_of(text)


def test_control_characters_of_speakers_and_words_never_reach_the_terminal(
    emodistill: make.CommandLine, tmp_path: Path
) -> None:
    path = tmp_path / "call.wav"
    path.write_bytes(call())
    evil = "an\x1b]0;title\x07na\x9b31m\r"
    (tmp_path / "turns.csv").write_text(f"start,end,speaker,text\n1,3,{evil[:-1]},{evil[:-1]}\n", newline="")
    (tmp_path / "turns.json").write_text(
        json.dumps({"segments": [{"start": 1, "end": 3, "speaker": evil, "text": evil + "\ttwo\nlines"}]})
    )
    for name in ("turns.csv", "turns.json"):
        for format in ("table", "csv", "srt", "rttm", "json"):
            done = emodistill("timeline", path, "--segments", tmp_path / name, "-f", format)
            assert done.code == 0
            assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", done.out + done.err)
            assert "an?]0;title?na?31m" in done.out or format == "table"
    segment = GivenSegment(0, 1, evil, text="one\r\ntwo\t\x1b")
    assert (segment.speaker, segment.text) == ("an?]0;title?na?31m?", "one\ntwo\t?")
    (tmp_path / "list.csv").write_text(f"path,speaker,id\ncall.wav,{evil[:-1]},{evil[:-1]}\n", newline="")
    listed = emodistill("predict", "--from", tmp_path / "list.csv", "-f", "csv")
    assert listed.code == 0
    assert "\x1b" not in listed.out
    refused = emodistill("timeline", path, "--channels", "split", "--names", "a\x1b[31m,b")
    assert (refused.code, "\x1b" in refused.err, "bad names" in refused.err) == (2, False, True)


def test_halves_of_signs_become_question_marks() -> None:
    text = '{"segments": [{"start": 1, "end": 2, "speaker": "a\\ud800", "text": "b\\udfff"}]}'
    assert segments_of(text) == (GivenSegment(1.0, 2.0, "a?", text="b?"),)


def test_the_words_are_in_the_output() -> None:
    turns = [GivenSegment(1.0, 2.0, "anna", 0, "stop --> <that>\n now"), GivenSegment(4.5, 5.5, channel=1)]
    found = timeline(call(), make.ToneRecognizer(), given=turns)
    emotions = tuple(make.TONES_HZ)
    data = json.loads(FORMATS["json"].to_text([found], emotions))
    assert data[0]["segments"][0]["text"] == turns[0].text
    assert "text" not in data[0]["segments"][1]
    percent = f"{100 * (found.segments[0].confidence or 0):.0f} %"
    assert FORMATS["srt"].to_text([found], emotions).split("\n")[:6] == [
        "1", "00:00:01,000 --> 00:00:02,000", f"anna: angry {percent}", "stop -> <that> now", "", "2",
    ]  # fmt: skip
    assert f"<v anna>angry {percent}\nstop -&gt; &lt;that&gt; now\n\n2\n" in FORMATS["vtt"].to_text(
        [found], emotions
    )
    header, first, second = FORMATS["csv"].to_text([found], emotions).split("\n", 3)[:3]
    assert header.endswith(",channel,text,dominance,intensity")
    assert ",0," in first
    assert "stop --> <that>" in first + second


def test_timeline_reads_each_format_on_the_command_line(
    emodistill: make.CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "call.wav"
    path.write_bytes(call())
    texts = {
        "turns.csv": "start,end,speaker,channel\n0:01,0:03,anna,0\n0:04.5,0:05.5,ben,1\n",
        "turns.json": json.dumps(
            {"segments": [{"start": 1, "end": 3, "speaker": "anna", "text": "stop that"}]}
        ),
        "turns.rttm": "SPEAKER waveform 1 1 2 <NA> <NA> anna <NA> <NA>\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        done = emodistill("timeline", path, "--segments", tmp_path / name, "-f", "json")
        assert done.code == 0, done.err
        (row,) = json.loads(done.out)
        assert (row["segments"][0]["start_s"], row["segments"][0]["speaker"]) == (1.0, "anna")
        assert "anna" in row["speakers"]
        monkeypatch.setattr(sys, "stdin", Stdin(text.encode()))
        piped = emodistill("timeline", path, "--segments", "-", "-f", "json")
        assert (piped.code, piped.out) == (0, done.out)
    folder = tmp_path / "out"
    for text, code in ((texts["turns.csv"], 0), (texts["turns.csv"], 0), (texts["turns.json"], 2)):
        monkeypatch.setattr(sys, "stdin", Stdin(text.encode()))
        done = emodistill("timeline", path, "--segments", "-", "-f", "json", "-o", folder)
        assert done.code == code, done.err
    assert "begun with another segments" in done.err
    monkeypatch.setattr(sys, "stdin", Stdin(b"1,x\n"))
    assert (
        "standard input has none of the known formats" in emodistill("timeline", path, "--segments", "-").err
    )
    both = emodistill("timeline", "-", "--segments", "-")
    assert (both.code, "- and --segments - both read standard input" in both.err) == (2, True)
    monkeypatch.setattr(sys, "stdin", Stdin(terminal=True))
    assert "which is a terminal: pipe it in" in emodistill("timeline", path, "--segments", "-").err
    (tmp_path / "turns.csv").write_text("start,end\n1,2\n3,x\n")
    refused = emodistill("timeline", path, "--segments", tmp_path / "turns.csv")
    assert refused.code == 2
    assert "turns.csv', line 3: expected a start and an end" in refused.err
