"""Whisper (Radford et al. 2022, arXiv 2212.04356): the encoder alone, at the true length of the utterance."""

from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, WhisperConfig, WhisperModel
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from emodistill.citations import Citation
from emodistill.errors import ModelError
from emodistill.models.base import PretrainedBackbone, additive_mask, normalise_peak
from emodistill.models.layers import frame_mask, zero_padding
from emodistill.models.mel import LogMel

FRAME_HZ = 50  # frames a second after the second convolution


class Whisper(PretrainedBackbone):
    """Log-mel spectrogram, two convolutions, transformer layers; 50 frames a second, 30 s at most.

    The forward pass of transformers takes exactly 30 s and ignores its mask, so the layers are called one by
    one here.
    """

    model_types = ("whisper",)
    citations: ClassVar = {
        "whisper": Citation(
            "radford2023whisper", "inproceedings",
            author="Radford, Alec and Kim, Jong Wook and Xu, Tao and Brockman, Greg and McLeavey, Christine "
            "and Sutskever, Ilya",
            title="Robust Speech Recognition via Large-Scale Weak Supervision",
            year=2023, booktitle="International Conference on Machine Learning (ICML)", eprint="2212.04356",
        )
    }  # fmt: skip

    def __init__(self, model: Any, num_layers: int | None) -> None:
        """`model` is a `WhisperEncoder`."""
        super().__init__(model, num_layers)
        model.config.encoder_layerdrop = 0.0
        self.mel = LogMel(model.config.num_mel_bins)
        self.conv1, self.conv2 = model.conv1, model.conv2
        self.positions = nn.Parameter(model.embed_positions.weight.detach().clone(), requires_grad=False)
        self.blocks = model.layers[: self.num_layers]
        self.final_norm = model.layer_norm if self.num_layers == self.total_layers else None

    @classmethod
    def from_pretrained(cls, name: str, num_layers: int | None) -> Self:
        """Load the encoder of a hub id or a folder that holds a whole Whisper or an encoder alone."""
        if AutoConfig.from_pretrained(name, trust_remote_code=False).architectures == ["WhisperEncoder"]:
            return cls(WhisperEncoder.from_pretrained(name, dtype=torch.float32), num_layers)
        return cls(WhisperModel.from_pretrained(name, dtype=torch.float32).encoder, num_layers)

    @classmethod
    def from_config(cls, config: dict[str, Any], num_layers: int) -> Self:
        return cls(WhisperEncoder(WhisperConfig(**config)), num_layers)

    def embed(self, waveform: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Log-mel, two convolutions, sinusoidal positions. Raises `ModelError` for more than 30 s."""
        x, lengths = self.mel(normalise_peak(waveform, lengths), lengths)
        x = F.gelu(self.conv1(x.transpose(1, 2))).transpose(1, 2)
        x = zero_padding(x, frame_mask(lengths, x.shape[1]))
        x = F.gelu(self.conv2(x.transpose(1, 2))).transpose(1, 2)
        if x.shape[1] > len(self.positions):
            raise ModelError(
                f"Whisper takes {len(self.positions) // FRAME_HZ} s at most, "
                f"got {x.shape[1] / FRAME_HZ:.1f} s; lower audio.max_s or cut the recording"
            )
        lengths = None if lengths is None else (lengths - 1) // 2 + 1
        return x + self.positions[: x.shape[1]], lengths

    def layer(self, index: int, x: Tensor, mask: Tensor | None) -> Tensor:
        """Apply one transformer layer; the encoder's final norm follows its very last layer."""
        x = self.blocks[index](x, additive_mask(mask, x.dtype))
        if self.final_norm is not None and index == self.num_layers - 1:
            x = self.final_norm(x)
        return x
