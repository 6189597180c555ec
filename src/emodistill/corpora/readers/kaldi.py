"""A data folder of Kaldi: `wav.scp`, `segments`, `utt2spk`, `text`, and further tables such as `utt2emo`.

Every file `utt2NAME` and `spk2NAME` is a column of this name, and so is each file that `--columns` names.
A folder of such folders, as `data/train` and `data/test`, is read with their names as splits.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from emodistill.corpora.parts import channel_files
from emodistill.corpora.tables import Row, Table, TableOptions, TableReader, found_below, read_text
from emodistill.errors import CorpusError

RECORDINGS, SEGMENTS, SPEAKERS, TEXT = "wav.scp", "segments", "utt2spk", "text"
SPLIT = "folder of the split"  # the column of the names of folders
CHANNEL = "channel of the segment"  # is no column of the table
_LISTS = ("spk2utt",)  # from a name to several utterances: the same facts as in `utt2spk`
_BY_SPEAKER = "spk2"
_SPACE = re.compile("[ \t]+")
# Our column -> files that usually hold it, the first one that exists.
_USUAL = {
    "speaker": (SPEAKERS,), "transcript": (TEXT, "utt2transcript"),
    "emotion": ("utt2emo", "utt2emotion", "utt2label"),
    "gender": ("utt2gender", "spk2gender"), "language": ("utt2lang", "utt2language", "spk2lang"),
    "split": ("utt2split", SPLIT),
    **{
        name: (f"utt2{name}", f"spk2{name}")
        for name in ("session", "transcript_source", "arousal", "valence", "dominance", "intensity", "scale",
                     "votes", "corpus")
    },
}  # fmt: skip


@dataclass
class _Rows:
    """Rows of one or more folders, with the places of their cells."""

    rows: list[tuple[int, Row]] = field(default_factory=list)
    places: dict[int, str] = field(default_factory=dict)
    cell_places: dict[tuple[int, str], str] = field(default_factory=dict)
    channels: dict[int, int] = field(default_factory=dict)


def read(root: Path, options: TableOptions) -> Table:
    """Read a data folder, or the data folders in a folder.

    Paths that are not absolute start at `--root`; without it at the data folder if the file is there, at the
    folder of data folders, or at the working folder, as in Kaldi. A segment that ends at -1 ends with its
    recording. A segment with a channel is written to `--audio-out` as FLAC.

    Raises:
        CorpusError: there is no `wav.scp`, or it has a command. A line has too few words, or a name that
            occurs twice. A segment is one of an unknown recording, or ends before it starts. A table has an
            utterance that the folder lacks. The message names the file and the line.
        ConfigError: a segment has a channel, and `--audio-out` is missing.
    """
    folders = (
        [root]
        if (root / RECORDINGS).is_file()
        else sorted(path.parent for path in root.glob(f"*/{RECORDINGS}"))
    )
    if not folders:
        raise CorpusError(
            f"'{root}' has no {RECORDINGS}, nor has a folder in it; expected a data folder of Kaldi"
        )
    found = _Rows()
    for folder in folders:
        _add_folder(found, folder, options, is_split=folder != root)
    columns = tuple(dict.fromkeys(str(name) for _, row in found.rows for name in row))
    usual = {
        ours: next((name for name in names if name in columns), names[0]) for ours, names in _USUAL.items()
    }
    unwritten = channel_files(dict(found.rows), found.channels, found.places, options.audio_out)
    return Table(root, columns, tuple(found.rows), usual, found.places, found.cell_places, unwritten)


def _add_folder(found: _Rows, folder: Path, options: TableOptions, is_split: bool) -> None:
    starts = [folder, folder.parent] if is_split else [folder]
    recordings = {
        name: str(found_below(_path(*item), starts, options.root, item[0]))
        for name, item in _lines(folder / RECORDINGS)
    }
    if (folder / SEGMENTS).is_file():
        utterances = dict(_segments(folder / SEGMENTS, recordings))
    else:
        utterances = {
            name: (place, {"path": recordings[name]}) for name, (place, _) in _lines(folder / RECORDINGS)
        }
    numbers: dict[str, int] = {}
    for number, (name, (place, row)) in enumerate(utterances.items(), start=len(found.rows) + 1):
        numbers[name] = number
        if (channel := row.pop(CHANNEL, None)) is not None:
            found.channels[number] = channel
        found.places[number] = place
        found.rows.append((number, {"id": name, **row, **({SPLIT: folder.name} if is_split else {})}))
    rows = dict(found.rows)
    for path in _tables(folder, options.columns):
        values = dict(_lines(path))
        if path.name.startswith(_BY_SPEAKER):
            speakers = dict(_lines(folder / SPEAKERS))
            values = {name: values[text] for name, (_, text) in speakers.items() if text in values}
        for name, (place, text) in values.items():
            if name not in numbers:
                expected = SEGMENTS if (folder / SEGMENTS).is_file() else RECORDINGS
                raise CorpusError(
                    f"{place}: unknown utterance '{name}', expected one of '{folder / expected}'"
                )
            rows[numbers[name]][path.name] = text
            found.cell_places[numbers[name], path.name] = place


def _tables(folder: Path, columns: Mapping[str, str]) -> list[Path]:
    """Return the files with a value for each utterance or speaker."""
    usual = [*folder.glob("utt2*"), *folder.glob("spk2*"), folder / TEXT]
    named = [folder / name for name in columns.values() if name not in (RECORDINGS, SEGMENTS)]
    return sorted({path for path in (*usual, *named) if path.is_file() and path.name not in _LISTS})


def _lines(path: Path) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield the name at the start of each line, with its place and the rest of the line.

    Only line feeds end a line, since a file name may hold any other character.
    """
    if not path.is_file():
        raise CorpusError(f"no file '{path}'; expected one line for each utterance")
    lines = read_text(path).split("\n")
    first: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name, *rest = _SPACE.split(line.strip(" \t\r"), maxsplit=1)
        place = f"'{path}', line {number}"
        if first.setdefault(name, number) != number:
            raise CorpusError(f"{place}: duplicate id '{name}', first in line {first[name]}")
        yield name, (place, rest[0] if rest else "")


def _path(place: str, text: str) -> str:
    """Return the path in an entry of `wav.scp`; commands are refused, and are never executed."""
    if text.endswith("|") or text.startswith("|"):
        raise CorpusError(
            f"{place}: is a command, '{text}', which is not executed; run it yourself, and name the file "
            "that it writes"
        )
    if not text or text == "-":
        raise CorpusError(f"{place}: got '{text}', expected the path of a recording")
    ark, _, offset = text.rpartition(":")
    if ark.endswith(".ark") and offset.isdigit():
        raise CorpusError(f"{place}: '{text}' is a part of an archive, expected the path of a recording")
    return text


def _segments(path: Path, recordings: Mapping[str, str]) -> Iterator[tuple[str, tuple[str, Row]]]:
    for name, (place, text) in _lines(path):
        words = text.split()
        if len(words) not in (3, 4) or not all(word.isdecimal() and len(word) < 9 for word in words[3:]):
            raise CorpusError(
                f"{place}: got '{name} {text}', expected utterance, recording, start and end, and for one of "
                "several channels its number from 0"
            )
        recording, start_s, end_s = words[0], _seconds(place, words[1]), _seconds(place, words[2])
        if recording not in recordings:
            raise CorpusError(f"{place}: unknown recording '{recording}', expected one of {RECORDINGS}")
        if start_s < 0 or (end_s <= start_s and end_s != -1):
            raise CorpusError(
                f"{place}: starts at {start_s:g} s and ends at {end_s:g} s, expected an end after it"
            )
        row: Row = {
            "path": recordings[recording],
            "start_s": words[1],
            "end_s": None if end_s == -1 else words[2],
            CHANNEL: int(words[3]) if len(words) == 4 else None,
        }
        yield name, (place, row)


def _seconds(place: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds):
        raise CorpusError(f"{place}: got '{text}', expected seconds such as 1.5")
    return seconds


KALDI = TableReader("kaldi", read, options=("root", "audio_out"))
