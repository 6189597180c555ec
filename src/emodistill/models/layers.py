"""Parts that all models share: masks, pooling, the scaled cosine classifier, and their common output."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emodistill.errors import ConfigError


@dataclass
class Output:
    """The outputs of a model for a batch."""

    logits: Tensor  # (batch, emotions)
    embedding: Tensor  # (batch, dim), L2-normalised
    # What the projection heads of a student make of its embedding and of its frame-level states.
    projections: dict[str, Tensor] = field(default_factory=dict)  # teacher -> (batch, its dim)
    hidden_projections: dict[str, Tensor] = field(
        default_factory=dict
    )  # teacher -> (batch, frames, its width)
    hidden: Tensor | None = None  # (batch, frames, width), the states that are pooled
    mask: Tensor | None = None  # (batch, frames), True = valid; None: all are
    classifier_input: Tensor | None = None  # (batch, dim), the input of a student's classifier

    def float32(self) -> "Output":
        """The same in single precision, in which losses are computed whatever the precision of the model."""
        return replace(
            self,
            logits=self.logits.float(),
            embedding=self.embedding.float(),
            projections={name: value.float() for name, value in self.projections.items()},
            hidden_projections={name: value.float() for name, value in self.hidden_projections.items()},
            hidden=None if self.hidden is None else self.hidden.float(),
        )


def frame_mask(lengths: Tensor | None, num_frames: int) -> Tensor | None:
    """Lengths (batch,) in frames -> mask (batch, frames), True = valid; None stays None."""
    if lengths is None:
        return None
    return torch.arange(num_frames, device=lengths.device)[None, :] < lengths[:, None]


def zero_padding(x: Tensor, mask: Tensor | None) -> Tensor:
    """Set padded frames of (batch, frames, width) to zero, as if the utterance ended there."""
    return x if mask is None else x * mask[:, :, None].to(x.dtype)


class AttentiveStatistics(nn.Module):
    """Attentive statistics pooling (Okabe et al. 2018, arXiv 1803.10963), several heads.

    Frames (batch, frames, width) and a mask -> (batch, 2 * width): for each of `num_heads` equal slices
    of the width, the mean and the standard deviation over frames under softmax weights of its own.
    The weights start uniform, so that an untrained pooling is plain mean and standard deviation.
    """

    def __init__(self, width: int, num_heads: int = 4, hidden: int = 64) -> None:
        super().__init__()
        if width % num_heads:
            raise ConfigError(
                f"attentive pooling over {num_heads} heads needs a width that they divide, got {width}"
            )
        self.num_heads = num_heads
        last = nn.Linear(hidden, num_heads)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.score = nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), last)
        self.slices: Tensor  # (heads, width), 1 where a dimension is of a head's slice
        self.register_buffer(
            "slices", torch.eye(num_heads).repeat_interleave(width // num_heads, dim=1), persistent=False
        )

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x : (batch, frames, width); mask : (batch, frames) or None -> (batch, 2 * width)."""
        if torch.is_autocast_enabled(x.device.type):  # half precision would overflow in the squares
            with torch.autocast(x.device.type, enabled=False):
                return self.forward(x.float(), mask)
        scores = self.score(x)
        if mask is not None:
            scores = scores.masked_fill(~mask[:, :, None], float("-inf"))
        weights = scores.softmax(dim=1).transpose(1, 2)  # (batch, heads, frames)
        # One pass over x for all heads: each weighs every dimension, and only its own slice is kept.
        mean = (weights @ x * self.slices).sum(dim=1)
        # The derivative by the mean is zero: deviations from it, so weighted, sum to zero. They are squared in place,
        # which costs a copy only where autograd must keep them.
        squares = (x - mean.detach()[:, None]).square_()
        variance = (weights @ squares * self.slices).sum(dim=1)
        return torch.cat([mean, (variance + 1e-5).sqrt()], dim=1)


class CosineClassifier(nn.Module):
    """logits = s * cos(embedding, class vector), s learned.

    Since only the direction of an embedding counts, a student whose projected embedding has cosine 1
    with a teacher's gets exactly that teacher's answer from the teacher's frozen classifier.
    """

    def __init__(self, dim: int, num_classes: int, scale: float = 10.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_classes, dim) / dim**0.5)
        self.log_scale = nn.Parameter(torch.tensor(scale).log())

    def forward(self, embedding: Tensor) -> Tensor:
        """embedding : (batch, dim) -> logits (batch, classes)."""
        cosine = F.normalize(embedding, dim=1) @ F.normalize(self.weight, dim=1).T
        return cosine * self.log_scale.exp()
