"""What the models share: their output, masks, attentive pooling, and the classifier of the teachers."""

import warnings
from collections.abc import Sequence
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
    statistics: Tensor | None = None  # (batch, dim), standardised and pooled, before a voice is subtracted
    dimensions: Tensor | None = None  # (batch, dimensions), about 0 to 1 and not clamped; None: no regressor

    def float32(self) -> "Output":
        """The same in single precision, in which losses are computed whatever the precision of the model."""
        return replace(
            self,
            logits=self.logits.float(),
            embedding=self.embedding.float(),
            projections={name: value.float() for name, value in self.projections.items()},
            hidden_projections={name: value.float() for name, value in self.hidden_projections.items()},
            hidden=None if self.hidden is None else self.hidden.float(),
            dimensions=None if self.dimensions is None else self.dimensions.float(),
        )


def frame_mask(lengths: Tensor | None, num_frames: int) -> Tensor | None:
    """Return lengths (batch,) in frames as a mask (batch, frames), True = valid; None stays None."""
    if lengths is None:
        return None
    return torch.arange(num_frames, device=lengths.device)[None, :] < lengths[:, None]


def zero_padding(x: Tensor, mask: Tensor | None) -> Tensor:
    """Set the padded frames of x (batch, frames, width) to zero; mask (batch, frames), or None for no
    padding.
    """
    return x if mask is None else x * mask[:, :, None].to(x.dtype)


def merge_frames(x: Tensor, lengths: Tensor | None, size: int) -> tuple[Tensor, Tensor | None]:
    """Average each group of `size` consecutive frames of x (batch, frames, width) into one.

    The last group of a row may have fewer valid frames, and is averaged over those. Returns the frames and
    their lengths, or None.
    """
    if size == 1:
        return x, lengths
    mask = frame_mask(lengths, x.shape[1])
    valid = torch.ones_like(x[:1, :, :1]) if mask is None else mask[:, :, None].to(x.dtype)
    # Both are divided by the same number, so the ratio is the mean over the valid frames.
    total, share = (
        F.avg_pool1d(part.transpose(1, 2), size, ceil_mode=True).transpose(1, 2)
        for part in (zero_padding(x, mask), valid)
    )
    merged = total / share.clamp(min=1 / (2 * size))
    return merged, None if lengths is None else (lengths - 1) // size + 1


class AttentiveStatistics(nn.Module):
    """Attentive statistics pooling with several heads (Okabe et al. 2018, arXiv 1803.10963, equations 5 and
    6).

    The width is cut into `num_heads` equal slices. Each head gives one softmax weight to every frame, and
    returns the weighted mean and standard deviation of its slice over time. The weights are uniform at first,
    so an untrained pooling returns plain means and standard deviations. Raises `ConfigError` for a width that
    the heads do not divide.
    """

    def __init__(self, width: int, num_heads: int = 4, hidden: int = 64) -> None:
        super().__init__()
        if width % num_heads:
            raise ConfigError(
                f"bad pooled width {width}, expected a multiple of {num_heads}, the heads of the pooling; "
                "change student.width or student.pool"
            )
        self.num_heads = num_heads
        last = nn.Linear(hidden, num_heads)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.score = nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), last)
        self.slices: Tensor  # (heads, width), 1 where a dimension belongs to a head's slice
        self.register_buffer(
            "slices", torch.eye(num_heads).repeat_interleave(width // num_heads, dim=1), persistent=False
        )

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return (batch, 2 * width) for x (batch, frames, width) and mask (batch, frames) or None."""
        if torch.is_autocast_enabled(x.device.type):  # squares overflow in half precision
            with torch.autocast(x.device.type, enabled=False):
                return self.forward(x.float(), mask)
        scores = self.score(x)
        if mask is not None:
            scores = scores.masked_fill(~mask[:, :, None], float("-inf"))
        weights = scores.softmax(dim=1).transpose(1, 2)  # (batch, heads, frames)
        # One product for all heads is fastest: each head weighs every dimension, and `slices` keeps its own.
        mean = (weights @ x * self.slices).sum(dim=1)
        # Detaching the mean is exact: the weighted deviations sum to zero, so the derivative by the mean is
        # zero. Squaring in place saves a copy unless autograd needs one.
        squares = (x - mean.detach()[:, None]).square_()
        variance = (weights @ squares * self.slices).sum(dim=1)
        return torch.cat([mean, (variance + 1e-5).sqrt()], dim=1)


class PlainStatistics(nn.Module):
    """The mean and the standard deviation over time."""

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return (batch, 2 * width) for x (batch, frames, width) and mask (batch, frames) or None."""
        if torch.is_autocast_enabled(x.device.type):  # squares overflow in half precision
            with torch.autocast(x.device.type, enabled=False):
                return self.forward(x.float(), mask)
        x = zero_padding(x, mask)
        weight = 1 / x.shape[1] if mask is None else 1 / mask.sum(dim=1, keepdim=True).to(x.dtype)
        mean = x.sum(dim=1) * weight
        variance = zero_padding(x - mean[:, None], mask).square().sum(dim=1) * weight
        return torch.cat([mean, (variance + 1e-5).sqrt()], dim=1)


class FrameQueries(nn.Module):
    """Learned queries that attend over frames with several heads (Vaswani et al. 2017, arXiv 1706.03762).

    Means and deviations lose the order of frames, and most of what single words say. A query can attend to a
    few frames. The result is zero at first, so training starts from the statistics alone.
    """

    HEAD_WIDTH = 64

    def __init__(self, width: int, num_queries: int, dim: int) -> None:
        super().__init__()
        self.num_heads = max(1, width // self.HEAD_WIDTH) if width % self.HEAD_WIDTH == 0 else 1
        self.queries = nn.Parameter(torch.randn(num_queries, width) / width**0.5)
        self.norm = nn.LayerNorm(width)
        self.keys_and_values = nn.Linear(width, 2 * width)
        self.out = nn.Linear(num_queries * width, dim)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return (batch, dim) for x (batch, frames, width) and mask (batch, frames) or None."""
        batch, frames, width = x.shape
        keys, values = (
            part.view(batch, frames, self.num_heads, -1).transpose(1, 2)  # (batch, heads, frames, …)
            for part in self.keys_and_values(self.norm(x)).chunk(2, dim=2)
        )
        scores = self.by_head() @ keys.transpose(2, 3) / (width / self.num_heads) ** 0.5
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None, None, :], float("-inf"))
        attended = (scores.softmax(dim=3) @ values).transpose(1, 2).flatten(1)
        result: Tensor = self.out(attended)
        return result

    def by_head(self) -> Tensor:
        """Return the queries as each head uses them, (heads, queries, width / heads)."""
        return self.queries.view(len(self.queries), self.num_heads, -1).transpose(0, 1)


class CosineClassifier(nn.Module):
    """A linear classifier on directions: logit_k = s · cos(embedding, weight_k), with a learned scale s.

    Only the direction of an embedding counts. So a student's projection that has cosine 1 with a teacher's
    embedding gets the teacher's own logits from the teacher's classifier.
    """

    def __init__(self, dim: int, num_classes: int, scale: float = 10.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_classes, dim) / dim**0.5)
        self.log_scale = nn.Parameter(torch.tensor(scale).log())
        self.requires_grad_(num_classes > 0)

    def forward(self, embedding: Tensor) -> Tensor:
        """Return logits (batch, classes) for embedding (batch, dim)."""
        cosine = F.normalize(embedding, dim=1) @ F.normalize(self.weight, dim=1).T
        return cosine * self.log_scale.exp()


def linear_classifier(dim: int, num_classes: int) -> nn.Linear:
    """Return a linear classifier. Without emotions it is empty and not trained."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Initializing zero-element tensors")
        return nn.Linear(dim, num_classes).requires_grad_(num_classes > 0)


def make_regressor(dim: int, dimensions: Sequence[str]) -> nn.Linear | None:
    """Return a linear layer that predicts dimensions; None where there are none.

    It starts at the middle of the scale, 0.5. A model makes it last, so that the random weights of all other
    layers are the same with and without dimensions.
    """
    if not dimensions:
        return None
    regressor = nn.Linear(dim, len(dimensions))
    nn.init.constant_(regressor.bias, 0.5)
    return regressor
