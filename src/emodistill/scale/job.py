"""What a run of `emodistill scale` computes, and where its files are."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from emodistill.inference.recognizer import Recognizer
from emodistill.inference.voices import Voice
from emodistill.scale.storage import Storage, join

READERS = 8  # threads of a worker that read audio from servers ahead of the model
STATE = "_scale.json"  # in the output folder: the settings, the shards and, in the end, the result
# Folders in the output folder; readers of Parquet ignore a name that begins with `_`.
SHARDS, TRIES, STATISTICS, VOICES = "_shards", "_tries", "_statistics", "_voices"
PART = "part-{:06d}.parquet"


@dataclass(frozen=True)
class Job:
    """What each worker needs to know.

    Attributes:
        verb: "predict" or "embed".
        out: the output folder, a path or a URL.
        root: what the paths in the manifest are relative to.
        allowed: more folders and URLs from which audio may be read.
        storage: reads and writes files.
        model, emotions, min_confidence, provider, threads: of the recogniser.
        voice: compare each input with this voice; None: with none.
        by_speaker: compare each input with the usual of the other inputs of its speaker.
        channel: the channel of inputs that state none; None: all channels mixed.
        readers: threads that read audio from servers ahead of the model.
    """

    verb: str
    out: str
    root: str
    allowed: tuple[str, ...] = ()
    storage: Storage = field(default_factory=Storage, compare=False)
    model: str = "bundled"
    emotions: tuple[str, ...] | None = None
    min_confidence: float | str | None = None
    provider: str = "cpu"
    threads: int = 1
    voice: Voice | None = None
    by_speaker: bool = False
    channel: int | None = None
    readers: int = READERS

    def recognizer(self) -> Recognizer:
        """Return the loaded model."""
        return Recognizer(
            self.model, emotions=self.emotions, min_confidence=self.min_confidence, threads=self.threads,
            provider=self.provider,
        )  # fmt: skip

    def settings(self, recognizer: Recognizer) -> dict[str, Any]:
        """Return what decides the rows besides the audio, as plain data: all runs of a folder share it."""
        return {
            "verb": self.verb,
            "root": self.root,
            "allow": list(self.allowed),
            **recognizer.settings,
            "voice": None if self.voice is None else self.voice.sha256,
            "channel": self.channel,
            "max_mb": self.storage.max_bytes // 10**6,
        }

    def place(self, folder: str, shard: int) -> str:
        """Return where the file of a shard is, in a folder below the output folder, or in itself (empty)."""
        return join(join(self.out, folder) if folder else self.out, PART.format(shard))

    @cached_property
    def shards(self) -> str:
        """The folder of the manifest's shards."""
        return join(self.out, SHARDS)


@dataclass(frozen=True)
class Plan:
    """The shards of a run.

    Attributes:
        sizes: the number of rows of each shard.
        settings: of the run; another run in the same folder must have the same.
    """

    sizes: tuple[int, ...]
    settings: Mapping[str, Any]

    @property
    def num_rows(self) -> int:
        """The number of rows of the manifest."""
        return sum(self.sizes)

    def first_row(self, shard: int) -> int:
        """Return the number of the first row of a shard, from 0. All shards but the last have one size."""
        return shard * self.sizes[0]
