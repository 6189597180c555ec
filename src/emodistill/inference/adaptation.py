"""Many files, each compared with the usual of the other files of its group: `predict --adapt`."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from emodistill.audio.channels import Channels
from emodistill.console import warn, with_progress
from emodistill.inference.inputs import Input, statistics_of_inputs
from emodistill.inference.prediction import Prediction
from emodistill.inference.recognizer import Recognizer
from emodistill.inference.voices import SpeechStatistics, Voice, leave_one_out

MAX_NAMES = 5  # of files in one warning

_Key = tuple[Path, tuple[Any, ...]]  # the group of an input, and what is equal for inputs of the same audio


def group_of(item: Input, adapt: str) -> Path:
    """Return the group of an input: its folder if `adapt` is folder, or one group of all (together)."""
    return item.location.parent.resolve() if adapt == "folder" else Path()


def groups_of(inputs: Sequence[Input], adapt: str) -> list[list[Input]]:
    """Return the inputs of each group, in order."""
    groups: dict[Path, list[Input]] = defaultdict(list)
    for item in inputs:
        groups[group_of(item, adapt)].append(item)
    return list(groups.values())


def inputs_sha256(inputs: Sequence[Input]) -> str:
    """Return the SHA-256 of a set of inputs by their keys, in hex; order and repetitions do not matter."""
    names = sorted({item.key for item in inputs})
    return hashlib.sha256("\0".join(names).encode(errors="surrogateescape")).hexdigest()


def predict_compared(
    recognizer: Recognizer,
    inputs: Sequence[Input],
    adapt: str,
    jobs: int = 1,
    channels: Channels = "mix",
) -> Iterator[list[Prediction]]:
    """Yield the predictions of each input, in order, compared with the other inputs of its group.

    There is one for each of `channels`. A channel is compared with the same channel of the other inputs.

    A group's rows come when all its inputs are read. An input that is named twice counts once in the group,
    and has two rows. In the end a warning names the inputs that no other input could be compared with.

    `Recognizer.predict_together` does the same for one group; the errors are the same.
    """
    keys: list[_Key] = [(group_of(item, adapt), item.audio) for item in inputs]
    unique: dict[_Key, Input] = {}
    for key, item in zip(keys, inputs, strict=True):
        unique.setdefault(key, item)
    num_unread = Counter(group for group, _ in unique)
    read: dict[Path, dict[_Key, list[SpeechStatistics]]] = defaultdict(dict)
    ready: dict[_Key, list[Prediction]] = {}
    alone: list[str] = []
    has_channels = channels != "mix" or any(item.channel is not None for item in inputs)
    num_yielded = 0
    statistics = statistics_of_inputs(recognizer, unique.values(), channels, jobs)
    for key, items in zip(unique, with_progress(statistics, "predict", len(unique)), strict=True):
        group = key[0]
        read[group][key] = items
        num_unread[group] -= 1
        if num_unread[group]:
            continue
        members = read.pop(group)
        compared = _compare(recognizer, [item for items in members.values() for item in items])
        for member, known in members.items():
            rows = [next(compared) for _ in known]
            ready[member] = [row for row, _ in rows]
            if any(voice is None and len(item.windows) for item, (_, voice) in zip(known, rows, strict=True)):
                alone.append(known[0].path)
        while num_yielded < len(inputs) and keys[num_yielded] in ready:
            yield [inputs[num_yielded].row(prediction) for prediction in ready[keys[num_yielded]]]
            num_yielded += 1
    if alone:
        names = ", ".join(alone[:MAX_NAMES]) + (", …" if len(alone) > MAX_NAMES else "")
        place = "in the same folder " if adapt == "folder" else ""
        channel = " in the same channel" if has_channels else ""
        warn(f"recognised without a voice, because no other file {place}has speech{channel}: {names}")


def _compare(
    recognizer: Recognizer, statistics: Sequence[SpeechStatistics]
) -> Iterator[tuple[Prediction, Voice | None]]:
    """Yield the prediction of each input, and the voice of all other inputs of its channel."""
    by_channel: dict[int | None, list[SpeechStatistics]] = defaultdict(list)
    for item in statistics:
        by_channel[item.channel].append(item)
    voices = {channel: leave_one_out(items, recognizer.card.sha256) for channel, items in by_channel.items()}
    for item in statistics:
        voice = next(voices[item.channel])
        yield recognizer.predict_statistics(item, voice), voice
