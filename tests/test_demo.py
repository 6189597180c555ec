"""The packaged corpus and call are complete, and the generator makes them again."""

import shutil
from collections import Counter
from pathlib import Path

import factories as make
import numpy as np
import pytest
import soundfile

from emodistill.audio.waveform import SAMPLE_RATE, load
from emodistill.corpora import DEMO_CORPUS as CORPUS
from emodistill.corpora import drop_bad_audio, read_manifest
from emodistill.demo.generate import EMOTIONS, SPEAKERS, Settings, generate, generate_call, main, plan

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
