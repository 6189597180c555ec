"""Shards whose worker ended: the row that ends every worker is found, and gets an error instead."""

import json
from collections.abc import Iterator
from dataclasses import replace

from emodistill.inference.inputs import Input
from emodistill.scale.job import TRIES, Job
from emodistill.scale.storage import join

CAREFUL = 2  # so often a worker ended in a shard before each row is noted, which costs a write for each row
ENDED = "the worker ended while it read this file (no memory, or a fault of a decoder)"


class Tries:
    """What is known of the tries of one shard: a small file in the output folder.

    Args:
        job: the run.
        shard: the number of the shard.
    """

    def __init__(self, job: Job, shard: int) -> None:
        """Read the notes of earlier tries, and count this one."""
        self._job = job
        self._place = join(join(job.out, TRIES), f"part-{shard:06d}.json")
        self._tries, self._at, self._fatal = self._read()
        if self._at is not None:
            self._fatal.append(self._at)
        self._tries, self._at = self._tries + 1, None
        self._write()

    def guard(self, rows: list[tuple[Input, str | None]]) -> list[tuple[Input, str | None]]:
        """Return the rows of the shard; those that ended a worker have an error."""
        return [
            (replace(item, error=f"{item.path}: {ENDED}"), None) if number in self._fatal else (item, url)
            for number, (item, url) in enumerate(rows)
        ]

    def watched(self, inputs: Iterator[Input]) -> Iterator[Input]:
        """Yield the inputs of the shard; after several tries, each one is noted before it is recognised."""
        for number, item in enumerate(inputs):
            if self._tries > CAREFUL and item.error is None:
                self._at = number
                self._write()
            yield item
        self._at = None
        if self._tries > CAREFUL:
            self._write()

    def finish(self) -> None:
        """Delete the notes, because the part is written."""
        self._job.storage.remove(self._place)

    def _read(self) -> tuple[int, int | None, list[int]]:
        try:
            notes = json.loads(self._job.storage.read(self._place))
            return int(notes["tries"]), notes["at"], list(notes["fatal"])
        except FileNotFoundError:
            return 0, None, []

    def _write(self) -> None:
        notes = {"tries": self._tries, "at": self._at, "fatal": self._fatal}
        self._job.storage.write(self._place, json.dumps(notes).encode())
