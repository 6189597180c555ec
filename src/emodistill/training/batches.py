"""The batches of a training: which utterances make up each batch of an epoch, and their loader."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import DataLoader, Sampler

from emodistill.config import stable_seed
from emodistill.errors import ConfigError
from emodistill.training.data import CLEAN, Batch, UtteranceDataset, collate


def _groups_of_speakers(
    speakers: Sequence[str | None], size: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Indices in groups of up to `size` of one speaker, chosen at random; of size 1 in their own order."""
    if size == 1:
        return list(np.arange(len(speakers))[:, None])
    members: dict[str | None, list[int]] = defaultdict(list)
    for index, speaker in enumerate(speakers):
        members[speaker].append(index)
    return [
        group
        for indices in members.values()
        for group in np.array_split(rng.permutation(indices), -(-len(indices) // size))
    ]


class Batches(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index): a function of (seed, epoch), the same over any number of processes.

    Indices are shuffled, then sorted by size within groups of `bucket` batches, which reduces padding. In the
    epoch `CLEAN` they are sorted by size alone. With `per_speaker`, a batch consists of groups of up to so
    many utterances of one speaker, and groups are sorted instead of utterances. Each of `world_size`
    processes takes every world_size-th utterance of a batch, starting at its `rank`. Raises `ConfigError`
    where a batch has fewer utterances than there are processes.
    """

    def __init__(
        self,
        dataset: UtteranceDataset,
        batch_size: int,
        seed: int,
        epoch: int,
        bucket: int = 1,
        rank: int = 0,
        world_size: int = 1,
        per_speaker: int = 1,
    ) -> None:
        self.batch_size, self.epoch, self.rank, self.world_size = batch_size, epoch, rank, world_size
        sizes = np.array([dataset.source.size(index) for index in range(len(dataset))])
        if epoch != CLEAN:
            rng = np.random.default_rng(stable_seed("batches", seed, epoch))
            groups = _groups_of_speakers(dataset.speakers, per_speaker, rng)
            self.batches = self._shuffled(groups, sizes, max(1, batch_size // per_speaker), bucket, rng)
        else:
            self.batches = self._split(np.argsort(sizes, kind="stable"), batch_size)
        if min(len(batch) for batch in self.batches) < world_size:
            raise ConfigError(
                f"batches of {batch_size} utterances cannot be divided among {world_size} processes: raise "
                "optim.batch_size, or lower runtime.devices"
            )

    def _shuffled(
        self,
        groups: list[np.ndarray],
        sizes: np.ndarray,
        per_batch: int,
        bucket: int,
        rng: np.random.Generator,
    ) -> list[np.ndarray]:
        """Batches of `per_batch` groups of indices, in random order."""
        mean_sizes = np.array([sizes[group].mean() for group in groups])
        shuffled = rng.permutation(len(groups))
        window = bucket * per_batch
        parts = [shuffled[start : start + window] for start in range(0, len(shuffled), window)]
        ordered = np.concatenate([part[np.argsort(mean_sizes[part], kind="stable")] for part in parts])
        batches = [
            np.concatenate([groups[number] for number in numbers])
            for numbers in self._split(ordered, per_batch)
        ]
        return [batches[index] for index in rng.permutation(len(batches))]

    @staticmethod
    def _split(order: np.ndarray, size: int) -> list[np.ndarray]:
        # Of nearly equal size, so that the last batch is not a small remainder.
        return np.array_split(order, -(-len(order) // size))

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for batch in self.batches:
            yield [(self.epoch, int(index)) for index in batch[self.rank :: self.world_size]]


def make_loader(dataset: UtteranceDataset, batches: Batches, workers: int = 0) -> DataLoader[Batch]:
    """A data loader over prepared batches; `workers` is the number of its own processes."""
    return DataLoader(dataset, batch_sampler=batches, collate_fn=collate, num_workers=workers)  # type: ignore[arg-type]
