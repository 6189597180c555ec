"""Data folders of Kaldi and cut manifests of lhotse: read, written, and refused with file and line."""

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import factories as make
import factories_exchange as exchange
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings

from emodistill.corpora import Corpus, TableOptions, Utterance, read_manifest
from emodistill.corpora.writers import write_corpus
from emodistill.errors import ConfigError, CorpusError


@settings(max_examples=6)
@given(utterances=exchange.corpora())
@pytest.mark.parametrize("name", ["kaldi", "lhotse"])
@pytest.mark.parametrize("copy_audio", [None, True], ids=["in place", "copied"])
def test_any_corpus_is_read_back(name: str, copy_audio: bool | None, utterances: list[Utterance]) -> None:
    exchange.round_trip(utterances, name, copy_audio=copy_audio)


# --- Kaldi -----------------------------------------------------------------------------------------


def data_folder(root: Path, **tables: str) -> Path:
    """Write tables into a data folder; `a b.wav` of 1 s is its recording."""
    root.mkdir(parents=True, exist_ok=True)
    soundfile.write(root / "a b.wav", make.speech(1.0), 16000)
    usual = {
        "wav_scp": "rec a b.wav\n",
        "segments": "u1 rec 0.1 0.5\nu2 rec 0.5 -1\n",
        "utt2spk": "u1 anna\nu2 jan\n",
        "text": "u1 Nie,  dziękuję.\nu2\n",
        "spk2gender": "anna f\njan m\n",
        "utt2emo": "u1 anger\nu2 sad\n",
    }
    for name, text in {**usual, **tables}.items():
        (root / name.replace("_scp", ".scp")).write_text(text, encoding="utf-8")
    return root


def test_kaldi_segments_and_tables_are_read(emodistill: make.CommandLine, tmp_path: Path) -> None:
    folder, out = data_folder(tmp_path / "data"), tmp_path / "u.csv"
    result = emodistill("corpus", "prepare", "kaldi", folder, "--map-emotions", "anger=angry", "-o", out)
    assert result.code == 0, result.err
    first, second = read_manifest(out)
    assert first == Utterance(
        "u1", "anna", "angry", folder / "a b.wav", 0.1, 0.5, 0.4, gender="female",
        transcript="Nie,  dziękuję.", transcript_source="gold", corpus="data",
    )  # fmt: skip
    assert (second.start_s, second.end_s, second.duration_s) == (0.5, None, 0.5)
    assert (second.gender, second.emotion, second.transcript) == ("male", "sad", None)


def test_kaldi_segments_of_channels_become_files(tmp_path: Path) -> None:
    folder = data_folder(
        tmp_path / "data", segments="u1 rec 0.1 0.5 1\nu2 rec 0.5 -1 0\n", utt2emo="u1 sad\n"
    )
    noise = np.random.default_rng(1).normal(0, 0.1, (8000, 2))
    soundfile.write(folder / "a b.wav", noise, 8000)
    with pytest.raises(ConfigError, match=r"segments', line 1: is channel 1 of its recording.*--audio-out"):
        exchange.prepared("kaldi", folder)
    corpus = exchange.prepared("kaldi", folder, TableOptions(audio_out=tmp_path / "parts"))
    given, _ = soundfile.read(folder / "a b.wav", dtype="int16")
    for item, part in zip(corpus, (given[800:4000, 1], given[4000:, 0]), strict=True):
        assert (item.start_s, item.end_s) == (None, None)
        np.testing.assert_array_equal(soundfile.read(item.path, dtype="int16")[0], part)


def test_kaldi_folders_of_splits_and_declared_tables_are_read(tmp_path: Path) -> None:
    for split in ("train", "dev"):
        data_folder(tmp_path / split, segments=f"{split}1 rec 0 0.5\n", utt2spk=f"{split}1 anna\n", text="",
                    utt2emo="", spk2gender="anna f\n", labels=f"{split}1 sad\n")  # fmt: skip
    corpus = exchange.prepared("kaldi", tmp_path, TableOptions({"emotion": "labels"}))
    assert {(u.id, u.split, u.emotion) for u in corpus} == {
        ("train1", "train", "sad"),
        ("dev1", "dev", "sad"),
    }


@pytest.mark.parametrize(
    ("table", "text", "message"),
    [
        ("wav_scp", "rec sph2pipe -f wav a.sph |\n", r"wav.scp', line 1: is a command, .* not executed"),
        ("wav_scp", "rec x.ark:123\n", r"wav.scp', line 1: 'x.ark:123' is a part of an archive"),
        ("wav_scp", "rec\n", r"wav.scp', line 1: got '', expected the path"),
        ("wav_scp", "rec a b.wav\nrec c.wav\n", r"wav.scp', line 2: duplicate id 'rec', first in line 1"),
        ("segments", "u1 rec 0.5 0.5\n", r"segments', line 1: starts at 0.5 s and ends at 0.5 s"),
        ("segments", "u1 rec 0.5 x\n", r"segments', line 1: got 'x', expected seconds"),
        ("segments", "u1 rec 0 0.5 A\n", r"segments', line 1: got .* one of several channels its number"),
        ("segments", "u1 rec 0.5\n", r"segments', line 1: .* expected utterance, recording, start and end"),
        ("segments", "u1 no 0 1\n", r"segments', line 1: unknown recording 'no'"),
        ("utt2emo", "u1 anger\nu9 sad\n", r"utt2emo', line 2: unknown utterance 'u9', expected one of"),
        ("utt2emo", "u1 sad\nu2 gloomy\n", r"utt2emo', line 2: bad emotion 'gloomy'"),
        ("utt2spk", "u1 anna\n", r"segments', line 2: an utterance needs .* no speaker"),
    ],
)
def test_bad_kaldi_tables_are_errors_with_file_and_line(
    tmp_path: Path, table: str, text: str, message: str
) -> None:
    folder = data_folder(tmp_path / "data", **{"utt2emo": "u1 sad\n", table: text})
    with pytest.raises(CorpusError, match=message):
        exchange.prepared("kaldi", folder)


def test_kaldi_tables_are_sorted_and_names_have_no_spaces(tmp_path: Path) -> None:
    exchange.recordings(tmp_path)
    items = [
        Utterance(name, "the speaker", "sad", tmp_path / path, gender="female")
        for name, path in zip(("é", "b c", "B"), exchange.NAMES, strict=True)
    ]
    write_corpus(Corpus("given", tuple(items)), "kaldi", tmp_path / "out")
    lines = (tmp_path / "out" / "wav.scp").read_text(encoding="utf-8").splitlines()
    assert lines == [f"B {items[2].path}", f"b_c {items[1].path}", f"é {items[0].path}"]
    assert (tmp_path / "out" / "spk2utt").read_text(encoding="utf-8") == "the_speaker B b_c é\n"
    assert (tmp_path / "out" / "spk2gender").read_text(encoding="utf-8") == "the_speaker f\n"
    twins = (items[1], Utterance("b_c", "s", "sad", items[0].path))
    with pytest.raises(CorpusError, match=r"'b c' and 'b_c' are both 'b_c' without spaces"):
        write_corpus(Corpus("given", twins), "kaldi", tmp_path / "other")


def test_kaldi_splits_with_copied_audio_are_read_back_and_keep_speakers_apart(tmp_path: Path) -> None:
    exchange.recordings(tmp_path)
    items = tuple(
        Utterance(split, speaker, "sad", tmp_path / path, split=split)
        for split, speaker, path in zip(("train", "dev"), ("a", "b"), exchange.NAMES, strict=False)
    )
    write_corpus(Corpus("given", items), "kaldi", tmp_path / "out", copy_audio=True)
    paths = [str(item.path) for item in exchange.prepared("kaldi", tmp_path / "out")]
    assert sorted(paths) == [str(tmp_path / "out" / "audio" / name) for name in exchange.NAMES[:2]]
    twins = tuple(replace(item, speaker=name) for item, name in zip(items, ("a b", "a_b"), strict=True))
    with pytest.raises(CorpusError, match=r"speakers 'a b' and 'a_b' are both 'a_b'"):
        write_corpus(Corpus("given", twins), "kaldi", tmp_path / "other")


# --- lhotse ----------------------------------------------------------------------------------------


def cut(**changes: Any) -> dict[str, Any]:
    """A cut from 0.25 s to 0.75 s of the stereo recording `a b.wav`, on channel 1."""
    supervision = {"id": "u1", "start": 0.1, "duration": 0.9, "speaker": "anna", "custom": {"emo": "anger"}}
    source = {"type": "file", "channels": [0, 1], "source": "a b.wav"}
    recording = {"id": "r", "sources": [source], "sampling_rate": 8000, "num_samples": 8000, "duration": 1.0}
    usual = {"id": "c", "start": 0.25, "duration": 0.5, "channel": 1, "supervisions": [supervision]}
    return {**usual, "recording": recording, "type": "MonoCut", **changes}


def manifest(folder: Path, *cuts: Any) -> Path:
    noise = np.random.default_rng(1).normal(0, 0.1, (8000, 2))
    soundfile.write(folder / "a b.wav", noise, 8000)
    path = folder / "cuts_dev.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines((item if isinstance(item, str) else json.dumps(item)) + "\n" for item in cuts)
    return path


def test_lhotse_supervisions_are_utterances(emodistill: make.CommandLine, tmp_path: Path) -> None:
    second = {"id": "u2", "start": 0.0, "duration": 0.25, "speaker": "jan", "text": "Hm.", "gender": "M"}
    both = cut(channel=[0, 1], type="MultiCut", supervisions=[*cut()["supervisions"], second])
    path, out = manifest(tmp_path, both), tmp_path / "u.csv"
    declared = ("--columns", "emotion=emo", "--map-emotions", "anger=angry", "--labels", "all")
    result = emodistill("corpus", "prepare", "lhotse", path, *declared, "-o", out)
    assert result.code == 0, result.err
    found = [(u.id, u.start_s, u.end_s, u.speaker, u.emotion, u.gender, u.split) for u in read_manifest(out)]
    assert found == [
        ("u1", 0.35, 0.75, "anna", "angry", None, "dev"),
        ("u2", 0.25, 0.5, "jan", None, "male", "dev"),
    ]


def test_a_supervision_of_one_channel_of_a_cut_of_two_has_this_channel(tmp_path: Path) -> None:
    both = cut(
        channel=[0, 1], type="MultiCut",
        supervisions=[
            {"id": f"u{channel}", "start": 0.0, "duration": 0.5, "channel": channel, "speaker": f"s{channel}",
             "custom": {"emotion": "sad"}}
            for channel in (0, 1, [0, 1])
        ],
    )  # fmt: skip
    corpus = exchange.prepared("lhotse", manifest(tmp_path, both), TableOptions(audio_out=tmp_path / "parts"))
    given, _ = soundfile.read(tmp_path / "a b.wav", start=2000, stop=6000, dtype="int16")
    for channel, item in zip((0, 1), corpus, strict=False):
        assert item.speaker == f"s{channel}"
        np.testing.assert_array_equal(soundfile.read(item.path, dtype="int16")[0], given[:, channel])
    assert corpus.utterances[2].path == tmp_path / "a b.wav"


def test_one_channel_of_lhotse_becomes_a_file(emodistill: make.CommandLine, tmp_path: Path) -> None:
    path, out, folder = manifest(tmp_path, cut()), tmp_path / "u.csv", tmp_path / "parts"
    declared = ("--columns", "emotion=emo", "--map-emotions", "anger=angry", "-o", out)
    result = emodistill("corpus", "prepare", "lhotse", path, *declared)
    assert result.code == 2
    assert "line 1: is channel 1 of its recording" in result.err.replace("\n", " ")
    assert "--audio-out DIR" in result.err
    assert emodistill("corpus", "prepare", "lhotse", path, *declared, "--audio-out", folder).code == 0
    (item,) = read_manifest(out)
    assert (item.path, item.start_s, item.duration_s) == (folder / "u1.flac", None, 0.4)
    given, _ = soundfile.read(tmp_path / "a b.wav", start=2800, stop=6000, dtype="int16")
    np.testing.assert_array_equal(soundfile.read(folder / "u1.flac", dtype="int16")[0], given[:, 1])

    manifest(tmp_path, cut(channel=0, duration=0.3))  # The file of the earlier cut is there.
    assert emodistill("corpus", "prepare", "lhotse", path, *declared, "--audio-out", folder).code == 0
    np.testing.assert_array_equal(soundfile.read(folder / "u1.flac", dtype="int16")[0], given[:1600, 0])


def test_a_channel_never_replaces_a_recording(tmp_path: Path) -> None:
    recording = cut()["recording"]
    recording["sources"][0]["source"] = "u1.flac"
    path = manifest(tmp_path, cut(recording=recording))
    with pytest.raises(ConfigError, match=r"line 1: its file '.*u1.flac' would replace a recording"):
        exchange.prepared("lhotse", path, TableOptions(audio_out=tmp_path))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": ', r"line 2: not JSON"),
        ("[1]", r"line 2: got \[1\], expected a cut"),
        (cut(type="MixedCut"), r"line 2: is a MixedCut, expected MonoCut or MultiCut"),
        (cut(recording=None), r"line 2: has no recording"),
        (cut(supervisions=[]), r"line 2: cut 'c' has no supervision"),
        (cut(duration=-1.0), r"line 2: supervision 'u1' starts at 0.35 s and ends at -0.75 s"),
        (cut(start="x"), r"line 2: start is 'x', expected a number"),
        (cut(supervisions=["u1"]), r"line 2: has fields of other types"),
        (cut(recording={"sources": "a.wav"}), r"line 2: has fields of other types"),
        ("[" * 100_000, r"line 2: not JSON"),
        (" " * 2**24 + "{}", r"line 2: has over 16777216 characters"),
        (cut(recording=cut()["recording"] | {"transforms": [{"name": "Speed"}]}), r"line 2: .* transforms"),
        (
            cut(recording=cut()["recording"] | {"sources": [{"type": "command", "source": "rm x"}]}),
            r"line 2: its recording has 1 source of type command, expected one file",
        ),
        (cut(channel=[0, 1]), r"line 2: duplicate id 'u1', first in '.*', line 1"),
    ],
)
def test_bad_cuts_are_errors_with_their_line(tmp_path: Path, line: Any, message: str) -> None:
    path = manifest(tmp_path, cut(channel=[0, 1]), line)
    with pytest.raises(CorpusError, match=message):
        exchange.prepared("lhotse", path, TableOptions({"emotion": "emo"}), emotions={"anger": "angry"})


def test_a_damaged_manifest_is_an_error(tmp_path: Path) -> None:
    path = manifest(tmp_path, *[cut(channel=[0, 1])] * 3)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CorpusError, match="is damaged"):
        exchange.prepared("lhotse", path)
    with pytest.raises(CorpusError, match="no cut manifest"):
        exchange.prepared("lhotse", tmp_path / "missing.jsonl")
    with pytest.raises(ConfigError, match="is channel 1"):
        exchange.prepared("lhotse", manifest(tmp_path, cut()))
