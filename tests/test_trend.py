"""The trend of a recording: its sums, its writers, its picture, and `timeline --trend`."""

import csv
import io
import json
import math
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from emodistill import cli
from emodistill.errors import ConfigError
from emodistill.inference import trend as module
from emodistill.inference.plots import plot_timeline
from emodistill.inference.segmentation import Segment
from emodistill.inference.timelines import Timeline, Trace, seconds_by_emotion
from emodistill.inference.trend import (
    MAX_STEPS,
    STEPS_S,
    TREND_FORMATS,
    default_step_s,
    speakers_of,
    trend,
    whole,
)

EMOTIONS = ("angry", "happy", "sad", "neutral")
CALL = str(Path(cli.__file__).parents[1] / "demo" / "call.ogg")


def part(
    start_s: float,
    end_s: float,
    emotion: str | None,
    speaker: str | None = None,
    arousal: float | None = None,
) -> Segment:
    probabilities = {name: 0.7 if name == emotion else 0.1 for name in EMOTIONS}
    dimensions = None if arousal is None else {"arousal": arousal, "valence": 1 - arousal}
    return Segment(start_s, end_s, emotion, 0.7, probabilities, speaker, dimensions=dimensions)


def row_of(*segments: Segment, duration_s: float = 100.0) -> Timeline:
    return Timeline("a.wav", duration_s, segments, seconds_by_emotion(segments, EMOTIONS))


@st.composite
def rows(draw: Any) -> Timeline:
    """A timeline of up to 30 segments, overlaps included."""
    spans = draw(st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 400)), max_size=30))
    segments = [
        part(
            begin / 10,
            (begin + length) / 10,
            draw(st.sampled_from([*EMOTIONS, None])),
            draw(st.sampled_from(["anna", "bob", None])),
            draw(st.none() | st.floats(0, 1)),
        )
        for begin, length in sorted(spans)
    ]
    end_s = max([1.0, *(segment.end_s for segment in segments)])
    return row_of(*segments, duration_s=end_s + draw(st.integers(0, 50)))


@given(rows(), st.sampled_from([1.0, 7.5, 30.0, 60.0, 1000.0]))
def test_the_steps_cover_the_recording_and_sum_up_to_the_summary(row: Timeline, step_s: float) -> None:
    steps = trend(row, step_s)
    together = [step for step in steps if step.speaker is None]
    assert len(together) == math.ceil(row.duration_s / step_s)
    assert [step.start_s for step in together] == [step_s * number for number in range(len(together))]
    assert together[-1].end_s == row.duration_s
    for name in EMOTIONS:
        assert sum(step.seconds[name] for step in together) == pytest.approx(row.summary[name], abs=1e-3)
    names = speakers_of(row.segments)
    assert len(steps) == (1 + len(names)) * len(together)
    for name in names:
        own = seconds_by_emotion([one for one in row.segments if one.speaker == name], EMOTIONS)
        for emotion in EMOTIONS:
            found = sum(step.seconds[emotion] for step in steps if step.speaker == name)
            assert found == pytest.approx(own[emotion], abs=1e-3)


@given(rows(), st.sampled_from([5.0, 60.0]))
def test_dimensions_are_means_weighted_by_time(row: Timeline, step_s: float) -> None:
    values = [one.dimensions["arousal"] for one in row.segments if one.dimensions]
    steps = [step for step in trend(row, step_s) if step.dimensions]
    assert bool(steps) == bool(values)
    for step in steps:
        assert step.dimensions is not None
        assert min(values) - 1e-6 <= step.dimensions["arousal"] <= max(values) + 1e-6
        assert sum(step.dimensions.values()) == pytest.approx(1.0, abs=1e-5)
    for step in whole(row):
        own = [
            (one.end_s - one.start_s, one.dimensions["arousal"])
            for one in row.segments
            if one.dimensions and step.speaker in (None, one.speaker)
        ]
        if own:
            assert step.dimensions is not None
            expected = np.average([value for _, value in own], weights=[length for length, _ in own])
            assert step.dimensions["arousal"] == pytest.approx(float(expected), abs=1e-5)
        else:
            assert step.dimensions is None


def test_a_segment_counts_in_each_step_that_it_touches() -> None:
    row = row_of(part(5, 25, "angry", arousal=0.9), part(30, 32, None), duration_s=35)
    steps = trend(row, 10)
    assert [step.seconds["angry"] for step in steps] == [5, 10, 5, 0]
    assert [step.emotion for step in steps] == ["angry", "angry", "angry", None]
    assert [step.unsure_s for step in steps] == [0, 0, 0, 2]
    assert [step.dimensions and step.dimensions["arousal"] for step in steps] == [0.9, 0.9, 0.9, None]
    assert [step.end_s for step in steps] == [10, 20, 30, 35]


@pytest.mark.parametrize("step_s", [0.0, 0.5, -1.0, math.inf, math.nan])
def test_a_bad_step_is_refused(step_s: float) -> None:
    with pytest.raises(ConfigError, match=r"bad step of a trend .* expected at least 1 s"):
        trend(row_of(), step_s)


@given(st.floats(0, 90 * 3600))
def test_the_default_step_gives_a_trend_that_can_be_seen(duration_s: float) -> None:
    step_s = default_step_s(duration_s)
    assert step_s in STEPS_S
    assert duration_s / step_s <= MAX_STEPS
    shorter = [one for one in STEPS_S if one < step_s]
    assert all(duration_s / one > MAX_STEPS for one in shorter)


# --- writers --------------------------------------------------------------------------------------

TWO = row_of(part(0, 30, "angry", "anna", 0.8), part(20, 50, "sad", "=bob", 0.2), duration_s=90)
FAILED = Timeline("bad.wav", error="bad.wav: no such file")


def test_csv_and_json_hold_the_same_trend() -> None:
    read = list(csv.DictReader(io.StringIO(module.to_csv([TWO, FAILED], EMOTIONS, 30))))
    one, failed = json.loads(module.to_json([TWO, FAILED], EMOTIONS, 30))
    assert (one["path"], one["step_s"], one["duration_s"], one["error"]) == ("a.wav", 30, 90, None)
    assert failed["trend"] == []
    assert failed["error"] == read[-1]["error"] == FAILED.error
    assert len(one["trend"]) == len(read) - 1 == 9
    for row, step in zip(read, one["trend"], strict=False):
        assert float(row["start_s"]) == step["start_s"]
        assert row["speaker"] == step.get("speaker", "")
        assert row["emotion"] == (step["emotion"] or "")
        assert {name: float(row[f"{name}_s"]) for name in EMOTIONS} == step["seconds"]
        assert row["arousal"] == str(step.get("dimensions", {}).get("arousal", ""))


def run(*args: object) -> Any:
    return CliRunner().invoke(cli.app, ["timeline", CALL, *map(str, args)])


def test_the_command_line_prints_and_writes_the_trend(tmp_path: Path) -> None:
    printed = run("--trend", 5)
    assert printed.exit_code == 0, printed.output
    assert "speech" in printed.stdout
    assert all(f"0:{second:02d}" in printed.stdout for second in (0, 5, 10, 15))
    assert run("--trend", 5, "-o", tmp_path / "a.csv").exit_code == 0
    written = list(csv.DictReader(io.StringIO((tmp_path / "a.csv").read_text(encoding="utf-8"))))
    assert [float(row["start_s"]) for row in written] == [0, 5, 10, 15]
    done = run("--trend", 10, "-f", "json")
    assert [step["start_s"] for step in json.loads(done.stdout)[0]["trend"]] == [0, 10]
    assert run("--trend", 10, "-f", "csv", "-o", tmp_path / "folder").exit_code == 0
    assert len((tmp_path / "folder" / "call.csv").read_text(encoding="utf-8").splitlines()) == 3
    other = run("--trend", 5, "-f", "csv", "-o", tmp_path / "folder")
    assert isinstance(other.exception, ConfigError)
    assert "was begun with another trend" in str(other.exception)


def test_a_format_that_holds_no_trend_is_refused() -> None:
    assert TREND_FORMATS == ("table", "csv", "json", "html")
    for args, message in (
        (("--trend", 5, "-f", "srt"), "a trend cannot be written as srt, expected table, csv, json, html"),
        (("--trend", 0.5), "bad step of a trend 0.5 s"),
        (("--no-audio", "-f", "csv"), "--no-audio is for the format html, but the format is csv"),
    ):
        problem = run(*args).exception
        assert isinstance(problem, ConfigError)
        assert message in str(problem)


# --- pictures -------------------------------------------------------------------------------------


def long_row(duration_s: float, speakers: tuple[str | None, ...]) -> Timeline:
    """A timeline with a segment every five seconds."""
    random = np.random.default_rng(0)
    segments = [
        part(
            start_s, start_s + 4, EMOTIONS[random.integers(4)], speakers[random.integers(len(speakers))],
            float(random.uniform()),
        )
        for start_s in np.arange(0.0, duration_s - 4, 5.0).tolist()
    ]  # fmt: skip
    row = row_of(*segments, duration_s=duration_s)
    envelope = np.full(round(20 * duration_s), 0.3, dtype=np.float32)
    return Timeline(**{**row.__dict__, "trace": Trace(envelope, ())})


def texts(path: Path) -> list[str]:
    """The texts that matplotlib wrote as comments into an SVG."""
    parser = ET.XMLParser(target=ET.TreeBuilder(insert_comments=True))
    found = ET.parse(path, parser).getroot().iter()
    return [str(one.text).strip() for one in found if one.tag is ET.Comment]


@pytest.mark.parametrize("speakers", [(None,), ("agent", "customer")])
@pytest.mark.parametrize("duration_s", [300.0, 3600.0, 5400.0])
def test_a_long_recording_is_drawn_as_a_trend(
    tmp_path: Path, duration_s: float, speakers: tuple[str | None, ...]
) -> None:
    row = long_row(duration_s, speakers)
    plot_timeline(row, EMOTIONS, tmp_path / "a.svg")
    shown = texts(tmp_path / "a.svg")
    assert "probability" not in shown
    assert "arousal, valence" in shown
    assert {"agent", "customer"} & set(shown) == {one for one in speakers if one}
    root = ET.parse(tmp_path / "a.svg").getroot()
    width, height = (float(root.attrib[name].removesuffix("pt")) / 72 for name in ("width", "height"))
    assert width <= 16
    assert height <= 12
    bars = Counter(style.get("style", "") for style in root.iter("{http://www.w3.org/2000/svg}path"))
    assert max(bars.values()) <= len(EMOTIONS) * MAX_STEPS * len(speakers)


def test_a_step_that_you_choose_is_drawn(tmp_path: Path) -> None:
    row = long_row(100.0, (None,))
    plot_timeline(row, EMOTIONS, tmp_path / "a.svg")
    assert "probability" in texts(tmp_path / "a.svg")
    plot_timeline(row, EMOTIONS, tmp_path / "b.svg", step_s=20)
    assert any("one step: 20 s" in text for text in texts(tmp_path / "b.svg"))


@pytest.mark.parametrize("duration_s", [60.0, 300.0])
def test_names_are_drawn_as_they_are(tmp_path: Path, duration_s: float) -> None:
    row = long_row(duration_s, (r"$\bad{$", "\udcff\x1b[31m"))
    plot_timeline(replace(row, path="a/$x$ \udce9.wav"), EMOTIONS, tmp_path / "a.svg")
    shown = texts(tmp_path / "a.svg")
    assert {r"$\bad{$", "? [31m"} <= set(shown)
    assert any(text.startswith("$x$ ?.wav") for text in shown)
