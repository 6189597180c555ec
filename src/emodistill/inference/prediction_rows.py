"""What `predict` is given and what it writes: files and folders in, rows out, and going on where it was."""

import csv
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from rich.markup import escape
from rich.table import Table

from emodistill.audio.decoding import MEDIA_SUFFIXES, SUFFIXES
from emodistill.console import UNENCODABLE, print_failures, results, warn
from emodistill.errors import ConfigError
from emodistill.files import atomic_write
from emodistill.inference.formats import ensure_same_settings
from emodistill.inference.recognizer import Prediction


def audio_files(paths: Sequence[Path]) -> tuple[list[Path], int]:
    """Every audio file that the arguments name, and how many folders hold none."""
    from importlib.util import find_spec

    suffixes = (*SUFFIXES, *MEDIA_SUFFIXES) if find_spec("av") else SUFFIXES

    files: list[Path] = []
    empty = 0
    for path in paths:
        if path.is_dir():
            below = sorted(
                file
                for file in path.rglob("*")
                # "._x.wav" is what macOS keeps of x.wav on foreign disks, and no audio
                if file.suffix.lower() in suffixes and file.is_file() and not file.name.startswith("._")
            )
            if not below:
                warn(f"no audio files below '{path}' (looked for {', '.join(suffixes)})")
                empty += 1
            files += below
        else:
            files.append(path)
    return files, empty


def report_failures(rows: Iterable[Prediction]) -> Iterator[Prediction]:
    """The same rows; those that failed are also listed on standard error, at the end."""
    errors: list[str] = []
    total = 0
    try:
        for row in rows:
            total += 1
            if row.error is not None:
                errors.append(row.error)
            yield row
    finally:  # after Ctrl-C too
        print_failures(errors, total)


def rows_there(
    output: Path, asked: set[str], emotions: Sequence[str], made_with: Mapping[str, Any]
) -> set[str]:
    """The paths that an earlier jsonl has rows of, after taking out what is to be done again.

    That is a half-written last row, and the failed rows of files that are asked for. What the rows are made
    with is noted in a hidden file beside them. Raises `ConfigError` for a line that is no prediction, one over
    other emotions, or a file that was begun with another model or another least confidence.
    """
    note = output.with_name(f".{output.name}.made_with.json")
    if not output.is_file():
        note.unlink(missing_ok=True)
        ensure_same_settings(note, output, dict(made_with))
        return set()
    *lines, last = output.read_bytes().split(b"\n")
    kept: list[bytes] = []
    done: set[str] = set()
    for number, line in enumerate(lines, start=1):
        where = f"'{output}', line {number}"
        try:
            row = json.loads(line)
            path, failed, over = str(row["path"]), row["error"] is not None, list(row["probabilities"])
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{where} is no prediction: move the file away, or name another output"
            ) from error
        if over and set(over) != set(emotions):
            raise ConfigError(
                f"{where} is over {over}, this model over {list(emotions)}: name another output"
            )
        if failed and path in asked:
            continue
        kept.append(line)
        done.add(path)
    ensure_same_settings(note, output, dict(made_with))
    if last or len(kept) < len(lines):
        with atomic_write(output) as partial:
            partial.write_bytes(b"".join(line + b"\n" for line in kept))
    return done


@contextmanager
def open_output(output: Path | None, resumed: bool) -> Iterator[TextIO]:
    """Where rows go: standard output, the end of a file that is resumed, or a new file.

    A new file takes its name when it is whole: until then one that was there stays, and what is done of the
    new one lies in `OUTPUT.partial`.
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


def write_rows(rows: Iterable[Prediction], format: str, stream: TextIO, emotions: Sequence[str]) -> int:
    """Write predictions as they come; returns how many inputs failed."""
    failed = 0
    if format == "json":
        made = [row.as_dict() for row in rows]
        stream.write(json.dumps(made, ensure_ascii=False, indent=1) + "\n")
        return sum(row["error"] is not None for row in made)
    if format == "table":
        table = Table("file", "emotion", "confidence", "note")
        for row in rows:
            failed += row.error is not None
            shown = "" if row.confidence is None else f"{row.confidence:.2f}"
            note = escape(row.error or row.reason or "")
            table.add_row(escape(row.path), row.emotion or "–", shown, note)
        results(stream).print(table)
        return failed
    writer = csv.writer(stream, lineterminator="\n")
    if format == "csv":
        writer.writerow(
            ["path", "emotion", "confidence", "abstained", "reason", "error", *(f"p_{n}" for n in emotions)]
        )
    for row in rows:
        failed += row.error is not None
        if format == "jsonl":
            stream.write(json.dumps(row.as_dict(), ensure_ascii=False) + "\n")
            stream.flush()
            continue
        probabilities: dict[str, Any] = row.probabilities or {}
        values = [row.emotion, row.confidence, row.abstained, row.reason, row.error]
        writer.writerow(
            [
                row.path,
                *("" if v is None else v for v in values),
                *(probabilities.get(n, "") for n in emotions),
            ]
        )
    return failed
