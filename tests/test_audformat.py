"""audformat databases: written, read by audformat's own library, and read back."""

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import audformat
import factories as make
import numpy as np
import pandas as pd
import pytest
import soundfile
from hypothesis import example, given, settings
from hypothesis import strategies as st

from emodistill.corpora import (
    TABLE_READERS,
    Corpus,
    TableOptions,
    Utterance,
    drop_bad_audio,
    read_own_table,
    write_manifest,
)
from emodistill.corpora.writers import write_corpus
from emodistill.errors import CorpusError
from emodistill.labels import EMOTIONS, Scale

LENGTH_S = 2.0
_text = (
    st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
    .map(str.strip)
    .filter(bool)
)
_file = st.sampled_from(["a.wav", "two/b c.wav", "two/d.flac"])


def recording(path: Path, length_s: float = LENGTH_S) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full(round(8000 * length_s), 0.1), 8000)
    return path


def read_back(folder: Path, labels: str | None = "all", **options: Any) -> Corpus:
    emotions = options.pop("emotions", {})
    stated = TableOptions(**options)
    table = TABLE_READERS["audformat"].read(folder, stated)
    corpus = read_own_table(table, stated.columns, emotions, labels, None, print)
    return drop_bad_audio(corpus, measure=True)[0]


@st.composite
def corpora(draw: st.DrawFn) -> list[Utterance]:
    """Utterances with any text, of whole recordings or of parts. Their dimensions have one or two scales."""
    whole = draw(st.booleans())
    scales: Sequence[Scale] = draw(st.sampled_from([[(1.0, 5.0)], [(-1.0, 1.0)], [(0.0, 7.0), (1.0, 3.0)]]))
    nothing = st.none()
    starts = nothing if whole else nothing | st.integers(1, 900).map(lambda ms: ms / 1000)
    ends = nothing if whole else st.sampled_from([None, 1.25])
    parts = draw(
        st.lists(
            st.tuples(_file, starts, ends), min_size=1, max_size=6, unique=True,
        )
    )  # fmt: skip
    texts = st.none() | _text
    utterances = []
    for number, (file, start_s, end_s) in enumerate(parts):
        scale = draw(st.sampled_from(scales))
        value = st.none() | st.floats(*scale)
        dimensions = [draw(value) for _ in range(4)]
        transcript = draw(texts)
        utterances.append(
            Utterance(
                id=f"{draw(_text)} {number}",
                speaker=draw(st.sampled_from(["s1", "s2", "NA", "1"])),
                emotion=draw(st.none() | st.sampled_from(EMOTIONS)) if number else "angry",
                path=Path(file),
                start_s=start_s,
                end_s=end_s,
                session=draw(texts),
                gender=draw(st.sampled_from([None, "female", "male"])),
                language=draw(st.sampled_from([None, "en", "de", "am"])),
                transcript=transcript,
                transcript_source=draw(st.sampled_from(["gold", "whisper"])) if transcript else None,
                split=draw(st.sampled_from([None, "train", "dev", "test", "test2"])),
                **dict(zip(("arousal", "valence", "dominance", "intensity"), dimensions, strict=True)),
                scale=scale if any(value is not None for value in dimensions) else None,
                votes=draw(st.sampled_from([None, '{"angry": 2, "sad": 1.5}'])),
                corpus=draw(st.sampled_from(["one", "two"])),
            )
        )
    return utterances


@given(corpora())
@example(  # a part from the start to the end, in another split than a part of the same recording
    [
        Utterance("a", "s", "sad", Path("a.wav"), split="train", corpus="one"),
        Utterance("b", "s", "sad", Path("a.wav"), start_s=0.5, split="dev", corpus="one"),
    ]
)
@settings(deadline=None, max_examples=20)
def test_a_corpus_that_is_written_and_read_is_equal(utterances: list[Utterance]) -> None:
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        items = [replace(item, path=recording(folder / "in" / str(item.path))) for item in utterances]
        corpus, _ = drop_bad_audio(Corpus("mine", tuple(items)), measure=True)
        write_corpus(corpus, "audformat", folder / "db")
        back = read_back(folder / "db")
        for found, written in zip(back, corpus, strict=True):
            assert found.path is not None
            assert written.path is not None
            assert found.path.read_bytes() == written.path.read_bytes()
            assert replace(found, path=None) == replace(written, path=None)


def test_audformat_reads_what_is_written(emodistill: make.CommandLine, tmp_path: Path) -> None:
    paths = [recording(tmp_path / "in" / name) for name in ("a.wav", "b.wav")]
    utterances = (
        Utterance("a", "s1", "angry", paths[0], gender="female", language="en", split="train", arousal=2.0,
                  scale=(1, 5), transcript="No.", transcript_source="gold", corpus="mine"),
        Utterance("b", "s2", "sad", paths[1], gender="male", language="en", split="test", corpus="mine"),
    )  # fmt: skip
    write_manifest(Corpus("mine", utterances), tmp_path / "u.csv")
    result = emodistill("corpus", "write", tmp_path / "u.csv", "--to", "audformat", tmp_path / "db")
    assert result.code == 0, result.err
    database = audformat.Database.load(str(tmp_path / "db"))
    assert database.name == "mine"
    assert database.languages == ["eng"]
    assert database.is_portable
    frame = database["utterances"].get(map={"speaker": ["speaker", "gender"]})
    assert list(frame.index) == ["audio/a.wav", "audio/b.wav"]
    assert list(frame["emotion"]) == ["angry", "sad"]
    assert list(frame["speaker"]) == ["s1", "s2"]
    assert list(frame["gender"]) == ["female", "male"]
    assert frame["arousal"].iloc[0] == 2.0
    assert (database.schemes["arousal"].minimum, database.schemes["arousal"].maximum) == (1, 5)
    assert frame["transcript"].iloc[0] == "No."
    splits = {table.split_id: list(table.files) for table in database.tables.values() if table.split_id}
    assert splits == {"train": ["audio/a.wav"], "test": ["audio/b.wav"]}
    assert database.splits["test"].type == audformat.define.SplitType.TEST
    assert all((tmp_path / "db" / file).is_file() for file in database.files)


def foreign(folder: Path, **changes: Any) -> audformat.Database:
    """A database as others write it: speakers and texts as labels of schemes, splits, ratings of segments."""
    database = audformat.Database("foreign", languages=["de"])
    schemes = {
        "emotion": audformat.Scheme("str", labels=["anger", "happiness", "boredom"]),
        "speaker": audformat.Scheme("str", labels={"3": {"gender": "male"}, "8": {"gender": "female"}}),
        "transcription": audformat.Scheme("str", labels={"a01": "Der Lappen liegt.", "b02": "Das will sie."}),
        "activation": audformat.Scheme("float", minimum=-1, maximum=1),
        "confidence": audformat.Scheme("float", minimum=0, maximum=1),
    }
    for name, scheme in (schemes | changes).items():
        if scheme is not None:
            database.schemes[name] = scheme
    files = ["wav/03a01Wa.wav", "wav/08b02Fa.wav", "wav/03b02La.wav"]
    for file in files:
        recording(folder / file)

    def add(table: str, index: pd.Index, split: str | None = None, **columns: tuple[str, list[Any]]) -> None:
        database[table] = audformat.Table(index, split_id=split)
        for column, (scheme, values) in columns.items():
            if scheme in database.schemes:
                database[table][column] = audformat.Column(scheme_id=scheme)
                database[table][column].set(values)

    index = audformat.filewise_index(files)
    emotions = ["anger", "happiness", "boredom"]
    add("files", index, speaker=("speaker", ["3", "8", "3"]), text=("transcription", ["a01", "b02", "b02"]))
    add("emotion", index, emotion=("emotion", emotions), sure=("confidence", [0.9, 0.8, 0.7]),
        level=("activation", [0.5, -0.5, -1.0]))  # fmt: skip
    for split, rows in (("train", [0, 2]), ("test", [1])):
        database.splits[split] = audformat.Split(split)
        add(f"emotion.{split}", index[rows], split, emotion=("emotion", [emotions[row] for row in rows]))
    database.save(str(folder))
    return database


NAMES = {"anger": "angry", "happiness": "happy", "boredom": "bored"}


def test_a_foreign_database_is_read(emodistill: make.CommandLine, tmp_path: Path) -> None:
    foreign(tmp_path / "db")
    out = tmp_path / "u.csv"
    command = ("corpus", "prepare", "audformat", tmp_path / "db", "-o", out)
    refused = emodistill(*command)
    assert refused.code == 2
    assert "table emotion, row 2: bad emotion 'anger'" in refused.err
    assert "--map-emotions anger=angry,happiness=happy,boredom=bored" in refused.err
    result = emodistill(*command, "--map-emotions", "anger=angry,happiness=happy,boredom=bored")
    assert result.code == 0, result.err
    first, second, third = make.read_rows(out)
    expected = {
        "id": "03a01Wa", "path": "db/wav/03a01Wa.wav", "speaker": "3", "gender": "male", "emotion": "angry",
        "language": "de", "transcript": "Der Lappen liegt.", "transcript_source": "gold", "split": "train",
        "arousal": "0.5", "scale": "-1..1", "duration_s": "2.0", "start_s": "", "corpus": "foreign",
    }  # fmt: skip
    assert {name: first[name] for name in expected} == expected
    assert (second["emotion"], second["gender"], second["split"]) == ("happy", "female", "test")
    assert (third["emotion"], third["arousal"], third["split"]) == ("bored", "-1.0", "train")
    one = emodistill(*command, "--table", "emotion.test", "--map-emotions", "happiness=happy")
    assert one.code == 0, one.err
    assert [row["emotion"] for row in make.read_rows(out)] == ["happy"]


def segments(folder: Path, **columns: list[Any]) -> audformat.Database:
    database = audformat.Database("parts")
    database.schemes["valence"] = audformat.Scheme("float", minimum=1, maximum=9)
    database.schemes["arousal"] = audformat.Scheme("float", minimum=0, maximum=1)
    database.schemes["person"] = audformat.Scheme("str")
    recording(folder / "a.wav")
    index = audformat.segmented_index(["a.wav", "a.wav"], ["0s", "0.5s"], ["0.5s", pd.NaT])
    database["ratings"] = audformat.Table(index)
    for name, values in columns.items():
        database["ratings"][name] = audformat.Column(scheme_id=name)
        database["ratings"][name].set(values)
    database.save(str(folder))
    return database


def test_segments_and_dimensions_of_several_scales_are_read(tmp_path: Path) -> None:
    segments(tmp_path, valence=[1.0, 5.0], arousal=[0.25, None], person=["x", "y"])
    corpus = read_back(tmp_path, None, columns={"speaker": "person"})
    assert [(item.id, item.start_s, item.end_s, item.duration_s) for item in corpus] == [
        ("a", None, 0.5, 0.5),
        ("a-0.5", 0.5, None, 1.5),
    ]
    assert [(item.valence, item.arousal, item.scale) for item in corpus] == [
        (0.0, 0.25, (0.0, 1.0)),
        (0.5, None, (0.0, 1.0)),
    ]


def test_the_splits_are_those_of_the_chosen_tables(tmp_path: Path) -> None:
    database = foreign(tmp_path)
    database["other"] = audformat.Table(audformat.filewise_index(["wav/03a01Wa.wav"]), split_id="test")
    database["other"]["emotion"] = audformat.Column(scheme_id="emotion")
    database["other"]["emotion"].set(["anger"])
    database.save(str(tmp_path))
    with pytest.raises(CorpusError, match="into train and test; choose the tables with --table"):
        read_back(tmp_path, None, emotions=NAMES)
    chosen = {"table": ("emotion.train", "emotion.test"), "emotions": NAMES}
    corpus = read_back(tmp_path, None, **chosen)
    assert sorted((item.id, item.split) for item in corpus) == [
        ("03a01Wa", "train"), ("03b02La", "train"), ("08b02Fa", "test"),
    ]  # fmt: skip


def _two_kinds(folder: Path) -> None:
    database = foreign(folder)
    database["parts"] = audformat.Table(audformat.segmented_index(["wav/03a01Wa.wav"], ["0s"], ["1s"]))
    database["parts"]["emotion"] = audformat.Column(scheme_id="emotion")
    database["parts"]["emotion"].set(["anger"])
    database.save(str(folder))


def _two_labels(folder: Path) -> None:
    database = foreign(folder)
    database["again"] = audformat.Table(audformat.filewise_index(["wav/03a01Wa.wav"]))
    database["again"]["emotion"] = audformat.Column(scheme_id="emotion")
    database["again"]["emotion"].set(["boredom"])
    database.save(str(folder))


def _two_columns(folder: Path) -> None:
    database = foreign(folder)
    database["felt"] = audformat.Table(audformat.filewise_index(["wav/03a01Wa.wav"]))
    for name in ("felt", "shown"):
        database["felt"][name] = audformat.Column(scheme_id="emotion")
        database["felt"][name].set(["boredom"])
    for name in ("emotion", "emotion.train", "emotion.test"):
        del database.tables[name]
    database.save(str(folder))


def _no_media(folder: Path) -> None:
    for file in foreign(folder).files:
        (folder / file).unlink()


BAD = {
    "no header": (lambda folder: None, {}, "no '.*db.yaml'; expected the folder of a database"),
    "no YAML": (lambda folder: (folder / "db.yaml").write_text("a: ["), {}, "cannot be read: "),
    "no labels": (
        lambda folder: segments(folder, person=["x", "y"]),
        {},
        r"no column of emotions, arousal.*Tables: ratings \(segmented\): \['person'\]",
    ),
    "no speaker": (lambda folder: segments(folder, valence=[1.0, 2.0]), {}, "--columns '?speaker="),
    "a speaker is missing": (
        lambda folder: segments(folder, valence=[1.0, 2.0], person=["x", None]),
        {"columns": {"speaker": "person"}},
        "row 3: an utterance needs an id and a speaker; the row has no speaker",
    ),
    "two kinds": (_two_kinds, {"emotions": NAMES}, "label files and segments of them.*--table"),
    "two labels": (_two_labels, {"emotions": NAMES}, "emotion is 'anger' and 'boredom'; choose.*--table"),
    "two columns": (_two_columns, {}, r"2 columns of emotion: \['felt', 'shown'\]; choose one: --columns"),
    "unknown table": (foreign, {"table": ("emotoin",)}, "bad table 'emotoin'.*did you mean 'emotion'"),
    "bare table": (foreign, {"table": ("emotion", "files")}, "--table files: it has none of the columns"),
    "unknown column": (foreign, {"columns": {"emotion": "emo"}}, "--columns emotion=emo: bad column 'emo'"),
    "no media": (_no_media, {"emotions": NAMES}, "no audio of .* exists, such as '.*03a01Wa.wav'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_databases_are_refused(tmp_path: Path, case: str) -> None:
    prepare, options, message = BAD[case]
    prepare(tmp_path)
    with pytest.raises(CorpusError, match=message):
        read_back(tmp_path, None, **options)


def test_a_table_that_is_a_link_out_of_its_database_is_not_read(tmp_path: Path) -> None:
    database, secret = tmp_path / "db", tmp_path / "secret.csv"
    foreign(database)
    table = next(path for suffix in (".csv", ".parquet") for path in database.glob(f"db.emotion{suffix}"))
    shutil.copy(table, secret)
    table.unlink()
    table.symlink_to(secret)
    with pytest.raises(CorpusError, match="is a link that leaves its database, and is not read"):
        read_back(database, None, emotions=NAMES)


def test_a_database_in_the_cache_of_the_hub_is_read(tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "snapshots" / "1", tmp_path / "blobs"
    foreign(snapshot)
    blobs.mkdir()
    for number, path in enumerate(sorted(item for item in snapshot.iterdir() if item.is_file())):
        shutil.move(path, blobs / str(number))
        path.symlink_to(Path("../../blobs") / str(number))
    assert len(read_back(snapshot, None, emotions=NAMES)) > 0


def test_the_same_part_twice_is_refused(tmp_path: Path) -> None:
    path = recording(tmp_path / "a.wav")
    corpus = Corpus("mine", (Utterance("a", "s", "sad", path), Utterance("b", "s", "angry", path)))
    with pytest.raises(CorpusError, match="'a' and 'b' are the same part of"):
        write_corpus(corpus, "audformat", tmp_path / "db")
    assert not (tmp_path / "db").exists()


@pytest.mark.parametrize(("extra", "name"), [("audformat", "audformat"), ("audb", "audb")])
def test_a_missing_package_is_named_with_its_extra(
    emodistill: make.CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, extra: str, name: str
) -> None:
    monkeypatch.setitem(__import__("sys").modules, name, None)
    (tmp_path / "db.yaml").write_text("name: x")
    result = emodistill("corpus", "prepare", name, tmp_path, "-o", tmp_path / "u.csv")
    assert result.code == 2
    assert f"pip install 'emodistill[{extra}]'" in result.err


def test_options_of_other_formats_are_refused(emodistill: make.CommandLine, tmp_path: Path) -> None:
    result = emodistill(
        "corpus", "prepare", "audformat", tmp_path, "--version", "1.0.0", "-o", tmp_path / "u.csv"
    )
    assert result.code == 2
    assert "--version is not for audformat: leave it out" in result.err


@pytest.mark.parametrize("listed", [False, True], ids=["files", "segments"])
def test_audformat_reads_predictions(emodistill: make.CommandLine, tmp_path: Path, listed: bool) -> None:
    sound = tmp_path / "a b.wav"
    soundfile.write(sound, make.speech(2.0), make.RATE)
    (tmp_path / "list.csv").write_text("path,start,end\na b.wav,0,1\na b.wav,1,\nno.wav,,\n")
    inputs = ("--from", tmp_path / "list.csv") if listed else (sound, tmp_path / "no.wav")
    out = tmp_path / "predictions.csv"
    assert emodistill("predict", *inputs, "--format", "audformat", "-o", out, "--jobs", 1).code == 1
    frame = audformat.utils.read_csv(str(out))
    assert audformat.is_segmented_index(frame.index) == listed
    if listed:
        starts = [
            (start.total_seconds(), end is pd.NaT or end.total_seconds()) for _, start, end in frame.index
        ]
        assert starts == [(0, 1), (1, True), (0, True)]
    assert [Path(file).name for file in frame.index.get_level_values("file")][-1] == "no.wav"
    assert set(frame["emotion"][:-1]) <= set(EMOTIONS)
    assert isinstance(frame["error"].iloc[-1], str)
    assert pd.isna(frame["emotion"].iloc[-1])
    database = audformat.Database("predicted")
    database["predictions"] = audformat.Table(frame.index)
    for name in ("emotion", "confidence"):
        database["predictions"][name] = audformat.Column()
        database["predictions"][name].set(frame[name])
    database.save(str(tmp_path / "db"))
    again = audformat.Database.load(str(tmp_path / "db"))["predictions"].df
    assert list(again["confidence"][:-1]) == list(frame["confidence"][:-1])
