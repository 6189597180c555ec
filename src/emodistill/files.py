"""Files that appear complete or not at all, and the cache folder."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a path to write to. When the block ends, the file written there replaces `path`.

    If the block raises an error, `path` stays as it was and the partial file is deleted. The partial file is
    in the folder of `path`, which is created if it is missing. It keeps the suffix of `path`, because some
    writers choose their format by it. Its name has the process id, so two processes never write to the same
    file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def cache_folder() -> Path:
    """Return the folder for computed and fetched files.

    It is EMODISTILL_CACHE, else `emodistill` in the platform's cache folder: XDG_CACHE_HOME or ~/.cache,
    ~/Library/Caches on macOS, LOCALAPPDATA on Windows.
    """
    if folder := os.environ.get("EMODISTILL_CACHE"):
        return Path(folder)
    platform_folder = {
        "darwin": Path.home() / "Library" / "Caches",
        "win32": Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")),
    }.get(sys.platform, Path.home() / ".cache")
    return Path(os.environ.get("XDG_CACHE_HOME", platform_folder)) / "emodistill"
