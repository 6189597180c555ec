"""The files in the cache folder: what they are, when they were last used, and how old ones are deleted.

    llds/ states/     arrays that a training computes, one file each
    models/           models that `emodistill fetch` completed, one folder each

The time of the last use is the modification time of a file. `mark_used` sets it, because the access time of
the file system is often off, and programs that make backups change it.
"""

import os
import re
import shutil
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from emodistill.errors import ConfigError, one_of

LLDS, STATES, MODELS = "llds", "states", "models"
KINDS = {
    LLDS: "descriptors (LLDs) of recordings, for prosodic teachers",
    STATES: "states of frozen layers, for students and acoustic teachers",
    MODELS: "models that emodistill fetch completed",
}
COMPUTED = (LLDS, STATES)  # a training computes them again where they are missing

MARK_EVERY_S = 3600  # a use within an hour of the last one changes nothing
PARTIAL_S = 24 * 3600  # a partial file that is younger may still be written
_UNITS_S = {"h": 3600, "d": 24 * 3600, "w": 7 * 24 * 3600}


@dataclass(frozen=True)
class CachedItem:
    """What is deleted as one: the file of an array, or the folder of a model."""

    path: Path
    kind: str  # the name of the folder in the cache folder
    num_files: int
    size_bytes: int
    used: float  # time of the last use, in seconds since 1970


@dataclass(frozen=True)
class KindUse:
    """All files of one kind. The field names are the keys of `emodistill cache --format json`."""

    kind: str
    num_files: int
    size_bytes: int
    oldest_use: float | None  # in seconds since 1970; None: there are no files
    newest_use: float | None


@dataclass(frozen=True)
class Cleaned:
    """What was deleted, or would be."""

    num_files: int
    size_bytes: int
    num_refused: int  # files that the system did not let go: Windows does not delete an open file


def mark_used(path: Path) -> None:
    """Set the time of the last use of a file to now, at most once in `MARK_EVERY_S`."""
    with suppress(OSError):  # The cache may be read-only, or the file is gone; then there is nothing to mark.
        if time.time() - path.stat().st_mtime > MARK_EVERY_S:
            os.utime(path)


def cached_items(folder: Path) -> Iterator[CachedItem]:
    """Yield everything in a cache folder, also files of folders that this version does not know."""
    for kind in sorted(path for path in _entries(folder) if _is_folder(path)):
        if kind.name == MODELS:
            models = [path for path in _entries(kind) if _is_folder(path)]
            items = (_item(path, kind.name, list(_files(path))) for path in models)
        else:
            items = (_item(path, kind.name, [path]) for path in _files(kind))
        yield from (item for item in items if item is not None)


def cache_use(folder: Path) -> list[KindUse]:
    """Return the files and bytes of each kind, with the known kinds first."""
    by_kind: dict[str, list[CachedItem]] = {kind: [] for kind in KINDS}
    for item in cached_items(folder):
        by_kind.setdefault(item.kind, []).append(item)
    return [
        KindUse(
            kind,
            sum(item.num_files for item in items),
            sum(item.size_bytes for item in items),
            min((item.used for item in items), default=None),
            max((item.used for item in items), default=None),
        )
        for kind, items in by_kind.items()
    ]


def parse_age(text: str) -> float:
    """Return the seconds of an age such as 12h, 30d or 8w. Raises `ConfigError` for anything else."""
    match = re.fullmatch(r"([0-9]{1,6})([hdw])", text.strip())
    if match is None:
        raise ConfigError(
            f"bad --older-than '{text}', expected a whole number and a unit: 12h (hours), 30d (days) or 8w "
            "(weeks); 0d deletes all"
        )
    return float(match[1]) * _UNITS_S[match[2]]


def clean_cache(
    folder: Path, older_than_s: float, kinds: Collection[str] = COMPUTED, dry_run: bool = False
) -> Cleaned:
    """Delete what was not used for so many seconds, and return what was deleted.

    Only arrays and models are deleted, and no other files that the folder may hold. A training that runs
    keeps what it has used within this time. With `dry_run` nothing is deleted. Raises `ConfigError` for an
    unknown kind.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise ConfigError(one_of("--kind", kind, KINDS))
    now = time.time()
    num_files = size_bytes = num_refused = 0
    for item in cached_items(folder):
        is_partial = ".partial" in item.path.name
        is_ours = item.kind == MODELS or item.path.suffix == ".npy" or is_partial
        least_s = max(older_than_s, PARTIAL_S) if is_partial else older_than_s
        if item.kind not in kinds or not is_ours or now - item.used < least_s:
            continue
        if not dry_run and not _delete(item.path):
            num_refused += item.num_files
            continue
        num_files, size_bytes = num_files + item.num_files, size_bytes + item.size_bytes
    return Cleaned(num_files, size_bytes, num_refused)


def _delete(path: Path) -> bool:
    """Delete a file, or a folder that disappears at once; returns False where the system refuses."""
    try:
        if _is_folder(path):
            doomed = path.with_name(f".partial-{path.name}")
            path.replace(doomed)  # so that nobody finds half a model
            shutil.rmtree(doomed)
        else:
            path.unlink(missing_ok=True)
    except OSError:
        return False
    return True


def _item(path: Path, kind: str, files: list[Path]) -> CachedItem | None:
    """Return what a file or folder is; None where it disappears meanwhile."""
    sizes, times = [], []
    for file in files:
        try:
            state = file.lstat()
        except FileNotFoundError:
            continue
        sizes.append(state.st_size)
        times.append(state.st_mtime)
    return CachedItem(path, kind, len(sizes), sum(sizes), max(times)) if sizes else None


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder, and folders with the parts of a file, which are deleted as one."""
    for path in _entries(folder):
        if _is_folder(path) and ".partial" not in path.name:
            yield from _files(path)
        else:
            yield path


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is_folder(path: Path) -> bool:
    """Return whether a path is a folder and no link to one: what a link leads to is not ours to delete."""
    return path.is_dir() and not path.is_symlink()
