"""The data of a training: sources of inputs, labels and weights, the dataset, and a batch of it.

All that is random is a function of seeds, epoch and utterance. So a run that was killed and started again
sees the same data as one that was not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from emodistill.audio.waveform import MIN_INPUT_SAMPLES, SAMPLE_RATE
from emodistill.config import AudioConfig, AugmentConfig, ProsodicConfig, VoiceConfig, stable_seed
from emodistill.corpora.base import Utterance, audio_duration_s
from emodistill.distillation import Targets, WordTargets
from emodistill.features.augment import apply_channel, augment_view
from emodistill.features.cache import ArrayCache
from emodistill.features.preparation import prepare_waveform
from emodistill.models.prosodic import augment_planes
from emodistill.training.voices import crop, crop_span

CLEAN = -1  # the epoch of evaluation: no augmentation


# --- inputs --------------------------------------------------------------------------------------


class InputSource(Protocol):
    """Inputs of a model, one utterance at a time. Time is the first axis."""

    def __call__(self, index: int, epoch: int) -> Tensor:
        """The input of an utterance in an epoch. In the epoch `CLEAN` it is not augmented."""

    def size(self, index: int) -> float:
        """A rough size of an input. Utterances of similar size are batched together."""


def view_of(config: AugmentConfig, seed: int, epoch: int, utterance_id: str) -> int:
    """The view of an utterance that an epoch uses: a function of (seed, epoch, utterance)."""
    if epoch == CLEAN:
        return 0
    return epoch + 1 if config.views == 0 else stable_seed("view", seed, epoch, utterance_id) % config.views


def size_of(utterance: Utterance) -> float:
    """A rough size of an utterance's audio in bytes, exact enough to batch similar ones together."""
    if utterance.path is None:
        return 0.0
    is_whole_file = utterance.start_s is None and utterance.end_s is None
    return utterance.path.stat().st_size if is_whole_file else audio_duration_s(utterance) * SAMPLE_RATE * 2


BABBLE_POOL = 256  # utterances whose waveforms serve as babble: about 50 MB if they last 3 s
WAVEFORM_CACHE_BYTES = 2 * 2**30  # the most memory that the waveforms of one source may fill


class WaveformCache(dict[tuple[int, int], Tensor]):
    """Waveforms in memory by (utterance, view), as many as fit into `WAVEFORM_CACHE_BYTES`."""

    free_bytes = WAVEFORM_CACHE_BYTES

    def keep(self, key: tuple[int, int], waveform: Tensor) -> None:
        """Keep a waveform if there is room for it."""
        if waveform.nbytes <= self.free_bytes:
            self[key] = waveform
            self.free_bytes -= waveform.nbytes


@dataclass(frozen=True)
class WaveformSource:
    """Prepared, augmented waveforms (samples,). Views that are used again stay in memory if possible.

    Babble is mixed from a random `BABBLE_POOL` of the first `num_babble` utterances, by default of all.
    """

    utterances: Sequence[Utterance]
    audio: AudioConfig
    augment: AugmentConfig
    seed: int
    voice: VoiceConfig | None = None  # its crops
    cache: WaveformCache = field(default_factory=WaveformCache)
    num_babble: int | None = None

    def __call__(self, index: int, epoch: int) -> Tensor:
        utterance_id = self.utterances[index].id
        waveform = self.at_view(index, view_of(self.augment, self.seed, epoch, utterance_id))
        if epoch != CLEAN:
            length_s = len(waveform) / SAMPLE_RATE
            waveform = crop(waveform, crop_span(self.voice, self.seed, epoch, utterance_id, length_s))
        if not self.augment.fresh or epoch == CLEAN:
            return waveform
        channel = stable_seed(self.seed, epoch)
        voices = [] if self.augment.babble_snr_db is None else self.other_voices(index)
        return torch.from_numpy(apply_channel(waveform.numpy(), self.augment, channel, utterance_id, voices))

    def other_voices(self, index: int) -> list[np.ndarray]:
        """The waveforms for an utterance's babble: of other speakers, or else of its speaker's others."""
        own = self.utterances[index]
        others = [(speaker, voice) for name, speaker, voice in self._babble_pool if name != own.id]
        of_other_speakers = [voice for speaker, voice in others if speaker != own.speaker]
        return of_other_speakers or [voice for _, voice in others]

    @cached_property
    def _babble_pool(self) -> list[tuple[str, str, np.ndarray]]:
        """Id, speaker and clean waveform of utterances, the same in all epochs. They stay in memory."""
        num = len(self.utterances) if self.num_babble is None else self.num_babble
        order = np.random.default_rng(stable_seed("babble", self.seed)).permutation(num)[:BABBLE_POOL]
        chosen = [self.utterances[place] for place in order]
        return [(item.id, item.speaker, prepare_waveform(item, self.audio)) for item in chosen]

    def at_view(self, index: int, view: int) -> Tensor:
        """The waveform of an utterance in one view."""
        if (index, view) in self.cache:
            return self.cache[index, view]
        utterance = self.utterances[index]
        samples = augment_view(prepare_waveform(utterance, self.audio), self.augment, view, utterance.id)
        waveform = torch.from_numpy(np.pad(samples, (0, max(0, MIN_INPUT_SAMPLES - len(samples)))))
        is_used_again = view == 0 or self.augment.views > 0
        if is_used_again:
            self.cache.keep((index, view), waveform)
        return waveform

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
    frames_per_s: float
    voice: VoiceConfig | None = None  # its crops

    def __call__(self, index: int, epoch: int) -> Tensor:
        states = self.at_view(index, view_of(self.augment, self.seed, epoch, self.ids[index]))
        if epoch == CLEAN:
            return states
        length_s = len(states) / self.frames_per_s
        return crop(states, crop_span(self.voice, self.seed, epoch, self.ids[index], length_s))

    def at_view(self, index: int, view: int) -> Tensor:
        """The states of an utterance in one view."""
        return torch.from_numpy(self.cache.read(self.keys[index][view]))

    def size(self, index: int) -> float:
        return self.sizes[index]


@dataclass(frozen=True)
class LldSource:
    """The prosodic teacher's input planes (frames, 101), augmented in training."""

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


# --- targets -----------------------------------------------------------------------------------


class TargetSource(Protocol):
    """The targets of one teacher, one utterance at a time."""

    def __call__(self, index: int, epoch: int) -> dict[str, Tensor]:
        """The targets of an utterance in an epoch.

        `logits` (emotions,), `embedding` (dim,), `available` (), where the teacher predicts dimensions
        `dimensions` (dimensions,), and possibly `hidden` (frames, width), which may depend on the view that
        the epoch uses.
        """


# --- dataset and batches -------------------------------------------------------------------------


@dataclass
class Batch:
    """Padded inputs, time in axis 1, with their lengths; labels; and the targets of each teacher."""

    inputs: Tensor  # (batch, time, …)
    lengths: Tensor  # (batch,)
    labels: Tensor  # (batch,)
    indices: Tensor  # (batch,), in the dataset
    targets: dict[str, Targets]
    possible: Tensor | None = None  # (batch, emotions), False: the utterance's corpus lacks the emotion
    weights: Tensor | None = None  # (batch,), of the utterances in the loss on labels
    dimensions: Tensor | None = None  # (batch, dimensions), from 0 to 1; NaN: no label
    votes: Tensor | None = None  # (batch, emotions), see `vote_shares`; None: the model learns from labels

    def with_targets_reordered(self, order: Tensor) -> "Batch":
        """The same inputs with the labels, targets and weights of the utterances at `order` (batch,)."""
        targets = {name: _reordered(target, order) for name, target in self.targets.items()}
        return replace(
            self,
            labels=self.labels[order],
            targets=targets,
            possible=None if self.possible is None else self.possible[order],
            weights=None if self.weights is None else self.weights[order],
            dimensions=None if self.dimensions is None else self.dimensions[order],
            votes=None if self.votes is None else self.votes[order],
        )


class UtteranceDataset(Dataset[dict[str, Any]]):
    """Inputs, labels and targets by (epoch, index).

    `possible`, `weights`, `dimensions` and `votes` are those of `possible_emotions`, `label_weights`,
    `dimension_labels` and `vote_shares`, `speakers` those of `known_speakers`.
    """

    def __init__(
        self,
        source: InputSource,
        labels: Sequence[int],
        targets: Mapping[str, TargetSource] | None = None,
        possible: Tensor | None = None,
        weights: Tensor | None = None,
        speakers: Sequence[str | None] | None = None,
        dimensions: Tensor | None = None,
        votes: Tensor | None = None,
    ) -> None:
        self.source = source
        self.labels = list(labels)
        self.targets = dict(targets or {})
        self.possible = possible
        self.weights = weights
        self.dimensions = dimensions
        self.votes = votes
        self.speakers = list(speakers or [None] * len(self.labels))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        epoch, index = key
        return {
            "input": self.source(index, epoch),
            "label": self.labels[index],
            "index": index,
            "targets": {name: source(index, epoch) for name, source in self.targets.items()},
            "possible": None if self.possible is None else self.possible[index],
            "weight": None if self.weights is None else self.weights[index],
            "dimensions": None if self.dimensions is None else self.dimensions[index],
            "votes": None if self.votes is None else self.votes[index],
        }


def collate(examples: Sequence[dict[str, Any]]) -> Batch:
    """Make a batch of examples: pad inputs with zeros at the end, to a multiple of 16 frames.

    Multiples of 16, because PyTorch sets up its kernels again for each new length.
    """
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
            for name in ("possible", "weight", "dimensions", "votes")
        ),
    )  # fmt: skip


def _collate_targets(rows: Sequence[dict[str, Tensor]]) -> Targets:
    first = rows[0]
    hidden = words = None
    if "hidden" in first:
        hidden = torch.nn.utils.rnn.pad_sequence([row["hidden"] for row in rows], batch_first=True)
    if "word_vectors" in first:
        numbers = torch.tensor([len(row["word_spans"]) for row in rows])
        words = WordTargets(
            torch.cat([row["word_vectors"] for row in rows]),
            torch.arange(len(rows)).repeat_interleave(numbers),
            torch.cat([row["word_spans"] for row in rows]),
        )
    logits, embedding, available = (
        torch.stack([row[name] for row in rows]) for name in ("logits", "embedding", "available")
    )
    certainty, dimensions = (
        torch.stack([row[name] for row in rows]) if name in first else None
        for name in ("certainty", "dimensions")
    )
    return Targets(logits, embedding, available, hidden, words, certainty, dimensions)


def _reordered(target: Targets, order: Tensor) -> Targets:
    """The targets of the utterances at `order` (batch,)."""
    assert target.words is None  # `Recipe` refuses words with mixup
    return Targets(
        target.logits[order],
        target.embedding[order],
        target.available[order],
        None if target.hidden is None else target.hidden[order],
        None,
        None if target.certainty is None else target.certainty[order],
        None if target.dimensions is None else target.dimensions[order],
    )
