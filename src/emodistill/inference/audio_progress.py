"""A progress bar that moves by seconds of audio, for a few long recordings."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from emodistill.audio.decoding import on_decoded
from emodistill.console import console, progress, with_progress
from emodistill.inference.inputs import Input

MAX_INPUTS = 20  # with more of them, the bar moves by inputs
MIN_AUDIO_S = 60.0  # less audio needs no bar in seconds

T = TypeVar("T")


def with_audio_progress(
    results: Iterable[T], description: str, inputs: Sequence[Input], passes: int = 1
) -> Iterator[T]:
    """Yield the same results, one for each input, with a progress bar in a terminal.

    The bar moves by seconds of audio if the inputs are few and long, else by inputs. `passes` is how often
    each input is decoded.
    """
    known = _durations_s(inputs) if console.is_terminal and len(inputs) <= MAX_INPUTS else []
    total_s = sum(known)
    if total_s < MIN_AUDIO_S:
        yield from with_progress(results, description, len(inputs))
        return
    bar, task = progress(description, round(total_s), "{task.completed:.0f} of {task.total:.0f} s of audio")
    read_s = done_s = 0.0

    def add(decoded_s: float) -> None:
        nonlocal read_s
        read_s = min(total_s, read_s + decoded_s / passes)
        bar.update(task, completed=read_s)

    token = on_decoded.set(add)
    try:
        with bar:
            for result, duration_s in zip(results, known, strict=True):
                done_s += duration_s
                read_s = max(read_s, done_s)  # A short input is not decoded in blocks.
                bar.update(task, completed=read_s)
                yield result
    finally:
        on_decoded.reset(token)


def _durations_s(inputs: Sequence[Input]) -> list[float]:
    """Return the duration of each input in seconds; 0 where no header states it."""
    return [item.duration_s() or 0.0 for item in inputs]
