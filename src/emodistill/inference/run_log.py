"""What a recogniser logs, at level INFO: the model, and each recording with the time that it took.

`--verbose` prints it. In Python: `logging.getLogger("emodistill.inference").setLevel("INFO")`.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Any

from emodistill.audio.decoding import name_in_messages, read_header

if TYPE_CHECKING:
    from emodistill.inference.exported_student import ExportedStudent

log = logging.getLogger(__name__)


def log_model(student: "ExportedStudent") -> None:
    """Log a model that was loaded: its name and folder, what it predicts, its providers and threads."""
    if not log.isEnabledFor(logging.INFO):
        return
    threads = "ONNX Runtime's default" if student.threads is None else student.threads
    card = student.card
    predicted = {"emotions": card.emotions, "dimensions": card.dimensions}
    log.info(
        "model %s in %s; %s; providers: %s; threads: %s",
        card.name, student.folder,
        "; ".join(f"{what}: {', '.join(names)}" for what, names in predicted.items() if names),
        ", ".join(student.providers), threads,
    )  # fmt: skip


@contextmanager
def logged(source: Any) -> Iterator[None]:
    """Log a source, a path or a file that can be read again, after the block that recognises it."""
    if not log.isEnabledFor(logging.INFO):
        yield
        return
    began = perf_counter()
    try:
        yield
    finally:
        took_s = perf_counter() - began
        header = read_header(source)
        about = "cannot be read"
        if header is not None:
            duration = "" if header.duration_s is None else f", {header.duration_s:.1f} s"
            channels = f"{header.channels} channel{'' if header.channels == 1 else 's'}"
            about = f"{header.rate_hz} Hz, {channels}{duration}"
        log.info("%s: %s; took %.2f s", name_in_messages(source), about, took_s)
