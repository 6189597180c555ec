"""Embeddings of utterances and of windows: in Python, as files, and as a picture."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import factories as make
import numpy as np
import onnx
import pyarrow.parquet
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import numpy_helper

from emodistill import ConfigError, Embedding, ModelError, Recognizer
from emodistill.inference.embedding import embedding_dims
from emodistill.inference.embedding_plot import plot_embeddings, principal_components
from emodistill.inference.embedding_rows import COLUMNS, EMBEDDING_FORMATS
from emodistill.inference.model_card import BUNDLED

Call = make.CommandLine
CALL = Path(make.__file__).parents[1] / "src" / "emodistill" / "demo" / "call.ogg"


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four recordings: two with speech, one that is silent, and one that is damaged."""
    folder = tmp_path_factory.mktemp("clips")
    for name, seed in (("a", 1), ("b", 2)):
        soundfile.write(folder / f"{name}.wav", make.speech(1.5, 110 + 60 * seed, seed), make.RATE)
    soundfile.write(folder / "c.wav", np.zeros(make.RATE, np.float32), make.RATE)
    (folder / "d.wav").write_bytes(b"RIFF no sound")
    return folder


def head_weights() -> dict[str, np.ndarray]:
    graph = onnx.load(BUNDLED / "head.onnx").graph
    weights = {item.name: numpy_helper.to_array(item).astype(np.float64) for item in graph.initializer}
    return {name.removeprefix("model.student."): value for name, value in weights.items()}


def gelu(values: np.ndarray) -> np.ndarray:
    from scipy.special import erf

    return np.asarray(0.5 * values * (1 + erf(values / np.sqrt(2))))


# --- what the vectors are ------------------------------------------------------------------------


@settings(max_examples=8)
@given(seed=st.integers(0, 10_000), length_s=st.floats(0.4, 3), f0_hz=st.floats(90, 260))
def test_the_vectors_are_those_that_the_predictions_come_from(
    bundled: Recognizer, seed: int, length_s: float, f0_hz: float
) -> None:
    sound = make.speech(length_s, f0_hz, seed)
    prediction, found = bundled.predict(sound, make.RATE), bundled.embed(sound, make.RATE)
    assert (found.emotion, found.confidence, found.reason) == (
        prediction.emotion, prediction.confidence, prediction.reason,
    )  # fmt: skip
    if prediction.reason is not None:
        assert not found.vectors
        return
    assert list(found.vectors) == ["student", "prosodic"]
    for vector in found.vectors.values():
        assert vector.dtype == np.float32
        assert vector.shape == (128,)
        np.testing.assert_allclose(np.linalg.norm(vector), 1, atol=1e-5)
    weights = head_weights()
    # The vector of the classifier's input has unit length here, so the test looks for its length.
    expected = np.array(list(prediction.probabilities.values()))
    lengths = np.geomspace(0.01, 200, 4000)[:, None]
    hidden = gelu(lengths * found.vectors["student"].astype(np.float64))
    matrix = weights["classifier.weight"]
    matrix = matrix if matrix.shape[0] == len(expected) else matrix.T
    logits = (hidden @ matrix.T + weights["classifier.bias"]) / bundled.card.temperature
    logits -= logits.max(axis=1, keepdims=True)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert np.abs(probabilities - expected).max(axis=1).min() < 5e-3


def test_an_utterance_of_several_windows_has_their_mean(bundled: Recognizer) -> None:
    sound = make.speech(45, 140, 3)
    found = bundled.embed(sound, make.RATE)
    assert found.emotion == bundled.predict(sound, make.RATE).emotion
    np.testing.assert_allclose(np.linalg.norm(found.vectors["student"]), 1, atol=1e-5)


def test_gain_and_a_dc_offset_do_not_change_the_vectors(bundled: Recognizer) -> None:
    sound = make.speech(1.5, 150, 4)
    vectors = [bundled.embed(each, make.RATE).vectors["student"] for each in (sound, 0.3 * sound + 0.1)]
    assert vectors[0] @ vectors[1] > 0.999


def test_a_list_gives_a_row_for_each_source(bundled: Recognizer, clips: Path) -> None:
    rows = bundled.embed(sorted(clips.iterdir()))
    assert [bool(row.vectors) for row in rows] == [True, True, False, False]
    assert rows[2].reason == "silence"
    assert "cannot be decoded" in (rows[3].error or "")
    several = list(bundled.embed_all(sorted(clips.iterdir()), jobs=2))
    assert [(row.path, row.error, row.reason) for row in several] == [
        (row.path, row.error, row.reason) for row in rows
    ]
    np.testing.assert_array_equal(
        rows[0].vectors["student"], bundled.embed(clips / "a.wav").vectors["student"]
    )


def test_a_voice_changes_the_vectors_as_it_changes_the_prediction(bundled: Recognizer, clips: Path) -> None:
    voice = bundled.enrol(clips / "b.wav")
    with_voice = bundled.embed(clips / "a.wav", voice=voice)
    assert with_voice.confidence == bundled.predict(clips / "a.wav", voice=voice).confidence
    assert not np.allclose(with_voice.vectors["student"], bundled.embed(clips / "a.wav").vectors["student"])


# --- windows -------------------------------------------------------------------------------------


def test_the_windows_are_those_of_the_timeline(bundled: Recognizer) -> None:
    rows = bundled.embed_windows(CALL, channel=0)
    trace = bundled.timeline(CALL, channels=0, traced=True).trace
    assert trace is not None
    times = {(update.start_s, update.end_s) for update in trace.updates}
    assert len(rows) >= 5
    assert {(row.start_s, row.end_s) for row in rows} <= times
    assert all(0 < row.end_s - row.start_s <= 2 for row in rows if row.end_s and row.start_s is not None)
    assert len({row.start_s for row in rows}) == len(rows)
    assert all(row.channel == 0 for row in rows)


def test_a_window_has_the_vectors_of_its_own_sound(bundled: Recognizer) -> None:
    sound = make.speech(3, 150, 5)
    for row in bundled.embed_windows(sound, make.RATE):
        assert row.start_s is not None
        assert row.end_s is not None
        window = sound[round(row.start_s * make.RATE) : round(row.end_s * make.RATE)]
        (outputs,) = bundled.outputs(window)
        np.testing.assert_allclose(row.vectors["student"], outputs["embedding"], atol=1e-5)
        probabilities = bundled.classify(window).probabilities
        assert row.confidence == pytest.approx(max(probabilities), abs=1e-6)


def test_windows_without_speech_are_one_row_with_the_reason(bundled: Recognizer) -> None:
    for seconds, reason in ((1.0, "silence"), (0.05, "too_short")):
        (row,) = bundled.embed_windows(np.zeros(round(seconds * make.RATE), np.float32), make.RATE)
        assert (row.reason, row.vectors, row.start_s) == (reason, {}, None)


# --- models --------------------------------------------------------------------------------------


def test_a_graph_without_embeddings_says_how_to_make_one() -> None:
    with pytest.raises(
        ModelError, match=r"'old' has no embeddings: .*'embedding', got .*emodistill export RUN"
    ):
        embedding_dims({"probabilities": 7}, "old")
    assert embedding_dims({"embedding": 8, "embedding_prosodic": 4, "probabilities": 7}, "new") == {
        "student": 8, "prosodic": 4,
    }  # fmt: skip


def test_every_packaged_model_has_embeddings() -> None:
    for name in ("bundled", "large"):
        outputs = [
            item.name
            for item in onnx.load(BUNDLED.parent / name / "model.onnx", load_external_data=False).graph.output
        ]
        assert "embedding" in outputs


# --- files ---------------------------------------------------------------------------------------


def read_file(path: Path) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Return the rows of a file of any format, and the student's vectors."""
    if path.suffix == ".npz":
        with np.load(path) as data:
            names = [name for name in data if not name.startswith("embedding_")]
            rows = [
                dict(zip(names, values, strict=True))
                for values in zip(*(data[n] for n in names), strict=True)
            ]
            return rows, data["embedding_student"]
    if path.suffix == ".csv":
        rows: list[dict[str, Any]] = list(csv.DictReader(path.read_text().splitlines()))
        values = [[float(row[f"embedding_student_{index}"] or "nan") for index in range(128)] for row in rows]
        return rows, np.array(values, np.float32)
    table = pyarrow.parquet.read_table(path)
    assert str(table.schema.field("embedding_student").type) == "fixed_size_list<element: float>[128]"
    rows = table.to_pylist()
    empty = [np.nan] * 128
    return rows, np.array([row["embedding_student"] or empty for row in rows], np.float32)


@pytest.mark.parametrize("format", EMBEDDING_FORMATS)
def test_a_file_has_a_row_for_each_input(
    emodistill: Call, bundled: Recognizer, clips: Path, tmp_path: Path, format: str
) -> None:
    output = tmp_path / f"x.{format}"
    result = emodistill("embed", clips, "-o", output, "--jobs", 2)
    assert result.code == 1, "d.wav is damaged"
    assert "4 rows, 2 with vectors (student 128, prosodic 128). They are personal data." in result.err
    rows, vectors = read_file(output)
    assert set(COLUMNS) <= set(rows[0])
    assert [Path(row["path"]).name for row in rows] == ["a.wav", "b.wav", "c.wav", "d.wav"]
    assert [row["reason"] or None for row in rows] == [None, None, "silence", None]
    assert "cannot be decoded" in rows[3]["error"]
    expected = bundled.embed(clips / "a.wav")
    assert rows[0]["emotion"] == expected.emotion
    np.testing.assert_allclose(vectors[0], expected.vectors["student"], atol=1e-5)
    assert np.isnan(vectors[2:]).all()


def test_windows_of_a_part_have_the_times_of_the_recording(emodistill: Call, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(f"path,id,start,end,speaker,group\n{CALL},x,8,20,anna,g1\n")
    output = tmp_path / "x.csv"
    assert (
        emodistill(
            "embed", "--from", tmp_path / "list.csv", "--windows", "--label", "group", "-o", output
        ).code
        == 0
    )
    rows, _ = read_file(output)
    starts = [float(row["start_s"]) for row in rows]
    assert len(rows) > 5
    assert starts == sorted(starts)
    assert min(starts) >= 8
    assert max(float(row["end_s"]) for row in rows) <= 20.01
    assert {(row["id"], row["speaker"], row["label"]) for row in rows} == {("x", "anna", "g1")}


def test_channels_that_are_split_have_rows_of_their_own(emodistill: Call, tmp_path: Path) -> None:
    output = tmp_path / "x.csv"
    assert emodistill("embed", CALL, "--channels", "split", "-o", output).code == 0
    assert [row["channel"] for row in read_file(output)[0]] == ["0", "1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "x.txt"], "bad --output 'x.txt', expected a name that ends in .parquet, .npz, .csv"),
        (["-o", "x.parqet"], "did you mean '.parquet'?"),
        (["-o", "x.npz", "--label", "who"], "--label who names a column of a list"),
        (["-o", "x.npz", "--hop", "1"], "--hop and --window are for the windows of --windows"),
        (["-o", "x.npz", "--windows", "--hop", "0.3"], "window"),
        (["-o", "x.npz", "--plot", "x.jpg"], "expected .png, .svg or .pdf"),
        (["-o", "x.npz", "-m", "nowhere"], "no model 'nowhere'"),
        (["-o", "x.npz", "--voice", "nowhere.json"], "nowhere.json"),
        (["-o", "a.wav", "-f", "npz"], "is an input of this command"),
        (["-o", "x.svg", "-f", "npz", "--plot", "x.svg"], "both name"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(
    emodistill: Call,
    clips: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    shutil.copy(clips / "a.wav", tmp_path)
    monkeypatch.chdir(tmp_path)
    result = emodistill("embed", "a.wav", *arguments)
    assert result.code == 2
    assert message in result.err
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


def test_a_label_that_the_list_lacks_names_its_columns(emodistill: Call, clips: Path, tmp_path: Path) -> None:
    (tmp_path / "list.jsonl").write_text(json.dumps({"path": str(clips / "a.wav"), "mood": "x"}) + "\n")
    result = emodistill(
        "embed", "--from", tmp_path / "list.jsonl", "--label", "mod", "-o", tmp_path / "x.npz"
    )
    assert (
        result.code,
        "line 1: bad column 'mod', expected one of ['path', 'mood'] (did you mean 'mood'?)" in result.err,
    ) == (2, True)


# --- the picture ---------------------------------------------------------------------------------


@given(
    arrays.arrays(np.float64, st.tuples(st.integers(3, 30), st.integers(2, 12)), elements=st.floats(-10, 10))
)
def test_the_components_are_those_of_a_singular_value_decomposition(values: np.ndarray) -> None:
    points, shares = principal_components(values)
    centred = values - values.mean(axis=0)
    sizes = np.linalg.svd(centred, compute_uv=False)[:2]
    np.testing.assert_allclose(np.linalg.norm(points, axis=0), sizes, atol=1e-5)
    assert 0 <= shares[1] <= shares[0] + 1e-9 <= 1 + 1e-6
    again, _ = principal_components(values[::-1])
    gaps = np.linalg.svd(centred, compute_uv=False)
    if len(gaps) > 2 and min(gaps[0] - gaps[1], gaps[1] - gaps[2]) > 1e-2:
        np.testing.assert_allclose(np.abs(again[::-1]), np.abs(points), atol=1e-4)


def row(seed: int, **fields: Any) -> Embedding:
    vector = np.random.default_rng(seed).normal(size=8).astype(np.float32)
    return Embedding("x", {"student": vector / np.linalg.norm(vector)}, **fields)


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_a_picture_has_the_colours_of_emotions_or_labels(tmp_path: Path, suffix: str) -> None:
    rows = [
        row(seed, emotion=("angry", "sad")[seed % 2], label=f"speaker ${seed % 25}") for seed in range(60)
    ]
    silent = Embedding("x", reason="silence")
    for by_label in (False, True):
        path = tmp_path / f"{by_label}{suffix}"
        assert plot_embeddings([*rows, silent], path, by_label)
        assert path.stat().st_size > 2000
        text = path.read_text(errors="replace")
        assert suffix != ".svg" or ("#1f6fb4" in text) == (not by_label)


def test_too_few_points_are_not_drawn(tmp_path: Path, emodistill: Call, clips: Path) -> None:
    assert not plot_embeddings([row(1), row(2)], tmp_path / "x.png")
    result = emodistill("embed", clips / "a.wav", "-o", tmp_path / "y.npz", "--plot", tmp_path / "y.png")
    assert (result.code, "expected at least 3 rows with a vector" in result.err) == (0, True)
    assert not (tmp_path / "y.png").exists()


def test_bad_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected \.png, \.svg or \.pdf"):
        plot_embeddings([row(1)] * 4, tmp_path / "x.gif")


def refuse(call: Callable[[], Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        call()
    return str(caught.value)


def test_a_bad_window_is_refused(bundled: Recognizer) -> None:
    sound = make.speech(1.0)
    assert "hop" in refuse(lambda: bundled.embed_windows(sound, make.RATE, hop_s=0.01))
