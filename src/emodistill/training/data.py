"""What a model sees: sources of inputs, the dataset, and batches that depend on (seed, epoch) alone."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Sampler

from emodistill.audio.waveform import SAMPLE_RATE, SHORTEST_SAMPLES
from emodistill.config import AudioConfig, AugmentConfig, ProsodicConfig, stable_seed
from emodistill.corpora.base import Utterance, audio_duration_s
from emodistill.distillation import Targets
from emodistill.errors import ConfigError
from emodistill.features.augment import apply_channel, augment_view
from emodistill.features.cache import ArrayCache
from emodistill.features.preparation import prepare_waveform
from emodistill.models.prosodic import augment_planes

CLEAN = -1  # the epoch of evaluation: no augmentation


class Source(Protocol):
    """Inputs of a model, one utterance at a time, time first."""

    def __call__(self, index: int, epoch: int) -> Tensor:
        """The input of an utterance in an epoch; epoch `CLEAN` is without augmentation."""

    def size(self, index: int) -> float:
        """Roughly how long an input is; utterances of similar size are batched together."""


def view_of(config: AugmentConfig, seed: int, epoch: int, utterance: str) -> int:
    """Which view of an utterance an epoch sees: a function of (seed, epoch, utterance)."""
    if epoch == CLEAN:
        return 0
    return epoch + 1 if config.views == 0 else stable_seed("view", seed, epoch, utterance) % config.views


def size_of(utterance: Utterance) -> float:
    """Roughly how many bytes of audio an utterance is: enough to batch the like together."""
    if utterance.path is None:
        return 0.0
    whole = utterance.start_s is None and utterance.end_s is None
    return utterance.path.stat().st_size if whole else audio_duration_s(utterance) * SAMPLE_RATE * 2


WAVEFORM_CACHE_BYTES = 2 * 2**30  # of waveforms that a source keeps in memory instead of making them again


class WaveformCache(dict[tuple[int, int], Tensor]):
    """Waveforms by (utterance, view), as many as fit into `HELD_BYTES`."""

    free = WAVEFORM_CACHE_BYTES

    def keep(self, key: tuple[int, int], made: Tensor) -> None:
        """Hold a waveform, if there is room for it."""
        if made.nbytes <= self.free:
            self[key] = made
            self.free -= made.nbytes


@dataclass(frozen=True)
class WaveformSource:
    """Conditioned, augmented waveforms (samples,). Views that come again are kept, as far as memory goes."""

    utterances: Sequence[Utterance]
    audio: AudioConfig
    augment: AugmentConfig
    seed: int
    cache: WaveformCache = field(default_factory=WaveformCache)

    def __call__(self, index: int, epoch: int) -> Tensor:
        name = self.utterances[index].id
        waveform = self.at_view(index, view_of(self.augment, self.seed, epoch, name))
        if not self.augment.fresh or epoch == CLEAN:
            return waveform
        draw = stable_seed(self.seed, epoch)
        return torch.from_numpy(apply_channel(waveform.numpy(), self.augment, draw, name))

    def at_view(self, index: int, view: int) -> Tensor:
        """The waveform of one view."""
        if (index, view) in self.cache:
            return self.cache[index, view]
        utterance = self.utterances[index]
        waveform = augment_view(prepare_waveform(utterance, self.audio), self.augment, view, utterance.id)
        padded = np.pad(waveform, (0, max(0, SHORTEST_SAMPLES - len(waveform))))
        made = torch.from_numpy(padded)
        comes_again = view == 0 or self.augment.views > 0
        if comes_again:
            self.cache.keep((index, view), made)
        return made

    def size(self, index: int) -> float:
        return size_of(self.utterances[index])


@dataclass(frozen=True)
class StateSource:
    """Cached hidden states of a frozen prefix, (frames, states, width), by utterance and view."""

    keys: Sequence[Sequence[str]]  # [utterance][view]
    ids: Sequence[str]
    sizes: Sequence[float]  # see `size_of`
    augment: AugmentConfig
    seed: int
    cache: ArrayCache

    def __call__(self, index: int, epoch: int) -> Tensor:
        return self.at_view(index, view_of(self.augment, self.seed, epoch, self.ids[index]))

    def at_view(self, index: int, view: int) -> Tensor:
        """The states of one view."""
        return torch.from_numpy(self.cache.read(self.keys[index][view]))

    def size(self, index: int) -> float:
        return self.sizes[index]


@dataclass(frozen=True)
class LldSource:
    """The prosodic teacher's planes (frames, 101), augmented in training."""

    planes: Sequence[np.ndarray]
    ids: Sequence[str]
    config: ProsodicConfig
    seed: int

    def __call__(self, index: int, epoch: int) -> Tensor:
        if epoch == CLEAN:
            return torch.from_numpy(self.planes[index])
        rng = np.random.default_rng(stable_seed("llds", self.seed, epoch, self.ids[index]))
        return torch.from_numpy(augment_planes(self.planes[index], self.config, rng))

    def size(self, index: int) -> float:
        return len(self.planes[index])


@dataclass(frozen=True)
class TokenSource:
    """Token ids (tokens,) of transcripts."""

    tokens: Sequence[Tensor]

    def __call__(self, index: int, epoch: int) -> Tensor:
        return self.tokens[index]

    def size(self, index: int) -> float:
        return len(self.tokens[index])


@dataclass
class Batch:
    """Padded inputs, time in axis 1, with their lengths; labels; what each teacher says."""

    inputs: Tensor
    lengths: Tensor
    labels: Tensor
    indices: Tensor
    targets: dict[str, Targets]
    possible: Tensor | None = None  # (batch, emotions), False: the utterance's corpus lacks the emotion
    weights: Tensor | None = None  # (batch,), of the utterances in the loss on labels

    def with_targets_of(self, order: Tensor) -> "Batch":
        """The same inputs with what others of the batch are to be: those at `order` (batch,)."""
        targets = {
            name: Targets(
                found.logits[order],
                found.embedding[order],
                found.available[order],
                None if found.hidden is None else found.hidden[order],
            )
            for name, found in self.targets.items()
        }
        return replace(
            self,
            labels=self.labels[order],
            targets=targets,
            possible=None if self.possible is None else self.possible[order],
            weights=None if self.weights is None else self.weights[order],
        )


class UtteranceDataset(Dataset[dict[str, Any]]):
    """Inputs, labels and targets by (epoch, index); which emotions an utterance could have had, and its weight."""

    def __init__(
        self,
        source: Source,
        labels: Sequence[int],
        targets: Mapping[str, "TargetTable"] | None = None,
        possible: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> None:
        self.source = source
        self.labels = list(labels)
        self.targets = dict(targets or {})
        self.possible = possible
        self.weights = weights

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        epoch, index = key
        return {
            "input": self.source(index, epoch),
            "label": self.labels[index],
            "index": index,
            "targets": {name: table.row(index, epoch) for name, table in self.targets.items()},
            "possible": None if self.possible is None else self.possible[index],
            "weight": None if self.weights is None else self.weights[index],
        }


class TargetTable(Protocol):
    """One teacher's targets by utterance; `hidden` may depend on the epoch's view."""

    def row(self, index: int, epoch: int) -> dict[str, Tensor]:
        """logits, embedding, available, and possibly hidden (frames, width)."""


def collate(examples: Sequence[dict[str, Any]]) -> Batch:
    """Pad inputs with zeros behind, to a multiple of 16 frames: kernels are set up anew for each length."""
    inputs = [example["input"] for example in examples]
    padded = torch.nn.utils.rnn.pad_sequence(inputs, batch_first=True)
    return Batch(
        F.pad(padded, [0, 0] * (padded.ndim - 2) + [0, -padded.shape[1] % 16]),
        torch.tensor([len(item) for item in inputs]),
        torch.tensor([example["label"] for example in examples]),
        torch.tensor([example["index"] for example in examples]),
        {name: _collate_targets([example["targets"][name] for example in examples])
         for name in examples[0]["targets"]},
        *(
            None if examples[0].get(name) is None else torch.stack([example[name] for example in examples])
            for name in ("possible", "weight")
        ),
    )  # fmt: skip


def _collate_targets(rows: Sequence[dict[str, Tensor]]) -> Targets:
    hidden = None
    if "hidden" in rows[0]:
        hidden = torch.nn.utils.rnn.pad_sequence([row["hidden"] for row in rows], batch_first=True)
    logits, embedding, available = (
        torch.stack([row[name] for row in rows]) for name in ("logits", "embedding", "available")
    )
    return Targets(logits, embedding, available, hidden)


class Batches(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index), a function of (seed, epoch); the same over any number of processes.

    Indices are shuffled, then sorted by size within groups of `bucket` batches, so that less is padded.
    A batch is shared out over `world` processes; each takes every world-th utterance of it.
    """

    def __init__(
        self,
        dataset: UtteranceDataset,
        batch_size: int,
        seed: int,
        epoch: int,
        bucket: int = 1,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.batch_size, self.epoch, self.rank, self.world = batch_size, epoch, rank, world
        self.sizes = np.array([dataset.source.size(index) for index in range(len(dataset))])
        self.order = np.argsort(self.sizes, kind="stable")
        if epoch != CLEAN:
            rng = np.random.default_rng(stable_seed("batches", seed, epoch))
            shuffled = rng.permutation(len(dataset))
            group = bucket * batch_size
            parts = [shuffled[start : start + group] for start in range(0, len(shuffled), group)]
            ordered = np.concatenate([part[np.argsort(self.sizes[part], kind="stable")] for part in parts])
            batches = self._split(ordered)
            self.batches = [batches[index] for index in rng.permutation(len(batches))]
        else:
            self.batches = self._split(self.order)
        if min(len(batch) for batch in self.batches) < world:
            raise ConfigError(
                f"batches of {batch_size} cannot be shared out over {world} processes: raise batch_size"
            )

    def _split(self, order: np.ndarray) -> list[np.ndarray]:
        return np.array_split(order, -(-len(order) // self.batch_size))  # no batch is a mere remainder

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for batch in self.batches:
            yield [(self.epoch, int(index)) for index in batch[self.rank :: self.world]]


def loader(dataset: UtteranceDataset, batches: Batches, workers: int = 0) -> DataLoader[Batch]:
    """A data loader over prepared batches."""
    return DataLoader(dataset, batch_sampler=batches, collate_fn=collate, num_workers=workers)  # type: ignore[arg-type]
