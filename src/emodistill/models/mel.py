"""The log-mel spectrogram, and its augmentation in training."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.audio_utils import hertz_to_mel, mel_filter_bank, mel_to_hertz

from emodistill.audio.waveform import FRAME_SAMPLES, SAMPLE_RATE
from emodistill.models.layers import frame_mask, zero_padding

FFT_SAMPLES = 400  # 25 ms


class LogMel(nn.Module):
    """Whisper's log-mel spectrogram at the true length of the utterance (Radford et al. 2022, arXiv
    2212.04356).

    Unlike Whisper, the ends are padded with zeros. The floor is 80 dB below the maximum of the utterance
    itself. The DFT is a convolution with fixed windowed kernels, because ONNX Runtime computes that several
    times faster than its STFT.

    The computation is always in float32. In bfloat16, rounding would hide everything more than about 50 dB
    below the peaks, and only in training.
    """

    def __init__(self, num_mels: int = 80) -> None:
        super().__init__()
        self.warp, self.band_mask = 0.0, 0.0  # in training only; a student sets them
        time = np.arange(FFT_SAMPLES)
        window = 0.5 - 0.5 * np.cos(2 * np.pi * time / FFT_SAMPLES)
        angle = 2 * np.pi * np.outer(np.arange(FFT_SAMPLES // 2 + 1), time) / FFT_SAMPLES
        kernels = np.concatenate([np.cos(angle), -np.sin(angle)]) * window
        filters = mel_filter_bank(
            FFT_SAMPLES // 2 + 1,
            num_mels,
            0.0,
            SAMPLE_RATE / 2,
            SAMPLE_RATE,
            norm="slaney",
            mel_scale="slaney",
        )
        self.kernels: Tensor
        self.filters: Tensor
        self.register_buffer("kernels", torch.tensor(kernels, dtype=torch.float32)[:, None], persistent=False)
        self.register_buffer("filters", torch.tensor(filters, dtype=torch.float32), persistent=False)

    def forward(self, waveform: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return log-mels (batch, samples // 160, mels) and their lengths in frames, or None.

        waveform : (batch, samples); lengths : (batch,) in samples, or None.
        """
        if torch.is_autocast_enabled(waveform.device.type):
            with torch.autocast(waveform.device.type, enabled=False):
                return self.forward(waveform.float(), lengths)
        num_frames = waveform.shape[1] // FRAME_SAMPLES
        padded = F.pad(waveform[:, None], (FFT_SAMPLES // 2, FFT_SAMPLES // 2))
        real, imaginary = F.conv1d(padded, self.kernels, stride=FRAME_SAMPLES).chunk(2, dim=1)
        power = (real**2 + imaginary**2)[:, :, :num_frames].transpose(1, 2)
        log = (power @ self.filters).clamp(min=1e-10).log10()
        lengths = None if lengths is None else lengths // FRAME_SAMPLES
        mask = frame_mask(lengths, num_frames)
        visible = log if mask is None else log.masked_fill(~mask[:, :, None], -10.0)
        log = torch.maximum(log, visible.amax(dim=(1, 2), keepdim=True) - 8.0)
        log = (log + 4.0) / 4.0
        if self.training and self.warp:
            log = warp_frequencies(log, self.warp)
        if self.training and self.band_mask:
            log = mask_bands(log, self.band_mask)
        return zero_padding(log, mask), lengths


def warp_frequencies(mel: Tensor, limit: float) -> Tensor:
    """Multiply the frequencies of each utterance by a random factor in 1 ± `limit`; mel : (batch, frames,
    mels).

    This is vocal tract length perturbation (Jaitly & Hinton 2013): formants and pitch move as with another
    speaker, and time does not change. Beyond the ends of the frequency axis, its outermost band is repeated.
    Factors are drawn on the CPU, so that they do not depend on the device.
    """
    num_mels = mel.shape[2]
    factors = 1 + limit * (2 * torch.rand(len(mel)).numpy() - 1)
    edges = np.linspace(0.0, hertz_to_mel(SAMPLE_RATE / 2, "slaney"), num_mels + 2)
    centres_hz = mel_to_hertz(edges[1:-1], "slaney")
    source = hertz_to_mel(factors[:, None] * centres_hz, "slaney") / edges[1] - 1  # in bands, (batch, mels)
    lower = np.clip(np.floor(source).astype(int), 0, num_mels - 2)
    share = torch.from_numpy(np.clip(source - lower, 0.0, 1.0)).to(mel)[:, None]
    index = torch.from_numpy(lower).to(mel.device)[:, None].expand_as(mel)
    return mel.gather(2, index) * (1 - share) + mel.gather(2, index + 1) * share


def mask_bands(mel: Tensor, limit: float) -> Tensor:
    """Set two random ranges of bands to zero in each utterance of mel (batch, frames, mels).

    The size of a range is uniform between 0 and a share `limit` of the bands (Park et al. 2019, arXiv
    1904.08779). Ranges are drawn on the CPU, so that they do not depend on the device.
    """
    size = torch.rand(2, len(mel), 1) * limit * mel.shape[2]
    start = torch.rand(2, len(mel), 1) * (mel.shape[2] - size)
    middle = torch.arange(mel.shape[2]) + 0.5
    masked = ((middle >= start) & (middle < start + size)).any(dim=0).to(mel.device)
    return mel.masked_fill(masked[:, None], 0)
