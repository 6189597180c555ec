"""The packaged corpus and call are complete, and the generator makes them again."""

import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import factories as make
import numpy as np
import pytest
import soundfile
from factories_scripts import load_script
from hypothesis import given, settings
from hypothesis import strategies as st

from emodistill.audio.waveform import SAMPLE_RATE, load
from emodistill.corpora import DEMO_CORPUS as CORPUS
from emodistill.corpora import drop_bad_audio, read_manifest
from emodistill.demo.generate import (
    EMOTIONS,
    SPEAKERS,
    Settings,
    generate,
    generate_call,
    main,
    plan,
    write_table,
)
from emodistill.demo.ratings import (
    NUM_RATERS,
    RATER_SD,
    SCALE,
    draw_ratings,
    expected_ratings,
    true_dimensions,
)
from emodistill.evaluation.dimension_predictions import DimensionPredictions, write_dimensions
from emodistill.evaluation.dimension_scores import concordance

FEW = Settings(speakers=SPEAKERS[:2], num_per_emotion=1)  # eight utterances

espeak = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")


def test_the_packaged_corpus_is_complete() -> None:
    corpus, problems = drop_bad_audio(read_manifest(CORPUS / "utterances.csv"))
    assert problems == []
    assert (len(corpus), len(corpus.speakers), set(corpus.labels)) == (480, 10, set(EMOTIONS))
    assert set(Counter((u.speaker, u.emotion) for u in corpus).values()) == {12}
    assert all(u.transcript and u.gender and u.language == "en" for u in corpus)
    files = {path for path in CORPUS.rglob("*") if path.is_file()}
    assert files == {u.path for u in corpus} | {CORPUS / "utterances.csv", CORPUS / "README.md"}
    assert sum(path.stat().st_size for path in files) < 4e6


def test_the_packaged_audio_decodes() -> None:
    for utterance in read_manifest(CORPUS / "utterances.csv"):
        assert utterance.path is not None
        waveform = load(utterance.path)
        assert 0.5 < len(waveform) / SAMPLE_RATE < 10, utterance.id
        assert np.abs(waveform).max() > 0.02, utterance.id


def test_the_packaged_table_equals_the_plan_of_the_generator() -> None:
    rows = make.read_rows(CORPUS / "utterances.csv")
    planned = [(item.id, item.path, item.speaker.id, item.emotion) for item in plan()]
    assert [(row["id"], row["path"], row["speaker"], row["emotion"]) for row in rows] == planned


# --- ratings ---------------------------------------------------------------------------------------

_drawn = {
    "rate_wpm": st.floats(130, 240),
    "pitch_shift": st.floats(-40, 60),
    "range_percent": st.floats(10, 220),
    "word_emotion": st.sampled_from(EMOTIONS),
}


def test_the_packaged_table_has_the_ratings_of_the_generator(tmp_path: Path) -> None:
    rows = make.read_rows(CORPUS / "utterances.csv")
    write_table(tmp_path / "again.csv", plan(), [row["transcript"] for row in rows], Settings().seed)
    assert (tmp_path / "again.csv").read_bytes() == (CORPUS / "utterances.csv").read_bytes()
    corpus = read_manifest(CORPUS / "utterances.csv")
    assert {u.scale for u in corpus} == {SCALE}
    assert all(u.unit_dimensions().keys() == {"arousal", "valence", "dominance"} for u in corpus)


def test_the_formulas_of_the_dimensions() -> None:
    assert true_dimensions(180, 6, 100, "neutral") == dict.fromkeys(("arousal", "valence", "dominance"), 3.0)
    fast = true_dimensions(210, 18, 160, "happy")  # r = p = g = w = 1
    assert fast == pytest.approx({"arousal": 4.3, "valence": 3.8, "dominance": 3.4})
    assert true_dimensions(240, 60, 220, "happy")["arousal"] == 5.0


@given(st.fixed_dictionaries(_drawn), st.randoms())
def test_ratings_are_means_of_numbers_on_the_scale(drawn: dict[str, Any], rng: random.Random) -> None:
    for value in draw_ratings(rng, true_dimensions(**drawn)).values():
        assert SCALE[0] <= value <= SCALE[1]
        assert (value * NUM_RATERS).is_integer()


@settings(max_examples=20, deadline=None)
@given(st.fixed_dictionaries(_drawn))
def test_the_oracle_predicts_the_mean_of_many_ratings(drawn: dict[str, Any]) -> None:
    true, rng, number = true_dimensions(**drawn), random.Random(0), 2000
    many = [draw_ratings(rng, true) for _ in range(number)]
    for name, expected in expected_ratings(true).items():
        mean = sum(ratings[name] for ratings in many) / number
        assert mean == pytest.approx(expected, abs=5 * RATER_SD / (NUM_RATERS * number) ** 0.5)


def test_the_oracle_of_the_packaged_ratings_is_good_and_not_perfect() -> None:
    corpus = {u.id: u for u in read_manifest(CORPUS / "utterances.csv")}
    for name, expected_ccc in (("arousal", 0.939), ("valence", 0.895), ("dominance", 0.875)):
        truth = np.array([getattr(corpus[item.id], name) for item in plan()])
        predicted = np.array([expected_ratings(item.true_dimensions())[name] for item in plan()])
        assert concordance(truth, predicted) == pytest.approx(expected_ccc, abs=5e-4)


def test_the_script_prints_the_oracle_beside_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    script = load_script("demo_oracle")
    items = plan()[:40]
    corpus = {u.id: u.unit_dimensions() for u in read_manifest(CORPUS / "utterances.csv")}
    truth = np.array([[corpus[item.id]["valence"]] for item in items])

    def table(predicted: np.ndarray, name: str = "") -> DimensionPredictions:
        ids = tuple(name + item.id for item in items)
        return DimensionPredictions(("valence",), ids, ("1",) * 40, ("x",) * 40, truth, predicted)

    write_dimensions(table(truth), tmp_path / "dimensions.csv")
    write_dimensions(table(np.full((40, 1), 0.5)), tmp_path / "dimensions-prosodic.csv")
    write_dimensions(table(truth), tmp_path / "dimensions-prosodic-dev.csv")
    rows = {(dimension, model): ccc for dimension, model, ccc, *_ in script.rows_of(tmp_path)}
    assert rows.keys() == {("valence", "oracle"), ("valence", "run"), ("valence", "prosodic")}
    assert rows["valence", "run"] == pytest.approx(1.0)
    assert rows["valence", "prosodic"] == 0.0
    oracle = script.oracle_predictions(table(truth))[:, 0]
    assert rows["valence", "oracle"] == pytest.approx(concordance(truth[:, 0], oracle))
    monkeypatch.setattr("sys.argv", ["demo_oracle.py", str(tmp_path)])
    assert script.main() == 0
    assert "oracle" in capsys.readouterr().out
    write_dimensions(table(truth, "other/"), tmp_path / "dimensions.csv")
    assert script.main() == 2
    assert "'other/f01_001' is no utterance of the demo corpus" in capsys.readouterr().err


@espeak
def test_a_seed_gives_the_same_corpus_each_time_and_another_seed_another(tmp_path: Path) -> None:
    one, two, other = (
        generate(tmp_path / name, settings)
        for name, settings in (("1", FEW), ("2", FEW), ("3", Settings(7, FEW.speakers, num_per_emotion=1)))
    )
    assert one == two != other
    tables = [(tmp_path / name / "utterances.csv").read_bytes() for name in "123"]
    assert tables[0] == tables[1] != tables[2]
    corpus, problems = drop_bad_audio(read_manifest(tmp_path / "1/utterances.csv"))
    assert (len(corpus), problems) == (8, [])


def test_the_packaged_call_is_stereo_with_one_speaker_in_each_channel() -> None:
    samples, rate_hz = soundfile.read(CORPUS.parent / "call.ogg", dtype="float32")
    assert (rate_hz, samples.shape) == (SAMPLE_RATE, (20 * SAMPLE_RATE, 2))
    # (blocks of 0.1 s, channels)
    active = np.abs(samples).reshape(-1, SAMPLE_RATE // 10, 2).max(axis=1) > 0.05
    assert active.any(axis=0).all(), "both speak"
    assert not active.all(axis=1).any(), "never at once"


@espeak
def test_the_generator_makes_the_packaged_call_again(tmp_path: Path) -> None:
    first, second = generate_call(tmp_path / "1.ogg"), generate_call(tmp_path / "2.ogg")
    assert first == second
    main([str(tmp_path / "out"), "--call"])
    generated, packaged = (
        soundfile.read(path, dtype="float32")[0]
        for path in (tmp_path / "out/call.ogg", CORPUS.parent / "call.ogg")
    )
    assert generated.shape == packaged.shape


def test_without_espeak_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="espeak-ng is not installed: `apt-get install espeak-ng`"):
        generate(tmp_path / "out", FEW)
    with pytest.raises(SystemExit, match=r"^error: espeak-ng is not installed"):
        main([str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
