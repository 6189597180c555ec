"""A cache of files that several runs have in common: teachers, their targets and their predictions.

    artifacts/
      <key>/     the files of one entry: a teacher's checkpoint, its targets, or its predictions

The key of an entry is a hash of all that decides its content. So each file is made once, by the first run
that needs it. A run folder receives an entry by hard links: it is complete by itself and hardly costs disk
space. It can be exported, compared, moved or deleted like any other. Tables are copied, because people edit
them, and an edit in one run must not reach another. The cost of a training gets a mark that the
model is shared. Where a file system has no hard links, all files are
copied.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emodistill.evaluation.cost import COST, mark_as_shared
from emodistill.files import copy_file
from emodistill.partial_folders import atomic_folder

LAST = "model.json"  # placed after all other files, since a checkpoint that has it is complete


@dataclass(frozen=True)
class ArtifactCache:
    """Entries in a folder. An entry appears when all of its files are there."""

    folder: Path

    def fetch(self, key: str, folder: Path) -> bool:
        """Place the files of an entry in a folder. Returns False where there is no such entry."""
        entry = self.folder / key
        if not entry.is_dir():
            return False
        folder.mkdir(parents=True, exist_ok=True)
        for source in sorted(entry.iterdir(), key=lambda path: (path.name == LAST, path.name)):
            place_file(source, folder / source.name)
        return True

    def store(self, key: str, files: Iterable[Path]) -> None:
        """Make an entry of these files, unless the cache has it already."""
        entry = self.folder / key
        if entry.is_dir():
            return
        # Another process may make the same entry first.
        with suppress(FileExistsError), atomic_folder(entry) as folder:
            for source in files:
                if source.name.endswith(COST):
                    mark_as_shared(source, folder / source.name)
                else:
                    place_file(source, folder / source.name)


def cache_key(**content: Any) -> str:
    """The key of an entry: a hash of the values that decide its content. They must be plain data."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:20]


def to_dict(section: Any) -> Mapping[str, Any]:
    """A section of a recipe as plain data."""
    return dict(section.model_dump(mode="json"))


def place_file(source: Path, target: Path) -> None:
    """Link a file to another name; copy a table, or where the file system has no hard links."""
    # A run that was killed may have left a file here. Opening it for writing would change the cache's own
    # file.
    target.unlink(missing_ok=True)
    if source.suffix == ".csv":
        copy_file(source, target)
        return
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        copy_file(source, target)
