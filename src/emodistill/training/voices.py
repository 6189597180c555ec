"""Voice contexts in training: what the student knows about a speaker when it hears an utterance.

A context is the shrunk mean of the standardised, pooled statistics of other utterances of the same speaker.
It never contains the utterance itself, and no label has a part in it. Which utterances it contains is a
function of (seed, epoch, utterance). With the probability `none_probability` an utterance has no context,
which is zero.

With frozen layers, the statistics of all training utterances are computed at the start of each epoch, and a
context is drawn from all of them. An utterance without a context may then be moved: from the usual of its
speaker towards that of another one, by a random share of the way. So the student hears the same utterance
from more voices than there are in training.

With a trained trunk these statistics would soon be out of date, so a context is drawn from the utterances of
the speaker in the same batch.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from emodistill.config import VoiceConfig, stable_seed
from emodistill.console import warn
from emodistill.corpora import Utterance
from emodistill.inference.voices import shrinkage


def known_speakers(utterances: Sequence[Utterance]) -> list[str | None]:
    """The speaker of each utterance, or None where its corpus does not tell speakers apart.

    That is a corpus with one speaker for all of its utterances, or with another speaker for each.
    """
    sizes: dict[str | None, Counter[str]] = defaultdict(Counter)
    for utterance in utterances:
        sizes[utterance.corpus][utterance.speaker] += 1
    without = {corpus for corpus, counts in sizes.items() if len(counts) == 1 or max(counts.values()) == 1}
    return [None if utterance.corpus in without else utterance.speaker for utterance in utterances]


def report_unknown_speakers(utterances: Sequence[Utterance]) -> None:
    """Warn about the corpora of which no utterance gets a context."""
    sizes = Counter(
        utterance.corpus
        for utterance, speaker in zip(utterances, known_speakers(utterances), strict=True)
        if speaker is None
    )
    for corpus, count in sizes.items():
        warn(
            f"{corpus or 'the corpus'} does not tell speakers apart: its {count} utterances train without "
            "voice contexts"
        )


def crop_span(
    config: VoiceConfig | None, seed: int, epoch: int, utterance_id: str, length_s: float
) -> tuple[float, float]:
    """The part of an utterance that an epoch uses, as shares of its length: (0, 1) is all of it."""
    if config is None or not config.crop_probability:
        return 0.0, 1.0
    rng = np.random.default_rng(stable_seed("crop", seed, epoch, utterance_id))
    is_cropped, crop_s, place = rng.random(), rng.uniform(*config.crop_s), rng.random()
    if is_cropped >= config.crop_probability or crop_s >= length_s:
        return 0.0, 1.0
    share = crop_s / length_s
    start = place * (1 - share)
    return start, start + share


def crop(x: Tensor, span: tuple[float, float]) -> Tensor:
    """The part of x (time, …) between two shares of its length; at least one row."""
    if span == (0.0, 1.0):
        return x
    start = min(round(span[0] * len(x)), len(x) - 1)
    return x[start : max(start + 1, round(span[1] * len(x)))]


class VoiceContexts:
    """Draws the contexts of the utterances of a dataset, whose speakers it knows."""

    def __init__(self, config: VoiceConfig, speakers: Sequence[str | None], seed: int) -> None:
        self.config, self.speakers, self.seed = config, list(speakers), seed
        self._usual_of: Tensor | None = None  # the table of `_means`
        self._means: dict[str, Tensor] = {}
        self._members: dict[str, np.ndarray] = {
            name: np.flatnonzero([speaker == name for speaker in speakers])
            for name in {speaker for speaker in speakers if speaker is not None}
        }

    def from_table(self, table: Tensor, epoch: int, indices: Sequence[int]) -> Tensor:
        """The contexts (batch, dim) of the utterances `indices`.

        `table` (utterances, dim) has the statistics of all utterances.
        """
        contexts = table.new_zeros(len(indices), table.shape[1])
        usual = self._usual(table) if self.config.move_probability else {}
        for row, index in enumerate(indices):
            speaker = self.speakers[index]
            if speaker is None:
                continue
            members = self._members[speaker]
            known = self._draw(epoch, index, members[members != index], self.config.max_known)
            if len(known):
                contexts[row] = shrinkage(len(known)) * table[known].mean(dim=0)
            elif speaker in usual:
                contexts[row] = self._move(epoch, index, speaker, usual)
        return contexts

    def _usual(self, table: Tensor) -> dict[str, Tensor]:
        """The mean statistics (dim,) of each speaker with more than `max_known` utterances.

        The few utterances of another speaker may have one emotion alone, which a move would take away.
        """
        if self._usual_of is not table:
            means = {
                name: table[members].mean(dim=0)
                for name, members in sorted(self._members.items())
                if len(members) > self.config.max_known
            }
            self._usual_of, self._means = table, means
        return self._means

    def _move(self, epoch: int, index: int, speaker: str, usual: dict[str, Tensor]) -> Tensor:
        """What to subtract (dim,) from an utterance to move it towards another speaker; or zero."""
        rng = np.random.default_rng(stable_seed("move", self.seed, epoch, index))
        if rng.random() >= self.config.move_probability:
            return torch.zeros_like(usual[speaker])
        other = list(usual)[int(rng.integers(len(usual)))]
        return float(rng.random()) * (usual[speaker] - usual[other])

    def from_batch(self, statistics: Tensor, epoch: int, indices: Sequence[int]) -> Tensor:
        """The contexts (batch, dim) of the utterances `indices`, from their own statistics (batch, dim)."""
        weights = np.zeros((len(indices), len(indices)), dtype=np.float32)
        rows_of: dict[str, list[int]] = defaultdict(list)
        for row, index in enumerate(indices):
            speaker = self.speakers[index]
            if speaker is not None:
                rows_of[speaker].append(row)
        for rows in rows_of.values():
            for row in rows:
                # Sorted by utterance, so that the order in the batch does not matter.
                others = sorted((other for other in rows if other != row), key=lambda other: indices[other])
                known = self._draw(epoch, indices[row], np.array(others, dtype=np.int64), len(others))
                if len(known):
                    weights[row, known] = shrinkage(len(known)) / len(known)
        statistics = statistics.detach()
        with torch.autocast(statistics.device.type, enabled=False):
            return torch.from_numpy(weights).to(statistics) @ statistics

    def with_known(self, table: Tensor, most: int) -> Tensor:
        """Contexts (utterances, dim) of all utterances from their statistics, each of up to `most` others."""
        contexts = torch.zeros_like(table)
        for index, speaker in enumerate(self.speakers):
            if speaker is None:
                continue
            members = self._members[speaker]
            rng = np.random.default_rng(stable_seed("known", self.seed, index))
            known = rng.permutation(members[members != index])[:most]
            if len(known):
                contexts[index] = shrinkage(len(known)) * table[known].mean(dim=0)
        return contexts

    def _draw(self, epoch: int, index: int, others: np.ndarray, most: int) -> np.ndarray:
        """The known utterances among the others of a speaker; empty: none."""
        rng = np.random.default_rng(stable_seed("context", self.seed, epoch, index))
        if rng.random() < self.config.none_probability or not len(others):
            return others[:0]
        count = int(rng.integers(1, min(most, len(others)) + 1))
        return rng.choice(others, count, replace=False)
