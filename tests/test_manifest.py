"""Manifests: written, read back, and read from other programs; errors name the row."""

import csv
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import factories as make
import factories_corpora as fake
import numpy as np
import pytest
import soundfile
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from emodistill.config import CorpusConfig
from emodistill.config.renaming import quoted, read_columns, read_emotions
from emodistill.corpora import (
    Corpus,
    Utterance,
    add_transcripts,
    audio_duration_s,
    corpus_stats,
    drop_bad_audio,
    emotion_table,
    open_corpus,
    read_corpus,
    read_manifest,
    read_own_table,
    write_manifest,
)
from emodistill.corpora.manifest import COLUMNS
from emodistill.corpora.tables import read_table
from emodistill.errors import ConfigError, CorpusError
from emodistill.labels import EMOTIONS, read_scale, scale_text

_text = (
    st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
    .map(str.strip)
    .filter(bool)
)
_number = st.floats(-1e6, 1e6)


@st.composite
def corpora(draw: st.DrawFn) -> list[Utterance]:
    """Utterances with any text in any column. Audio paths are relative; the test adds a folder."""
    utterances = []
    for name in draw(st.lists(_text, min_size=1, max_size=4, unique=True)):
        transcript = draw(st.none() | _text)
        scale = draw(st.none() | st.tuples(_number, _number).filter(lambda ends: ends[0] < ends[1]))
        value = st.none() | (_number if scale is None else st.floats(*scale))
        path = draw(st.sampled_from([None, "a b.wav", 'sub/ä,".wav', "../elsewhere/c.flac"]))
        utterances.append(
            Utterance(
                id=name,
                speaker=draw(_text),
                emotion=draw(st.none() | st.sampled_from(EMOTIONS)),
                path=None if path is None else Path(path),
                start_s=draw(st.none() | _number),
                end_s=draw(st.none() | _number),
                session=draw(st.none() | _text),
                gender=draw(st.sampled_from([None, "female", "male"])),
                language=draw(st.sampled_from([None, "en", "pl"])),
                transcript=transcript,
                transcript_source=draw(st.sampled_from(["gold", "whisper"])) if transcript else None,
                split=draw(st.sampled_from([None, "train", "dev", "test"])),
                arousal=draw(value),
                valence=draw(value),
                dominance=draw(value),
                intensity=draw(value),
                scale=scale,
                votes=draw(st.sampled_from([None, '{"sad": 2, "angry": 1}'])),
                corpus=draw(_text),
            )
        )
    return utterances


def test_a_manifest_with_an_unknown_suffix_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"x\.xlsx': bad suffix of a manifest '\.xlsx', .*'\.parquet'"):
        write_manifest(Corpus("x", (Utterance("a", "s", "sad"),)), tmp_path / "x.xlsx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
@given(utterances=corpora())
@settings(max_examples=30, deadline=None)
def test_any_manifest_is_read_back_without_loss(suffix: str, utterances: list[Utterance]) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve() / "made"
        placed = tuple(
            u if u.path is None else replace(u, path=(root / u.path).resolve()) for u in utterances
        )
        write_manifest(Corpus("any", placed), root / f"any{suffix}")
        assert read_manifest(root / f"any{suffix}").utterances == placed


def test_manifest_paths_are_relative_to_it(tmp_path: Path) -> None:
    audio = tmp_path / "corpus" / "a.wav"
    corpus = Corpus("tiny", (Utterance(id="a", speaker="b", emotion="sad", path=audio, corpus="tiny"),))
    write_manifest(corpus, tmp_path / "utterances.csv")
    assert "corpus/a.wav" in (tmp_path / "utterances.csv").read_text()
    assert str(tmp_path) not in (tmp_path / "utterances.csv").read_text()
    assert read_manifest(tmp_path / "utterances.csv", name="tiny") == corpus


def manifest(tmp_path: Path, text: str, encoding: str = "utf-8") -> Path:
    fake.write(tmp_path / "m.csv", text, encoding)
    return tmp_path / "m.csv"


def test_manifest_with_bom_and_few_columns(tmp_path: Path) -> None:
    path = manifest(tmp_path, "id,speaker,emotion,transcript\r\n1,a,sad,Ö\r\n", "utf-8-sig")
    (utterance,) = read_manifest(path)
    assert utterance == Utterance(
        id="1", speaker="a", emotion="sad", transcript="Ö", transcript_source="gold", corpus="m"
    )


def test_manifest_with_other_column_names(tmp_path: Path) -> None:
    path = manifest(tmp_path, "file,who,feeling\nx.wav,a,sad\n")
    with pytest.raises(
        CorpusError,
        match=r"has no column 'path' \(it has \['file', 'who', 'feeling'\]\); name the columns of path, "
        r"speaker, emotion: --columns path=file,speaker=who,emotion=feeling .*could be in training and in",
    ):
        read_manifest(path)
    with pytest.raises(CorpusError, match=r"--columns speaker=woh: bad column 'woh'.*did you mean 'who'"):
        read_manifest(path, columns={"path": "file", "speaker": "woh", "emotion": "feeling"})
    (utterance,) = read_manifest(
        path, columns={"id": "file", "path": "file", "speaker": "who", "emotion": "feeling"}
    )
    assert (utterance.id, utterance.path) == ("x.wav", tmp_path / "x.wav")
    with pytest.raises(CorpusError, match=r"bad manifest column 'speeker', .*did you mean 'speaker'"):
        read_manifest(path, columns={"speeker": "who"})
    with pytest.raises(CorpusError, match=r"bad manifest column 'file'.*did you mean path=file\? Our column"):
        read_manifest(path, columns={"file": "path"})


def test_manifest_with_other_emotion_names(tmp_path: Path) -> None:
    path = manifest(tmp_path, "id,speaker,emotion\n1,a,anger\n2,a,sad\n3,a,very sad\n4,a,\n")
    with pytest.raises(
        CorpusError, match=r"row 2: bad emotion 'anger'.*other rows \['very sad'\].*'anger=angry,very sad=…'"
    ):
        read_manifest(path)
    names = {"anger": "angry", "very sad": "sad"}
    utterances = read_manifest(path, emotions=names)
    assert [utterance.emotion for utterance in utterances] == ["angry", "sad", "sad", None]
    opened = open_corpus(CorpusConfig(manifest=str(path), emotions=names), lambda _: None)
    assert [utterance.emotion for utterance in opened] == ["angry", "sad", "sad"]
    with pytest.raises(CorpusError, match=r"bad emotion 'angri', .*did you mean 'angry'"):
        read_manifest(path, emotions={"anger": "angri"})
    with pytest.raises(CorpusError, match=r"bad name in the map of emotions 'angr', .*did you mean 'anger'"):
        read_manifest(path, emotions={**names, "angr": "angry"})


def test_emotions_that_a_map_leaves_out_are_counted(tmp_path: Path) -> None:
    path = manifest(tmp_path, "id,speaker,emotion\n1,a,anger\n2,a,sad\n3,a,oth\n4,a,oth\n5,a,calm\n6,b,oth\n")
    names = {"anger": "angry", "oth": "-", "calm": "neutral"}
    corpus = read_manifest(path, emotions=names)
    assert [utterance.emotion for utterance in corpus] == ["angry", "sad", "neutral"]
    assert (corpus.dropped, corpus.merged) == ({"emotion oth": 3}, {"calm -> neutral": 1})
    assert corpus.rows == {"1": 2, "2": 3, "5": 6}
    messages: list[str] = []
    open_corpus(CorpusConfig(manifest=str(path), emotions=names), messages.append)
    assert messages == ["merged: 1 × calm -> neutral", "dropped: 3 × emotion oth"]
    everyone = read_manifest(path, emotions=names, keep_left_out=True)
    assert [utterance.emotion for utterance in everyone] == ["angry", "sad", None, None, "neutral", None]
    assert not everyone.dropped


@given(
    rows=st.lists(st.lists(_text, min_size=3, max_size=3), min_size=1, max_size=4),
    delimiter=st.sampled_from([",", ";", "\t", "|"]),
    suffix=st.sampled_from([".csv", ".tsv", ".txt"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
@settings(max_examples=60, deadline=None)
def test_the_delimiter_and_the_encoding_of_a_table_are_found(
    rows: list[list[str]], delimiter: str, suffix: str, encoding: str
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"table{suffix}"
        with path.open("w", newline="", encoding=encoding) as file:
            csv.writer(file, delimiter=delimiter).writerows([[" id ", "a b", "c"], *rows])
        table = read_table(path)
    assert table.columns == ("id", "a b", "c")
    assert [[row[name] for name in table.columns] for _, row in table.rows] == rows


def test_rows_are_numbered_as_a_text_editor_numbers_them(tmp_path: Path) -> None:
    lines = [
        "id;speaker;emotion;transcript",
        '1;a;sad;"two',
        'lines"',
        "",
        "2;a;hapy;x",
        "3;;sad;y;more",
        ";;;",
    ]
    path = manifest(tmp_path, "\r\n".join(lines))
    assert [number for number, _ in read_table(path).rows] == [2, 5, 6]
    with pytest.raises(
        CorpusError, match=rf"m\.csv', row {lines.index('2;a;hapy;x') + 1}: bad emotion 'hapy'"
    ):
        read_manifest(path)


def test_all_bad_rows_are_named(tmp_path: Path) -> None:
    rows = [f"{number},a,sad,soon" for number in range(7)]
    path = manifest(tmp_path, "id,speaker,emotion,start_s\n" + "\n".join(["0,a,sad,1", *rows, "9,a,sad,1,2"]))
    with pytest.raises(CorpusError) as caught:
        read_manifest(path)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"'{path}', row 3: start_s is 'soon', expected a number such as 1.5"
    assert [line.split(":")[0] for line in lines[:-1]] == [
        f"'{path}', row {number}" for number in range(3, 8)
    ]
    assert lines[-1] == "and 3 more bad rows"


@pytest.mark.parametrize(
    ("paths", "ids"),
    [
        (["a/x.wav", "b\\y.wav"], ["x", "y"]),
        (["a/x.wav", "b/x.wav"], ["a/x", "b/x"]),
        (["a/x.wav", "a/x.wav"], ["a/x-0.0", "a/x-1.5"]),
    ],
)
def test_ids_are_made_of_the_paths(paths: list[str], ids: list[str], tmp_path: Path) -> None:
    rows = [f"{path},a,sad,{start}" for path, start in zip(paths, ("0.0", "1.5"), strict=True)]
    path = manifest(tmp_path, "Path,SPEAKER,Emotion,start_s\n" + "\n".join(rows))
    assert [utterance.id for utterance in read_manifest(path)] == ids


def test_ids_of_absolute_paths_do_not_depend_on_the_machine(tmp_path: Path) -> None:
    rows = [
        {"path": str(tmp_path / split / "a.wav"), "speaker": "s", "emotion": "sad"}
        for split in ("one", "two")
    ]
    make.write_rows(tmp_path / "table.csv", rows)
    assert [item.id for item in read_manifest(tmp_path / "table.csv")] == ["one/a", "two/a"]


def test_two_rows_of_one_recording_need_ids(tmp_path: Path) -> None:
    path = manifest(tmp_path, "path,speaker,emotion\na/x.wav,a,sad\na/x.wav,a,sad\n")
    with pytest.raises(CorpusError, match="row 3: duplicate id 'a/x', first in row 2"):
        read_manifest(path)


def test_usual_spellings_are_read(tmp_path: Path) -> None:
    text = "id,speaker,Emotion,gender,split\n1,a,Angry,F,Validation\n2,b,SAD,male,TRAIN\n3,c,sad,x,test2\n"
    found = [(u.emotion, u.gender, u.split) for u in read_manifest(manifest(tmp_path, text))]
    assert found == [("angry", "female", "dev"), ("sad", "male", "train"), ("sad", "x", "test2")]


def test_workbooks_and_repeated_columns_are_refused(tmp_path: Path) -> None:
    (tmp_path / "m.xlsx").write_bytes(b"PK")
    with pytest.raises(CorpusError, match=r"m\.xlsx' is a workbook, .*save its sheet as CSV UTF-8"):
        read_manifest(tmp_path / "m.xlsx")
    with pytest.raises(CorpusError, match="two columns 'speaker'"):
        read_manifest(manifest(tmp_path, "id,speaker,emotion,speaker\n1,a,sad,b\n"))


# --- a table of one's own ------------------------------------------------------------------------


def own_table(tmp_path: Path) -> Path:
    """A table over four recordings of 0.5 s. Its suffixes and slashes differ from those of the files."""
    for number in range(4):
        fake.write(tmp_path / "audio/wav/empty", "")
        soundfile.write(tmp_path / f"audio/wav/{number}.flac", make.speech(0.5, seed=number), make.RATE)
    lines = ["Datei;Wer;Gefühl;Alter"]
    lines += [
        f"wav\\{number}.wav;s{number % 2};{emotion};30"
        for number, emotion in enumerate(["Wut", "Wut", "?", ""])
    ]
    fake.write(tmp_path / "own.csv", "\n".join(lines), "utf-8-sig")
    return tmp_path / "own.csv"


OWN_EMOTIONS = {"Wut": "angry", "?": "-"}
OWN_COLUMNS = {"path": "Datei", "speaker": "Wer", "emotion": "Gefühl"}


def test_a_table_of_ones_own_finds_its_audio(tmp_path: Path) -> None:
    path = own_table(tmp_path)
    notes: list[str] = []
    corpus = read_own_table(path, OWN_COLUMNS, OWN_EMOTIONS, None, tmp_path / "audio", notes.append)
    assert [(u.id, u.path, u.speaker, u.emotion) for u in corpus] == [
        (str(number), tmp_path / f"audio/wav/{number}.flac", f"s{number}", "angry") for number in range(2)
    ]
    assert corpus.dropped == {"emotion ?": 1, "no emotion": 1}
    assert notes == [
        "columns: speaker=Wer,emotion=Gefühl,path=Datei; ids are made of the paths; not used: Alter",
        "2 × audio found under another suffix: .flac for .wav",
    ]
    with pytest.raises(
        CorpusError, match=r"no audio of '.*own\.csv' exists, such as '.*wav/0\.wav'; .*--root"
    ):
        read_own_table(path, OWN_COLUMNS, OWN_EMOTIONS, None, None, print)
    soundfile.write(tmp_path / "audio/wav/0.ogg", make.speech(0.5), make.RATE)  # now either may be meant
    corpus = read_own_table(path, OWN_COLUMNS, OWN_EMOTIONS, "all", tmp_path / "audio", print)
    assert [u.path.suffix for u in corpus if u.path] == [".wav", ".flac", ".flac"]


def test_a_table_needs_audio_or_words(tmp_path: Path) -> None:
    path = manifest(tmp_path, "id,wav,speaker,emotion,text\n1,x.wav,a,sad,no\n")
    with pytest.raises(CorpusError, match=r"no column 'path' .*--columns path=wav "):
        read_own_table(path, {}, {}, None, None, print)
    notes: list[str] = []
    corpus = read_own_table(path, {"transcript": "text"}, {}, None, None, notes.append)
    assert [(u.path, u.transcript) for u in corpus] == [(None, "no")]
    assert notes[1].startswith("no column of audio paths: the utterances have text alone")


def test_a_manifest_with_durations_needs_no_header(tmp_path: Path) -> None:
    audio = tmp_path / "audio"
    corpus = read_own_table(own_table(tmp_path), OWN_COLUMNS, OWN_EMOTIONS, None, audio, print)
    measured, problems = drop_bad_audio(corpus, measure=True)
    assert ([u.duration_s for u in measured], problems) == ([0.5, 0.5], [])
    write_manifest(measured, tmp_path / "utterances.csv")
    for number in range(2):
        (tmp_path / f"audio/wav/{number}.flac").write_bytes(b"this is no audio")
    read = read_manifest(tmp_path / "utterances.csv")
    assert drop_bad_audio(read)[0] == read
    assert [audio_duration_s(utterance) for utterance in read] == [0.5, 0.5]
    assert corpus_stats(read).hours == pytest.approx(1 / 3600)
    with pytest.raises(
        CorpusError, match=r"no utterance has audio that can be read; .*row 2, '0': audio broken"
    ):
        drop_bad_audio(read, measure=True)
    (tmp_path / "audio/wav/1.flac").unlink()
    kept, problems = drop_bad_audio(read)
    assert [u.id for u in kept] == ["0"]
    assert problems[0].startswith("row 3, '1': audio missing")


def test_the_header_of_a_container_has_its_duration(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    path = tmp_path / "speech.m4a"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=make.RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(make.speech(1.5)[None].astype(np.float32), "fltp", "mono")
        frame.sample_rate = make.RATE
        for part in av.AudioResampler(stream.format, "mono", make.RATE).resample(frame):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    (measured,), problems = drop_bad_audio(Corpus("x", (Utterance("1", "a", "sad", path),)))
    assert not problems
    assert measured.duration_s == pytest.approx(1.5, abs=0.1)


def test_bad_audio_of_a_table_is_named_by_its_row_and_long_lists_are_cut(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "0.wav", make.speech(0.5), make.RATE)
    rows = [f"{number}.wav,a,sad" for number in range(15)]
    path = manifest(tmp_path, "path,speaker,emotion\n" + "\n".join(rows))
    messages: list[str] = []
    corpus = open_corpus(CorpusConfig(manifest=str(path)), messages.append)
    assert [(u.id, u.duration_s) for u in corpus] == [("0", 0.5)]
    assert messages[0] == f"left out: row 3, '1': audio missing ({tmp_path / '1.wav'})"
    assert messages[9].startswith("left out: row 12, '10'")
    assert messages[10:] == ["left out: 4 more like these", "dropped: 14 × audio missing"]


def test_counts_by_emotion(tmp_path: Path) -> None:
    rows = [
        "1,a,sad,60,train,female,en", "2,a,angry,30,train,female,en", "3,b,sad,60,test,male,pl",
        "4,b,sad,60,,male,pl", "5,b,,60,dev,male,pl",
    ]  # fmt: skip
    path = manifest(tmp_path, "id,speaker,emotion,duration_s,split,gender,language\n" + "\n".join(rows))
    titles, counts = emotion_table(read_manifest(path))
    assert titles[:4] == ["emotion", "utterances", "speakers", "minutes"]
    assert titles[4:] == ["train", "dev", "test", "no split", "female", "male", "en", "pl"]
    assert [" ".join(row) for row in counts] == [
        "angry 1 1 0.5 1 0 0 0 1 0 1 0", "sad 3 2 3.0 1 0 1 1 1 2 1 2",
        "none 1 1 1.0 0 1 0 0 0 1 0 1", "all 5 2 4.5 2 1 1 1 2 3 2 3",
    ]  # fmt: skip
    plain = replace(read_manifest(path), utterances=(Utterance("1", "a", "sad"),))
    assert emotion_table(plain)[0] == ["emotion", "utterances", "speakers", "minutes"]
    assert emotion_table(plain)[1][-1] == ["all", "1", "1", "–"]


def test_the_message_for_an_open_quote_names_the_row(tmp_path: Path) -> None:
    corpus = Corpus("x", (Utterance("1", "a", "sad"),))
    fake.write(tmp_path / "asr.csv", 'id,transcript,source\n1,"Yes,asr\n')
    with pytest.raises(CorpusError, match=r"transcripts: '.*asr\.csv', row 2: not CSV"):
        add_transcripts(corpus, tmp_path / "asr.csv")
    root = tmp_path / "nemo"
    fake.nemo(root)
    text = (root / "data.tsv").read_text(encoding="utf-8")
    (root / "data.tsv").write_text(text + '"no end', encoding="utf-8")
    with pytest.raises(CorpusError, match=r"nemo: '.*data\.tsv', row 4: not CSV"):
        read_corpus("nemo", root)


def test_a_file_that_is_not_parquet_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "m.parquet").write_text("id,speaker,emotion\n")
    with pytest.raises(CorpusError, match=r"m\.parquet' is not Parquet: [^\n]+$"):
        read_manifest(tmp_path / "m.parquet")


HEADER = "id,speaker,emotion,start_s,transcript\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADER + "1,a,sad,,\n2,a,hapy,,\n", r"m\.csv', row 3: bad emotion 'hapy', .*did you mean 'happy'"),
        (HEADER + "1,a,sad,,\n1,a,sad,,\n", r"row 3: duplicate id '1', first in row 2"),
        (HEADER + "1,a,sad,soon,\n", r"row 2: start_s is 'soon', expected a number"),
        (HEADER + "1,a,sad,nan,\n", r"row 2: start_s is 'nan', expected a number"),
        (
            HEADER + "1,,sad,,\n",
            r"row 2: an utterance needs an id and a speaker; the row has no speaker, got \{'id': '1'",
        ),
        (HEADER + "1,a,sad,,Yes, I do\n", r"row 2: more cells than columns"),
        (
            HEADER + '1,a,sad,,Yes\n2,a,sad,,"No\n3,a,sad,,No\n',
            r"m\.csv', row 3: not CSV \(unexpected end of data\)",
        ),
        (HEADER + '1,a,sad,,"Yes" he said\n', r"row 2: not CSV .*is a quote left open, or not doubled\?"),
        (HEADER, r"m\.csv' holds no rows"),
    ],
)
def test_the_message_for_a_bad_row_names_it(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=message):
        read_manifest(manifest(tmp_path, text))


def test_manifest_that_is_not_utf8(tmp_path: Path) -> None:
    path = manifest(tmp_path, HEADER + "1,a,sad,,Öl\n", "cp1252")
    with pytest.raises(CorpusError, match="is not UTF-8"):
        read_manifest(path)


def test_the_message_for_a_missing_manifest_says_how_to_write_one(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"no manifest '.*none\.csv'; write one with: emodistill"):
        read_manifest(tmp_path / "none.csv")


def test_parquet_of_pandas_with_numbers_and_nan(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = arrow.Table.from_pylist(
        [{"id": 1, "speaker": 7.0, "emotion": "sad", "arousal": float("nan"), "transcript": None}]
    )
    parquet.write_table(table, tmp_path / "m.parquet")
    (utterance,) = read_manifest(tmp_path / "m.parquet")
    assert utterance == Utterance(id="1", speaker="7", emotion="sad", corpus="m")


# --- dimensions and their scale -------------------------------------------------------------------

RATED = "id,speaker,emotion,arousal,scale\n"


@given(scale=st.tuples(st.floats(allow_nan=False, allow_infinity=False), st.floats(allow_nan=False)))
def test_any_scale_is_written_and_read_back(scale: tuple[float, float]) -> None:
    assume(scale[0] < scale[1] < float("inf"))
    assert read_scale(scale_text(scale)) == scale


def test_the_columns_of_dimensions_are_the_last_ones_and_can_be_renamed(tmp_path: Path) -> None:
    assert COLUMNS[-2:] == ("intensity", "scale")
    path = manifest(tmp_path, "id,speaker,emotion,level,range\n1,a,sad,2,1..3\n")
    (utterance,) = read_manifest(path, {"intensity": "level", "scale": "range"})
    assert (utterance.intensity, utterance.scale) == (2.0, (1.0, 3.0))
    assert utterance.unit_dimensions() == {"intensity": 0.5}


def test_the_own_scale_of_a_row_comes_before_the_given_one(tmp_path: Path) -> None:
    path = manifest(tmp_path, RATED + "1,a,sad,3,1..5\n2,a,sad,3,\n3,a,sad,,\n")
    assert [u.scale for u in read_manifest(path, scale=(0.0, 10.0))] == [(1.0, 5.0), (0.0, 10.0), None]


def test_rows_without_a_scale_are_read_and_have_no_units(tmp_path: Path) -> None:
    (utterance,) = read_manifest(manifest(tmp_path, "id,speaker,emotion,arousal\n1,a,sad,3\n"))
    assert (utterance.arousal, utterance.scale) == (3.0, None)
    with pytest.raises(CorpusError, match=r"'1' has arousal 3, but no scale; .*--scale 1\.\.5"):
        utterance.unit_dimensions()


def test_a_table_of_dimensions_needs_no_emotions(tmp_path: Path) -> None:
    (utterance,) = read_manifest(manifest(tmp_path, "id,speaker,valence,scale\n1,a,-0.5,-1..1\n"))
    assert (utterance.emotion, utterance.unit_dimensions()) == (None, {"valence": 0.25})
    with pytest.raises(CorpusError, match="has no column 'emotion'"):
        read_manifest(manifest(tmp_path, "id,speaker,happiness\n1,a,2\n"))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1,a,sad,3,5..1", r"scale 5\.\.1 is not a range, expected the lowest value before the highest"),
        ("1,a,sad,3,1-5", r"scale is '1-5', expected the lowest and the highest .*, as in 1\.\.5"),
        ("1,a,sad,3,1..inf", r"scale 1\.\.inf is not a range"),
        ("1,a,sad,6,1..5", r"'1': arousal is 6, which is outside of its scale 1\.\.5; correct"),
        ("1,a,sad,0.99,1..5", r"'1': arousal is 0.99, which is outside"),
        ("1,a,sad,high,1..5", "arousal is 'high', expected a number such as 1.5"),
        ("1,a,sad,nan,1..5", "arousal is 'nan', expected a number"),
        ('1,a,sad,"2,5",1..5', "arousal is '2,5', .* such as 1.5, with a point in place of the comma"),
    ],
)
def test_the_message_for_a_bad_dimension_names_the_row(row: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=rf"m\.csv', row 3: {message}"):
        read_manifest(manifest(tmp_path, RATED + f"0,a,sad,5,1..5\n{row}\n"))


def test_a_value_outside_the_given_scale_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"row 2: '1': arousal is 3, which is outside of its scale 0\.\.1"):
        read_manifest(manifest(tmp_path, RATED + "1,a,sad,3,\n"), scale=(0.0, 1.0))


# --- the notation of --columns and --map-emotions ------------------------------------------------

_name = _text.filter(lambda text: "=" not in text)


@given(columns=st.dictionaries(_name, _text, min_size=1))
def test_any_columns_are_written_and_read_back(columns: dict[str, str]) -> None:
    pairs = [quoted(f"{ours}={theirs}") for ours, theirs in columns.items()]
    assert read_columns([",".join(pairs)], "--columns") == columns
    assert read_columns(pairs, "--columns") == columns


@given(emotions=st.dictionaries(_text, st.sampled_from([*EMOTIONS, "-"]), min_size=1))
def test_any_map_of_emotions_is_written_and_read_back(emotions: dict[str, str]) -> None:
    text = ",".join(quoted(f"{theirs}={ours}") for theirs, ours in emotions.items())
    assert read_emotions([text], "--map-emotions") == emotions
    assert CorpusConfig.model_validate({"emotions": text}).emotions == emotions


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (read_columns, "id", r"bad --x 'id', expected OURS=THEIRS, as in id=file,path=wav"),
        (read_columns, "id=a,id=b", "--x gives two columns for 'id'"),
        (read_emotions, "anger", "bad --x 'anger', expected name=emotion, as in anger=angry,oth=-"),
        (
            read_emotions,
            "sad=Trauer",
            r"bad emotion 'Trauer'.*did you mean Trauer=sad\? Our emotion comes last",
        ),
        (read_emotions, "a=sad,a=sad", "--x gives two emotions for 'a'"),
        (read_emotions, "anger=angri", r"--x anger=angri: bad emotion 'angri'.*did you mean 'angry'.*or -"),
    ],
)
def test_other_notations_are_refused(read: Any, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read([text], "--x")
