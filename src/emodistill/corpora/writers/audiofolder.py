"""An audiofolder of Hugging Face datasets: `metadata.jsonl` beside the audio, in a folder for each split."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emodistill.audio.decoding import SUFFIXES
from emodistill.console import with_progress
from emodistill.corpora.base import Corpus, Utterance
from emodistill.corpora.manifest import COLUMNS
from emodistill.corpora.parts import FLAC, file_stems, write_part
from emodistill.corpora.writers.base import CorpusWriter
from emodistill.labels import DIMENSIONS, scale_text

# Our splits, with the folders that `datasets` reads as splits of the same meaning.
FOLDERS = {"train": "train", "dev": "validation", "test": "test"}
_ALWAYS = ("id", "speaker", "emotion", "split")  # a folder named train would be a split without the column
_LEFT_OUT = ("path", "start_s", "end_s", "duration_s")  # columns that the audio itself says


def write(corpus: Corpus, folder: Path, audio: Mapping[Path, str]) -> None:
    """Write the audio and the metadata of a corpus; see `CorpusWriter`.

    A part of a recording becomes a FLAC file of its own. Other audio is copied as it is, or becomes FLAC
    for another suffix than those of libsndfile. If an utterance has no split of `FOLDERS`, all are in the
    folder `train`, which `datasets` calls its only split, and the column `split` says what ours is.
    """
    has_splits = all(item.split in FOLDERS for item in corpus)
    stems = file_stems(item.id for item in corpus)
    rows: dict[str, list[dict[str, Any]]] = {}
    for item in with_progress(corpus, "write audio", len(corpus)):
        assert item.path is not None, "checked by `write_corpus`"
        place = FOLDERS[item.split] if has_splits and item.split is not None else FOLDERS["train"]
        is_whole = item.start_s is None and item.end_s is None and item.path.suffix.lower() in SUFFIXES
        name = stems[item.id] + (item.path.suffix.lower() if is_whole else FLAC)
        (folder / place).mkdir(exist_ok=True)
        if is_whole:
            shutil.copyfile(item.path, folder / place / name)
        else:
            write_part(item.path, folder / place / name, item.start_s, item.end_s)
        rows.setdefault(place, []).append({"file_name": name} | _cells(item))
    columns = ["file_name", *(name for name in COLUMNS if _is_needed(name, corpus))]
    as_text = [name for name in columns if name in DIMENSIONS and _is_absent_in_part(name, rows)]
    for place, cells in rows.items():
        lines = [json.dumps(_line(row, columns, as_text), ensure_ascii=False) for row in cells]
        (folder / place / "metadata.jsonl").write_text("\n".join([*lines, ""]), encoding="utf-8")


def _cells(item: Utterance) -> dict[str, Any]:
    cells = {name: getattr(item, name) for name in COLUMNS if name not in _LEFT_OUT}
    cells |= {name: float(cells[name]) for name in DIMENSIONS if cells[name] is not None}
    return cells | {"scale": None if item.scale is None else scale_text(item.scale)}


def _is_needed(column: str, corpus: Corpus) -> bool:
    """Return whether a column has a value, or is one that each table has."""
    if column in _LEFT_OUT:
        return False
    return column in _ALWAYS or any(getattr(item, column) is not None for item in corpus)


def _is_absent_in_part(column: str, rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> bool:
    """Return whether a split has no value in a column. `datasets` needs one type for all splits."""
    return any(all(row[column] is None for row in part) for part in rows.values())


def _line(row: Mapping[str, Any], columns: Sequence[str], as_text: Sequence[str]) -> dict[str, Any]:
    """Return the object of a line: a missing text is empty, so that its column has one type in all files."""
    line = {name: row[name] for name in columns}
    for name, value in line.items():
        if name not in DIMENSIONS or name in as_text:
            line[name] = "" if value is None else str(value)
    return line


WRITER = CorpusWriter(
    "audiofolder",
    write,
    needs_copies=True,
    places_audio=True,
    tables=tuple(f"{place}/metadata.jsonl" for place in FOLDERS.values()),
)
