"""Corpora written for other programs: the registry of formats, the folder, and the format csv."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import factories as make
import numpy as np
import pytest
import soundfile

from emodistill.cli.corpora import WRITTEN
from emodistill.corpora import Corpus, Utterance, drop_bad_audio, read_manifest, write_manifest
from emodistill.corpora.writers import WRITERS, CorpusWriter, write_corpus
from emodistill.errors import ConfigError, CorpusError


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    """Three utterances of two recordings: a whole one, and two parts of a longer one."""
    paths = [tmp_path / "given" / name for name in ("one/a.wav", "two/a b.wav")]
    for path in paths:
        path.parent.mkdir(parents=True)
        soundfile.write(path, make.speech(0.6), 16000)
    utterances = (
        Utterance("a", "s1", "angry", paths[0], gender="female", transcript="No.", transcript_source="gold"),
        Utterance("b", "s2", "sad", paths[1], start_s=0.1, end_s=0.3, arousal=2.0, scale=(1, 5)),
        Utterance("c", "s2", None, paths[1], start_s=0.3, split="test"),
    )
    return drop_bad_audio(Corpus("given", tuple(replace(item, corpus="given") for item in utterances)))[0]


def test_the_help_text_lists_all_formats(emodistill: make.CommandLine) -> None:
    assert sorted(WRITTEN) == sorted(WRITERS)
    result = emodistill("corpus", "write", "x.csv", "--to", "cvs", "folder")
    assert result.code == 2
    assert "bad format of a corpus 'cvs'" in result.err
    assert "did you mean 'csv'" in result.err


@pytest.mark.parametrize("copy_audio", [None, False], ids=["copied", "not copied"])
def test_csv_is_read_back(corpus: Corpus, tmp_path: Path, copy_audio: bool | None) -> None:
    write_corpus(corpus, "csv", tmp_path / "out", copy_audio=copy_audio)
    moved = (tmp_path / "out").rename(tmp_path / "moved")
    back = read_manifest(moved / "utterances.csv", name="given")
    audio = moved / "audio" if copy_audio is None else tmp_path / "given"
    assert [item.path for item in back] == [audio / name for name in ("one/a.wav", *["two/a b.wav"] * 2)]
    for found, given in zip(back, corpus, strict=True):
        assert replace(found, path=None) == replace(given, path=None)
        assert found.path is not None
        assert given.path is not None
        assert found.path.read_bytes() == given.path.read_bytes()


def test_a_folder_with_files_is_refused_and_forced_files_stay(
    emodistill: make.CommandLine, corpus: Corpus, tmp_path: Path
) -> None:
    manifest, folder = tmp_path / "u.csv", tmp_path / "out"
    write_manifest(corpus, manifest)
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    command = ("corpus", "write", manifest, "--to", "csv", folder)
    result = emodistill(*command)
    assert result.code == 2
    assert "has files, expected a new or an empty folder" in result.err
    assert sorted(path.name for path in folder.iterdir()) == ["notes.txt"]
    assert emodistill(*command, "--force").code == 0
    assert sorted(path.name for path in folder.iterdir()) == ["audio", "notes.txt", "utterances.csv"]
    result = emodistill("corpus", "write", folder / "utterances.csv", "--to", "csv", folder, "--force")
    assert result.code == 2
    assert "is an input of this command" in result.err
    file = emodistill("corpus", "write", manifest, "--to", "csv", manifest)
    assert file.code == 2
    assert "is a file, expected a new folder" in file.err


@pytest.mark.parametrize("name", ["kaldi", "lhotse", "audiofolder"])
def test_tables_of_an_earlier_corpus_do_not_stay(corpus: Corpus, tmp_path: Path, name: str) -> None:
    splits = ("train", "dev", "test")
    first = [replace(item, split=split) for item, split in zip(corpus, splits, strict=True)]
    second = [replace(item, split="train", arousal=None, scale=None, transcript=None) for item in corpus]
    for folder, written in ((tmp_path / "old", (first, second)), (tmp_path / "new", (second,))):
        for utterances in written:
            write_corpus(replace(corpus, utterances=tuple(utterances)), name, folder, force=True)
            (folder / "notes.txt").write_text("mine")

    def tables(folder: Path) -> set[Path]:
        return {
            path.relative_to(folder)
            for path in folder.rglob("*")
            if path.is_file() and path.suffix not in (".wav", ".flac")
        }

    assert tables(tmp_path / "old") == tables(tmp_path / "new") > {Path("notes.txt")}


def test_a_stopped_command_leaves_no_folder(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(corpus: Corpus, folder: Path, audio: Mapping[Path, str]) -> None:
        (folder / "half.csv").write_text("id")
        raise KeyboardInterrupt

    monkeypatch.setitem(WRITERS, "half", CorpusWriter("half", stop, needs_copies=True))  # type: ignore[arg-type]
    before = sorted(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt):
        write_corpus(corpus, "half", tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before
    with pytest.raises(ConfigError, match="needs its recordings in its folder"):
        write_corpus(corpus, "half", tmp_path / "out", copy_audio=False)
    silent = replace(corpus, utterances=(replace(corpus.utterances[0], path=None),))
    with pytest.raises(CorpusError, match="'a' has no recording, which the format half needs"):
        write_corpus(silent, "half", tmp_path / "out")


def test_missing_audio_is_left_out_and_counted(
    emodistill: make.CommandLine, corpus: Corpus, tmp_path: Path
) -> None:
    write_manifest(corpus, tmp_path / "u.csv")
    (tmp_path / "given" / "one" / "a.wav").unlink()
    result = emodistill("corpus", "write", tmp_path / "u.csv", "--to", "csv", tmp_path / "out")
    assert result.code == 1
    assert "row 2, 'a': audio missing" in result.err
    back = read_manifest(tmp_path / "out" / "utterances.csv")
    assert [item.id for item in back] == ["b", "c"]
    assert np.isclose(back.utterances[0].duration_s, 0.2)
