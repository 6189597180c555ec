"""Models with a head for dimensions: predictions, timelines, streams, tables, pictures and pages."""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import factories as make
import numpy as np
import pytest
import soundfile
from factories_page import page_data
from factories_voices import DIM, EMOTIONS, model_without_voices, voice_model
from hypothesis import given, settings
from hypothesis import strategies as st

from emodistill import Recognizer, timeline
from emodistill.audio.waveform import SAMPLE_RATE, load
from emodistill.errors import ConfigError, ModelError
from emodistill.inference import plots
from emodistill.inference.card_writer import card_markdown, write_card
from emodistill.inference.confidence import Answer
from emodistill.inference.exported_student import ExportedStudent
from emodistill.inference.formats import csv_rows
from emodistill.inference.formats.html_page import to_html
from emodistill.inference.given_segments import GivenSegment
from emodistill.inference.model_card import read_card
from emodistill.inference.prediction import Prediction
from emodistill.inference.prediction_rows import Columns, write_rows
from emodistill.inference.segmentation import Segment, WindowUpdate
from emodistill.inference.timelines import Timeline
from emodistill.inference.trend import to_text, trend, whole
from emodistill.inference.window_classifier import WindowOutput
from emodistill.labels import DIMENSIONS

CALL = Path(make.__file__).parents[1] / "src" / "emodistill" / "demo" / "call.ogg"
FOUR = DIMENSIONS


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model with voices, four emotions and four dimensions."""
    return voice_model(tmp_path_factory.mktemp("four"), dimensions=FOUR)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model that predicts dimensions alone."""
    folder = tmp_path_factory.mktemp("alone")
    return voice_model(folder, dimensions=("arousal", "intensity"), emotions=(), teachers=())


@pytest.fixture(scope="module")
def recognizer(model: Path) -> Recognizer:
    return Recognizer(model, threads=1)


@pytest.fixture(scope="module")
def row(recognizer: Recognizer) -> Timeline:
    return recognizer.timeline(CALL, channels="split", names=["agent", "customer"], traced=True)


# --- the graph ------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**16), length_s=st.floats(0.1, 3), has_voice=st.booleans())
def test_the_head_predicts_the_dimensions_of_the_whole_graph(
    model: Path, seed: int, length_s: float, has_voice: bool
) -> None:
    student = ExportedStudent(model, threads=1)
    sound = make.speech(length_s, seed=seed)
    voice = np.random.default_rng(seed).standard_normal(DIM).astype(np.float32) if has_voice else None
    whole_graph = student.run(sound, voice)
    (head,) = student.run_head(whole_graph["statistics"][None], voice)
    np.testing.assert_allclose(head["dimensions"], whole_graph["dimensions"], atol=1e-5)
    assert whole_graph["dimensions"].shape == (len(FOUR),)
    assert ((whole_graph["dimensions"] >= 0) & (whole_graph["dimensions"] <= 1)).all()


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ((), r"names the dimensions \[\], but model.onnx was trained on dimensions without names"),
        (("arousal",), "names 1 dimensions, but model.onnx has 2 outputs"),
    ],
)
def test_a_card_whose_dimensions_do_not_fit_the_graph_is_refused(
    tmp_path: Path, named: tuple[str, ...], message: str
) -> None:
    folder = voice_model(tmp_path, dimensions=("arousal", "valence"))
    write_card(read_card(folder).model_copy(update={"dimensions": named}), folder)
    with pytest.raises(ModelError, match=message):
        Recognizer(folder)


def test_a_graph_without_the_dimensions_of_its_card_is_refused(tmp_path: Path) -> None:
    folder = voice_model(tmp_path)
    write_card(read_card(folder).model_copy(update={"dimensions": ("arousal",)}), folder)
    with pytest.raises(ModelError, match="expected the input waveform and the output probabilities and dim"):
        Recognizer(folder)


def test_a_card_without_dimensions_is_written_as_before(tmp_path: Path) -> None:
    folder = voice_model(tmp_path)
    assert "dimensions" not in json.loads((folder / "card.json").read_text())
    assert read_card(folder).dimensions == ()


# --- one utterance --------------------------------------------------------------------------------


def test_a_prediction_has_the_dimensions_of_the_head(recognizer: Recognizer) -> None:
    found = recognizer.predict(CALL)
    assert found.dimensions_from == "head"
    assert found.emotion in EMOTIONS
    assert found.dimensions is not None
    assert list(found.dimensions) == list(FOUR)
    assert recognizer.dimensions == FOUR
    assert Prediction(**json.loads(json.dumps(found.as_dict()))) == found


def test_the_dimensions_of_a_long_recording_are_the_mean_over_its_windows(recognizer: Recognizer) -> None:
    sound = np.tile(load(CALL), 3)[: 50 * SAMPLE_RATE]
    found = recognizer.classify(sound)
    parts = [recognizer.student.run(window)["dimensions"] for window in _windows(recognizer, sound)]
    assert len(parts) > 1
    assert found.dimensions is not None
    np.testing.assert_allclose(found.dimensions, np.mean(parts, axis=0), atol=1e-6)


def _windows(recognizer: Recognizer, sound: np.ndarray) -> list[np.ndarray]:
    from emodistill.audio.recording import Recording

    return [recognizer._trimmed(window) for window in Recording(sound, SAMPLE_RATE).windows()]


@pytest.mark.parametrize("names", [("intensity",), ("valence", "dominance"), FOUR])
def test_dimensions_of_a_head_are_never_mixed_with_those_of_emotions(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    found = Recognizer(voice_model(tmp_path, dimensions=names)).predict(CALL)
    assert found.dimensions is not None
    assert tuple(found.dimensions) == names
    assert found.dimensions_from == "head"
    plain = Recognizer(voice_model(tmp_path / "plain")).predict(CALL)
    assert plain.dimensions is not None
    assert tuple(plain.dimensions) == ("arousal", "valence")
    assert plain.dimensions_from == "emotions"


def test_fewer_emotions_do_not_change_the_dimensions_of_a_head(recognizer: Recognizer) -> None:
    fewer = recognizer.with_options(emotions=["sad", "angry"]).predict(CALL)
    assert fewer.dimensions == recognizer.predict(CALL).dimensions


def test_without_an_answer_there_are_dimensions_only_where_the_model_ran(recognizer: Recognizer) -> None:
    unsure = recognizer.with_options(min_confidence=1.0).predict(CALL)
    assert (unsure.emotion, unsure.reason, unsure.dimensions_from) == (None, "low_confidence", "head")
    silent = recognizer.predict(make.silence(1.0), SAMPLE_RATE)
    assert silent.abstained
    assert silent.dimensions is None
    assert silent.dimensions_from is None


def test_a_voice_changes_the_dimensions_of_a_head(recognizer: Recognizer) -> None:
    voice = recognizer.enrol([load(CALL)[: 8 * SAMPLE_RATE]], SAMPLE_RATE)
    known, unknown = recognizer.predict(CALL, voice=voice), recognizer.predict(CALL)
    assert known.dimensions is not None
    assert known.dimensions != unknown.dimensions
    again = recognizer.predict_statistics(recognizer.statistics(CALL), voice)
    assert again.dimensions == pytest.approx(known.dimensions, abs=1e-5)


@given(st.dictionaries(st.sampled_from(FOUR), st.floats(0, 1), min_size=1))
def test_an_answer_takes_the_dimensions_of_the_head_as_they_are(place: dict[str, float]) -> None:
    found = Answer.of({"sad": 0.8, "angry": 0.2}, from_head=place)
    assert (found.dimensions, found.dimensions_from) == (place, "head")


# --- dimensions alone -----------------------------------------------------------------------------


def test_a_model_with_dimensions_alone_predicts_no_emotion_and_does_not_abstain(alone: Path) -> None:
    found = Recognizer(alone).predict(CALL)
    assert (found.emotion, found.confidence, found.probabilities) == (None, None, {})
    assert (found.abstained, found.reason, found.error) == (False, None, None)
    assert found.dimensions is not None
    assert set(found.dimensions) == {"arousal", "intensity"}
    assert Prediction(**json.loads(json.dumps(found.as_dict()))) == found
    silent = Recognizer(alone).predict(make.silence(1.0), SAMPLE_RATE)
    assert (silent.reason, silent.dimensions) == ("silence", None)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda one: one.timeline(CALL), ModelError, "no emotions, only arousal, intensity, but a timeline"),
        (lambda one: one.timeline(CALL, given=[GivenSegment(0, 1)]), ModelError, "predicts no emotions"),
        (lambda one: one.stream(SAMPLE_RATE), ModelError, "choose a model with emotions"),
        (lambda one: one.with_options(emotions=["sad"]), ConfigError, "leave emotions out"),
        (lambda one: one.with_options(min_confidence=0.5), ConfigError, "predicts no emotions"),
    ],
)
def test_what_needs_emotions_refuses_a_model_with_dimensions_alone(
    alone: Path, call: Callable[[Recognizer], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call(Recognizer(alone))


def test_the_command_line_predicts_with_dimensions_alone_and_refuses_timelines(
    alone: Path, emodistill: make.CommandLine, tmp_path: Path
) -> None:
    shown = emodistill("predict", CALL, "--model", alone, "--format", "table")
    assert shown.code == 0
    assert "arousal" in shown.out
    assert "intensity" in shown.out
    assert "emotion" not in shown.out
    assert "valence" not in shown.out
    soundfile.write(tmp_path / "long.wav", np.resize(load(CALL), 61 * SAMPLE_RATE), SAMPLE_RATE)
    described = emodistill("predict", tmp_path / "long.wav", "--model", alone, "--verbose")
    assert "; dimensions: arousal, intensity; providers" in described.err
    assert "timeline" not in described.err
    for command in (
        ["timeline", CALL],
        ["timeline", CALL, "--plot", tmp_path / "x.png"],
        ["predict", CALL, "--coverage", 0.5],
    ):
        refused = emodistill(*command, "--model", alone)
        assert refused.code == 2, command
        assert "predicts no emotions" in refused.err
    listed = emodistill("models", alone.parent, "--format", "json")
    rows = {Path(row["model"]): row for row in json.loads(listed.out)}
    assert rows[alone]["emotions"] == []
    assert rows[alone]["dimensions"] == ["arousal", "intensity"]
    assert "arousal intensity" in emodistill("models", alone.parent).out


def test_a_server_predicts_with_dimensions_alone_and_refuses_what_needs_emotions(alone: Path) -> None:
    testclient = pytest.importorskip("starlette.testclient")
    from emodistill.serving.app import create_app
    from emodistill.serving.settings import Settings

    with testclient.TestClient(create_app(Settings(models=(str(alone),)))) as client:
        upload = [("files", ("call.ogg", CALL.read_bytes()))]
        (row,) = client.post("/v1/predict", files=upload).json()
        assert (row["emotion"], row["reason"], row["dimensions_from"]) == (None, None, "head")
        assert set(row["dimensions"]) == {"arousal", "intensity"}
        refused = client.post("/v1/predict", files=upload, data={"coverage": "0.5"})
        assert refused.status_code == 422
        assert "leave coverage out" in refused.json()["detail"]
        for route in ("/v1/timeline", "/v1/jobs"):
            refused = client.post(route, files=upload)
            assert refused.status_code == 422
            assert "predicts no emotions" in refused.json()["detail"]
        (model,) = client.get("/v1/models").json()["models"]
        assert (model["emotions"], model["dimensions"]) == ([], ["arousal", "intensity"])
        with client.websocket_connect("/v1/stream") as stream:
            stream.send_json({"encoding": "pcm16", "rate": 16_000})
            error = stream.receive_json()
            assert error["event"] == "error"
            assert "predicts no emotions" in error["detail"]


# --- over time ------------------------------------------------------------------------------------


def test_every_segment_and_update_has_the_dimensions_of_the_head(row: Timeline) -> None:
    assert row.trace is not None
    assert len(row.segments) > 2
    updates = [update for trace in row.trace.channels for update in trace.updates]
    for part in (*row.segments, *updates):
        assert part.dimensions_from == "head"
        assert part.dimensions is not None
        assert list(part.dimensions) == list(FOUR)
        assert all(0 <= value <= 1 for value in part.dimensions.values())
    assert Timeline.from_dict(json.loads(json.dumps(row.as_dict()))) == replace(row, trace=None)
    assert WindowUpdate(**json.loads(json.dumps(updates[0].as_dict()))) == updates[0]


@pytest.mark.parametrize("adapt", ["none", "running", "recording", "auto"])
def test_a_timeline_compared_with_a_voice_has_the_dimensions_of_the_head(
    recognizer: Recognizer, adapt: Any
) -> None:
    found = recognizer.timeline(CALL, adapt=adapt)
    assert {part.dimensions_from for part in found.segments} == {"head"}
    if adapt in ("none", "running"):
        live = recognizer.stream(SAMPLE_RATE, adapt=adapt)
        events = [event for at in range(21) for event in live.push(load(CALL)[at * 16_000 :][:16_000])]
        segments = [event for event in (*events, *live.finish()) if isinstance(event, Segment)]
        assert [part.dimensions for part in segments] == [part.dimensions for part in found.segments]


class ToneHead(make.ToneRecognizer):
    """A recogniser without a model, with a dimension: the share of the tone of "angry"."""

    def __init__(self) -> None:
        super().__init__()
        self.dimensions = ("arousal",)

    def classify(self, waveform: np.ndarray) -> WindowOutput:
        values = self.probabilities(waveform)
        return WindowOutput(values, values[:1])


def test_dimensions_are_smoothed_as_probabilities_are() -> None:
    parts = [make.tone("angry", 3.0), make.tone("sad", 3.0), make.silence(1.0), make.tone("sad", 2.0)]
    found = {
        smooth_s: timeline(
            np.concatenate(parts), ToneHead(), SAMPLE_RATE, detector=make.LoudnessDetector(),
            smooth_s=smooth_s,
        ).segments
        for smooth_s in (0.0, 4.0)
    }  # fmt: skip
    for segments in found.values():
        assert [part.emotion for part in segments] == ["angry", "sad", "sad"]
        first, second, last = [part.dimensions["arousal"] for part in segments if part.dimensions]
        assert first > 0.5 > second > last
    # With smoothing, the last segment also counts the one of the same emotion just before it.
    lasts = [segments[-1].dimensions for segments in found.values()]
    assert lasts[0] is not None
    assert lasts[1] is not None
    assert lasts[0]["arousal"] < lasts[1]["arousal"]


def test_a_given_segment_has_the_mean_of_its_windows(recognizer: Recognizer) -> None:
    sound = load(CALL)
    (segment,) = recognizer.timeline(CALL, given=[GivenSegment(1.0, 2.5)]).segments
    window = recognizer.classify(sound[SAMPLE_RATE : round(2.5 * SAMPLE_RATE)])
    assert window.dimensions is not None
    assert segment.dimensions is not None
    assert list(segment.dimensions.values()) == pytest.approx(window.dimensions.tolist(), abs=1e-6)


def test_a_trend_has_the_mean_of_each_dimension(row: Timeline) -> None:
    (step, *_) = whole(row)
    seconds = [part.end_s - part.start_s for part in row.segments]
    assert step.dimensions is not None
    assert list(step.dimensions) == list(FOUR)
    for name in FOUR:
        values = [part.dimensions[name] for part in row.segments if part.dimensions]
        assert step.dimensions[name] == pytest.approx(np.average(values, weights=seconds), abs=1e-5)
    (first, *_) = csv.DictReader(io.StringIO(to_text([row], "csv", EMOTIONS, 5)))
    assert list(first)[-4:] == ["reason", "error", "dominance", "intensity"]
    expected = trend(row, 5)[0].dimensions
    assert expected is not None
    assert float(first["intensity"]) == expected["intensity"]


# --- tables ---------------------------------------------------------------------------------------


def test_csv_has_dominance_and_intensity_in_its_last_columns(recognizer: Recognizer, row: Timeline) -> None:
    stream = io.StringIO()
    found = recognizer.predict(CALL)
    assert found.dimensions is not None
    write_rows([found, Prediction("x", error="no")], "csv", stream, Columns(EMOTIONS, listed=True))
    first, second = csv.DictReader(io.StringIO(stream.getvalue()))
    assert list(first)[-3:] == ["speaker", "dominance", "intensity"]
    assert {name: float(first[name]) for name in FOUR} == found.dimensions
    assert first["dimensions_from"] == "head"
    assert {second[name] for name in FOUR} == {""}
    (segment, *_) = csv.DictReader(io.StringIO(csv_rows.to_csv([row], EMOTIONS)))
    assert list(segment)[-3:] == ["text", "dominance", "intensity"]
    assert {name: float(segment[name]) for name in FOUR} == row.segments[0].dimensions


def test_parquet_has_a_number_for_each_dimension(row: Timeline, tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow.parquet")
    from emodistill.inference.formats import write

    write([row], "parquet", tmp_path / "call.parquet", EMOTIONS)
    table = arrow.read_table(tmp_path / "call.parquet")
    assert {str(table.schema.field(name).type) for name in FOUR} == {"double"}
    assert table.column("dominance").to_pylist() == [
        part.dimensions["dominance"] for part in row.segments if part.dimensions
    ]


# --- pictures and pages ---------------------------------------------------------------------------


def test_pictures_have_a_curve_for_each_dimension(row: Timeline, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for step_s in (None, 5.0):
        plots.plot_timeline(row, EMOTIONS, tmp_path / "call.svg", step_s)
        assert (tmp_path / "call.svg").stat().st_size > 10_000
        figure = (
            plots._window_figure(row, EMOTIONS)
            if step_s is None
            else plots._trend_figure(row, EMOTIONS, step_s)
        )
        axes = figure.axes[-1]
        labels = [f"{name}, {speaker}" for speaker in ("agent", "customer") for name in FOUR]
        assert axes.get_legend_handles_labels()[1] == labels
        assert axes.get_ylabel() == "arousal, valence,\ndominance, intensity"
        assert not any(line.get_clip_on() for line in axes.lines)  # so that one at 0 or 1 is whole


def test_the_page_of_a_recording_names_each_dimension(row: Timeline, model: Path) -> None:
    page = to_html([row], EMOTIONS)
    assert page_data(page, "facts")["dimensions"] == list(FOUR)
    assert "<dt>dominance</dt>" in page
    assert '<th scope="col">intensity</th>' in page
    assert "A head of the model predicts it from the sound" in page
    plain = replace(row, segments=tuple(replace(part, dimensions=None) for part in row.segments))
    assert page_data(to_html([plain], EMOTIONS), "facts")["dimensions"] == []


def test_a_recording_as_a_user_sees_it(model: Path, emodistill: make.CommandLine, tmp_path: Path) -> None:
    """Every output of the command line for the call of the demo."""
    pytest.importorskip("matplotlib")
    outputs = [tmp_path / name for name in ("call.json", "call.csv", "call.html", "call.png")]
    for path in outputs:
        option = "--plot" if path.suffix == ".png" else "-o"
        assert emodistill("timeline", CALL, "--model", model, option, path).code == 0
        assert path.stat().st_size > 0
    (written,) = json.loads(outputs[0].read_text())
    assert {part["dimensions_from"] for part in written["segments"]} == {"head"}
    shown = emodistill("timeline", CALL, "--model", model, "--trend", "5")
    assert shown.code == 0
    assert all(name in shown.out for name in FOUR)
    predicted = emodistill("predict", CALL, "--model", model)
    assert predicted.code == 0
    assert all(name in predicted.out for name in FOUR)


# --- the card -------------------------------------------------------------------------------------


def test_a_card_says_where_dimensions_come_from(model: Path, alone: Path, tmp_path: Path) -> None:
    text = card_markdown(read_card(model))
    assert "Dimensions: arousal, valence, dominance and intensity" in text
    assert "A head of the model predicts them" in text
    assert "Glasgow" not in text
    of_alone = card_markdown(read_card(alone))
    assert "Emotions:" not in of_alone
    assert "It predicts no emotions" in of_alone
    assert "Glasgow" in card_markdown(read_card(voice_model(tmp_path)))


def test_a_model_without_voices_has_dimensions_too(tmp_path: Path) -> None:
    found = Recognizer(model_without_voices(tmp_path, dimensions=("valence",))).predict(CALL)
    assert found.dimensions is not None
    assert list(found.dimensions) == ["valence"]
