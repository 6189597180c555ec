"""A data folder of Kaldi, or one for each split: `wav.scp`, `segments`, `utt2spk`, `text`, `utt2emo` …"""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

from emodistill.corpora.base import Corpus, Utterance, audio_duration_s
from emodistill.corpora.manifest import COLUMNS
from emodistill.corpora.parts import recording_ids
from emodistill.corpora.writers.base import CorpusWriter
from emodistill.errors import CorpusError
from emodistill.labels import DIMENSIONS, scale_text

SPLITS = ("train", "dev", "test")
_SPACE = re.compile(r"\s+")
# Our columns with the file that has all of their values; others are in `utt2` and their name.
_FILES = {"transcript": "text", "language": "utt2lang"}
_ELSEWHERE = ("id", "path", "start_s", "end_s", "duration_s", "speaker", "gender")


def write(corpus: Corpus, folder: Path, audio: Mapping[Path, str]) -> None:
    """Write the tables of a corpus; see `CorpusWriter`.

    If every utterance has a split of `SPLITS`, each split has a folder. White space in ids and speakers
    becomes "_", because a line of Kaldi ends a name with it.

    Raises `CorpusError` for two ids or speakers that become the same, and for a path that Kaldi would not
    read as one.
    """
    names = _names("id", (item.id for item in corpus))
    speakers = _names("speaker", (item.speaker for item in corpus))
    # Kaldi and lhotse expect a line for each utterance in `text` and `utt2lang`. Part of it has another name.
    files = {"emotion": "utt2emo"} | {
        column: name for column, name in _FILES.items() if all(getattr(item, column) for item in corpus)
    }
    if len({(item.speaker, item.gender) for item in corpus}) == len(corpus.speakers) and all(
        item.gender for item in corpus
    ):
        files["gender"] = "spk2gender"
    if all(item.split in SPLITS for item in corpus):
        for split in SPLITS:
            part = [item for item in corpus if item.split == split]
            if part:
                (folder / split).mkdir()
                _write_folder(part, folder / split, names, speakers, audio, files)
    else:
        _write_folder(list(corpus), folder, names, speakers, audio, files)


def _write_folder(
    items: list[Utterance],
    folder: Path,
    names: Mapping[str, str],
    speakers: Mapping[str, str],
    audio: Mapping[Path, str],
    files: Mapping[str, str],
) -> None:
    paths = [item.path for item in items if item.path is not None]
    has_segments = len(set(paths)) < len(paths) or any(item.start_s or item.end_s for item in items)
    if has_segments:
        ids = recording_ids(paths)
        table = {ids[path]: _readable(audio[path]) for path in paths}
        segments = {names[item.id]: _segment(item, ids) for item in items}
        _write_table(folder / "segments", segments)
    else:
        table = {names[item.id]: _readable(audio[item.path]) for item in items if item.path is not None}
    _write_table(folder / "wav.scp", table)
    _write_table(folder / "utt2spk", {names[item.id]: speakers[item.speaker] for item in items})
    by_speaker: dict[str, list[str]] = {}
    for item in sorted(items, key=lambda item: names[item.id].encode()):
        by_speaker.setdefault(speakers[item.speaker], []).append(names[item.id])
    _write_table(folder / "spk2utt", {name: " ".join(ids) for name, ids in by_speaker.items()})
    if "gender" in files:
        genders = {speakers[item.speaker]: str(item.gender)[0] for item in items}
        _write_table(folder / files["gender"], genders)
    else:
        _write_table(
            folder / "utt2gender", _column(items, names, lambda item: item.gender and item.gender[0])
        )
    for column in COLUMNS:
        if column not in _ELSEWHERE:
            cells = _column(items, names, partial(_cell, column))
            _write_table(folder / files.get(column, f"utt2{column}"), cells)


def _column(
    items: Iterable[Utterance], names: Mapping[str, str], value: Callable[[Utterance], str | None]
) -> dict[str, str]:
    """Return what utterances have in a column, by name."""
    return {names[item.id]: text for item in items if (text := value(item))}


def _cell(column: str, item: Utterance) -> str | None:
    value = getattr(item, column)
    if value is None:
        return None
    if column == "scale":
        return scale_text(value)
    return repr(float(value)) if column in DIMENSIONS else " ".join(str(value).split())


def _segment(item: Utterance, ids: Mapping[Path, str]) -> str:
    assert item.path is not None, "checked by `write_corpus`"
    start_s = item.start_s or 0.0
    return f"{ids[item.path]} {start_s!r} {item.end_s or start_s + audio_duration_s(item)!r}"


def _names(what: str, given: Iterable[str]) -> dict[str, str]:
    """Return the names without white space. Raises `CorpusError` where two become the same."""
    names: dict[str, str] = {}
    taken: dict[str, str] = {}
    for text in given:
        names[text] = _SPACE.sub("_", text.strip()) or "_"
        if taken.setdefault(names[text], text) != text:
            raise CorpusError(
                f"the {what}s '{taken[names[text]]}' and '{text}' are both '{names[text]}' without spaces; "
                "rename one of them"
            )
    return names


def _readable(path: str) -> str:
    if "\n" in path or path != path.strip() or path.endswith("|"):
        raise CorpusError(
            f"'{path}' cannot stand in wav.scp, which ends it at a line, a space or a |; rename it"
        )
    return path


def _write_table(path: Path, cells: Mapping[str, str]) -> None:
    """Write a table in the order of bytes, which Kaldi expects; an empty table is no file."""
    lines = [f"{name} {cells[name]}\n" for name in sorted(cells, key=str.encode)]
    if lines:
        path.write_text("".join(lines), encoding="utf-8", newline="\n")


_TABLES = (
    "wav.scp", "segments", "text", "utt2spk", "spk2utt", "spk2gender", "utt2gender", "utt2emo", "utt2lang",
    *(f"utt2{column}" for column in COLUMNS if column not in _ELSEWHERE),
)  # fmt: skip
WRITER = CorpusWriter(
    "kaldi",
    write,
    copies_audio=False,
    tables=tuple(f"{place}{name}" for place in ("", *(f"{split}/" for split in SPLITS)) for name in _TABLES),
)
