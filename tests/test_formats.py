"""The registry of timeline formats: each format is read back by a library, and is offered everywhere."""

import csv
import html
import io
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import audformat
import factories as make
import numpy as np
import pandas as pd
import pympi
import pytest
import soundfile
import srt
import webvtt
from factories_page import page_data
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from praatio import textgrid
from pyannote.database.util import load_rttm
from pyarrow import parquet
from typer.testing import CliRunner

from emodistill import cli
from emodistill.errors import ConfigError
from emodistill.inference import batch, formats
from emodistill.inference.formats import (
    FORMAT_BY_SUFFIX,
    FORMATS,
    UNSURE,
    TimelineFormat,
    formats_without_source,
    write,
)
from emodistill.inference.given_segments import read_segments
from emodistill.inference.prediction_rows import PREDICTION_FORMATS
from emodistill.inference.segmentation import Segment
from emodistill.inference.timelines import Timeline, seconds_by_emotion
from emodistill.serving.app import create_app
from emodistill.serving.responses import PREDICTION_RESPONSES, TIMELINE_RESPONSES
from emodistill.serving.settings import Settings
from emodistill.serving.static_page import export_web

ROOT = Path(__file__).parents[1]
EMOTIONS = tuple(make.TONES_HZ)
FAILED = Timeline("calls/bad.wav", error='calls/bad.wav: cannot be decoded, "alas"\nat all')
MANY = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
Span = tuple[float, float, str | None, str]  # start and end in seconds, speaker, emotion or "?"

every_format = pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)

# --- one reader for each format ------------------------------------------------------------------


def read_json(path: Path) -> list[Span]:
    (row,) = json.loads(path.read_text(encoding="utf-8"))
    return [
        (part["start_s"], part["end_s"], part.get("speaker"), part["emotion"] or UNSURE)
        for part in row["segments"]
    ]


def read_csv(path: Path) -> list[Span]:
    with path.open(encoding="utf-8", newline="") as file:
        return [
            (float(row["start_s"]), float(row["end_s"]), row["speaker"] or None, row["emotion"] or UNSURE)
            for row in csv.DictReader(file)
            if row["start_s"]
        ]


def speaker_and_emotion(label: str) -> tuple[str | None, str]:
    """The parts of a label such as `anna: angry 83 %`."""
    match = re.fullmatch(r"(?:(.*): )?(\S+)(?: \d+ %)?", label)
    assert match, label
    return match[1], match[2]


def read_srt(path: Path) -> list[Span]:
    subtitles = list(srt.parse(path.read_text(encoding="utf-8")))
    assert [subtitle.index for subtitle in subtitles] == list(range(1, len(subtitles) + 1))
    return [
        (part.start.total_seconds(), part.end.total_seconds(), *speaker_and_emotion(part.content))
        for part in subtitles
    ]


def read_vtt(path: Path) -> list[Span]:
    def seconds(time: str) -> float:
        hours, minutes, rest = time.split(":")
        return 3600 * int(hours) + 60 * int(minutes) + float(rest)

    cues = webvtt.read(str(path)).captions
    assert [cue.identifier for cue in cues] == [str(number) for number in range(1, len(cues) + 1)]
    return [
        (seconds(cue.start), seconds(cue.end), cue.voice and html.unescape(cue.voice), cue.text.split()[0])
        for cue in cues
    ]


def read_rttm(path: Path) -> list[Span]:
    spans = []
    for line in path.read_text(encoding="utf-8").splitlines():
        kind, _, _, start, length, _, _, label, _, _ = line.split()
        assert kind == "SPEAKER"
        speaker, _, emotion = label.rpartition("/")
        spans.append((float(start), float(start) + float(length), speaker.replace("_", " ") or None, emotion))
    return spans


def read_audacity(path: Path) -> list[Span]:
    # Audacity's manual: a line for each label, with start, end and text, and tabs between them.
    rows = csv.reader(io.StringIO(path.read_text(encoding="utf-8")), delimiter="\t", quoting=csv.QUOTE_NONE)
    return [(float(start), float(end), *speaker_and_emotion(label)) for start, end, label in rows]


def speaker_of(tier: str) -> str | None:
    """The speaker of a tier such as `anna 2`; a tier without a speaker is called `emotion`."""
    name = re.sub(r" \d+$", "", tier)
    return None if name == "emotion" else name


def read_textgrid(path: Path) -> list[Span]:
    grid = textgrid.openTextgrid(str(path), includeEmptyIntervals=True, reportingMode="error")
    spans: list[Span] = []
    for tier in grid.tiers:
        assert (tier.entries[0].start, tier.entries[-1].end) == (grid.minTimestamp, grid.maxTimestamp)
        assert all(one.end == two.start for one, two in pairwise(tier.entries)), "there are no gaps"
        spans += [
            (entry.start, entry.end, speaker_of(tier.name), entry.label)
            for entry in tier.entries
            if entry.label
        ]
    return spans


def read_elan(path: Path) -> list[Span]:
    document = pympi.Eaf(path)
    spans: list[Span] = []
    for tier in document.get_tier_names():
        parts = sorted(document.get_annotation_data_for_tier(tier))
        assert all(one[1] <= two[0] for one, two in pairwise(parts)), "a tier has no overlaps"
        speaker = document.get_parameters_for_tier(tier).get("PARTICIPANT")
        assert speaker == speaker_of(tier)
        spans += [(start / 1000, end / 1000, speaker, emotion) for start, end, emotion in parts]
    return spans


def read_html(path: Path) -> list[Span]:
    row = page_data(path.read_text(encoding="utf-8"), "timeline-data")
    return [
        (part["start_s"], part["end_s"], part.get("speaker"), part["emotion"] or UNSURE)
        for part in row["segments"]
    ]


def read_parquet(path: Path) -> list[Span]:
    return [
        (row["start_s"], row["end_s"], row["speaker"], row["emotion"] or UNSURE)
        for row in parquet.read_table(path).to_pylist()
        if row["start_s"] is not None
    ]


def read_audformat(path: Path) -> list[Span]:
    frame = audformat.utils.read_csv(
        str(path), as_dataframe=True, keep_default_na=False, na_values={"end": [""]}, dtype={"speaker": str}
    )
    assert audformat.is_segmented_index(frame.index)
    return [
        (start.total_seconds(), end.total_seconds(), speaker or None, emotion or UNSURE)
        for (_, start, end), speaker, emotion in zip(
            frame.index, frame["speaker"], frame["emotion"], strict=True
        )
        if not pd.isna(end)
    ]


READERS: dict[str, Callable[[Path], list[Span]]] = {
    "json": read_json,
    "csv": read_csv,
    "srt": read_srt,
    "vtt": read_vtt,
    "rttm": read_rttm,
    "audacity": read_audacity,
    "audformat": read_audformat,
    "textgrid": read_textgrid,
    "elan": read_elan,
    "html": read_html,
    "parquet": read_parquet,
}
# Name of a format that cannot hold all of a span -> the part of a span that its reader returns.
KEPT: dict[str, Callable[[Span], Span]] = {}


def normal_form(spans: list[Span]) -> list[tuple[float, float, str, str]]:
    """Spans in a fixed order, times in milliseconds, runs of blanks in names as one."""
    return sorted(
        (round(1000 * start), round(1000 * end), " ".join((speaker or "").split()), emotion)
        for start, end, speaker, emotion in spans
    )


# --- every format, whatever it is ----------------------------------------------------------------

SPEAKERS = st.none() | st.text("abé\"' 中<>&-", min_size=1, max_size=6).filter(
    lambda name: name.strip() != ""
)


@st.composite
def results(draw: Callable[..., Any], speakers: st.SearchStrategy[str | None] = SPEAKERS) -> Timeline:
    """A timeline of up to eight segments on a grid of 20 ms, overlaps included."""
    spans = draw(st.lists(st.tuples(st.integers(0, 5000), st.integers(10, 400)), max_size=8))
    segments = []
    for begin, length in sorted(spans):
        values = np.array(draw(st.lists(st.floats(0.01, 1), min_size=4, max_size=4)))
        named = dict(zip(EMOTIONS, map(float, values / values.sum()), strict=True))
        emotion = draw(st.sampled_from([max(named, key=named.__getitem__), None]))
        span = (begin / 50, (begin + length) / 50)
        segments.append(Segment(*span, emotion, max(named.values()), named, draw(speakers)))
    end_s = max([1.0, *(segment.end_s for segment in segments)])
    reason = None if segments else "no_speech"
    summary = seconds_by_emotion(segments, EMOTIONS)
    return Timeline("calls/talk one.wav", end_s, tuple(segments), summary, reason)


@pytest.fixture
def talk() -> Timeline:
    """Two speakers, two segments of one of them that overlap, and one segment without an emotion."""
    return Timeline(
        "calls/talk.wav",
        5.0,
        (
            Segment(0.5, 2.0, "angry", 0.83, {"angry": 0.83, "sad": 0.17}, 'A <b> & "c" --> d'),
            Segment(1.25, 3.0, None, 0.55, {"angry": 0.45, "sad": 0.55}, 'A <b> & "c" --> d'),
            Segment(2.5, 4.125, "sad", 0.6, {"angry": 0.4, "sad": 0.6}, "bob--"),
        ),
        {"angry": 1.5, "sad": 1.625},
    )


def expected_spans(row: Timeline, format: str) -> list[Span]:
    spans = [(part.start_s, part.end_s, part.speaker, part.emotion or UNSURE) for part in row.segments]
    return [KEPT[format](span) for span in spans] if format in KEPT else spans


def test_every_format_has_a_reader() -> None:
    assert READERS.keys() == FORMATS.keys(), "add the format to READERS in tests/test_formats.py"
    assert KEPT.keys() <= FORMATS.keys()


@every_format
@given(row=results())
@MANY
def test_segments_are_read_back(
    format: TimelineFormat, row: Timeline, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("formats") / f"talk{format.suffix}"
    write([row], format.name, path, EMOTIONS)
    assert normal_form(READERS[format.name](path)) == normal_form(expected_spans(row, format.name))


@every_format
def test_hostile_names_overlaps_and_unsure_segments_are_read_back(
    format: TimelineFormat, talk: Timeline, tmp_path: Path
) -> None:
    path = tmp_path / f"talk{format.suffix}"
    write([talk], format.name, path, ("angry", "sad"))
    assert normal_form(READERS[format.name](path)) == normal_form(expected_spans(talk, format.name))


@every_format
def test_a_timeline_without_segments_is_a_valid_file(format: TimelineFormat, tmp_path: Path) -> None:
    path = tmp_path / f"silent{format.suffix}"
    write([Timeline("silent.wav", 2.0, reason="silence")], format.name, path, EMOTIONS)
    assert READERS[format.name](path) == []


def content(format: TimelineFormat, rows: Sequence[Timeline], folder: Path) -> bytes:
    """What `write` writes."""
    write(rows, format.name, folder / "content", EMOTIONS)
    return (folder / "content").read_bytes()


@every_format
def test_an_error_is_written_where_the_format_can_hold_it(format: TimelineFormat, tmp_path: Path) -> None:
    assert (b"cannot be decoded" in content(format, [FAILED], tmp_path)) == format.holds_errors


@every_format
def test_equal_timelines_give_equal_files(format: TimelineFormat, talk: Timeline, tmp_path: Path) -> None:
    assert content(format, [talk], tmp_path) == content(format, [replace(talk)], tmp_path)


@every_format
def test_one_file_holds_one_recording_or_several(
    format: TimelineFormat, talk: Timeline, tmp_path: Path
) -> None:
    files = [Path("one.wav"), Path("two.wav")]
    if format.holds_several:
        written = content(format, [replace(talk, path=str(path)) for path in files], tmp_path)
        assert all(path.stem.encode() in written for path in files)
        assert batch.plan(files, files, format.name, None, None).format == format.name
    else:
        with pytest.raises(ConfigError, match=f"{format.name} holds one recording, but there are 2"):
            batch.plan(files, files, format.name, None, None)


# --- where formats are offered -------------------------------------------------------------------


def test_names_titles_suffixes_and_media_types_are_unique() -> None:
    for values in (
        [format.name for format in FORMATS.values()],
        [format.title for format in FORMATS.values()],
        [format.suffix.lower() for format in FORMATS.values()],
        [format.media_type for format in FORMATS.values()],
    ):
        assert len(set(values)) == len(values)
    for name, format in FORMATS.items():
        assert name == format.name
        assert re.fullmatch(r"[a-z]+", name)
        assert re.fullmatch(r"\.[A-Za-z]+", format.suffix)
        assert re.fullmatch(r"(text|application)/[a-z+.-]+", format.media_type)


def test_json_and_csv_come_first_and_the_others_by_name() -> None:
    names = list(FORMATS)
    assert names == ["json", "csv", *sorted(names[2:])]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "a.wav"
    soundfile.write(path, np.concatenate([make.silence(0.3), make.speech(1.5)]), make.RATE)
    return path


@every_format
def test_the_command_line_takes_a_name_or_a_suffix(
    format: TimelineFormat, exported: Path, sound: Path, tmp_path: Path
) -> None:
    def run(*args: object) -> None:
        result = CliRunner().invoke(cli.app, ["timeline", str(sound), "-m", str(exported), *map(str, args)])
        assert result.exit_code == 0, result.output

    named, by_suffix = tmp_path / "named.file", tmp_path / f"by_suffix{format.suffix}"
    run("-f", format.name, "-o", named)
    assert len(READERS[format.name](named)) >= 1
    run("-o", by_suffix)
    same = by_suffix.read_bytes() == named.read_bytes()
    assert same == format.chosen_by_suffix == (format.suffix.lower() in FORMAT_BY_SUFFIX)
    run("-f", format.name, "-o", tmp_path / "folder")
    assert (tmp_path / "folder" / f"a{format.suffix}").is_file()


def test_help_lists_the_formats() -> None:
    for command, names in (("timeline", ["table", *FORMATS]), ("predict", [*PREDICTION_FORMATS])):
        result = CliRunner().invoke(cli.app, [command, "--help"], env={"COLUMNS": "300"})
        assert f"<{'|'.join(names)}>" in result.output


def test_the_command_line_reads_the_registries_without_heavy_imports() -> None:
    code = (
        "import sys, emodistill.cli\n"
        "heavy = ('numpy', 'onnxruntime', 'soundfile', 'fastapi', 'pyarrow')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture(scope="module")
def client(exported: Path) -> Iterator[TestClient]:
    with TestClient(create_app(Settings(threads=1, models=(str(exported),)))) as started:
        yield started


def test_the_server_answers_in_every_format(client: TestClient, sound: Path, tmp_path: Path) -> None:
    assert TIMELINE_RESPONSES.keys() == {format.media_type for format in formats_without_source()}
    described = client.get("/openapi.json").json()
    content = described["paths"]["/v1/timeline"]["post"]["responses"]["200"]["content"]
    assert content.keys() == TIMELINE_RESPONSES.keys()
    for format in formats_without_source():
        sent = {"files": ("a.wav", sound.read_bytes())}
        answer = client.post("/v1/timeline", files=sent, headers={"Accept": format.media_type})
        assert answer.headers["content-type"].partition(";")[0] == format.media_type
        path = tmp_path / f"answer{format.suffix}"
        path.write_bytes(answer.content)
        assert len(READERS[format.name](path)) >= 1


def test_the_server_answers_in_every_prediction_format(client: TestClient, sound: Path) -> None:
    served = {format.media_type for format in PREDICTION_FORMATS.values()} - {None}
    assert PREDICTION_RESPONSES.keys() == served == {"application/json", "application/x-ndjson", "text/csv"}
    for media_type in served:
        sent = {"files": ("a.wav", sound.read_bytes())}
        answer = client.post("/v1/predict", files=sent, headers={"Accept": media_type})
        assert answer.headers["content-type"].partition(";")[0] == media_type


def test_a_format_that_needs_the_recording_is_not_served(monkeypatch: pytest.MonkeyPatch) -> None:
    served = formats_without_source()
    assert [format.name for format in FORMATS.values() if format not in served] == ["html", "parquet"]
    clips = replace(FORMATS["json"], name="clips", needs_source=True)
    monkeypatch.setattr(formats, "FORMATS", {**FORMATS, "clips": clips})
    assert formats_without_source() == served


def listed(script: str) -> list[dict[str, str]]:
    """The entries of a page's `formats.js`."""
    entries: list[dict[str, str]] = json.loads(script.partition("export default ")[2].rstrip(";\n"))
    return entries


def test_each_page_offers_what_it_can_write(client: TestClient, tmp_path: Path) -> None:
    export_web("bundled", tmp_path / "page")
    static = listed((tmp_path / "page" / "page" / "formats.js").read_text(encoding="utf-8"))
    served = listed(client.get("/page/formats.js").text)
    assert [entry["name"] for entry in served] == [format.name for format in formats_without_source()]
    assert [entry["name"] for entry in static] == [
        name for name, format in FORMATS.items() if format.in_static_page
    ]
    for entry in (*static, *served):
        format = FORMATS[entry["name"]]
        assert entry == {
            "name": format.name,
            "title": format.title,
            "suffix": format.suffix,
            "mediaType": format.media_type,
        }
    script = (tmp_path / "page" / "page" / "writers.js").read_text(encoding="utf-8")
    (names,) = re.findall(r"^export const WRITERS = \{ (.+) \};", script, re.MULTILINE)
    assert set(names.split(", ")) == {entry["name"] for entry in static}


def documented_block(path: Path) -> str:
    (block,) = re.findall(r"<!-- formats:begin -->\n(.*?)<!-- formats:end -->", path.read_text("utf-8"), re.S)
    return str(block)


def test_the_readme_lists_the_formats() -> None:
    names = [f"`{name}`" for name in FORMATS]
    sentence = f"Timelines are written as {', '.join(names[:-1])} or {names[-1]}.\n"
    assert documented_block(ROOT / "README.md") == sentence, f"write this into README.md:\n{sentence}"


def test_the_page_on_serving_lists_the_formats() -> None:
    rows = ["| format | `Accept` | suffix | one file holds |\n", "| --- | --- | --- | --- |\n"]
    for format in formats_without_source():
        number = "several recordings" if format.holds_several else "one recording"
        rows.append(f"| `{format.name}` | `{format.media_type}` | `{format.suffix}` | {number} |\n")
    table = "".join(rows)
    assert documented_block(ROOT / "docs" / "serving.md") == table, (
        f"write this into docs/serving.md:\n{table}"
    )


# --- single formats ------------------------------------------------------------------------------


def test_json_holds_the_fields_of_a_timeline(talk: Timeline) -> None:
    data = json.loads(FORMATS["json"].to_text([talk, FAILED], EMOTIONS))
    assert data == [talk.as_dict(), FAILED.as_dict()]


@given(results())
@MANY
def test_csv_holds_every_field(row: Timeline) -> None:
    rows = list(csv.DictReader(io.StringIO(FORMATS["csv"].to_text([FAILED, row], EMOTIONS))))
    assert (rows[0]["path"], rows[0]["error"]) == (FAILED.path, FAILED.error)
    assert len(rows) == 1 + max(1, len(row.segments))
    if not row.segments:
        assert (rows.pop()["reason"], row.reason) == ("no_speech", "no_speech")
    for read, segment in zip(rows[1:], row.segments, strict=True):
        assert {name: float(read[f"p_{name}"]) for name in EMOTIONS} == segment.probabilities
        assert float(read["confidence"]) == segment.confidence
        assert read["reason"] == ("low_confidence" if segment.emotion is None else "")
        assert read["speaker"] == (segment.speaker or "")


def test_subtitles_say_the_confidence(talk: Timeline) -> None:
    assert [part.content for part in srt.parse(FORMATS["srt"].to_text([talk], EMOTIONS))] == [
        'A <b> & "c" --> d: angry 83 %',
        'A <b> & "c" --> d: ? 55 %',
        "bob--: sad 60 %",
    ]
    assert FORMATS["vtt"].to_text([talk], EMOTIONS) == (
        "WEBVTT\n\n"
        '1\n00:00:00.500 --> 00:00:02.000\n<v A &lt;b&gt; &amp; "c" -&#45;&gt; d>angry 83 %\n\n'
        '2\n00:00:01.250 --> 00:00:03.000\n<v A &lt;b&gt; &amp; "c" -&#45;&gt; d>? 55 %\n\n'
        "3\n00:00:02.500 --> 00:00:04.125\n<v bob-&#45;>sad 60 %\n"
    )


@given(row=results(speakers=st.none() | st.sampled_from(["anna", "zoé b"])))
@MANY
def test_rttm_is_read_by_other_programs(row: Timeline, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("rttm") / "talk.rttm"
    write([row, FAILED], "rttm", path, EMOTIONS)
    if not row.segments:
        assert path.read_text() == ""
        return
    tracks = load_rttm(path)["talk_one"].itertracks(yield_label=True)
    assert sorted((round(turn.start, 3), round(turn.end, 3), name) for turn, _, name in tracks) == sorted(
        (round(start, 3), round(end, 3), f"{speaker}/{emotion}".replace(" ", "_") if speaker else emotion)
        for start, end, speaker, emotion in expected_spans(row, "rttm")
    )
    again = read_segments(path)
    assert [(turn.start_s, turn.end_s) for turn in again.for_recording("talk one.wav")] == [
        (segment.start_s, segment.end_s) for segment in row.segments
    ]


def test_a_tier_for_each_speaker_and_no_two_with_one_name() -> None:
    def turn(start_s: float, end_s: float, speaker: str | None) -> Segment:
        return Segment(start_s, end_s, "sad", 1.0, {"sad": 1.0}, speaker)

    turns = (
        turn(0, 2, "anna"), turn(1, 3, "anna"), turn(1, 2, None), turn(2, 4, "anna"), turn(2, 3, "anna 2"),
        turn(3, 4, "emotion"),
    )  # fmt: skip
    row = Timeline("a.wav", 5.0, turns)
    names = ["anna", "anna 2", "emotion", "anna 2 2", "emotion 2"]
    assert re.findall(r'name = "(.*)"', FORMATS["textgrid"].to_text([row], EMOTIONS)) == names
    document = ET.fromstring(FORMATS["elan"].to_text([row], EMOTIONS))
    assert [tier.get("TIER_ID") for tier in document.iter("TIER")] == names


def test_elan_has_time_slots_in_order_and_no_reference_without_a_target(talk: Timeline) -> None:
    document = ET.fromstring(FORMATS["elan"].to_text([talk], EMOTIONS))
    assert [child.tag for child in document] == ["HEADER", "TIME_ORDER", *["TIER"] * 3, "LINGUISTIC_TYPE"]
    slots = {slot.get("TIME_SLOT_ID"): int(slot.get("TIME_VALUE", "")) for slot in document.iter("TIME_SLOT")}
    assert list(slots.values()) == sorted([500, 2000, 1250, 3000, 2500, 4125])
    annotations = list(document.iter("ALIGNABLE_ANNOTATION"))
    assert len({part.get("ANNOTATION_ID") for part in annotations}) == len(annotations) == 3
    for part in annotations:
        assert slots[part.get("TIME_SLOT_REF1")] < slots[part.get("TIME_SLOT_REF2")]
    (kind,) = (part.get("LINGUISTIC_TYPE_ID") for part in document.iter("LINGUISTIC_TYPE"))
    assert {tier.get("LINGUISTIC_TYPE_REF") for tier in document.iter("TIER")} == {kind}


@pytest.mark.parametrize(
    ("path", "url", "beside"),
    [
        ("calls/a b&c.wav", "calls/a%20b%26c.wav", "./a%20b%26c.wav"),
        ("/calls/a.wav", "file:///calls/a.wav", "./a.wav"),
        ("caf\udce9.wav", "caf%E9.wav", "./caf%E9.wav"),  # a name that is not valid UTF-8
    ],
)
def test_elan_links_to_the_recording(path: str, url: str, beside: str) -> None:
    document = ET.fromstring(FORMATS["elan"].to_text([Timeline(path, 1.0)], EMOTIONS))
    (media,) = document.iter("MEDIA_DESCRIPTOR")
    assert (media.get("MEDIA_URL"), media.get("RELATIVE_MEDIA_URL")) == (url, beside)


def test_elan_replaces_characters_that_xml_cannot_hold() -> None:
    segment = Segment(0, 1, "sad", 1.0, {"sad": 1.0}, "a\x00b\udce9")
    document = ET.fromstring(FORMATS["elan"].to_text([Timeline("", 1.0, (segment,))], EMOTIONS))
    assert [tier.get("TIER_ID") for tier in document.iter("TIER")] == ["a\ufffdb\ufffd"]
    assert not list(document.iter("MEDIA_DESCRIPTOR")), "the audio came as bytes, without a name"


def test_a_file_is_complete_or_missing(tmp_path: Path) -> None:
    row = Timeline("a.wav", 1.0)
    with pytest.raises(ConfigError, match=r"bad format 'jsn', expected one of .* \(did you mean 'json'\?\)"):
        write([row], "jsn", tmp_path / "a.json", EMOTIONS)
    write([row], "json", tmp_path / "below/a.json", EMOTIONS)
    assert [path.name for path in sorted(tmp_path.rglob("*"))] == ["below", "a.json"]


def test_parquet_has_the_rows_of_csv_in_typed_columns(talk: Timeline, tmp_path: Path) -> None:
    silent, named = Timeline("silent.wav", 1.0, reason="silence"), replace(talk, path="caf\udce9.wav")
    rows = [talk, FAILED, silent, named]
    for name in ("csv", "parquet"):
        write(rows, name, tmp_path / f"rows.{name}", EMOTIONS)
    table = parquet.read_table(tmp_path / "rows.parquet")
    expected = make.read_rows(tmp_path / "rows.csv")
    assert table.column_names == list(expected[0])
    for row, other in zip(table.to_pylist(), expected, strict=True):
        assert {name: "" if value is None else str(value) for name, value in row.items()} == other
    types = {field.name: str(field.type) for field in table.schema}
    assert {types[name] for name in ("start_s", "confidence", "arousal", "p_angry")} == {"double"}
    assert {types[name] for name in ("path", "speaker", "error", "surety", "text")} == {"string"}
    assert types["channel"] == "int64"
    write([silent], "parquet", tmp_path / "silent.parquet", EMOTIONS)
    assert parquet.read_schema(tmp_path / "silent.parquet") == table.schema, "types do not depend on values"
    write([], "parquet", tmp_path / "empty.parquet", EMOTIONS)
    assert parquet.read_table(tmp_path / "empty.parquet").num_rows == 0
