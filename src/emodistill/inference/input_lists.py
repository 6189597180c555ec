"""Lists of inputs: `predict --from FILE` reads one path a line, CSV or JSON lines."""

import csv
import json
import math
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from emodistill.errors import ConfigError, one_of, without_control
from emodistill.inference.given_segments.base import channel_number, seconds
from emodistill.inference.inputs import Input
from emodistill.inference.sources import STANDARD_INPUT, ensure_no_terminal
from emodistill.reading import decode_text

COLUMNS = ("path", "id", "start", "end", "speaker", "channel")
MAX_LIST_BYTES = 2**28
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")

_Row = tuple[int, Mapping[str, Any]]  # the number of its line, its fields


def read_list(path: Path, label: str | None = None) -> list[Input]:
    """Return the inputs of a list.

    The list has one path a line, or it is CSV with a header, or JSON lines. Both have `path` and may have the
    other `COLUMNS`; more columns are ignored. `start` and `end` are in seconds, `m:ss` or `h:mm:ss`. A path
    is relative to the folder of the list, and to the current folder if the list is `-`, standard input.
    `label` names a column whose values become the labels of the inputs.

    A part that does not end after its start is an input with its `error`. Raises `ConfigError`, with the
    line, for a table that is damaged, for an id that is there twice, and for a row without the column
    `label`.
    """
    where = "standard input" if str(path) == STANDARD_INPUT else f"'{path}'"
    folder = Path() if str(path) == STANDARD_INPUT else path.parent
    inputs: list[Input] = []
    line_of_id: dict[str, int] = {}
    for line, fields in _rows(_text(path, where), path.suffix.lower(), where):
        item = input_of(fields, folder, f"{where}, line {line}")
        if label is not None and label not in fields:
            raise ConfigError(f"{where}, line {line}: {one_of('column', label, fields)}")
        if label is not None and fields[label] not in (None, ""):
            item = replace(item, label=without_control(str(fields[label])))
        if item.id is not None and item.id in line_of_id:
            raise ConfigError(
                f"{where}, line {line}: the id '{item.id}' is in line {line_of_id[item.id]} too, expected a "
                "different id for each utterance"
            )
        if item.id is not None:
            line_of_id[item.id] = line
        inputs.append(item)
    if not inputs:
        raise ConfigError(f"{where} holds no paths: expected one a line, or CSV or JSON lines with 'path'")
    return inputs


def _text(path: Path, where: str) -> str:
    if str(path) == STANDARD_INPUT:
        ensure_no_terminal("a list", "find . -name '*.wav' | emodistill predict --from -")
        content = sys.stdin.buffer.read(MAX_LIST_BYTES + 1)
    elif path.is_file():
        with path.open("rb") as file:
            content = file.read(min(path.stat().st_size, MAX_LIST_BYTES) + 1)
    else:
        raise ConfigError(f"no file {where}: expected a list of paths, CSV or JSON lines")
    if len(content) > MAX_LIST_BYTES:
        raise ConfigError(f"{where} has over {MAX_LIST_BYTES} bytes: use emodistill scale for such a list")
    try:
        return decode_text(content)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ConfigError(f"{where}, line {line}: is not UTF-8 text, so it is no list") from error


def _rows(text: str, suffix: str, where: str) -> Iterator[_Row]:
    """Yield the rows of a list of any of the three kinds."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = delimiter_of(first)
    header = [name.strip().strip('"') for name in first.split(delimiter)]
    if suffix in (".jsonl", ".ndjson") or first.lstrip().startswith("{"):
        yield from _json_rows(text, where)
    elif suffix in (".csv", ".tsv") or "path" in header:
        yield from _csv_rows(text, delimiter, where)
    else:
        for number, line in enumerate(text.splitlines(), start=1):
            if line.strip():
                yield number, {"path": line.strip()}


def delimiter_of(header: str) -> str:
    """Return what separates the fields of CSV: the first of comma, semicolon and tab that is in its header.

    >>> delimiter_of("path;speaker")
    ';'
    """
    return next((mark for mark in ",;\t" if mark in header), ",")


def _json_rows(text: str, where: str) -> Iterator[_Row]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{where}, line {number}: is no JSON ({error})") from error
        if not isinstance(fields, dict):
            raise ConfigError(f"{where}, line {number}: expected an object with 'path', got {line.strip()}")
        yield number, fields


def _csv_rows(text: str, delimiter: str, where: str) -> Iterator[_Row]:
    reader = csv.DictReader(text.splitlines(), delimiter=delimiter, skipinitialspace=True, strict=True)
    try:
        columns = reader.fieldnames = [name.strip() for name in reader.fieldnames or []]
        if "path" not in columns:
            raise ConfigError(
                f"{where}, line {reader.line_num}: expected a header with the column path, and if you like "
                f"{', '.join(COLUMNS[1:])}; got {columns}"
            )
        for row in reader:
            if None in row or None in row.values():
                raise ConfigError(
                    f"{where}, line {reader.line_num}: expected {len(columns)} fields as in the header; put "
                    "quotes around a field that holds the delimiter"
                )
            yield reader.line_num, row
    except csv.Error as error:
        raise ConfigError(f"{where}, line {reader.line_num}: is no CSV ({error})") from error


def input_of(fields: Mapping[str, Any], folder: Path, where: str) -> Input:
    """Return the input of a row with `COLUMNS`, relative to `folder`; `where` names its line.

    Raises `ConfigError` for a damaged row.
    """
    values = {name: None if fields.get(name) in (None, "") else fields[name] for name in COLUMNS}
    path = values["path"]
    if not isinstance(path, str) or not path.strip():
        raise ConfigError(f"{where}: expected a path, got {path!r}")
    times: dict[str, float | None] = {}
    for name in ("start", "end"):
        try:
            times[name] = None if values[name] is None else seconds(values[name])
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"{where}: bad {name} {values[name]!r}, expected seconds or m:ss, e.g. 83.5 or 1:23.5"
            ) from error
    start_s, end_s = times["start"], times["end"]
    problem = None
    if not (0 <= (start_s or 0.0) < (math.inf if end_s is None else end_s)) or math.isinf(end_s or 0.0):
        problem = f"{path}: bad part from {start_s} s to {end_s} s, expected 0 ≤ start < end"
    if "\0" in path:
        problem = f"bad path {path!r}, it holds a NUL: expected one path a line"
    place = path.replace("\0", "\ufffd")  # no system has files with a NUL in their names
    return Input(
        path=path,
        file=Path(place) if _URL.match(path) else folder / place,
        id=None if values["id"] is None else without_control(str(values["id"])),
        start_s=start_s,
        end_s=end_s,
        speaker=None if values["speaker"] is None else without_control(str(values["speaker"])),
        channel=_channel(values["channel"], where),
        error=problem,
    )


def _channel(value: Any, where: str) -> int | None:
    try:
        return channel_number(value)
    except ValueError as error:
        raise ConfigError(f"{where}: bad channel {value!r}, expected a whole number from 0") from error
