"""scripts/controlled.py: the prosody that it draws, its oracles, and that it makes the same corpus again."""

import shutil
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import factories as make
import numpy as np
import pytest
import soundfile
from factories_scripts import ROOT, load_script
from scipy.stats import multivariate_normal

from emodistill.config import load_recipe
from emodistill.corpora import Corpus, read_manifest, write_manifest
from emodistill.corpora.load import open_corpus
from emodistill.evaluation.predictions import read_predictions
from emodistill.protocol.audit import audit_protocol
from emodistill.protocol.folds import build_protocol
from emodistill.training.ablation import ablate

controlled = load_script("controlled")


@pytest.fixture(scope="module")
def settings() -> dict[str, Any]:
    return tomllib.loads((ROOT / "scripts/controlled.toml").read_text(encoding="utf-8"))


def test_emotions_have_the_mean_distance_of_the_settings(settings: dict[str, Any]) -> None:
    means = controlled.means(settings)
    distances = [np.linalg.norm(a - b) for i, a in enumerate(means) for b in means[i + 1 :]]
    assert np.mean(distances) == pytest.approx(settings["prosody"]["separation"])


def test_posterior_is_bayes_rule(settings: dict[str, Any]) -> None:
    rng, centres = np.random.default_rng(0), controlled.means(settings)
    z, variance = rng.normal(size=(7, 5)), np.array([1.0, 2.0, 1.5, 1.0, 3.0])
    densities = np.stack([multivariate_normal(c, np.diag(variance)).pdf(z) for c in centres], axis=1)
    expected = densities / densities.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(controlled.posterior(z, centres, variance), expected, rtol=1e-9)


def test_confidence_of_the_oracle_is_its_accuracy(settings: dict[str, Any]) -> None:
    """Over many utterances, the mean confidence is the accuracy."""
    many = {**settings, "count": {"train": 3000, "dev": 4, "test": 4}}
    planned = [item for item in controlled.plan(many, 1.0) if item.split == "train"]
    truth = np.array([settings["emotions"].index(item.emotion) for item in planned])
    z = np.array([item.z for item in planned]) - np.array([item.voice.offset for item in planned])
    p = controlled.posterior(z, controlled.means(settings), np.ones(5))
    assert np.mean(p.argmax(axis=1) == truth) == pytest.approx(p.max(axis=1).mean(), abs=0.02)


@pytest.mark.parametrize(("words_true", "own"), [(1.0, 400), (0.25, 100), (0.7, 280)])
def test_the_share_of_lines_with_the_own_emotion_is_that_of_the_settings(
    settings: dict[str, Any], words_true: float, own: int
) -> None:
    planned = controlled.plan(settings, words_true)
    train = [item for item in planned if item.split == "train"]
    pairs = Counter((item.emotion, item.word_emotion) for item in train)
    for emotion in settings["emotions"]:
        assert pairs[emotion, emotion] == own
        others = [pairs[emotion, other] for other in settings["emotions"] if other != emotion]
        assert max(others) - min(others) <= 1
    prosody = [(item.id, item.z, item.voice) for item in planned]
    assert prosody == [(item.id, item.z, item.voice) for item in controlled.plan(settings, 1.0)]


def test_every_voice_speaks_every_emotion_equally_often(settings: dict[str, Any]) -> None:
    """Otherwise the voice would reveal the emotion, and a bootstrap over speakers would draw emotions."""
    planned = controlled.plan(settings, 1.0)
    for split in controlled.SPLITS:
        counts = Counter((item.voice.id, item.emotion) for item in planned if item.split == split)
        assert len(counts) == settings["voices"][split] * len(settings["emotions"])
        assert max(counts.values()) - min(counts.values()) <= 1


def test_no_voice_is_in_two_splits(settings: dict[str, Any]) -> None:
    by_split = controlled.voices(settings)
    variants = [voice.voice.split("+")[1] for voices in by_split.values() for voice in voices]
    assert len(variants) == len(set(variants)) == sum(settings["voices"].values())
    assert {split: len(voices) for split, voices in by_split.items()} == settings["voices"]
    assert all(0 < sum(v.gender == "female" for v in voices) < len(voices) for voices in by_split.values())


@pytest.fixture(scope="module")
def meld() -> Path:
    """The folder of MELD's text. Skips the test without it, or without espeak-ng."""
    folder = make.DATA / "text/meld"
    if not folder.is_dir():
        pytest.skip(f"no MELD in {folder}")
    if shutil.which("espeak-ng") is None:
        pytest.skip("espeak-ng is not installed")
    return folder


@pytest.fixture(scope="module")
def spoken(meld: Path, settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus with 2 % of the utterances."""
    out = tmp_path_factory.mktemp("controlled") / "one"
    controlled.make(meld, out, "words-and-prosody", settings, 0.02, 1)
    return out


def test_a_grid_is_scored_beside_the_oracles(spoken: Path, tmp_path: Path) -> None:
    """The grid of the shipped recipe, with one epoch for each teacher and student."""
    parts = ("prosodic", "linguistic", "student", "student.words_first")
    short = [f"{part}.optim.epochs=1" for part in parts]
    small = [
        f"corpus.manifest={spoken / 'utterances.csv'}", f"corpus.words={spoken / 'words.csv'}",
        "corpus.further=none", "corpus.further_words=none", "student.words_first.frozen=0",
        "linguistic.encoder=scratch", "linguistic.frozen=0",
        "student.backbone=compact", "student.layers=1", "student.frozen=0", "student.pool=last",
        "student.width=16",
        "prosodic.width=8", "runtime.threads=1", "runtime.workers=1",
    ]  # fmt: skip
    only = ["no-distillation", "prosodic-only", "linguistic-only"]
    ablate(load_recipe("controlled", [*short, *small]), tmp_path, [0, 1], only=only)
    probed = tmp_path / "probed"
    probed.mkdir()
    shutil.copy(spoken / "truth.csv", probed)
    test = [item for item in read_manifest(spoken / "utterances.csv") if item.split == "test"]
    write_manifest(Corpus("probe", tuple(test)), probed / "probe.csv")
    controlled.score(probed, tmp_path)
    run = tmp_path / "cells/full/seed-0"
    for model, name in (("student", "predictions"), ("linguistic", "predictions-linguistic")):
        on_probe = read_predictions(run / f"word-probe-{model}.csv")
        on_test = read_predictions(run / f"{name}.csv")
        assert on_probe.utterances == on_test.utterances
        assert on_probe.probabilities == pytest.approx(on_test.probabilities, abs=1e-4)
    assert [row["cell"] for row in make.read_rows(tmp_path / "word-probe.csv")] == [
        "plain", "+ prosodic", "+ linguistic", "+ both", "linguistic teacher",
    ]  # fmt: skip
    rows = {row["cell"]: row for row in make.read_rows(tmp_path / "controlled.csv")}
    assert list(rows) == [
        "plain", "+ prosodic", "+ linguistic", "+ both", "prosodic teacher", "linguistic teacher",
        "teachers together",
        "prosody's oracle, knows the voice", "prosody's oracle", "oracle and linguistic teacher together",
    ]  # fmt: skip
    truth = [row for row in make.read_rows(spoken / "truth.csv") if row["id"].startswith("test-")]
    p = np.array([[float(row[f"knows_{e}"]) for e in ("angry", "happy", "neutral", "sad")] for row in truth])
    right = [
        ("angry", "happy", "neutral", "sad")[i] == row["emotion"]
        for i, row in zip(p.argmax(axis=1), truth, strict=True)
    ]
    assert float(rows["prosody's oracle, knows the voice"]["ua"]) == pytest.approx(np.mean(right))
    assert rows["plain"]["difference"] == ""
    for row in list(rows.values())[1:]:
        assert float(row["difference"]) == pytest.approx(float(row["ua"]) - float(rows["plain"]["ua"]))
        assert row["no_interval"] == "no interval: 4 speakers, 5 needed"
    assert (tmp_path / "controlled.png").stat().st_size > 10_000
    taught = tmp_path / "taught"
    for cell, other in (("linguistic-only", "prosodic-only"), ("full", "full")):
        shutil.copytree(tmp_path / "cells" / other, taught / "cells" / cell)
    controlled.score(spoken, tmp_path, taught)
    rows = {row["cell"]: row for row in make.read_rows(tmp_path / "controlled.csv")}
    assert rows["+ linguistic"]["ua"] == rows["+ prosodic"]["ua"]
    with pytest.raises(SystemExit, match="no runs of plain"):
        controlled.score(spoken, taught)


def test_the_corpus_follows_the_plan_and_can_be_made_again(
    meld: Path,
    spoken: Path,
    settings: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(spoken, tmp_path / "one")
    for name, setting in (("two", "words-and-prosody"), ("none", "prosody-alone")):
        controlled.make(meld, tmp_path / name, setting, settings, 0.02, 1)
    files = {path.name: path.read_bytes() for path in (tmp_path / "one/audio").iterdir()}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "two/audio").iterdir()}
    for name in ("utterances.csv", "truth.csv"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()

    corpus = read_manifest(tmp_path / "one/utterances.csv")
    assert len(corpus) == len(files)
    splits = [{u.session for u in corpus if u.split == split} for split in ("train", "dev", "test")]
    assert sum(map(len, splits)) == len(set.union(*splits)), "no dialogue is in two splits"
    assert set(Counter((u.split, u.emotion) for u in corpus).values()) == {8, 4}
    monkeypatch.chdir(tmp_path / "one")  # the recipe's paths are those of this folder
    recipe = load_recipe("controlled")
    opened = open_corpus(recipe.corpus, print)
    audit_protocol(opened, build_protocol(opened, recipe.protocol))

    truth = make.read_rows(tmp_path / "one/truth.csv")
    assert all(row["emotion"] == row["word_emotion"] for row in truth)
    shuffled = make.read_rows(tmp_path / "none/truth.csv")
    assert any(row["emotion"] != row["word_emotion"] for row in shuffled)
    for row, other in zip(truth, shuffled, strict=True):  # only the words differ
        assert {k: v for k, v in row.items() if k != "word_emotion"} == {
            k: v for k, v in other.items() if k != "word_emotion"
        }
        assert sum(float(row[f"knows_{e}"]) for e in settings["emotions"]) == pytest.approx(1, abs=1e-5)


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_drawn_prosody_changes_the_samples(settings: dict[str, Any]) -> None:
    voice = controlled.voices(settings)["train"][0]

    def spoken(**z: float) -> np.ndarray:
        values = tuple(z.get(name, 0.0) for name in controlled.DIMENSIONS)
        item = controlled.Planned("x", "train", voice, "angry", "angry", values)
        (recorded,) = controlled.speak_all([(item, "nobody told me that you were here today")], settings, 1)
        return np.asarray(recorded.samples / 32768)

    plain = spoken()
    assert len(spoken(rate_wpm=2)) < 0.95 * len(plain)
    assert len(spoken(pause_ms=2)) > len(plain) + 0.1 * controlled.RATE_HZ

    def rise(waveform: np.ndarray) -> float:
        half = len(waveform) // 2
        return float(np.log(np.std(waveform[half:]) / np.std(waveform[:half])))

    assert rise(spoken(slope_db=2)) > rise(plain) > rise(spoken(slope_db=-2))
    narrow, wide = spoken(range_percent=-2), spoken(range_percent=2)
    assert len(narrow) == pytest.approx(len(wide), rel=0.1)
    assert not np.array_equal(narrow[:4000], wide[:4000])


def test_words_have_times_in_order_and_make_up_the_line(spoken: Path) -> None:
    words: dict[str, list[dict[str, str]]] = {}
    for row in make.read_rows(spoken / "words.csv"):
        words.setdefault(row["id"], []).append(row)
    for utterance in read_manifest(spoken / "utterances.csv"):
        times = [float(row[name]) for row in words[utterance.id] for name in ("start_s", "end_s")]
        assert times == sorted(times)
        assert times[0] >= 0
        assert utterance.path is not None
        assert times[-1] <= soundfile.info(utterance.path).duration + 0.001
        assert (utterance.transcript or "").endswith(" ".join(row["word"] for row in words[utterance.id]))


def test_words_that_are_spoken_as_one_share_a_time() -> None:
    line = ["I", "may", "have", "to,", "I"]
    first_characters = [10, 12, 16, 21, 40]
    starts = [(10, -0.01, True), (12, 0.07, True), (23, 0.5, False), (40, 0.66, True)]
    times = controlled.word_times(line, first_characters, starts, 1.0)
    assert times == [(0.0, 0.07, "I"), (0.07, 0.5, "may have to,"), (0.66, 1.0, "I")]


def test_further_lines_have_no_label_and_are_in_no_other_split(
    meld: Path, spoken: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "corpus"
    shutil.copytree(spoken, out)
    controlled.further(meld, out, settings, 0.01, 1)
    rows = make.read_rows(out / "further.csv")
    assert len(rows) > 20
    assert {row["emotion"] for row in rows} == {""}
    train_voices = {voice.id for voice in controlled.voices(settings)["train"]}
    assert {row["speaker"] for row in rows} <= train_voices
    keys = [controlled.key_of(row["transcript"]) for row in rows]
    assert len(keys) == len(set(keys))
    for name, split in (("utterances", None), ("all", "dev"), ("all", "test")):
        if name == "utterances":
            others = {controlled.key_of(row["transcript"]) for row in make.read_rows(out / "utterances.csv")}
        else:
            lines = controlled.lines(meld, settings, None)
            others = {controlled.key_of(t) for (s, _), items in lines.items() if s == split for _, t in items}
        assert not others.intersection(keys)


def test_the_word_probe_has_as_many_lines_of_each_emotion_in_test_voices(
    meld: Path, spoken: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "corpus"
    shutil.copytree(spoken, out)
    few = {**settings, "probe": {**settings["probe"], "voices_per_line": 1}}
    controlled.probe(meld, out, few, 1)
    rows = make.read_rows(out / "probe.csv")
    counts = Counter(row["emotion"] for row in rows)
    assert set(counts) == set(settings["emotions"])
    assert max(counts.values()) - min(counts.values()) <= 2, "all but those that are too long or too short"
    assert {row["speaker"] for row in rows} <= {voice.id for voice in controlled.voices(settings)["test"]}
    train = {controlled.key_of(t) for (s, _), items in controlled.lines(meld, settings).items()
             if s == "train" for _, t in items}  # fmt: skip
    assert not train.intersection(controlled.key_of(row["transcript"]) for row in rows)
