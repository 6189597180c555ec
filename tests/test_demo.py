"""The embedded corpus is whole, and the generator that made it does so again."""

import shutil
from collections import Counter
from pathlib import Path

import factories as make
import numpy as np
import pytest

from emodistill.audio.waveform import SAMPLE_RATE, load
from emodistill.corpora import drop_bad_audio, read_manifest
from emodistill.corpora.load import DEMO_CORPUS as CORPUS
from emodistill.demo.generate import EMOTIONS, SPEAKERS, Settings, generate, main, plan

FEW = Settings(speakers=SPEAKERS[:2], num_per_emotion=1)  # eight utterances

espeak = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")


def test_the_embedded_corpus_is_whole() -> None:
    corpus, problems = drop_bad_audio(read_manifest(CORPUS / "utterances.csv"))
    assert problems == []
    assert (len(corpus), len(corpus.speakers), set(corpus.labels)) == (480, 10, set(EMOTIONS))
    assert set(Counter((u.speaker, u.emotion) for u in corpus).values()) == {12}
    assert all(u.transcript and u.gender and u.language == "en" for u in corpus)
    files = {path for path in CORPUS.rglob("*") if path.is_file()}
    assert files == {u.path for u in corpus} | {CORPUS / "utterances.csv", CORPUS / "README.md"}
    assert sum(path.stat().st_size for path in files) < 4e6


def test_the_embedded_audio_decodes() -> None:
    for utterance in read_manifest(CORPUS / "utterances.csv"):
        assert utterance.path is not None
        waveform = load(utterance.path)
        assert 0.5 < len(waveform) / SAMPLE_RATE < 10, utterance.id
        assert np.abs(waveform).max() > 0.02, utterance.id


def test_the_embedded_table_is_what_the_generator_plans() -> None:
    rows = make.read_rows(CORPUS / "utterances.csv")
    planned = [(item.id, item.path, item.speaker.id, item.emotion) for item in plan()]
    assert [(row["id"], row["path"], row["speaker"], row["emotion"]) for row in rows] == planned


@espeak
def test_one_seed_gives_one_corpus(tmp_path: Path) -> None:
    one, two, other = (
        generate(tmp_path / name, settings)
        for name, settings in (("1", FEW), ("2", FEW), ("3", Settings(7, FEW.speakers, num_per_emotion=1)))
    )
    assert one == two != other
    tables = [(tmp_path / name / "utterances.csv").read_bytes() for name in "123"]
    assert tables[0] == tables[1] != tables[2]
    corpus, problems = drop_bad_audio(read_manifest(tmp_path / "1/utterances.csv"))
    assert (len(corpus), problems) == (8, [])


def test_without_espeak_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="espeak-ng is not installed: `apt-get install espeak-ng`"):
        generate(tmp_path / "out", FEW)
    with pytest.raises(SystemExit, match=r"^error: espeak-ng is not installed"):
        main([str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
