"""Outputs that a later run continues: `predict` extends a jsonl file, `timeline` adds files to a folder."""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from emodistill.console import UNENCODABLE
from emodistill.errors import ConfigError
from emodistill.files import atomic_write


def ensure_same_settings(note: Path, output: Path, settings: Mapping[str, Any]) -> None:
    """Raise `ConfigError` if `output` was begun with other settings, else write the settings to `note`.

    `note` is a JSON file beside the output. So one output never mixes answers of two models or two settings.
    """
    if note.is_file():
        try:
            begun_with = json.loads(note.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ConfigError(
                f"'{note}', which holds the settings of '{output}', is damaged: name another output"
            ) from error
        different = [name for name, value in settings.items() if begun_with.get(name) != value]
        if different:
            raise ConfigError(
                f"'{output}' was begun with another {' and '.join(different)}: name another output"
            )
    with atomic_write(note) as partial:
        partial.write_text(json.dumps(dict(settings), indent=1) + "\n", encoding="utf-8")


def finished_paths(
    output: Path,
    requested: set[str],
    emotions: Sequence[str],
    settings: Mapping[str, Any],
    groups: Iterable[set[str]] = (),
) -> set[str]:
    """The paths that need no new row in the jsonl file `output`, since they have one.

    Rows that have to be written again are removed from the file: an incomplete last row, and failed rows of
    requested files. The files of one of `groups` were compared with each other. If one of them needs a new
    row, all of them do. The settings are kept in a hidden file beside the output.

    Raises `ConfigError` for a line that is no prediction, a row with other emotions, or a file that was begun
    with other settings.
    """
    note = output.with_name(f".{output.name}.made_with.json")
    if not output.is_file():
        note.unlink(missing_ok=True)
        ensure_same_settings(note, output, settings)
        return set()
    *lines, last = output.read_bytes().split(b"\n")
    rows: list[tuple[str, bytes]] = []  # the rows to keep, with their paths
    finished: set[str] = set()
    for number, line in enumerate(lines, start=1):
        where = f"'{output}', line {number}"
        try:
            row = json.loads(line)
            path, failed, row_emotions = (
                str(row["path"]),
                row["error"] is not None,
                list(row["probabilities"]),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{where} is no prediction: move the file away, or name another output"
            ) from error
        if row_emotions and set(row_emotions) != set(emotions):
            raise ConfigError(
                f"{where} has the emotions {row_emotions}, but the model has {list(emotions)}: "
                "name another output"
            )
        if failed and path in requested:
            continue
        rows.append((path, line))
        finished.add(path)
    ensure_same_settings(note, output, settings)
    incomplete = {path for group in groups if not group <= finished for path in group}
    finished -= incomplete
    kept = [line for path, line in rows if path not in incomplete]
    if last or len(kept) < len(lines):
        with atomic_write(output) as partial:
            partial.write_bytes(b"".join(line + b"\n" for line in kept))
    return finished


@contextmanager
def open_output(output: Path | None, resumed: bool) -> Iterator[TextIO]:
    """Give a text stream: standard output for None, the end of a resumed file, or else a new file.

    A new file is written as `OUTPUT.partial` and takes the place of `output` when the block ends without an
    error.
    """
    if output is None:
        yield sys.stdout
        return
    if output.is_dir():
        raise ConfigError(f"--output '{output}' is a folder, expected a file, e.g. '{output / 'rows.csv'}'")
    output.parent.mkdir(parents=True, exist_ok=True)
    path = output if resumed else output.with_name(f"{output.name}.partial")
    with path.open("a" if resumed else "w", encoding="utf-8", errors=UNENCODABLE, newline="") as stream:
        yield stream
    path.replace(output)
