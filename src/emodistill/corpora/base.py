"""Utterance, Corpus, and the manifest `utterances.csv` that every later stage reads."""

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import soundfile

from emodistill.decoding import SUFFIXES, open_recording
from emodistill.errors import CorpusError, MissingExtraError, one_of
from emodistill.labels import EMOTIONS, LabelMap, LabelSet


@dataclass(frozen=True)
class Utterance:
    """One labelled speech segment. `path` is None where a corpus has text alone."""

    id: str
    speaker: str
    emotion: str | None  # None: the annotators did not agree, or nobody labelled it
    path: Path | None = None
    start_s: float | None = None  # a segment of a longer recording; None: all of it
    end_s: float | None = None
    duration_s: float | None = None  # of the audio; None: not measured
    session: str | None = None  # recording session or dialogue
    gender: str | None = None  # "female" or "male"
    language: str | None = None  # ISO 639-1
    transcript: str | None = None
    transcript_source: str | None = None  # "gold", or the name of the recogniser that wrote it
    split: str | None = None  # "train", "dev" or "test" where the corpus publishes one
    arousal: float | None = None
    valence: float | None = None
    dominance: float | None = None
    votes: str | None = None  # listeners' votes as JSON, {emotion: count}
    corpus: str | None = None

    def vote_counts(self) -> dict[str, int]:
        """The listeners' votes by emotion; empty where the corpus has none."""
        return dict(json.loads(self.votes)) if self.votes else {}


@dataclass(frozen=True)
class Corpus:
    """A named collection of utterances, with a count of everything that was left out and why."""

    name: str
    utterances: tuple[Utterance, ...]
    dropped: Mapping[str, int] = field(default_factory=dict)  # reason -> count
    merged: Mapping[str, int] = field(default_factory=dict)  # "excited -> happy" -> count

    def __post_init__(self) -> None:
        if not self.utterances:
            raise CorpusError(f"corpus '{self.name}': no utterances left (dropped: {dict(self.dropped)})")
        counts = Counter(utterance.id for utterance in self.utterances)
        twice = [name for name, count in counts.items() if count > 1]
        if twice:
            raise CorpusError(f"corpus '{self.name}': duplicate id '{twice[0]}' ({len(twice)} such ids)")
        for utterance in self.utterances:
            if utterance.emotion is not None and utterance.emotion not in EMOTIONS:
                raise CorpusError(
                    f"corpus '{self.name}', '{utterance.id}': "
                    + one_of("emotion", utterance.emotion, EMOTIONS)
                )

    def __len__(self) -> int:
        return len(self.utterances)

    def __iter__(self) -> Iterator[Utterance]:
        return iter(self.utterances)

    @property
    def labels(self) -> LabelSet:
        """The emotions that occur, in canonical order."""
        return LabelSet.of(utterance.emotion for utterance in self if utterance.emotion is not None)

    @property
    def speakers(self) -> tuple[str, ...]:
        """The speakers, sorted, numbers by value."""
        return tuple(sorted({utterance.speaker for utterance in self}, key=natural_order))

    def relabel(self, label_map: LabelMap) -> "Corpus":
        """Merge and drop emotions by a label map; both are counted in the result.

        Listeners' votes are merged likewise, and none is dropped: one for an emotion that is left out was no vote for the label.
        """
        kept: list[Utterance] = []
        dropped, merged = Counter(self.dropped), Counter(self.merged)
        for utterance in self:
            emotion = label_map.apply(utterance.emotion)
            if emotion is None:
                dropped[f"emotion {utterance.emotion or 'not agreed'}"] += 1
                continue
            if emotion != utterance.emotion:
                merged[f"{utterance.emotion} -> {emotion}"] += 1
            votes: Counter[str] = Counter()
            for name, count in utterance.vote_counts().items():
                votes[label_map.merges.get(name, name)] += count
            kept.append(replace(utterance, emotion=emotion, votes=json.dumps(votes) if votes else None))
        return Corpus(self.name, tuple(kept), dict(dropped), dict(merged))


def natural_order(name: str) -> list[tuple[int, str]]:
    """A sorting key that takes the numbers in a name by value: s2 before s10."""
    return [(int(part or 0), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def check_root(root: Path, name: str, expected: str, *patterns: str) -> Path:
    """The corpus folder, after making sure that it exists and holds what a reader needs.

    `patterns` are globs relative to `root`; each must match something. `expected` describes the
    layout in the error message.
    """
    root = Path(root)
    if not root.is_dir():
        raise CorpusError(f"{name}: no folder '{root}'; expected {expected}")
    for pattern in patterns:
        if next(root.glob(pattern), None) is None:
            raise CorpusError(f"{name}: '{root}' holds no '{pattern}'; expected {expected}")
    return root


def audio_files(root: Path, pattern: str = "**/*") -> dict[str, Path]:
    """Audio files below `root` that match a glob, by stem, sorted; any of the known suffixes.

    Raises `CorpusError` where two files have one stem, since ids are made of stems.
    """
    found: dict[str, Path] = {}
    for path in sorted(root.glob(pattern)):
        if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
            continue
        if path.stem in found:
            raise CorpusError(f"two audio files named '{path.stem}': '{found[path.stem]}' and '{path}'")
        found[path.stem] = path
    return found


def table_rows(
    path: Path, name: str, columns: Iterable[str], delimiter: str = ","
) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a corpus's own CSV or TSV with their numbers (the header is row 1).

    UTF-8 with or without a BOM, else cp1252. Raises `CorpusError` where one of `columns` is missing or a
    quote is never closed.
    """
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("cp1252", errors="replace")
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    number = 1
    try:
        for column in columns:
            if column not in (reader.fieldnames or ()):
                raise CorpusError(f"{name}: '{path}' has no column '{column}' (it has {reader.fieldnames})")
        for number, row in enumerate(reader, start=2):
            yield number, {column: row.get(column) or "" for column in reader.fieldnames or ()}
    except csv.Error as error:
        raise CorpusError(f"{name}: {_bad_csv(path, number, error)}") from error


def _bad_csv(path: Path, rows_read: int, error: csv.Error) -> str:
    return f"'{path}', row {rows_read + 1}: not CSV ({error}); is a quote left open, or not doubled?"


def drop_bad_audio(corpus: Corpus) -> tuple[Corpus, list[str]]:
    """Leave out utterances whose audio is missing, unreadable or empty; count and describe each.

    Reads headers alone. Returns the corpus that remains and one message a row left out.
    """
    kept: list[Utterance] = []
    problems: list[str] = []
    dropped = Counter(corpus.dropped)
    for row, utterance in enumerate(corpus, start=1):
        reason = None if utterance.path is None else _audio_problem(utterance)
        if reason is None:
            kept.append(utterance)
        else:
            dropped[reason.split(":")[0]] += 1
            problems.append(f"row {row}, '{utterance.id}': {reason} ({utterance.path})")
    return Corpus(corpus.name, tuple(kept), dict(dropped), corpus.merged), problems


def duration_s(utterance: Utterance) -> float:
    """The length of an utterance's audio by its header, in seconds; 0 where it has none.

    Raises `CorpusError` where the audio is missing or broken.
    """
    if utterance.path is None:
        return 0.0
    if not utterance.path.is_file():
        raise CorpusError(f"'{utterance.id}': audio missing at '{utterance.path}'")
    try:
        with open_recording(utterance.path) as file:
            whole = file.frames / file.samplerate
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise CorpusError(f"'{utterance.id}': audio broken at '{utterance.path}': {error}") from error
    return min(utterance.end_s or whole, whole) - (utterance.start_s or 0.0)


def _audio_problem(utterance: Utterance) -> str | None:
    path = utterance.path
    if path is None or not path.is_file():
        return "audio missing"
    try:
        with open_recording(path) as file:
            length_s = file.frames / file.samplerate
    except (soundfile.LibsndfileError, RuntimeError) as error:
        return f"audio broken: {error}"
    if not length_s:
        return "audio zero-length"
    start_s = utterance.start_s or 0.0
    if not 0.0 <= start_s < length_s:
        return f"segment outside audio: starts at {start_s} s of {length_s:.2f} s"
    if utterance.end_s is not None and utterance.end_s <= start_s:
        return f"segment empty: starts at {start_s} s, ends at {utterance.end_s} s"
    return None


# --- manifests ---------------------------------------------------------------------------------

COLUMNS = tuple(item.name for item in fields(Utterance))
_FLOATS = ("start_s", "end_s", "duration_s", "arousal", "valence", "dominance")


def write_manifest(corpus: Corpus, path: Path) -> None:
    """Write a corpus as CSV, TSV or Parquet (by suffix); audio below the manifest becomes relative."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [_row(utterance, path.parent.resolve()) for utterance in corpus]
    if path.suffix == ".parquet":
        arrow, parquet = _pyarrow()
        parquet.write_table(arrow.Table.from_pylist(rows), path)
        return
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, delimiter=_delimiter(path), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_manifest(
    path: Path,
    columns: Mapping[str, str] | None = None,
    name: str | None = None,
    emotions: Mapping[str, str] | None = None,
) -> Corpus:
    """Read `utterances.csv` or any CSV, TSV or Parquet with named columns.

    Args:
        path: the manifest; relative audio paths are taken from its folder.
        columns: where a manifest names its columns otherwise: {our name: its name}.
        name: the corpus's name; the manifest's stem by default.
        emotions: where a manifest names its emotions otherwise: {its name: our name}.

    Raises:
        CorpusError: a missing or damaged file, a missing column, an unknown emotion, a bad number, a
            duplicate id; with the row's number (the header is row 1).
    """
    path = Path(path)
    if not path.is_file():
        raise CorpusError(
            f"no manifest '{path}'; write one with: emodistill corpus prepare NAME DIR -o {path}"
        )
    for emotion in (emotions or {}).values():
        if emotion not in EMOTIONS:
            raise CorpusError("emotions of the manifest: " + one_of("emotion", emotion, EMOTIONS))
    rows = list(_read_rows(path))
    if not rows:
        raise CorpusError(f"'{path}' holds no rows")
    source = {column: (columns or {}).get(column, column) for column in COLUMNS}
    for column in columns or {}:
        if column not in COLUMNS:
            raise CorpusError(one_of("manifest column", column, COLUMNS))
    for column in ("id", "speaker", "emotion"):
        if source[column] not in rows[0]:
            raise CorpusError(
                f"'{path}' has no column '{source[column]}' (it has {list(rows[0])}); "
                f'say which one is the {column}: columns = {{{column} = "…"}}'
            )
    default = name or path.stem
    made = [
        _utterance(row, source, emotions or {}, path, number, default)
        for number, row in enumerate(rows, start=2)
    ]
    first: dict[str, int] = {}
    for number, utterance in enumerate(made, start=2):
        if first.setdefault(utterance.id, number) != number:
            raise CorpusError(
                f"'{path}', row {number}: duplicate id '{utterance.id}', first in row {first[utterance.id]}"
            )
    return Corpus(default, tuple(made))


def _read_rows(path: Path) -> Iterable[dict[str, Any]]:
    if path.suffix == ".parquet":
        arrow, parquet = _pyarrow()
        try:
            yield from parquet.read_table(path).to_pylist()
        except (arrow.ArrowException, OSError) as error:
            raise CorpusError(f"'{path}' is not Parquet: {' '.join(str(error).split())}") from error
        return
    rows_read = 1  # the header
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            for row in csv.DictReader(file, delimiter=_delimiter(path), strict=True):
                rows_read += 1
                yield row
    except csv.Error as error:
        raise CorpusError(_bad_csv(path, rows_read, error)) from error
    except UnicodeDecodeError as error:
        raise CorpusError(f"'{path}' is not UTF-8 ({error}); save it again as UTF-8") from error


def _delimiter(path: Path) -> str:
    return "\t" if path.suffix == ".tsv" else ","


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "train") from error
    return pyarrow, pyarrow.parquet


def _row(utterance: Utterance, folder: Path) -> dict[str, Any]:
    row = {column: getattr(utterance, column) for column in COLUMNS}
    if utterance.path is not None:
        resolved = utterance.path.resolve()
        row["path"] = str(resolved.relative_to(folder) if resolved.is_relative_to(folder) else resolved)
    return row


def _utterance(
    row: Mapping[str, Any],
    source: Mapping[str, str],
    emotions: Mapping[str, str],
    path: Path,
    number: int,
    corpus: str,
) -> Utterance:
    values: dict[str, Any] = {}
    where = f"'{path}', row {number}"
    if None in row:  # how csv.DictReader keeps the cells that no column claims
        raise CorpusError(f"{where}: more cells than columns; quote the cells that hold the delimiter")
    for column in COLUMNS:
        cell = row.get(source[column])
        missing = cell is None or (isinstance(cell, float) and math.isnan(cell))  # pandas writes NaN
        values[column] = None if missing else str(cell).strip() or None
    if values["id"] is None or values["speaker"] is None:
        raise CorpusError(f"{where}: an utterance needs an id and a speaker, got {dict(row)}")
    values["emotion"] = emotions.get(values["emotion"], values["emotion"])
    if values["emotion"] is not None and values["emotion"] not in EMOTIONS:
        raise CorpusError(
            f"{where}: "
            + one_of("emotion", values["emotion"], EMOTIONS)
            + f'; or say which of these it is: corpus.emotions = {{{json.dumps(values["emotion"])} = "…"}}'
        )
    for column in _FLOATS:
        if values[column] is not None:
            try:
                number_read = float(values[column])
            except ValueError:
                number_read = math.nan
            if not math.isfinite(number_read):
                raise CorpusError(f"{where}: {column} is '{values[column]}', expected a number")
            values[column] = number_read
    if values["path"] is not None:
        values["path"] = path.parent / values["path"]
    if values["transcript"] is not None and values["transcript_source"] is None:
        values["transcript_source"] = "gold"
    values["corpus"] = values["corpus"] or corpus
    return Utterance(**values)
