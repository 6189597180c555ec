"""The labels, votes and dimensions of utterances as tensors, and how much each counts in the loss on them."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from emodistill.config import OptimConfig
from emodistill.corpora.base import Utterance, vote_distribution
from emodistill.labels import LabelSet


def label_indices(utterances: Sequence[Utterance], labels: LabelSet) -> list[int]:
    """The label of each utterance's emotion; 0 without emotion, where `label_weights` is 0.

    All are 0 where `labels` is empty, because the model learns no emotions.
    """
    if not len(labels):
        return [0] * len(utterances)
    return [0 if item.emotion is None else labels.index(item.emotion) for item in utterances]


def dimension_labels(
    utterances: Sequence[Utterance], dimensions: Sequence[str], dtype: torch.dtype = torch.float32
) -> Tensor | None:
    """The dimensions of each utterance from 0 to 1, (utterances, dimensions); NaN where it has no label.

    None: the model has no dimensions. Raises `CorpusError` as `Utterance.unit_dimensions` does.
    """
    if not dimensions:
        return None
    rows = [utterance.unit_dimensions() for utterance in utterances]
    values = [[row.get(name, math.nan) for name in dimensions] for row in rows]
    return torch.tensor(values, dtype=dtype).reshape(len(rows), len(dimensions))


def vote_shares(utterances: Sequence[Utterance], labels: LabelSet) -> Tensor | None:
    """The share of each emotion in an utterance's votes, (utterances, emotions); None: no utterance has any.

    Votes for emotions outside of the label set are left out. A row is NaN where no vote remains: then the
    utterance's label counts.
    """
    rows = [vote_distribution(utterance.vote_counts(), labels) for utterance in utterances]
    if all(row is None for row in rows):
        return None
    nothing = [float("nan")] * len(labels)
    return torch.tensor([nothing if row is None else row for row in rows])


def possible_emotions(
    utterances: Sequence[Utterance], labels: LabelSet, votes: Tensor | None = None
) -> Tensor | None:
    """The emotions that each utterance's corpus contains, (utterances, emotions); None: all contain all.

    An emotion that no corpus contains stays possible for all utterances. So the model learns that it is
    improbable, and its logit is not left to chance. With `votes`, the result of `vote_shares`, a corpus also
    contains the emotions that its listeners chose.
    """
    if not len(labels):
        return None
    by_corpus: dict[str | None, set[int]] = defaultdict(set)
    for utterance, label in zip(utterances, label_indices(utterances, labels), strict=True):
        if utterance.emotion is not None:
            by_corpus[utterance.corpus].add(label)
    if votes is not None:
        for row, chosen in (votes > 0).nonzero().tolist():
            by_corpus[utterances[row].corpus].add(chosen)
    in_no_corpus = set(range(len(labels))).difference(*by_corpus.values())
    everything = set(range(len(labels)))
    allowed = [by_corpus.get(item.corpus, everything) | in_no_corpus for item in utterances]
    possible = torch.tensor([[label in each for label in range(len(labels))] for each in allowed])
    return None if possible.all() else possible


def label_weights(
    utterances: Sequence[Utterance], power: float, votes: Tensor | None = None
) -> Tensor | None:
    """The weight of each utterance in the loss on labels, (utterances,): 0 without an emotion or `votes`.

    Otherwise it is corpus_size ** -power, and 1 on average; power = 1 weighs corpora equally. None: all weigh
    the same. `votes` is the result of `vote_shares`, where the model learns from votes.
    """
    labelled = torch.tensor([utterance.emotion is not None for utterance in utterances])
    if votes is not None:
        labelled |= ~votes[:, 0].isnan()
    if not power and labelled.all():
        return None
    sizes = Counter(
        utterance.corpus for utterance, counts in zip(utterances, labelled.tolist(), strict=True) if counts
    )
    weights = torch.tensor([float(max(1, sizes[utterance.corpus])) ** -power for utterance in utterances])
    return torch.where(labelled, weights / weights[labelled].mean(), 0.0)


def inverse_frequencies(
    labels: Sequence[int], num_classes: int, weights: Tensor | None, votes: Tensor | None
) -> Tensor:
    """The weight of each class, (classes,): 1 on average over labelled utterances, 0 for an absent class.

    Where a model learns from `votes`, an utterance counts for each class by its share of the votes. `weights`
    are those of `label_weights`.
    """
    shares = np.eye(num_classes)[np.array(labels, dtype=int)]
    if votes is not None:
        shares = np.where(votes.isnan().numpy(), shares, votes.double().numpy())
    if weights is not None:
        shares = shares[weights.numpy() > 0]
    counts = shares.sum(axis=0)
    num_present = max(1, (counts > 0).sum())
    inverse = np.divide(len(shares), counts, out=np.zeros_like(counts), where=counts > 0)
    return torch.tensor(inverse / num_present, dtype=torch.float32)


def training_targets(
    utterances: Sequence[Utterance], labels: LabelSet, optim: OptimConfig, dimensions: Sequence[str]
) -> dict[str, Tensor | None]:
    """All tensors that a dataset has beside the labels, by the name of its parameter.

    Votes are those that the model learns from: None where `optim.targets` is label.
    """
    votes = vote_shares(utterances, labels) if optim.targets == "votes" else None
    return {
        "possible": possible_emotions(utterances, labels, votes),
        "weights": label_weights(utterances, optim.corpus_weights, votes) if len(labels) else None,
        "dimensions": dimension_labels(utterances, dimensions),
        "votes": votes,
    }
