"""Write files so that they appear complete or not at all."""

import os
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
