"""`corpus prepare audiofolder`: metadata of every kind, folders of classes, and errors with file and row."""

import csv
import json
from pathlib import Path
from typing import Any

import factories_exchange as exchange
import numpy as np
import pytest
import soundfile
from factories import CommandLine
from hypothesis import given, settings

from emodistill.corpora import TABLE_READERS, Corpus, TableOptions, Utterance, read_manifest, read_own_table
from emodistill.corpora.readers import datasets
from emodistill.errors import CorpusError

ROWS = [
    {"file_name": "a b.wav", "speaker": "s1", "emotion": "angry", "transcription": "No, thanks."},
    {"file_name": "sub/zażółć.wav", "speaker": "s2", "emotion": "sad", "transcription": ""},
]


def tone(path: Path, seconds: float = 0.5) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.sin(np.arange(int(seconds * 8000))), 8000)


def metadata(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        arrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(arrow.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def read(root: Path, columns: dict[str, str] | None = None, emotions: dict[str, str] | None = None) -> Corpus:
    options = TableOptions(columns or {})
    table = TABLE_READERS["audiofolder"].read(root, options)
    return read_own_table(table, options.columns, emotions or {}, None, None, lambda text: None)


@settings(max_examples=8)
@given(utterances=exchange.corpora())
def test_any_corpus_is_read_back(utterances: list[Utterance]) -> None:
    exchange.round_trip(utterances, "audiofolder")


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl", "metadata.parquet"])
def test_metadata_of_each_format_is_read(tmp_path: Path, name: str) -> None:
    metadata(tmp_path / name, ROWS)
    for row in ROWS:
        tone(tmp_path / row["file_name"])
    found = [(u.id, u.path, u.speaker, u.emotion, u.transcript) for u in read(tmp_path)]
    assert found == [
        ("a b", tmp_path / "a b.wav", "s1", "angry", "No, thanks."),
        ("zażółć", tmp_path / "sub" / "zażółć.wav", "s2", "sad", None),
    ]


def test_a_manifest_never_replaces_the_metadata(emodistill: CommandLine, tmp_path: Path) -> None:
    for row in ROWS:
        tone(tmp_path / "train" / row["file_name"])
    metadata(tmp_path / "train" / "metadata.csv", ROWS)
    before = (tmp_path / "train" / "metadata.csv").read_bytes()
    command = ("corpus", "prepare", "audiofolder", tmp_path, "-o")
    result = emodistill(*command, tmp_path / "train" / "metadata.csv")
    assert result.code == 2
    assert "would replace it; choose another name" in result.err.replace("\n", " ")
    assert (tmp_path / "train" / "metadata.csv").read_bytes() == before
    assert emodistill(*command, tmp_path / "utterances.csv").code == 0


def test_bytes_of_a_dataset_have_files_of_their_own(tmp_path: Path) -> None:
    names = ["a.wav", "a-2.wav", "A.wav", "a-3.wav", "a.wav", "a.flac"]
    found = {number: (name, lambda path: None) for number, name in enumerate(names, start=1)}
    rows: dict[int, Any] = {number: {datasets.SPLIT: "train"} for number in found}
    unwritten = datasets._bytes_files(rows, found, "audio", dict.fromkeys(found, "row"), tmp_path)
    assert len({path.casefold() for path in unwritten}) == len(names)
    assert [row["audio"] for row in rows.values()] == list(unwritten)


def test_folders_of_splits_become_ours_unless_the_metadata_names_one(tmp_path: Path) -> None:
    for folder, row in (("train", ROWS[0]), ("validation", ROWS[1]), ("test", ROWS[0] | {"split": "dev"})):
        metadata(tmp_path / folder / "metadata.csv", [row])
        tone(tmp_path / folder / row["file_name"])
    assert {(u.id, u.split) for u in read(tmp_path)} == {
        ("train/a b", "train"), ("validation/sub/zażółć", "dev"), ("test/a b", "dev"),
    }  # fmt: skip


def test_folders_of_classes_are_read_without_metadata(tmp_path: Path) -> None:
    for name in ("train/anger/s1_1.wav", "test/joy/s2_1.wav", "train/.hidden/x.wav"):
        tone(tmp_path / name)
    corpus = read(tmp_path, {"speaker": "file_name"}, {"anger": "angry", "joy": "happy"})
    assert {(u.id, u.emotion, u.split) for u in corpus} == {
        ("s1_1", "angry", "train"), ("s2_1", "happy", "test")
    }  # fmt: skip
    with pytest.raises(CorpusError, match=r"no column 'speaker'"):
        read(tmp_path)


def test_columns_and_emotions_are_declared_on_the_command_line(
    emodistill: CommandLine, tmp_path: Path
) -> None:
    rows = [{"file_name": f"{i}.wav", "who": f"s{i}", "feeling": "anger"} for i in range(2)]
    metadata(tmp_path / "in" / "metadata.jsonl", rows)
    tone(tmp_path / "in" / "0.wav")
    out = tmp_path / "u.csv"
    declared = ["--columns", "speaker=who,emotion=feeling", "--map-emotions", "anger=angry"]
    code, _, errors = emodistill("corpus", "prepare", "audiofolder", tmp_path / "in", *declared, "-o", out)
    assert code == 1, errors
    assert "metadata.jsonl', line 2, '1': audio missing" in errors.replace("\n", " ")
    assert [(u.id, u.speaker, u.emotion) for u in read_manifest(out)] == [("0", "s0", "angry")]
    code, _, errors = emodistill(
        "corpus", "prepare", "audiofolder", tmp_path / "in", "--subset", "x", "-o", out
    )
    assert code == 2
    assert "--subset is not for audiofolder" in errors


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("metadata.csv", "path,speaker\na.wav,s\n", r"metadata.csv' has no column 'file_name'"),
        ("metadata.jsonl", '{"file_name": "a.wav"}\n{"file\n', r"metadata.jsonl', line 2: not JSON"),
        ("metadata.jsonl", '{"file_name": "a.wav"}\n\n[1]\n', r"metadata.jsonl', line 3: expected an object"),
        ("metadata.jsonl", '{"file_name": "a.wav"}\n{"speaker": "s"}\n', r"line 2: no file_name, got None"),
        (
            "metadata.csv",
            "file_name,id,speaker,emotion\na.wav,x,s,sad\nb.wav,x,s,sad\n",
            r"metadata.csv', row 3: duplicate id 'x', first in '.*metadata.csv', row 2",
        ),
        (
            "metadata.csv",
            "file_name,speaker,emotion\na.wav,s,sad\nb.wav,s,gloomy\n",
            r"metadata.csv', row 3: bad emotion 'gloomy'",
        ),
        ("metadata.csv", "file_name,speaker,emotion\na.wav,,sad\n", r"metadata.csv', row 2: .* no speaker"),
        ("readme.txt", "x", r"has no metadata and no recording"),
    ],
)
def test_bad_metadata_is_an_error_with_its_place(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(CorpusError, match=message):
        read(tmp_path)


def test_two_metadata_files_in_one_folder_are_refused(tmp_path: Path) -> None:
    for name in ("metadata.csv", "metadata.jsonl"):
        metadata(tmp_path / name, ROWS)
    with pytest.raises(CorpusError, match=r"metadata.csv and metadata.jsonl; expected one of them"):
        read(tmp_path)
