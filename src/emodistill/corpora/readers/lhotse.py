"""Cut manifests of lhotse: `.jsonl` or `.jsonl.gz`, one cut in each line.

Each supervision of a cut is an utterance. Its own fields and its custom fields are columns: id, speaker,
text, gender, language, and for example emotion. A folder is read with all of its files `*cuts*.jsonl*`;
the end of their names, as in `cuts_train.jsonl.gz`, is the split.
"""

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from emodistill.corpora.parts import channel_files
from emodistill.corpora.tables import (
    CELL_BYTES,
    MAX_TABLE_BYTES,
    ROW_BYTES,
    Row,
    Table,
    TableOptions,
    TableReader,
    found_below,
)
from emodistill.errors import CorpusError

SPLIT = "split of the file"  # the column of the splits in the names of files
SUFFIXES = (".jsonl", ".jsonl.gz")
CUTS = ("MonoCut", "MultiCut")
MAX_LINE = 2**24  # characters; a small damaged or hostile .gz can hold a line that fills the memory
MAX_NUMBER = 1e12  # of seconds, or Hz
_SPLITS = ("train", "dev", "valid", "validation", "val", "test", "eval")
_USUAL = {"transcript": "text", "split": SPLIT}
_FIELDS = ("id", "speaker", "text", "gender", "language")  # of a supervision


def read(path: Path, options: TableOptions) -> Table:
    """Read one cut manifest, or all in a folder.

    Paths that are not absolute start at `--root`; without it at the folder of the manifest if the file is
    there, else at the working folder, as in lhotse. A supervision of one channel of a recording with several
    is written to `--audio-out` as FLAC.

    Raises:
        CorpusError: a file is missing or damaged. A line is no JSON, or no cut of a recording file. A cut or
            a supervision ends before it starts, or is outside of its recording. The message names the file
            and the line.
        ConfigError: a supervision has one channel of several, and `--audio-out` is missing.
    """
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.glob("*cuts*") if file.name.endswith(SUFFIXES))
    if not files or not files[0].is_file() or not files[0].name.endswith(SUFFIXES):
        raise CorpusError(
            f"no cut manifest '{path}'; expected a file .jsonl or .jsonl.gz, or a folder of them"
        )
    rows: list[tuple[int, Row]] = []
    places: dict[int, str] = {}
    channels: dict[int, int] = {}
    num_bytes = 0
    for file in files:
        split = next((name for name in _SPLITS if file.name.split(".")[0].endswith(f"_{name}")), None)
        for place, cut in _cuts(file):
            try:
                for row, channel in _utterances(place, cut, file.parent, options.root):
                    number = len(rows) + 1
                    places[number] = place
                    rows.append((number, row | ({SPLIT: split} if split else {})))
                    if channel is not None:
                        channels[number] = channel
                    num_bytes += ROW_BYTES + CELL_BYTES * len(row)
                    if num_bytes > MAX_TABLE_BYTES:
                        raise CorpusError(
                            f"{place}: the rows take over {MAX_TABLE_BYTES} bytes of memory: divide the table"
                        )
            except (AttributeError, TypeError, KeyError, ZeroDivisionError) as error:
                raise CorpusError(
                    f"{place}: has fields of other types than a cut of lhotse: {error}"
                ) from error
    unwritten = channel_files(dict(rows), channels, places, options.audio_out)
    columns = tuple(dict.fromkeys(str(name) for _, row in rows for name in row))
    return Table(path, columns, tuple(rows), _USUAL, places, unwritten=unwritten)


def _cuts(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if not path.is_file():
        raise CorpusError(f"'{path}' is no regular file")
    opened = gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        with opened(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(iter(lambda: file.readline(MAX_LINE + 1), ""), start=1):
                if not line.strip():
                    continue
                place = f"'{path}', line {number}"
                if len(line) > MAX_LINE:
                    raise CorpusError(f"{place}: has over {MAX_LINE} characters, expected a cut of lhotse")
                try:
                    cut = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise CorpusError(f"{place}: not JSON ({error})") from error
                if not isinstance(cut, dict):
                    raise CorpusError(f"{place}: got {line.strip()[:40]}, expected a cut of lhotse")
                yield place, cut
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise CorpusError(f"'{path}' is damaged after line {number}: {error}") from error


def _utterances(
    place: str, cut: Mapping[str, Any], folder: Path, root: Path | None
) -> Iterator[tuple[Row, int | None]]:
    """Yield a row for each supervision of a cut, and the channel that must be taken out of its recording."""
    recording = cut.get("recording")
    if cut.get("type", "MonoCut") not in CUTS:
        raise CorpusError(f"{place}: is a {cut['type']}, expected {' or '.join(CUTS)}; write its audio first")
    if not isinstance(recording, dict):
        raise CorpusError(f"{place}: has no recording, expected a cut of a file; feature cuts have no audio")
    if recording.get("transforms"):
        raise CorpusError(
            f"{place}: its recording has transforms; write its audio first, with CutSet.save_audios"
        )
    sources = recording.get("sources") or [{}]
    kind, source = sources[0].get("type"), sources[0].get("source")
    if len(sources) > 1 or kind != "file" or not isinstance(source, str):
        raise CorpusError(
            f"{place}: its recording has {len(sources)} source of type {kind}, expected one file"
        )
    start_s, duration_s = (_number(place, cut, name) for name in ("start", "duration"))
    path = str(found_below(source, [folder], root, place))
    length_s, tolerance_s = (
        _number(place, recording, "duration"),
        0.5 / _number(place, recording, "sampling_rate"),
    )
    supervisions = cut.get("supervisions") or []
    if not supervisions:
        raise CorpusError(f"{place}: cut '{cut.get('id')}' has no supervision, so no speaker and no emotion")
    for item in supervisions:
        begin_s = max(start_s + _number(place, item, "start"), start_s)
        end_s = min(
            start_s + _number(place, item, "start") + _number(place, item, "duration"), start_s + duration_s
        )
        if start_s < 0 or begin_s >= end_s:
            raise CorpusError(
                f"{place}: supervision '{item.get('id')}' starts at {begin_s:g} s and ends at {end_s:g} s of "
                "its recording, expected an end after it"
            )
        row: Row = {"path": path}
        if begin_s > tolerance_s or end_s < length_s - tolerance_s:
            row |= {"start_s": _text(begin_s), "end_s": _text(end_s)}
        custom = {**(cut.get("custom") or {}), **(item.get("custom") or {})}
        own: Row = {name: item[name] for name in _FIELDS if item.get(name) is not None}
        channel = _channel(place, cut, item, sources[0].get("channels") or [0])
        yield {name: _cell(value) for name, value in custom.items()} | own | row, channel


def _channel(
    place: str, cut: Mapping[str, Any], supervision: Mapping[str, Any], present: Sequence[Any]
) -> int | None:
    """Return the channel of a file that a supervision has, counted from 0; None: all that are `present`.

    A cut of several channels has supervisions of one, such as those of each speaker of a call.
    """
    of_cut, own = (
        given if isinstance(given := item.get("channel", 0), list) else [given] for item in (cut, supervision)
    )
    given = own if "channel" in supervision and set(own) <= set(of_cut) else of_cut
    if set(given) >= set(present):
        return None
    if len(given) != 1 or given[0] not in present:
        raise CorpusError(f"{place}: has the channels {given} of {list(present)}, expected one or all")
    return present.index(given[0])


def _number(place: str, item: Mapping[str, Any], name: str) -> float:
    value = item.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < MAX_NUMBER:
        raise CorpusError(f"{place}: {name} is {repr(value)[:40]}, expected a number")
    return float(value)


def _text(seconds: float) -> str:
    return repr(round(seconds, 8))


def _cell(value: Any) -> Any:
    """Return a custom field as a cell of a table; lists and objects become JSON."""
    return json.dumps(value) if isinstance(value, (dict, list)) else value


LHOTSE = TableReader("lhotse", read, options=("root", "audio_out"))
