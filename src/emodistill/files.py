"""Files that appear complete or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a path to write to. When the block ends, the file there takes the place of `path`.

    If the block raises, `path` stays as it was and the partial file is deleted. The partial file lies in the same
    folder, which is made if it is missing. It keeps the suffix of `path`, since some writers choose their format
    by it. Its name holds the number of the process, so that two processes never write to the same one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
