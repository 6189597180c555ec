"""audformat, the format of audEERING's databases: `db.yaml` and one file a table.

The labels are those of all tables that have the column of emotions, or one of the dimensions. What other
tables say of the same files or segments is joined to them. So is what a scheme says of its labels: a speaker
with a gender gives a column `speaker.gender`. Splits are those of the tables with a `split_id`.
"""

import math
import tempfile
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from emodistill.corpora.manifest import COLUMNS, USUAL_EMOTIONS
from emodistill.corpora.tables import Row, Table, TableOptions, TableReader, read_text
from emodistill.errors import CorpusError, MissingExtraError, one_of
from emodistill.files import is_in_folder
from emodistill.labels import DIMENSIONS, EMOTIONS, scale_text

LABEL = "label"  # the field of a scheme whose labels have one text each
_SPLITS = ("train", "dev", "test")
# Our columns and other names that audformat databases use for them.
_USUAL = {
    "arousal": ("activation",),
    "transcript": ("transcription", "text"),
    "gender": ("sex",),
}
_UNIT = (0.0, 1.0)
MAX_HEADER_VALUES = 2_000_000

# A part of a recording: file, start and end in seconds. The end None is that of the recording.
_TABLE_SUFFIXES = (".csv", ".parquet")
Part = tuple[str, float, float | None]


def load_audformat() -> Any:
    """Return the module audformat. Raises `MissingExtraError` without it."""
    try:
        import audformat
    except ImportError as error:
        raise MissingExtraError("audformat", "audformat", "a corpus in audformat") from error
    return audformat


def read(source: Path, options: TableOptions) -> Table:
    """Read the folder of a database. Raises `CorpusError` where it is none, or has no labels of emotions."""
    audformat = load_audformat()
    header = source / "db.yaml"
    if not header.is_file():
        raise CorpusError(f"audformat: no '{header}'; expected the folder of a database, with db.yaml")
    try:
        with tempfile.TemporaryDirectory(prefix="emodistill-") as folder:
            _copy_plain(source, Path(folder))
            database = audformat.Database.load(folder, load_data=True)
    except Exception as error:  # those of YAML, Parquet, pandas and audformat have no common class
        text = " ".join(str(error).split())
        raise CorpusError(f"audformat: '{source}' cannot be read: {text or type(error).__name__}") from error
    try:
        return table_of(database, source, options)
    except (TypeError, ValueError, AttributeError, KeyError) as error:  # labels of types that no scheme has
        text = " ".join(str(error).split())
        raise CorpusError(f"audformat: '{source}' has cells of unexpected types: {text}") from error


def _copy_plain(source: Path, folder: Path) -> None:
    """Copy the files of a database that hold no code: its header as plain YAML, and its tables.

    audformat would run code in the header, and in a table that is a pickle.
    """
    import yaml  # of audformat

    header = yaml.safe_load(read_text(source / "db.yaml"))
    if _num_values(header, {}) > MAX_HEADER_VALUES:
        raise ValueError(f"db.yaml has over {MAX_HEADER_VALUES} values, with each alias written out")
    (folder / "db.yaml").write_text(
        yaml.safe_dump(header, sort_keys=False, allow_unicode=True), encoding="utf-8"
    )
    tables = {path for suffix in _TABLE_SUFFIXES for path in source.glob(f"db.*{suffix}")}
    for path in tables:
        # The cache of the hub has links from snapshots/REVISION to blobs.
        if not is_in_folder(path):
            raise CorpusError(f"the table '{path}' is a link that leaves its database, and is not read")
        (folder / path.name).symlink_to(path.resolve())
    pickled = [path.name for path in sorted(source.glob("db.*.pkl"))]
    stems = {path.stem for path in tables}
    only = [name for name in pickled if Path(name).stem not in stems]
    if only:
        raise CorpusError(
            f"'{only[0]}' is a pickle, which may run code, and is not read: save the table as CSV or Parquet"
        )


def _num_values(value: Any, known: dict[int, float]) -> float:
    """Return how many values a value of YAML holds, with those of each alias: inf if it holds itself.

    `known` has the counts of lists and objects by their id.
    """
    if not isinstance(value, (list, dict)):
        return 1
    if id(value) not in known:
        known[id(value)] = math.inf
        parts = value if isinstance(value, list) else [*value, *value.values()]
        known[id(value)] = 1 + sum(_num_values(part, known) for part in parts)
    return known[id(value)]


def table_of(database: Any, root: Path, options: TableOptions, notes: Sequence[str] = ()) -> Table:
    """Return the utterances of a loaded database as a table.

    `root` is the folder of its files, and `options` says which tables and columns hold what. The notes of the
    table are `notes` and what was chosen. Raises `CorpusError` where the choice is not clear; the message
    lists what the database has.
    """
    names = _label_columns(database, options)
    tables = _label_tables(database, names.values(), options)
    cells = {name: _cells(database, database[name]) for name in database.tables}
    rows: dict[Part, Row] = {}
    places: dict[Part, str] = {}
    for name in tables:
        for number, (part, values) in enumerate(cells[name].items(), start=2):  # the header is row 1
            places.setdefault(part, f"'{root}', table {name}, row {number}")
            _merge(rows.setdefault(part, {}), values, f"the tables {', '.join(tables)} differ at {part}")
    further = [name for name in database.tables if name not in tables]
    conflicts = _join(rows, [(cells[name], database[name].is_filewise) for name in further])
    for part, row in rows.items():
        row["path"], row["start_s"], row["end_s"] = part[0], part[1] or None, part[2]
    with_split = [name for name in options.table or () if database[name].split_id is not None]
    _add_splits(rows, {name: cells[name] for name in with_split or cells}, database)
    chosen = _choose(_columns(rows), names, options.columns)
    _add_languages(rows, chosen, database.languages)
    converted = _add_scales(rows, chosen, database, tables)
    for ours, theirs in chosen.items():
        for row in rows.values() if ours != theirs and ours not in options.columns else ():
            row[ours] = row.get(theirs)
    columns = _columns(rows)
    return Table(
        root,
        columns,
        tuple((number, {c: row.get(c) for c in columns}) for number, row in enumerate(rows.values(), 1)),
        places=dict(enumerate(places.values(), 1)),
        name=database.name,
        notes=(
            *notes,
            f"tables of labels: {', '.join(tables)}; further tables: {', '.join(further) or 'none'}",
            *(f"not read, since tables differ: {name}" for name in sorted(conflicts)),
            *converted,
        ),
    )


def _columns(rows: Mapping[Part, Row]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(str(name) for row in rows.values() for name in row))


def _label_columns(database: Any, options: TableOptions) -> dict[str, str]:
    """Return {"emotion" or a dimension: its column in the tables}."""
    tables = [database[name] for name in _given_tables(database, options)]
    columns = {name: column for table in tables for name, column in table.columns.items()}
    found: dict[str, str] = {}
    for ours in ("emotion", *DIMENSIONS):
        if ours in options.columns:
            theirs = options.columns[ours]
            if theirs not in columns and theirs.rpartition(".")[0] not in columns:
                raise CorpusError(f"--columns {ours}={theirs}: " + one_of("column", theirs, columns))
            found[ours] = theirs
            continue
        names = (ours, *_USUAL.get(ours, ()))
        same = [name for name in names if name in columns]
        of_scheme = [name for name, column in columns.items() if column.scheme_id in names]
        similar = [] if ours != "emotion" else [n for n in columns if _has_emotions(database, columns[n], n)]
        candidates = same[:1] or of_scheme or similar
        if len(candidates) > 1:
            raise CorpusError(
                f"'{database.name}' has {len(candidates)} columns of {ours}: {candidates}; choose one: "
                f"--columns {ours}={candidates[0]}. {_overview(database)}"
            )
        if candidates:
            found[ours] = candidates[0]
    if not found:
        raise CorpusError(
            f"'{database.name}' has no column of emotions, arousal, valence or dominance that is known; name "
            f"one: --columns emotion=…. {_overview(database)}"
        )
    return found


def _has_emotions(database: Any, column: Any, name: str) -> bool:
    """Return whether a column looks like one of emotions: half of its labels are names of emotions."""
    scheme = _scheme(database, column)
    if scheme is None or scheme.labels is None:
        return False
    labels = [str(label).lower() for label in scheme.labels_as_list]
    return 2 * sum(label in EMOTIONS or label in USUAL_EMOTIONS for label in labels) >= max(len(labels), 1)


def _scheme(database: Any, column: Any) -> Any:
    """Return the scheme of a column, or None."""
    return None if column.scheme_id is None else database.schemes[column.scheme_id]


def _given_tables(database: Any, options: TableOptions) -> Sequence[str]:
    for name in options.table or ():
        if name not in database.tables:
            raise CorpusError(
                f"--table {name}: " + one_of("table", name, database.tables) + f". {_overview(database)}"
            )
    return options.table or tuple(database.tables)


def _label_tables(database: Any, columns: Iterable[str], options: TableOptions) -> list[str]:
    """Return the tables with labels, the longest one first.

    Raises `CorpusError` where some of them label whole files and others segments.
    """
    wanted = {name for column in columns for name in (column, column.rpartition(".")[0])}
    names = [name for name in _given_tables(database, options) if wanted & set(database[name].columns)]
    if options.table and len(names) < len(options.table):
        bare = [name for name in options.table if name not in names]
        raise CorpusError(f"--table {bare[0]}: it has none of the columns {sorted(columns)}")
    kinds = {database[name].type for name in names}
    if len(kinds) > 1:
        raise CorpusError(
            f"the tables {names} of '{database.name}' label files and segments of them, expected one kind: "
            f"choose with --table. {_overview(database)}"
        )
    return sorted(names, key=lambda name: -len(database[name].df))


def _overview(database: Any) -> str:
    """Return what the database has, for messages."""
    tables = "; ".join(
        f"{name} ({table.type}): {list(table.columns)}" for name, table in database.tables.items()
    )
    return f"Tables: {tables or 'none'}. Schemes: {list(database.schemes)}"


def _cells(database: Any, table: Any) -> dict[Part, dict[str, Any]]:
    """Return the cells of a table by part, with the fields that schemes give to their labels."""
    frame = table.df
    rows: dict[Part, dict[str, Any]] = {part: {} for part in map(_part, frame.index)}
    if len(rows) < len(frame):
        raise CorpusError(f"a table of '{database.name}' has two rows of the same part of a file")
    for name in frame.columns:
        fields = _fields(database, table.columns[name])
        for row, value in zip(rows.values(), map(_plain, frame[name].tolist()), strict=True):
            row[name] = value
            for field, values in fields.items():
                row[f"{name}.{field}"] = None if value is None else values.get(value)
    return rows


def _part(index: Any) -> Part:
    """Return the part of an entry of an index: a file, or a file with start and end."""
    if isinstance(index, str):
        return index, 0.0, None
    file, start, end = index
    return file, start.value / 1e9, None if _plain(end) is None else end.value / 1e9


def _fields(database: Any, column: Any) -> dict[str, dict[Hashable, Any]]:
    """Return what a scheme says of its labels: {field: {label: value}}."""
    scheme = _scheme(database, column)
    if scheme is None or scheme.labels is None or isinstance(scheme.labels, list):
        return {}
    labels = scheme.labels
    if scheme.uses_table:
        labels = database[labels].df.to_dict("index")
    fields: dict[str, dict[Hashable, Any]] = {}
    for label, described in labels.items():
        values = described if isinstance(described, Mapping) else {LABEL: described}
        for field, value in values.items():
            fields.setdefault(str(field), {})[label] = _plain(value)
    return fields


def _plain(value: Any) -> Any:
    """Return a value of pandas as one of Python: None for each kind of missing value, seconds for times."""
    import pandas

    if value is None or value is pandas.NA or value is pandas.NaT:
        return None
    if isinstance(value, pandas.Timedelta):
        return value.value / 1e9
    if isinstance(value, float) and math.isnan(value):
        return None
    return value


def _merge(row: Row, values: Mapping[str, Any], where: str) -> None:
    """Add values to a row. Raises `CorpusError` where a column has another value already."""
    for name, value in values.items():
        if row.get(name) is None:
            row[name] = value
        elif value is not None and row[name] != value:
            raise CorpusError(
                f"{where}: {name} is '{row[name]}' and '{value}'; choose the tables with the labels: --table"
            )


def _join(
    rows: Mapping[Part, Row], tables: Sequence[tuple[Mapping[Part, Mapping[str, Any]], bool]]
) -> set[str]:
    """Add what further tables say of the same parts, or of their files where a table is of whole files.

    Returns the columns in which further tables differ; they are left out. Columns of the labels' own tables
    stay as they are.
    """
    own = {name for row in rows.values() for name in row}
    conflicts: set[str] = set()
    for part, row in rows.items():
        for table, is_filewise in tables:
            said = table.get((part[0], 0.0, None) if is_filewise else part, {})
            for name, value in said.items():
                if name in own or value is None:
                    continue
                if row.setdefault(name, value) != value:
                    conflicts.add(str(name))
    for row in rows.values():
        for name in conflicts:
            row.pop(name, None)
    return conflicts


def _add_splits(rows: Mapping[Part, Row], cells: Mapping[str, Mapping[Part, Any]], database: Any) -> None:
    """Add the split of the tables that have one, unless a column says the splits."""
    if any("split" in row for row in rows.values()):
        return
    for name in cells:
        split_id = database[name].split_id
        if split_id is None:
            continue
        kind = str(database.splits[split_id].type)
        split = kind if kind in _SPLITS else split_id
        files = {part[0] for part in cells[name]} if database[name].is_filewise else set()
        for part, row in rows.items():
            if part not in cells[name] and part[0] not in files:
                continue
            if row.setdefault("split", split) != split:
                raise CorpusError(
                    f"tables of '{database.name}' put {part} into {row['split']} and {split}; choose the "
                    "tables with --table"
                )


def _choose(columns: Sequence[str], known: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """Return {our column: column of the table}: as given, as known, or by usual names.

    A text that a scheme gives to a label comes before the label, and a column before a field of the speaker.
    """
    chosen = {**known, **given}
    for ours in COLUMNS:
        for name in () if ours in chosen else (ours, *_USUAL.get(ours, ())):
            fields = [column for column in columns if column.rpartition(".")[2] == name and column != name]
            texts = [f"{name}.{LABEL}"] if ours == "transcript" else []
            of_speaker = [field for field in fields if field.startswith("speaker.")]
            candidates = [*(c for c in (*texts, name) if c in columns), *of_speaker, *fields]
            if candidates:
                chosen[ours] = candidates[0]
                break
    return chosen


def _add_languages(rows: Mapping[Part, Row], chosen: dict[str, str], languages: Sequence[str]) -> None:
    """Write languages as ISO 639-1. Without a column, the one language of the database counts for all."""
    if "language" not in chosen and len(languages) == 1:
        chosen["language"] = "language"
        for row in rows.values():
            row["language"] = languages[0]
    column = chosen.get("language")
    for row in rows.values() if column is not None else ():
        if row.get(column) is not None:
            row[column] = iso_639_1(str(row[column]))


def iso_639_1(language: str) -> str:
    """Return the two letters of a language, or the text as it is where there are none."""
    import iso639

    try:
        return str(iso639.Lang(language).pt1) or language
    except iso639.exceptions.InvalidLanguageValue:
        return language


def _add_scales(
    rows: Mapping[Part, Row],
    chosen: dict[str, str],
    database: Any,
    tables: Sequence[str],
) -> list[str]:
    """Add the scale of the dimensions, from minimum and maximum of their schemes.

    Where dimensions have different scales, all values are converted to 0..1. Returns a message of that.
    """
    if "scale" in chosen:
        return []
    scales: dict[str, tuple[float, float]] = {}
    named = [name for name in DIMENSIONS if name in chosen]
    for name in named:
        for table in tables:
            column = dict(database[table].columns).get(chosen[name])
            scheme = None if column is None else _scheme(database, column)
            if scheme is not None and scheme.minimum is not None and scheme.maximum is not None:
                scales[name] = (float(scheme.minimum), float(scheme.maximum))
    if len(scales) < len(named) or not scales:
        return []  # `prepare` says that --scale is missing
    notes: list[str] = []
    if len(set(scales.values())) > 1:
        listed = ", ".join(f"{name} {scale_text(scale)}" for name, scale in scales.items())
        notes.append(f"the dimensions have different scales ({listed}); their values are converted to 0..1")
        for row in rows.values():
            for name, (low, high) in scales.items():
                value = row.get(chosen[name])
                if value is not None:
                    row[chosen[name]] = (float(value) - low) / (high - low)
        scales = dict.fromkeys(scales, _UNIT)
    text = scale_text(next(iter(scales.values())))
    for row in rows.values():
        if any(row.get(chosen[name]) is not None for name in named):
            row["scale"] = text
    return notes


AUDFORMAT = TableReader("audformat", read, ("root", "table"))
