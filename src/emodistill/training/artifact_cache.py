"""What several runs have in common, made once: a cache of files, each entry under a hash of what decides it.

    artifacts/
      <key>/     a teacher's checkpoint, its targets, or its predictions

A run folder takes an entry by hard links, so it is whole by itself: it can be exported, compared, moved or deleted
like any other, and costs hardly more disk. Tables are copied, since people edit them: what is done to one run's must not
reach another's. So is everything where a file system has no hard links.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LAST = "model.json"  # its being there says that a checkpoint is complete


@dataclass(frozen=True)
class ArtifactCache:
    """Entries in a folder; an entry appears when it is complete."""

    folder: Path

    def take(self, key: str, folder: Path) -> bool:
        """Put the files of an entry into a folder; False where there is no such entry."""
        entry = self.folder / key
        if not entry.is_dir():
            return False
        folder.mkdir(parents=True, exist_ok=True)
        for source in sorted(entry.iterdir(), key=lambda path: (path.name == LAST, path.name)):
            _link(source, folder / source.name)
        return True

    def give(self, key: str, files: Iterable[Path]) -> None:
        """Make an entry of some files, unless it is there."""
        entry = self.folder / key
        if entry.is_dir():
            return
        partial = self.folder / f"{key}.{os.getpid()}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for source in files:
            _link(source, partial / source.name)
        partial.replace(entry)


def key_of(**decides: Any) -> str:
    """The key of what these values decide; they must be plain data."""
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:20]


def to_dict(section: Any) -> Mapping[str, Any]:
    """A section of a recipe as plain data."""
    return dict(section.model_dump(mode="json"))


def _link(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)  # of a run that was killed; an open file would write into the cache
    if source.suffix == ".csv":
        shutil.copyfile(source, target)
        return
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, target)
