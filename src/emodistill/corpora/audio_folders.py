"""Where the audio of a manifest may be. A table of a stranger must not name any file of this machine.

Allowed are the folder of the manifest, the folder that the user names as root, and the folders of audio of
manifests that this user has written with this package. The cache folder holds the names of the last.
"""

import json
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from emodistill.errors import CorpusError
from emodistill.files import cache_folder

REMEMBERED = "audio-folders.jsonl"  # in the cache folder: a line for each folder
PACKAGE = Path(__file__).parents[1]  # It holds the demo corpus.
OPTION = "--root FOLDER (in a recipe: corpus.audio_root; for evaluate: FOLDER after the manifest)"
MAX_NAME_BYTES, MAX_PATH_BYTES = 255, 4096  # of file systems
_MAX_REMEMBERED = 100  # folders that one manifest adds


class AudioFolders:
    """The folders that may hold the audio of one manifest."""

    def __init__(self, folders: Iterable[Path | None]) -> None:
        """Allow these folders, without None, and those that `remember_folders` wrote."""
        self._given = [folder for folder in folders if folder is not None]
        self._real = lru_cache(maxsize=2**14)(os.path.realpath)
        self._roots = [Path(self._real(folder)) for folder in (*self._given, PACKAGE, *remembered_folders())]

    def check(self, path: Path, text: str) -> Path:
        """Return the path, which a manifest gives as `text`. Links are followed.

        Raises `CorpusError` for a path that leaves the folders, and for one that no file system allows.
        """
        check_name(text)
        # `find_audio` also looks for the path with slashes.
        for candidate in {path, Path(str(path).replace("\\", "/"))}:
            real = Path(self._real(candidate.parent)) / candidate.name
            if candidate.name == ".." or real.is_symlink():
                real = Path(os.path.realpath(real))
            if not any(real.is_relative_to(root) for root in self._roots):
                listed = " and ".join(f"'{folder}'" for folder in self._given)
                raise CorpusError(
                    f"the path '{text}' leads out of {listed}, to '{real}'; if you trust this table, name "
                    f"the folder that holds its audio: {OPTION}"
                )
        return path


def check_name(text: str) -> None:
    """Raise `CorpusError` for the text of a path that no file system allows."""
    try:
        encoded = os.fsencode(text)
    except UnicodeError as error:
        raise CorpusError(f"bad path {text!r}: it is no text") from error
    if b"\0" in encoded:
        raise CorpusError(f"bad path {text!r}: it holds a NUL")
    longest = max(map(len, encoded.replace(os.sep.encode(), b"/").split(b"/")))
    if longest > MAX_NAME_BYTES or len(encoded) > MAX_PATH_BYTES:
        raise CorpusError(
            f"bad path '{text[:40]}…': expected at most {MAX_NAME_BYTES} bytes in a name and "
            f"{MAX_PATH_BYTES} in a path"
        )


def remembered_folders() -> list[Path]:
    """Return the folders that `remember_folders` wrote."""
    found = []
    with suppress(OSError):  # There is no cache.
        for line in (cache_folder() / REMEMBERED).read_bytes().splitlines():
            with suppress(ValueError, TypeError):  # a line that a full disk has cut
                found.append(Path(json.loads(line)))
    return [folder for folder in found if folder.is_absolute()]


def remember_folders(paths: Sequence[Path], manifest_folder: Path) -> None:
    """Allow the folders of audio that a manifest of this user names, for all manifests of this user.

    A cache that cannot be written is no error: the user then names the root.
    """
    outside = {path.parent for path in paths if not path.is_relative_to(manifest_folder)}
    if not outside:
        return
    shared = Path(os.path.commonpath(outside))
    # A folder as high as / or /home would allow almost everything.
    folders = (
        sorted(outside) if shared in (Path(shared.anchor), Path.home(), Path.home().parent) else [shared]
    )
    known = remembered_folders()
    new = [item for item in folders if not any(item.is_relative_to(other) for other in known)]
    if new:
        lines = "".join(f"{json.dumps(str(folder))}\n" for folder in new[:_MAX_REMEMBERED])
        with suppress(OSError):
            cache_folder().mkdir(parents=True, exist_ok=True)
            with (cache_folder() / REMEMBERED).open("a", encoding="utf-8") as file:
                file.write(lines)  # in one write, so that two processes do not mix their lines
