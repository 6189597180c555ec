"""Manifests: written, read back, and read from other programs; errors name the row."""

import tempfile
from dataclasses import replace
from pathlib import Path

import factories_corpora as fake
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emodistill.config import CorpusConfig
from emodistill.corpora import (
    Corpus,
    Utterance,
    add_transcripts,
    open_corpus,
    read_corpus,
    read_manifest,
    write_manifest,
)
from emodistill.errors import ConfigError, CorpusError
from emodistill.labels import EMOTIONS

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
                arousal=draw(st.none() | _number),
                valence=draw(st.none() | _number),
                dominance=draw(st.none() | _number),
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
    with pytest.raises(CorpusError, match=r"has no column 'id' \(it has \['file', 'who', 'feeling'\]\)"):
        read_manifest(path)
    (utterance,) = read_manifest(
        path, columns={"id": "file", "path": "file", "speaker": "who", "emotion": "feeling"}
    )
    assert (utterance.id, utterance.path) == ("x.wav", tmp_path / "x.wav")
    with pytest.raises(CorpusError, match=r"bad manifest column 'speeker', .*did you mean 'speaker'"):
        read_manifest(path, columns={"speeker": "who"})


def test_manifest_with_other_emotion_names(tmp_path: Path) -> None:
    path = manifest(tmp_path, "id,speaker,emotion\n1,a,anger\n2,a,sad\n3,a,very sad\n4,a,\n")
    with pytest.raises(CorpusError, match=r"row 2: bad emotion 'anger'.* corpus\.emotions = \{\"anger\" = "):
        read_manifest(path)
    names = {"anger": "angry", "very sad": "sad"}
    utterances = read_manifest(path, emotions=names)
    assert [utterance.emotion for utterance in utterances] == ["angry", "sad", "sad", None]
    opened = open_corpus(CorpusConfig(manifest=str(path), emotions=names), lambda _: None)
    assert [utterance.emotion for utterance in opened] == ["angry", "sad", "sad"]
    with pytest.raises(CorpusError, match=r"bad emotion 'angri', .*did you mean 'angry'"):
        read_manifest(path, emotions={"anger": "angri"})


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
        (HEADER + "1,,sad,,\n", r"row 2: an utterance needs an id and a speaker"),
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
        [{"id": 1, "speaker": 7, "emotion": "sad", "arousal": float("nan"), "transcript": None}]
    )
    parquet.write_table(table, tmp_path / "m.parquet")
    (utterance,) = read_manifest(tmp_path / "m.parquet")
    assert utterance == Utterance(id="1", speaker="7", emotion="sad", corpus="m")
