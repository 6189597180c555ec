"""An audformat database: `db.yaml`, a table `utterances`, and one table for each split."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from emodistill.corpora.base import Corpus, Utterance
from emodistill.corpora.readers.audformat import load_audformat
from emodistill.corpora.writers.base import CorpusWriter
from emodistill.errors import CorpusError
from emodistill.labels import DIMENSIONS, scale_text

TABLE = "utterances"
SPEAKERS = "speaker"  # a table of the speakers, whose gender it has
_SPLITS = ("train", "dev", "test")
_TEXTS = ("session", "transcript", "votes")


def write(corpus: Corpus, folder: Path, audio: Mapping[Path, str]) -> None:
    """Write the database of a corpus into a folder.

    Raises `CorpusError` for two utterances that are the same part of a recording, since audformat knows a row
    by its part.
    """
    audformat = load_audformat()
    utterances = list(corpus)
    name = _common(item.corpus for item in utterances) or corpus.name
    languages = {item.language: _iso_639_3(item.language) for item in utterances if item.language is not None}
    known = sorted({code for code in languages.values() if code is not None})
    database = audformat.Database(name, languages=known)
    database.description = "Utterances with emotions, written by emodistill"
    speakers = _add_speakers(database, utterances)
    values: dict[str, list[Any]] = {
        "id": [item.id for item in utterances],
        "speaker": [item.speaker for item in utterances],
        "emotion": [item.emotion for item in utterances],
        **{column: [getattr(item, column) for item in utterances] for column in (*DIMENSIONS, *_TEXTS)},
        "language": [None if x.language is None else languages[x.language] or x.language for x in utterances],
        "gender": [] if speakers else [item.gender for item in utterances],
        "corpus": [] if {item.corpus for item in utterances} == {name} else [x.corpus for x in utterances],
    }
    scales = {item.scale for item in utterances if item.dimensions()}
    one_scale = next(iter(scales)) if len(scales) == 1 else None
    if one_scale is None:  # several: each row has its own
        values["scale"] = [None if item.scale is None else scale_text(item.scale) for item in utterances]
    values["transcript_source"] = [
        None if item.transcript and item.transcript_source == "gold" else item.transcript_source
        for item in utterances
    ]  # the reader takes a transcript without a source as gold
    used = {column: cells for column, cells in values.items() if any(cell is not None for cell in cells)}
    for column, cells in used.items():
        if column != "speaker":
            _add_scheme(database, column, cells, one_scale)
    index = _index(audformat, utterances, audio)
    _add_table(audformat, database, TABLE, index, used, None)
    for split in dict.fromkeys(item.split for item in utterances if item.split is not None):
        database.splits[split] = audformat.Split(split if split in _SPLITS else "other")
        rows = [number for number, item in enumerate(utterances) if item.split == split]
        labels = {
            column: [cells[number] for number in rows]
            for column, cells in used.items()
            if column in ("emotion", *DIMENSIONS)
        }
        _add_table(audformat, database, f"{TABLE}.{split}", index[rows], labels, split)
    database.save(str(folder))


def _add_speakers(database: Any, utterances: Iterable[Utterance]) -> bool:
    """Add the speakers, with their gender in a table. Returns whether each speaker has one gender alone.

    Without a table, the gender stays with the utterance.
    """
    import audformat
    import pandas

    genders: dict[str, set[str | None]] = {}
    for item in utterances:
        genders.setdefault(item.speaker, set()).add(item.gender)
    is_clear = all(len(found) == 1 for found in genders.values())
    names = list(genders)
    if not is_clear or genders == {name: {None} for name in names}:
        database.schemes["speaker"] = audformat.Scheme("str", labels=names)
        return is_clear
    database.schemes["gender"] = audformat.Scheme("str")
    database[SPEAKERS] = audformat.MiscTable(pandas.Index(names, name="speaker", dtype="string"))
    database[SPEAKERS]["gender"] = audformat.Column(scheme_id="gender")
    database[SPEAKERS]["gender"].set([next(iter(genders[name])) for name in names])
    database.schemes["speaker"] = audformat.Scheme("str", labels=SPEAKERS)
    return True


def _add_scheme(database: Any, column: str, cells: list[Any], scale: tuple[float, float] | None) -> None:
    import audformat

    if column in DIMENSIONS:
        low, high = scale or (None, None)
        database.schemes[column] = audformat.Scheme("float", minimum=low, maximum=high)
    elif column == "emotion":
        labels = list(dict.fromkeys(cell for cell in cells if cell is not None))
        database.schemes[column] = audformat.Scheme("str", labels=labels)
    elif column not in database.schemes:
        database.schemes[column] = audformat.Scheme("str")


def _add_table(
    audformat: Any, database: Any, name: str, index: Any, cells: Mapping[str, list[Any]], split: str | None
) -> None:
    table = database[name] = audformat.Table(index, split_id=split)
    for column, values in cells.items():
        table[column] = audformat.Column(scheme_id=column)
        try:
            table[column].set(values)
        except ValueError as error:
            raise CorpusError(
                f"audformat refuses the column {column}: {' '.join(str(error).split())}"
            ) from error


def _index(audformat: Any, utterances: list[Utterance], audio: Mapping[Path, str]) -> Any:
    """Return the index of the utterances: files where all are whole recordings, else segments."""
    import pandas

    parts: dict[tuple[str, float, float | None], str] = {}
    for item in utterances:
        assert item.path is not None, "checked by `write_corpus`"
        part = audio[item.path], item.start_s or 0.0, item.end_s
        other = parts.setdefault(part, item.id)
        if other != item.id:
            raise CorpusError(
                f"'{other}' and '{item.id}' are the same part of '{item.path}', and audformat knows a row by "
                "its part: leave one of them out"
            )
    if all(part[1:] == (0.0, None) for part in parts):
        return audformat.filewise_index([file for file, _, _ in parts])
    return audformat.segmented_index(
        [file for file, _, _ in parts],
        [_time(pandas, start) for _, start, _ in parts],
        [_time(pandas, end) for _, _, end in parts],
    )


def _time(pandas: Any, seconds: float | None) -> Any:
    return pandas.NaT if seconds is None else pandas.Timedelta(round(seconds * 1e9), unit="ns")


def _common(names: Iterable[str | None]) -> str | None:
    """Return the name if there is one alone."""
    found = set(names)
    return found.pop() if len(found) == 1 else None


def _iso_639_3(language: str) -> str | None:
    """Return the three letters of a language, or None for one that audformat does not know."""
    import audformat

    try:
        return str(audformat.utils.map_language(language))
    except ValueError:
        return None


def check() -> None:
    """Raise `MissingExtraError` without audformat."""
    load_audformat()


WRITER = CorpusWriter("audformat", write, check=check)
