"""Speech backbones behind one interface: embed the waveform, then apply layers one by one.

Padding never changes an answer: statistics over time are masked, padded frames are zero before every
convolution, and attention does not see them.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, WhisperModel
from transformers.models.whisper.modeling_whisper import WhisperEncoder
from transformers.utils import logging as transformers_logging

from emodistill.errors import ModelError, one_of
from emodistill.models.layers import frame_mask, zero_padding
from emodistill.models.mel import LogMel

MIN_SAMPLES = 400  # the shortest waveform that every backbone can take


class Backbone(nn.Module, ABC):
    """Frames out of a waveform. `config` rebuilds the architecture without its weights."""

    kind: str
    blocks: nn.ModuleList

    def __init__(self, width: int, num_layers: int, config: dict[str, Any]) -> None:
        super().__init__()
        self.width = width
        self.num_layers = num_layers
        self.config = config

    @abstractmethod
    def embed(self, waveform: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """waveform : (batch, samples), lengths : (batch,) in samples or None where nothing is padded.

        Returns the input of layer 0, (batch, frames, width), and its lengths in frames (or None).
        """

    @abstractmethod
    def layer(self, index: int, x: Tensor, mask: Tensor | None) -> Tensor:
        """Apply one layer: x (batch, frames, width), mask (batch, frames) True = valid, or None."""


def peak_normalised(waveform: Tensor, lengths: Tensor | None) -> Tensor:
    """Scale each waveform to a peak of 1 and zero its padding: an answer does not depend on gain."""
    mask = frame_mask(lengths, waveform.shape[1])
    if mask is not None:
        waveform = waveform * mask.to(waveform.dtype)
    return waveform / waveform.abs().amax(dim=1, keepdim=True).clamp(min=1e-6)


class Whisper(Backbone):
    """A Whisper encoder at the true length of the utterance; 50 frames a second, 30 s at most."""

    kind = "whisper"

    def __init__(self, encoder: Any, num_layers: int | None) -> None:
        config = encoder.config
        total = len(encoder.layers)
        num_layers = _num_layers(num_layers, total)
        super().__init__(config.d_model, num_layers, config.to_dict())
        config.encoder_layerdrop = 0.0
        self.mel = LogMel(config.num_mel_bins)
        self.conv1, self.conv2 = encoder.conv1, encoder.conv2
        self.positions = nn.Parameter(encoder.embed_positions.weight.detach().clone(), requires_grad=False)
        self.blocks = encoder.layers[:num_layers]
        self.final_norm = encoder.layer_norm if num_layers == total else None

    def embed(self, waveform: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Log-mel, two convolutions, sinusoidal positions."""
        x, lengths = self.mel(peak_normalised(waveform, lengths), lengths)
        x = zero_padding(
            F.gelu(self.conv1(x.transpose(1, 2))).transpose(1, 2), frame_mask(lengths, x.shape[1])
        )
        x = F.gelu(self.conv2(x.transpose(1, 2))).transpose(1, 2)
        if x.shape[1] > len(self.positions):
            raise ModelError(
                f"Whisper takes {len(self.positions) // 50} s at most, got {x.shape[1] / 50:.1f} s; "
                "lower audio.max_s or cut the recording"
            )
        lengths = None if lengths is None else (lengths - 1) // 2 + 1
        return x + self.positions[: x.shape[1]], lengths

    def layer(self, index: int, x: Tensor, mask: Tensor | None) -> Tensor:
        """One transformer layer; the encoder's final norm follows its very last one."""
        x = self.blocks[index](x, _additive(mask, x.dtype))
        if self.final_norm is not None and index == self.num_layers - 1:
            x = self.final_norm(x)
        return x


class Wav2Vec2Like(Backbone):
    """HuBERT, wav2vec 2.0 or WavLM: a convolutional feature encoder, then transformer layers."""

    kind = "wav2vec2-like"

    def __init__(self, model: Any, num_layers: int | None) -> None:
        config = model.config
        total = len(model.encoder.layers)
        num_layers = _num_layers(num_layers, total)
        super().__init__(config.hidden_size, num_layers, config.to_dict())
        config.layerdrop = 0.0
        config.mask_time_prob = 0.0
        self.convolutions = model.feature_extractor.conv_layers
        self.projection = model.feature_projection
        self.positions = model.encoder.pos_conv_embed
        self.norm = model.encoder.layer_norm
        self.stable = bool(getattr(config, "do_stable_layer_norm", False))
        self.final = num_layers == total
        self.blocks = model.encoder.layers[:num_layers]
        self.wavlm = config.model_type == "wavlm"
        self.conv_shape = tuple(zip(config.conv_kernel, config.conv_stride, strict=True))

    def embed(self, waveform: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Zero mean and unit variance, convolutions, projection, convolutional positions."""
        x = _standardised(waveform, lengths)[:, None]
        for index, ((kernel, stride), convolution) in enumerate(
            zip(self.conv_shape, self.convolutions, strict=True)
        ):
            lengths = None if lengths is None else (lengths - kernel) // stride + 1
            if index == 0 and isinstance(getattr(convolution, "layer_norm", None), nn.GroupNorm):
                x = convolution.activation(_group_norm(convolution.conv(x), convolution.layer_norm, lengths))
            else:
                x = convolution(x)
        projected = self.projection(x.transpose(1, 2))
        x = projected[0] if isinstance(projected, tuple) else projected
        x = zero_padding(x, frame_mask(lengths, x.shape[1]))
        x = x + self.positions(x)
        return (x if self.stable else self.norm(x)), lengths

    def layer(self, index: int, x: Tensor, mask: Tensor | None) -> Tensor:
        """One transformer layer; the norm of pre-norm encoders follows their very last one."""
        if self.wavlm:
            x = self._wavlm_layer(index, x, mask)
        else:
            x = self.blocks[index](x, attention_mask=_additive(mask, x.dtype))
        return self.norm(x) if self.stable and self.final and index == self.num_layers - 1 else x

    def _wavlm_layer(self, index: int, x: Tensor, mask: Tensor | None) -> Tensor:
        # Every layer gates the first layer's relative position bias, which depends on length alone.
        batch, frames, _ = x.shape
        first: Any = self.blocks[0].attention
        bias = first.compute_bias(frames, frames)[None].expand(batch, -1, -1, -1)
        bias = bias.reshape(batch * first.num_heads, frames, frames)
        keep = None if mask is None else mask.long()
        out: Tensor = self.blocks[index](x, attention_mask=keep, position_bias=bias, index=index)[0]
        return out


def load_backbone(name: str, num_layers: int | None, width: int = 192) -> Backbone:
    """A backbone with its pretrained weights, by hub id or folder; or `compact`, untrained.

    Raises `ModelError` where nothing can be loaded or the architecture is not a speech encoder.
    """
    if name == "compact":
        from emodistill.models.compact import Compact

        return Compact(width, num_layers or 6)
    try:
        config = AutoConfig.from_pretrained(name)
        with quiet_loading(name):
            if config.model_type == "whisper":
                if config.architectures == ["WhisperEncoder"]:
                    return Whisper(WhisperEncoder.from_pretrained(name, dtype=torch.float32), num_layers)
                return Whisper(WhisperModel.from_pretrained(name, dtype=torch.float32).encoder, num_layers)
            if config.model_type in _WAV2VEC2_LIKE:
                return Wav2Vec2Like(AutoModel.from_pretrained(name, dtype=torch.float32), num_layers)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"backbone '{name}' cannot be loaded: {str(error).splitlines()[0]} "
            "Give a folder that holds config.json and model.safetensors (--set student.backbone=DIR), "
            "or go online once so that the hub id can be downloaded."
        ) from error
    raise ModelError(
        f"backbone '{name}': " + one_of("model type", config.model_type, ["whisper", *_WAV2VEC2_LIKE])
    )


@contextmanager
def quiet_loading(name: str) -> Iterator[None]:
    """Without transformers' progress bar where weights come from a folder: it is over in a blink."""
    shown = transformers_logging.is_progress_bar_enabled() and Path(name).is_dir()
    if shown:
        transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def rebuild_backbone(kind: str, config: dict[str, Any], num_layers: int) -> Backbone:
    """The architecture of a saved backbone, without weights and without any download."""
    if kind == "compact":
        from emodistill.models.compact import Compact

        return Compact(**config)
    made: Any = AutoConfig.for_model(**config)
    if kind == "whisper":
        return Whisper(WhisperEncoder(made), num_layers)
    return Wav2Vec2Like(AutoModel.from_config(made), num_layers)


_WAV2VEC2_LIKE = ("hubert", "wav2vec2", "wavlm")


def _num_layers(wanted: int | None, total: int) -> int:
    if wanted is not None and wanted > total:
        raise ModelError(f"student.layers = {wanted}, but the backbone has {total}")
    return wanted or total


def _additive(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """mask (batch, frames) -> (batch, 1, 1, frames) to be added to attention scores."""
    if mask is None:
        return None
    return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)[:, None, None, :]


def _standardised(waveform: Tensor, lengths: Tensor | None) -> Tensor:
    mask = frame_mask(lengths, waveform.shape[1])
    weight = torch.ones_like(waveform) if mask is None else mask.to(waveform.dtype)
    count = weight.sum(dim=1, keepdim=True)
    mean = (waveform * weight).sum(dim=1, keepdim=True) / count
    centred = (waveform - mean) * weight
    variance = (centred**2).sum(dim=1, keepdim=True) / count
    return centred / (variance + 1e-7).sqrt()


def _group_norm(x: Tensor, norm: nn.GroupNorm, lengths: Tensor | None) -> Tensor:
    """Group norm with one channel a group over valid frames alone; x : (batch, channels, frames)."""
    if lengths is None:
        out: Tensor = norm(x)
        return out
    mask = frame_mask(lengths, x.shape[2])
    assert mask is not None
    weight = mask[:, None, :].to(x.dtype)
    count = weight.sum(dim=2, keepdim=True)
    mean = (x * weight).sum(dim=2, keepdim=True) / count
    variance = ((x - mean) ** 2 * weight).sum(dim=2, keepdim=True) / count
    scaled = (x - mean) / (variance + norm.eps).sqrt()
    return scaled * norm.weight[None, :, None] + norm.bias[None, :, None]
