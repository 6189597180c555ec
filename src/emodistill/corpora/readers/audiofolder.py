"""An audiofolder of Hugging Face datasets: recordings with `metadata.csv`, `metadata.jsonl` or Parquet.

The folder holds metadata with the column `file_name`, relative to the metadata, at its top or in a folder for
each split. Without metadata, the folder that holds a recording names its class.
"""

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from emodistill.audio.decoding import MEDIA_SUFFIXES, SUFFIXES
from emodistill.corpora.tables import Row, Table, TableOptions, TableReader, read_table, read_text
from emodistill.errors import CorpusError

FILE_NAME = "file_name"
LABEL = "label"  # the column of classes, where folders name them
SPLIT = "split"
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
# The names of splits that `datasets` knows, with ours.
SPLITS = {
    "train": "train", "training": "train", "validation": "dev", "valid": "dev", "dev": "dev", "val": "dev",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip


def read(root: Path, options: TableOptions) -> Table:
    """Read the metadata of an audiofolder, or its folders of classes.

    The table has the columns of the metadata. `file_name` becomes relative to `root`, and `split` is the
    folder of the split where the metadata has no such column.

    Raises:
        CorpusError: no folder, no metadata and no recording, metadata of two formats in one folder, a column
            or a file name that is missing, or a line that is no JSON. The message names the file and the row.
    """
    if not root.is_dir():
        raise CorpusError(f"no folder '{root}'; expected an audiofolder, with metadata.csv or .jsonl in it")
    files = [path for path in sorted(root.rglob("metadata.*")) if path.name in METADATA]
    for path in files:
        twin = next((other for other in files if other.parent == path.parent and other != path), None)
        if twin is not None:
            raise CorpusError(f"'{path.parent}' has {path.name} and {twin.name}; expected one of them")
    rows = list(_metadata_rows(root, files) if files else _class_rows(root))
    if not rows:
        expected = f"expected one of {', '.join(METADATA)}, or recordings in folders of classes"
        raise CorpusError(f"'{root}' has no metadata and no recording; {expected}")
    columns = tuple(dict.fromkeys(name for _, row in rows for name in row if name is not None))
    usual = {"path": FILE_NAME, "emotion": LABEL, "speaker": "speaker_id", "transcript": "transcription"}
    return Table(
        root,
        columns,
        tuple((number, row) for number, (_, row) in enumerate(rows, start=1)),
        usual,
        {number: place for number, (place, _) in enumerate(rows, start=1)},
    )


def _metadata_rows(root: Path, files: list[Path]) -> Iterator[tuple[str, Row]]:
    """Yield the rows of all metadata, each with the place that messages name."""
    for path in files:
        table = _read_json_lines(path) if path.suffix == ".jsonl" else read_table(path)
        if FILE_NAME not in table.columns:
            hint = "; for a table of another form: corpus prepare csv"
            raise CorpusError(f"'{path}' has no column '{FILE_NAME}' (it has {list(table.columns)}){hint}")
        folder = path.parent.relative_to(root)
        for number, row in table.rows:
            given = row.get(FILE_NAME)
            if not isinstance(given, str) or not given.strip():
                raise CorpusError(f"{table.where(number)}: no {FILE_NAME}, got {given!r}")
            name = PurePosixPath(folder.as_posix()) / given.strip().replace("\\", "/")
            split = _split_of(name)
            row = {**row, FILE_NAME: str(name)}
            yield table.where(number), row if SPLIT in row or split is None else {**row, SPLIT: split}


def _class_rows(root: Path) -> Iterator[tuple[str, Row]]:
    """Yield a row for each recording, whose folder names its class, and whose upper folder its split."""
    for path in sorted(root.rglob("*")):
        name = PurePosixPath(path.relative_to(root).as_posix())
        hidden = any(part.startswith((".", "__")) for part in name.parts)
        if hidden or path.suffix.lower() not in (*SUFFIXES, *MEDIA_SUFFIXES) or not path.is_file():
            continue
        split = _split_of(name)
        label = name.parent.name
        if label.lower() in SPLITS or not label:
            raise CorpusError(
                f"'{path}' stands in no folder of a class, and '{root}' has no metadata; expected folders "
                f"such as train/angry, or one of {', '.join(METADATA)}"
            )
        yield f"'{path}'", {FILE_NAME: str(name), LABEL: label, **({SPLIT: split} if split else {})}


def _split_of(name: PurePosixPath) -> str | None:
    """Return our split for a path whose folders name one."""
    found = [SPLITS[part.lower()] for part in name.parts[:-1] if part.lower() in SPLITS]
    return found[0] if found else None


def _read_json_lines(path: Path) -> Table:
    """Read an object for each line; empty lines are left out, and lines are counted from 1."""
    rows: list[tuple[int, Row]] = []
    places: dict[int, str] = {}
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        places[number] = f"'{path}', line {number}"
        try:
            item = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise CorpusError(f"{places[number]}: not JSON ({error})") from error
        if not isinstance(item, dict):
            raise CorpusError(f'{places[number]}: expected an object such as {{"{FILE_NAME}": …}}')
        rows.append((number, item))
    if not rows:
        raise CorpusError(f"'{path}' holds no rows")
    columns = tuple(dict.fromkeys(key for _, row in rows for key in row if key is not None))
    return Table(path, columns, tuple(rows), places=places)


AUDIOFOLDER = TableReader("audiofolder", read, own_names=METADATA)
