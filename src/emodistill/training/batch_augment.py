"""Augmentation of a whole batch on the model's device: time masks and mixup."""

import torch
from torch import Tensor

from emodistill.models.layers import frame_mask


def zero_beyond_lengths(inputs: Tensor, lengths: Tensor) -> Tensor:
    """Set inputs (batch, time, …) to zero beyond their lengths (batch,)."""
    inside = frame_mask(lengths, inputs.shape[1])
    assert inside is not None
    return inputs.masked_fill(~inside.reshape(*inside.shape, *[1] * (inputs.ndim - 2)), 0)


def mask_time(inputs: Tensor, lengths: Tensor, most: float) -> Tensor:
    """Set two stretches of each input (batch, time, …) to zero (Park et al. 2019, arXiv 1904.08779).

    The time axis counts samples or states. Each stretch lies within the input. Its length is uniform between
    0 and `most` of the input's. Random numbers are drawn on the CPU, so they do not depend on the device.
    """
    size = torch.rand(2, len(inputs)).to(inputs.device) * most * lengths
    start = torch.rand(2, len(inputs)).to(inputs.device) * (lengths - size)
    middle = torch.arange(inputs.shape[1], device=inputs.device) + 0.5
    masked = ((middle >= start[..., None]) & (middle < (start + size)[..., None])).any(dim=0)
    return inputs.masked_fill(masked.reshape(*masked.shape, *[1] * (inputs.ndim - 2)), 0)


def draw_mixup(size: int, a: float) -> tuple[float, Tensor]:
    """Draw λ ≥ ½ and a partner for each of `size` inputs, for mixup (Zhang et al. 2018, arXiv 1710.09412).

    The mixed input is λ times its own plus 1 − λ times its partner's. λ is drawn from Beta(a, a) once a
    batch. The larger of λ and 1 − λ is taken, because the mixed input keeps its own length.
    """
    concentration = torch.tensor(a, dtype=torch.float64)
    share = float(torch.distributions.Beta(concentration, concentration).sample())
    return max(share, 1 - share), torch.randperm(size)
