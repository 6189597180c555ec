"""Outputs that a later run continues: `predict` extends a jsonl file, `timeline` adds files to a folder."""

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emodistill.console import say
from emodistill.errors import ConfigError
from emodistill.files import atomic_write, is_stream, real_path
from emodistill.reading import parse_json

CONTINUE = "run the same command again to continue"
BEGIN_ANEW = "name another output, or add --force to begin anew"
_INPUTS = "inputs"  # in the JSON file of `MadeWith`, beside the settings


@dataclass(frozen=True)
class MadeWith:
    """What an output was made with: a JSON file that is hidden beside the output.

    Attributes:
        path: of the JSON file.
        output: the output that messages name.
        settings: of the run that began the output. So one output never mixes two models or two settings.
        inputs: path of a recording -> its size in bytes and its modification time in nanoseconds.
    """

    path: Path
    output: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Sequence[int]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, output: Path, force: bool = False) -> "MadeWith":
        """Return the content of the file, or an empty one if there is no file.

        Raises `ConfigError` if the file is damaged; with `force` it is then an empty one.
        """
        if not path.is_file():
            return cls(path, output)
        try:
            settings = dict(parse_json(path.read_bytes()))
            inputs = {name: list(state) for name, state in dict(settings.pop(_INPUTS, {})).items()}
            return cls(path, output, inputs=inputs, settings=settings)
        except (ValueError, TypeError) as error:
            if force:
                return cls(path, output)
            raise ConfigError(
                f"'{path}', which holds the settings of '{output}', is damaged: {BEGIN_ANEW}"
            ) from error

    def ensure_same_settings(self, settings: Mapping[str, Any], remedy: str = BEGIN_ANEW) -> None:
        """Raise `ConfigError` if the output was begun with other settings; the message ends with `remedy`."""
        if not self.settings:
            return
        different = [name for name, value in settings.items() if self.settings.get(name) != value]
        if different:
            raise ConfigError(f"'{self.output}' was begun with another {' and '.join(different)}: {remedy}")

    def changed(self, paths: Iterable[str]) -> set[str]:
        """Return those of the recordings whose size or modification time is another one than before.

        A recording that is new, or that is no file any more, is not among them.
        """
        return {
            path
            for path in paths
            if path in self.inputs and (now := _size_and_time(path)) and now != list(self.inputs[path])
        }

    def write(self, settings: Mapping[str, Any], paths: Iterable[str]) -> None:
        """Write the file with these settings, and with the sizes and times of these recordings too."""
        new = {path: now for path in paths if (now := _size_and_time(path))}
        data = {**settings, _INPUTS: {**self.inputs, **new}}
        with atomic_write(self.path) as partial:
            partial.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def say_changed(changed: Collection[object]) -> None:
    """Print how many files have changed since the output was made."""
    if number := len(changed):
        say(f"{number} {'file has' if number == 1 else 'files have'} changed since the last run: done again")


def row_key(
    path: str,
    id: str | None = None,
    start_s: float | None = None,
    end_s: float | None = None,
    channel: int | None = None,
) -> str:
    """Return what identifies a row: its id, else its path with the part and the channel, if it has them."""
    if id is not None:
        return json.dumps({"id": id})
    part = (start_s, end_s, channel)
    return path if part == (None, None, None) else json.dumps([path, *part])


def finished_keys(
    output: Path,
    requested: Mapping[str, str],
    emotions: Sequence[str],
    settings: Mapping[str, Any],
    groups: Iterable[set[str]] = (),
    force: bool = False,
    num_rows: Callable[[str], int] = lambda key: 1,
) -> set[str]:
    """Return the keys of inputs that need no new row in the jsonl file `output`, since they have one.

    `requested` is the key of each input, by `row_key`, with the path of its file. `groups` hold keys too.
    `num_rows` returns how many rows the input of a key has.
    Rows that have to be written again are removed from the file: an incomplete last row, rows of the last
    input if some of them are missing, and rows of requested inputs that failed, or whose file has changed
    since. The inputs of one of `groups` were compared
    with each other. If one of them needs a new row, all of them do. The settings, and the sizes and times of
    the files, are kept in a hidden file beside the output. With `force` there are no rows to keep.

    Raises `ConfigError` for a line that is no prediction, a row with other emotions, or a file that was begun
    with other settings.
    """
    real = real_path(output)
    note = real.with_name(f".{real.name}.made_with.json")
    if force or not real.is_file():
        real.unlink(missing_ok=True)
        MadeWith(note, output).write(settings, requested.values())
        return set()
    *lines, last = real.read_bytes().split(b"\n")
    rows = [
        (_read_row(line, f"'{output}', line {number}", emotions, requested), line)
        for number, line in enumerate(lines, 1)
    ]
    before = MadeWith.read(note, output)
    before.ensure_same_settings(settings)
    changed_files = before.changed(requested.values())
    changed = {key for key, file in requested.items() if file in changed_files}
    failed_before = {key for (key, failed), _ in rows if failed and key in requested}
    say_changed({requested[key] for key in changed - failed_before})
    again = changed | failed_before
    keys = [key for (key, _), _ in rows]
    if keys and keys[-1] in requested and keys.count(keys[-1]) < num_rows(keys[-1]):
        again.add(keys[-1])
    finished = set(keys) - again
    again |= {key for group in groups if not group <= finished for key in group}
    kept = [line for (key, _), line in rows if key not in again]
    if last or len(kept) < len(lines):
        with atomic_write(real) as partial:
            partial.write_bytes(b"".join(line + b"\n" for line in kept))
    # Not before: after a crash, the row of a file that has changed would be taken for a new one.
    before.write(settings, requested.values())
    return finished - again


def _key_in_file(row: Mapping[str, Any], requested: Collection[str]) -> str:
    """Return the key of a row. Its channel counts where the input of the row stated it.

    A row may end before the part of its input, where its recording ends.
    """
    path, start_s, end_s = str(row["path"]), row.get("start_s"), row.get("end_s")
    channels = (row.get("channel"), None)
    keys = [row_key(path, row.get("id"), start_s, end_s, channel) for channel in channels]
    for key in keys:
        if key in requested:
            return key
    if end_s is not None and row.get("id") is None:
        beginning = f"{json.dumps([path, start_s])[:-1]}, "
        for key in requested:
            if key.startswith(beginning):
                *_, longer_s, channel = json.loads(key)
                if channel in channels and longer_s is not None and longer_s > end_s:
                    return key
    return keys[1]


def _read_row(
    line: bytes, where: str, emotions: Sequence[str], requested: Collection[str]
) -> tuple[str, bool]:
    """Return the key of a row, and whether its input could not be read."""
    try:
        row = parse_json(line)
        failed, row_emotions = row["error"] is not None, list(row["probabilities"])
        key = _key_in_file(row, requested)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{where} is no prediction: move the file away, or name another output") from error
    if row_emotions and set(row_emotions) != set(emotions):
        raise ConfigError(
            f"{where} has the emotions {row_emotions}, but the model has {list(emotions)}: "
            "name another output"
        )
    return key, failed


def stopped_message(output: Path | None, resumed: bool, requested: Collection[str]) -> str:
    """Return what `predict` says after Ctrl-C: what is done, and how to continue.

    `resumed` tells whether `output` is a file that the next run continues.
    """
    if output is not None and resumed:
        lines = real_path(output).read_bytes().split(b"\n")[:-1]
        done = set(requested) & {_key_in_file(json.loads(line), requested) for line in lines}
        return f"stopped: {len(done)} of {len(requested)} files are in {output}; {CONTINUE}"
    complete_only = output is not None and not is_stream(output)
    state = f"nothing was written to '{output}'" if complete_only else "the output is not complete"
    return f"stopped: {state}; a .jsonl file can be continued, e.g. -o rows.jsonl"


def _size_and_time(path: str) -> list[int]:
    """Return the size in bytes and the modification time in nanoseconds; empty if there is no such file."""
    try:
        status = Path(path).stat()
    except (OSError, ValueError):
        return []
    return [status.st_size, status.st_mtime_ns]
