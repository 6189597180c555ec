"""The log-mel spectrogram, and what disturbs it in training."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.audio_utils import hertz_to_mel, mel_filter_bank, mel_to_hertz

from emodistill.audio.waveform import FRAME_SAMPLES, SAMPLE_RATE
from emodistill.models.layers import frame_mask, zero_padding

FFT_SAMPLES = 400  # 25 ms


class LogMel(nn.Module):
    """Whisper's log-mel spectrogram at the true length (Radford et al. 2022, arXiv 2212.04356).

    waveform (batch, samples) -> (batch, samples // 160, num_mels). The DFT is a convolution with fixed
    windowed kernels, since ONNX runs that several times faster than its STFT. The ends are padded with
    zeros, and the maximum that the clamp refers to is the utterance's own. Always in full precision: 8 bits
    of mantissa would put a floor under the spectrum some 50 dB below its peaks, in training alone.
    """

    def __init__(self, num_mels: int = 80) -> None:
        super().__init__()
        self.warp, self.band_mask = 0.0, 0.0  # in training alone; a student sets them
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
        """waveform : (batch, samples) -> log-mel (batch, frames, mels) and lengths in frames."""
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
            log = warped(log, self.warp)
        if self.training and self.band_mask:
            log = bands_masked(log, self.band_mask)
        return zero_padding(log, mask), lengths


def warped(mel: Tensor, most: float) -> Tensor:
    """mel (batch, frames, mels) with the frequencies of each utterance multiplied by a factor in 1 ± `most`.

    Vocal tract length perturbation (Jaitly & Hinton 2013): formants and pitch move as with another speaker, and time
    does not. Beyond the ends of the axis its last band is repeated. Drawn on the CPU.
    """
    num_mels = mel.shape[2]
    factors = 1 + most * (2 * torch.rand(len(mel)).numpy() - 1)
    edges = np.linspace(0.0, hertz_to_mel(SAMPLE_RATE / 2, "slaney"), num_mels + 2)
    centres = mel_to_hertz(edges[1:-1], "slaney")
    asked = hertz_to_mel(factors[:, None] * centres, "slaney") / edges[1] - 1  # in bands, (batch, mels)
    below = np.clip(np.floor(asked).astype(int), 0, num_mels - 2)
    share = torch.from_numpy(np.clip(asked - below, 0.0, 1.0)).to(mel)[:, None]
    index = torch.from_numpy(below).to(mel.device)[:, None].expand_as(mel)
    return mel.gather(2, index) * (1 - share) + mel.gather(2, index + 1) * share


def bands_masked(mel: Tensor, most: float) -> Tensor:
    """mel (batch, frames, mels) with two stretches of each utterance's bands set to zero (Park et al. 2019, arXiv 1904.08779).

    Each is uniform between none and a share of `most` of the bands. Drawn on the CPU.
    """
    size = torch.rand(2, len(mel), 1) * most * mel.shape[2]
    start = torch.rand(2, len(mel), 1) * (mel.shape[2] - size)
    middle = torch.arange(mel.shape[2]) + 0.5
    masked = ((middle >= start) & (middle < start + size)).any(dim=0).to(mel.device)
    return mel.masked_fill(masked[:, None], 0)
