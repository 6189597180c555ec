"""The prosodic teacher: a 2-D ResNet over LLDs and time (eGeMAPSv02, 25 LLDs every 10 ms).

Neighbouring LLDs are unrelated, so the first kernel spans all of them (25 x 5). The residual blocks then
convolve along time.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emodistill.config import ProsodicConfig
from emodistill.features.llds import NUM_LLDS
from emodistill.models.layers import CosineClassifier, Output, frame_mask, make_regressor

Array = npt.NDArray[Any]

# Columns of eGeMAPSv02 that are transformed; the others are used as they are.
_LOG_OFFSETS = {0: 0.01, 5: 0.001, 11: 0.001, 12: 0.05}  # loudness, spectral flux, jitter, shimmer
_BANDWIDTHS = (17, 20, 23)  # of formants, Hz
_AMPLITUDES = (18, 21, 24)  # of formants, dB relative to F0; -201 in frames without F0
_F0 = 10  # semitones; 0 in unvoiced frames
_VOICED_ONLY = slice(10, NUM_LLDS)  # columns that are valid in voiced frames only
_CLIP = 4.0  # standard deviations

# Columns of the model's input, see `make_planes`.
_Z, _U, _VOICING = slice(0, 25), slice(25, 50), slice(50, 51)
_STATISTICS = slice(51, 101)
NUM_PLANES = 101


def transform_llds(llds: Array) -> tuple[Array, Array]:
    """Take logarithms of skewed LLDs; returns LLDs and their validity, 1 = valid, both (frames, 25)."""
    out = llds.astype(np.float32).copy()
    voiced = out[:, _F0] > 0
    for column, offset in _LOG_OFFSETS.items():
        out[:, column] = np.log(np.maximum(out[:, column], 0) + offset)
    for column in _BANDWIDTHS:
        out[:, column] = np.log(np.maximum(out[:, column], 10.0))
    for column in _AMPLITUDES:
        out[:, column] = np.maximum(out[:, column], -80.0)
    valid = np.ones_like(out)
    valid[:, _VOICED_ONLY] = voiced[:, None]
    return out, valid


def lld_statistics(llds: list[Array]) -> tuple[Array, Array]:
    """Return mean and standard deviation, each (25,), over the valid frames of all utterances' raw LLDs."""
    pairs = [transform_llds(item) for item in llds]
    values, valid = np.concatenate([pair[0] for pair in pairs]), np.concatenate([pair[1] for pair in pairs])
    count = np.maximum(valid.sum(axis=0), 1)
    mean = (values * valid).sum(axis=0, dtype=np.float64) / count
    variance = ((values - mean) ** 2 * valid).sum(axis=0, dtype=np.float64) / count
    return mean.astype(np.float32), np.sqrt(np.maximum(variance, 1e-8)).astype(np.float32)


def make_planes(llds: Array, mean: Array, std: Array) -> Array:
    """Return the model's input (frames of 20 ms, 101) for raw LLDs (frames of 10 ms, 25).

    Columns 0 to 24 are z, the LLDs normalised by `mean` and `std` of the training split. Columns 25 to 49 are
    u, z minus the utterance's own mean. Column 50 is the share of voiced frames. The others are the means and
    the deviations of z over the utterance, the same in every frame.
    """
    values, valid = transform_llds(llds)
    z = np.clip((values - mean) / std, -_CLIP, _CLIP) * valid
    count = np.maximum(valid.sum(axis=0), 1)
    own_mean = z.sum(axis=0) / count
    own_std = np.maximum(np.sqrt(((z - own_mean) ** 2 * valid).sum(axis=0) / count), 0.2)
    voicing = valid[:, -1:]
    if len(z) % 2:
        z, valid, voicing = (np.pad(item, ((0, 1), (0, 0))) for item in (z, valid, voicing))
    weight = valid.reshape(-1, 2, NUM_LLDS).sum(axis=1)
    z = z.reshape(-1, 2, NUM_LLDS).sum(axis=1) / np.maximum(weight, 1)
    u = (z - own_mean) * (weight > 0)
    own = np.broadcast_to(np.concatenate([own_mean, own_std]), (len(z), 2 * NUM_LLDS))
    return np.concatenate([z, u, voicing.reshape(-1, 2, 1).mean(axis=1), own], axis=1).astype(np.float32)


def augment_planes(planes: Array, config: ProsodicConfig, rng: np.random.Generator) -> Array:
    """Return planes (frames, 101) with random changes, as `config` says.

    They are stretched and cropped in time, noise and offsets are added to the LLDs, and frames and LLDs are
    masked (SpecAugment, Park et al. 2019, arXiv 1904.08779).
    """
    low, high = 1 - config.stretch, 1 / (1 - config.stretch)
    rate = low * (high / low) ** rng.random()
    kept = len(planes) * (1 - config.crop * rng.random())
    start = rng.random() * (len(planes) - kept)
    frames = max(min(8, len(planes)), int(kept * rate))
    out = planes[np.minimum((start + np.arange(frames) / rate).astype(int), len(planes) - 1)].copy()
    valid = out[:, _U] != 0
    out[:, _Z] += config.noise * rng.standard_normal(valid.shape) * valid
    offset = config.offset * rng.standard_normal(NUM_LLDS)
    out[:, _Z] += offset * valid
    out[:, 51:76] += offset  # the utterance's own means
    for _ in range(config.time_masks):
        width = int(0.15 * rng.random() * frames)
        begin = int(rng.random() * (frames - width))
        out[begin : begin + width, :51] = 0
    masked = rng.permutation(NUM_LLDS)[: rng.integers(0, config.lld_masks + 1)]
    out[:, masked] = 0
    out[:, 25 + masked] = 0
    return out.astype(np.float32)


class ResidualBlock(nn.Module):
    """Two convolutions along time and a shortcut (He et al. 2016, arXiv 1512.03385)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = nn.Conv2d(channels_in, channels_out, (1, 3), (1, stride), (0, 1), bias=False)
        self.norm1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, (1, 3), 1, (0, 1), bias=False)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.shortcut: nn.Module | None = None
        if stride != 1 or channels_in != channels_out:
            conv = nn.Conv2d(channels_in, channels_out, 1, (1, stride), bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(channels_out))

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Return (batch, channels, 1, frames / stride).

        x : (batch, channels, 1, frames); valid : (batch, 1, 1, frames / stride), 1 = valid.
        """
        out = F.relu(self.norm1(self.conv1(x))) * valid
        out = self.norm2(self.conv2(out))
        return F.relu(out + (x if self.shortcut is None else self.shortcut(x))) * valid


class ProsodicTeacher(nn.Module):
    """Maps the output of `make_planes`, (batch, frames, 101), and numbers of frames to an `Output`.

    Mean and standard deviation of the training split's LLDs are saved with the weights. Attentive statistics
    pooling has one weight for each frame and channel. The utterance's own statistics of the LLDs are added to
    its result.
    """

    def __init__(self, config: ProsodicConfig, num_classes: int, dimensions: Sequence[str] = ()) -> None:
        super().__init__()
        self.config, self.dimensions = config, tuple(dimensions)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(NUM_LLDS))
        self.register_buffer("std", torch.ones(NUM_LLDS))
        width, wide = config.width, config.width * 3 // 2
        self.stem = nn.Conv2d(3, width, (NUM_LLDS, 5), (1, 2), (0, 2), bias=False)
        self.stem_norm = nn.BatchNorm2d(width)
        blocks = [
            ResidualBlock(width, width, 1),
            ResidualBlock(width, width, 2),
            ResidualBlock(width, wide, 2),
        ]
        self.blocks = nn.ModuleList(blocks)
        self.strides = [block.stride for block in blocks]
        self.attend = nn.Sequential(nn.Linear(wide, 64), nn.Tanh(), nn.Linear(64, wide))
        pooled = 2 * wide + 2 * NUM_LLDS
        self.norm = nn.BatchNorm1d(pooled)
        self.dropout = nn.Dropout(config.dropout)
        self.embed = nn.Linear(pooled, config.embedding_dim)
        self.classifier = CosineClassifier(config.embedding_dim, num_classes)
        self.regressor = make_regressor(config.embedding_dim, self.dimensions)

    def set_normalisation(self, mean: Array, std: Array) -> None:
        """Set the statistics of the training split, each (25,), see `lld_statistics`."""
        self.mean.copy_(torch.from_numpy(mean))
        self.std.copy_(torch.from_numpy(std))

    def forward(self, x: Tensor, lengths: Tensor | None) -> Output:
        """x : (batch, frames, 101); lengths : (batch,) in frames, or None."""
        lengths = torch.full((len(x),), x.shape[1], device=x.device) if lengths is None else lengths
        own = x[:, 0, _STATISTICS]
        # Voicing fills a whole channel, scaled so that its 25 equal rows weigh as much as one row of the
        # others.
        voicing = x[..., _VOICING].expand(-1, -1, NUM_LLDS) / NUM_LLDS**0.5
        channels = torch.stack([x[..., _Z], x[..., _U], voicing], dim=1)
        lengths = (lengths + 1) // 2
        out = F.relu(self.stem_norm(self.stem(channels.transpose(2, 3))))
        out = out * _valid(lengths, out.shape[3])
        for block, stride in zip(self.blocks, self.strides, strict=True):
            lengths = (lengths - 1) // stride + 1
            out = block(out, _valid(lengths, (out.shape[3] - 1) // stride + 1))
        frames = out[:, :, 0].transpose(1, 2)  # (batch, frames, channels)
        mask = frame_mask(lengths, frames.shape[1])
        assert mask is not None
        weights = self.attend(frames).masked_fill(~mask[:, :, None], float("-inf")).softmax(dim=1)
        mean = (weights * frames).sum(dim=1)
        deviation = ((weights * frames**2).sum(dim=1) - mean**2).clamp(min=1e-4).sqrt()
        pooled = self.norm(torch.cat([mean, deviation, own], dim=1))
        embedding = F.normalize(self.embed(self.dropout(pooled)), dim=1)
        dimensions = None if self.regressor is None else self.regressor(embedding)
        return Output(self.classifier(embedding), embedding, dimensions=dimensions)


def _valid(lengths: Tensor, frames: int) -> Tensor:
    """Return lengths (batch,) as (batch, 1, 1, frames), 1 = valid."""
    mask = frame_mask(lengths, frames)
    assert mask is not None
    return mask[:, None, None, :].float()
