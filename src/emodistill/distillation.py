"""The losses of the method, pure functions, and their weighted sum.

    L = γ CE(z_s, y) + Σ_t w_t [ α τ² KL(softmax(z_t/τ) ‖ softmax(z_s/τ)) + β d(P_t(h_s), e_t) + hidden ]

after Shome & Etemad (2024), arXiv 2309.04849: two teachers, each heard at the level of logits and of
embeddings. Subscript s is the student, t a teacher; z are logits, e and h embeddings, y the label.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from emodistill.config import DistillationConfig
from emodistill.models.layers import Output


@dataclass
class Targets:
    """What one teacher says of a batch."""

    logits: Tensor  # (batch, emotions)
    embedding: Tensor  # (batch, dim)
    available: Tensor  # (batch,), False where the teacher has nothing to say (no transcript)
    hidden: Tensor | None = None  # (batch, frames, width)


def hard_label_loss(
    logits: Tensor,
    labels: Tensor,
    class_weights: Tensor | None = None,
    smoothing: float = 0.0,
    possible: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """CE(z_s, y): cross entropy; logits (batch, emotions), labels (batch,).

    With class weights c: Σ c_y CE / Σ c_y. With smoothing ε the label is (1 − ε) one-hot + ε / classes
    (Szegedy et al. 2016, arXiv 1512.00567). Where corpora are pooled, `possible` (batch, emotions) is false
    for the emotions that an utterance's corpus lacks: the softmax is then over the others alone, since the
    corpus says nothing of whether it might have been one of those. `weights` (batch,) are of the utterances
    and multiply those of the classes.
    """
    if possible is None and weights is None:
        return F.cross_entropy(logits, labels, weight=class_weights, label_smoothing=smoothing)
    if possible is None:
        possible = torch.ones_like(logits, dtype=torch.bool)
    log = _within(logits, possible).log_softmax(dim=1)
    true = -log.gather(1, labels[:, None])[:, 0]
    even = -(log * possible).sum(dim=1) / possible.sum(dim=1)
    weight = torch.ones_like(true) if class_weights is None else class_weights[labels]
    weight = weight if weights is None else weight * weights
    return (weight * ((1 - smoothing) * true + smoothing * even)).sum() / weight.sum()


def logit_loss(
    student: Tensor,
    teacher: Tensor,
    temperature: float,
    available: Tensor,
    possible: Tensor | None = None,
) -> Tensor:
    """τ² KL(softmax(z_t/τ) ‖ softmax(z_s/τ)), mean over the utterances available.

    Hinton et al. 2015, arXiv 1503.02531; τ² keeps the gradient's size the same for every τ. `possible` as in
    `hard_label_loss`: both distributions are over those emotions alone.
    """
    if possible is not None:
        student, teacher = _within(student, possible), _within(teacher, possible)
    target = (teacher / temperature).log_softmax(dim=1)
    said = (student / temperature).log_softmax(dim=1)
    return temperature**2 * _masked_mean((target.exp() * (target - said)).sum(dim=1), available)


def embedding_loss(projected: Tensor, teacher: Tensor, distance: str, available: Tensor) -> Tensor:
    """d(P_t(h_s), e_t) for embeddings (batch, dim), mean over the utterances available.

    cosine: 1 − cos; mse: squared difference summed over dim of the L2-normalised embeddings, which is
    2 (1 − cos); l1: their absolute difference summed over dim.
    """
    a, b = F.normalize(projected, dim=1), F.normalize(teacher, dim=1)
    if distance == "cosine":
        return _masked_mean(1 - (a * b).sum(dim=1), available)
    difference = (a - b) ** 2 if distance == "mse" else (a - b).abs()
    return _masked_mean(difference.sum(dim=1), available)


def hidden_loss(student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
    """1 − cos between frame-level states, mean over valid frames; both (batch, frames, width).

    Whichever has more frames a second is averaged down to the other's rate (a whole ratio).
    """
    ratio = round(teacher.shape[1] / student.shape[1])
    if ratio > 1:
        teacher = F.avg_pool1d(teacher.transpose(1, 2), ratio).transpose(1, 2)
    ratio = round(student.shape[1] / teacher.shape[1])
    if ratio > 1:
        student = F.avg_pool1d(student.transpose(1, 2), ratio).transpose(1, 2)
        mask = None if mask is None else mask[:, ratio - 1 :: ratio]
    frames = min(student.shape[1], teacher.shape[1])
    cosine = F.cosine_similarity(student[:, :frames], teacher[:, :frames], dim=2)
    heard = teacher[:, :frames].abs().sum(dim=2) > 0  # padding of the targets is zero
    valid = heard if mask is None else heard & mask[:, :frames]
    return _masked_mean((1 - cosine).flatten(), valid.flatten())


def distillation_loss(
    output: Output,
    hard: Tensor,
    targets: Mapping[str, Targets],
    config: DistillationConfig,
    possible: Tensor | None = None,
) -> dict[str, Tensor]:
    """Every weighted term of the sum by name, and the sum itself as `loss`; `hard` is the CE term."""
    terms = {"hard": config.gamma * hard}
    for name, target in targets.items():
        weight = config.weight(name)
        if weight * config.alpha:
            value = logit_loss(output.logits, target.logits, config.temperature, target.available, possible)
            terms[f"{name}/logit"] = weight * config.alpha * value
        if weight * config.beta:
            projected = output.projections[name]
            value = embedding_loss(projected, target.embedding, config.distance, target.available)
            terms[f"{name}/embedding"] = weight * config.beta * value
        if weight * config.hidden and target.hidden is not None:
            value = hidden_loss(output.projections[f"{name}_hidden"], target.hidden, output.mask)
            terms[f"{name}/hidden"] = weight * config.hidden * value
    terms["loss"] = torch.stack(list(terms.values())).sum()
    return terms


def _within(logits: Tensor, possible: Tensor) -> Tensor:
    """Logits with those of the other emotions so low that their probability is 0, and the loss finite."""
    return logits.masked_fill(~possible, -1e4)


def _masked_mean(values: Tensor, available: Tensor) -> Tensor:
    weight = available.to(values.dtype)
    return (values * weight).sum() / weight.sum().clamp(min=1.0)
