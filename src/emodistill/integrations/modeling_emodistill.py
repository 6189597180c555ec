"""A student of EmoDistill as an audio classifier of Hugging Face's transformers.

The file needs torch and transformers alone. `emodistill export --to transformers` copies it into the folder
of a model, so the model also loads where EmoDistill is not installed (`trust_remote_code=True`).

The names of the weights are those of a checkpoint of EmoDistill, without the projection heads. Padding
changes no answer: `attention_mask` (batch, samples) marks the valid samples.

SPDX-License-Identifier: Apache-2.0. The weights have a licence of their own, in README.md.
"""

# Long: transformers copies one file into the folder of a model, and it needs all families of backbones.
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModel,
    BatchFeature,
    PreTrainedConfig,
    PreTrainedModel,
    SequenceFeatureExtractor,
    WhisperConfig,
)
from transformers.audio_utils import mel_filter_bank
from transformers.models.auto.modeling_auto import MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES
from transformers.models.whisper.modeling_whisper import WhisperEncoder
from transformers.utils.generic import ModelOutput

SAMPLE_RATE = 16_000  # samples per second
FRAME_SAMPLES = SAMPLE_RATE // 100  # 10 ms, one frame of the spectrogram
FFT_SAMPLES = SAMPLE_RATE // 40  # 25 ms
CONVOLUTIONAL = ("wav2vec2", "hubert", "wavlm", "data2vec-audio")
ENCODERS = ("compact", "whisper", *CONVOLUTIONAL)


class EmoDistillConfig(PreTrainedConfig):
    """The shape of a student, its emotions (`id2label`) and its temperature."""

    model_type = "emodistill"

    # Long: one parameter for each key of config.json.
    def __init__(
        self,
        encoder_type: str = "compact",
        encoder_config: dict[str, Any] | None = None,
        num_layers: int = 1,
        pool: list[int] | None = None,
        merge: int = 1,
        attentive: bool = True,
        queries: int = 0,
        nonlinear: bool = False,
        fixed_norm: bool = False,
        embedding_dim: int = 256,
        dropout: float = 0.0,
        calibration_temperature: float = 1.0,
        dimensions: list[str] | None = None,
        sampling_rate: int = SAMPLE_RATE,
        **kwargs: Any,
    ) -> None:
        """Set the fields of a student.

        Args:
            encoder_type: one of `ENCODERS`, the family of the speech backbone.
            encoder_config: the configuration of the backbone; of transformers, except for `compact`.
            num_layers: the number of layers that are used, from the first.
            pool: the layers that are pooled, 0 is the input of the first one; None: a weighted sum of all.
            merge: the number of consecutive frames that are averaged into one.
            attentive: whether frames have learned weights in the pooling.
            queries: the number of learned queries over the frames.
            nonlinear: whether a GELU is between embedding and classifier.
            fixed_norm: whether pooled statistics are standardised by constants; else a layer norm.
            embedding_dim: the size of the embedding.
            dropout: in training.
            calibration_temperature: the logits are divided by it. transformers keeps `temperature` for text.
            dimensions: the names of the dimensions, from 0 to 1, that the model predicts too.
            sampling_rate: in Hz.
        """
        self.encoder_type, self.encoder_config = encoder_type, encoder_config or {}
        self.num_layers, self.pool, self.merge = num_layers, pool, merge
        self.attentive, self.queries, self.nonlinear = attentive, queries, nonlinear
        self.fixed_norm, self.embedding_dim, self.dropout = fixed_norm, embedding_dim, dropout
        self.calibration_temperature, self.dimensions = calibration_temperature, list(dimensions or [])
        self.sampling_rate = sampling_rate
        super().__init__(**kwargs)


class EmoDistillFeatureExtractor(SequenceFeatureExtractor):
    """Prepares waveforms as EmoDistill's recogniser does, except that it does not search for speech.

    It removes the DC offset, cuts silence at both ends by level, and pads very short audio with zeros.
    """

    model_input_names = ["input_values", "attention_mask"]  # noqa: RUF012

    def __init__(
        self,
        feature_size: int = 1,
        sampling_rate: int = SAMPLE_RATE,
        padding_value: float = 0.0,
        trim_db: float | None = None,
        min_s: float = 0.1,
        max_s: float = 20.0,
        **kwargs: Any,
    ) -> None:
        """Set the preparation.

        Args:
            feature_size: always 1.
            sampling_rate: of the waveforms, in Hz.
            padding_value: always 0.
            trim_db: frames of 10 ms at both ends that are this far below the loudest one are cut; None: none.
            min_s: shorter audio is padded with zeros to this length.
            max_s: longer audio is refused, or cut with `truncation=True`.
        """
        kwargs["return_attention_mask"] = True  # without it, padding would change the answer
        super().__init__(feature_size, sampling_rate, padding_value, **kwargs)
        self.trim_db, self.min_s, self.max_s = trim_db, min_s, max_s

    def __call__(
        self,
        raw_speech: Any,
        sampling_rate: int | None = None,
        padding: bool | str = True,
        truncation: bool = False,
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Return `input_values` and `attention_mask`, both (batch, samples).

        Args:
            raw_speech: one waveform (samples,), floats from -1 to 1, or a list of waveforms.
            sampling_rate: that of the waveforms; give it, so that a wrong one is refused.
            padding: as in transformers; True pads to the longest waveform.
            truncation: whether audio of more than `max_s` is cut.
            return_tensors: "pt", "np" or None.
            kwargs: further options of `SequenceFeatureExtractor.pad`.

        Raises `ValueError` for another rate, for more than `max_s` of audio, and for arrays that are no mono
        waveforms of finite floats.
        """
        if sampling_rate is not None and sampling_rate != self.sampling_rate:
            raise ValueError(
                f"got audio at {sampling_rate} Hz, expected {self.sampling_rate} Hz: resample it"
            )
        is_batch = isinstance(raw_speech, (list, tuple)) and not np.isscalar(raw_speech[0])
        waveforms = [self._prepared(item, truncation) for item in (raw_speech if is_batch else [raw_speech])]
        features = BatchFeature({"input_values": waveforms})
        return self.pad(features, padding=padding, return_tensors=return_tensors, **kwargs)

    def _prepared(self, waveform: Any, truncation: bool) -> np.ndarray:
        array = np.asarray(waveform)
        if array.ndim != 1 or not array.size or array.dtype.kind not in "f":
            raise ValueError(
                f"got an array of shape {array.shape} and type {array.dtype}, expected a mono waveform "
                "(samples,) of floats from -1 to 1"
            )
        if not np.isfinite(array).all():
            raise ValueError("the waveform has values that are not finite: repair or leave out this audio")
        limit = round(self.max_s * self.sampling_rate)
        if len(array) > limit and not truncation:
            raise ValueError(
                f"got {len(array) / self.sampling_rate:.1f} s of audio; at most {self.max_s:g} s fit: "
                "cut it, or set truncation=True to keep its beginning"
            )
        array = array[:limit]
        array = np.asarray(array - array.mean(dtype=np.float64), dtype=np.float32)
        array = array if self.trim_db is None else trimmed(array, self.trim_db)
        return np.pad(array, (0, max(0, round(self.min_s * self.sampling_rate) - len(array))))


def trimmed(waveform: np.ndarray, top_db: float) -> np.ndarray:
    """Return the waveform without the frames at both ends that are over `top_db` below the loudest frame."""
    num_frames = len(waveform) // FRAME_SAMPLES
    if num_frames < 3:
        return waveform
    frames = waveform[: num_frames * FRAME_SAMPLES].reshape(num_frames, FRAME_SAMPLES)
    rms = np.sqrt(np.mean(frames.astype(np.float64) ** 2, axis=1))
    loud = np.flatnonzero(rms >= rms.max() * 10 ** (-top_db / 20))
    return waveform[loud[0] * FRAME_SAMPLES : (loud[-1] + 1) * FRAME_SAMPLES]


@dataclass
class EmotionOutput(ModelOutput):
    """What the model returns for a batch."""

    loss: Tensor | None = None  # cross-entropy, with labels
    logits: Tensor | None = None  # (batch, emotions), divided by the temperature
    dimensions: Tensor | None = None  # (batch, dimensions), 0 to 1; None: the model predicts none
    embedding: Tensor | None = None  # (batch, embedding_dim), L2-normalised


class EmoDistillForAudioClassification(PreTrainedModel):
    """A student: speech backbone, pooling over time, classifier."""

    config_class = EmoDistillConfig
    base_model_prefix = ""  # with a prefix, `norm` would be taken for `backbone.norm`
    main_input_name = "input_values"
    _supports_sdpa = True

    def __init__(self, config: EmoDistillConfig) -> None:
        """Make a student with random weights."""
        super().__init__(config)
        self.backbone = make_backbone(config)
        self.mix = nn.Parameter(torch.zeros(config.num_layers + 1)) if config.pool is None else None
        width, dim = self.backbone.width * len(config.pool or [0]), config.embedding_dim
        self.pool = AttentiveStatistics(width) if config.attentive else PlainStatistics()
        self.norm = Standardise(2 * width) if config.fixed_norm else nn.LayerNorm(2 * width)
        self.dropout = nn.Dropout(config.dropout)
        self.embed = nn.Linear(2 * width, dim)
        self.queries = FrameQueries(self.backbone.width, config.queries, dim) if config.queries else None
        self.classifier = nn.Linear(dim, len(config.id2label or {}))
        self.regressor = nn.Linear(dim, len(config.dimensions)) if config.dimensions else None
        self.post_init()

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
        **_: Any,
    ) -> EmotionOutput | tuple[Tensor, ...]:
        """Return the answers for waveforms.

        Args:
            input_values: (batch, samples), as the feature extractor returns them.
            attention_mask: (batch, samples), 1 = valid, padding at the end; None: all samples are valid.
            labels: (batch,), for the loss.
            return_dict: False returns a tuple.
        """
        lengths = None if attention_mask is None else attention_mask.long().sum(dim=1)
        hidden, mask = self._pooled_states(input_values, lengths)
        embedding = self.embed(self.dropout(self.norm(self.pool(hidden, mask))))
        if self.queries is not None:
            embedding = embedding + self.queries(self.dropout(hidden[:, :, -self.backbone.width :]), mask)
        features = self.dropout(F.gelu(embedding)) if self.config.nonlinear else embedding
        logits = self.classifier(features) / self.config.calibration_temperature
        output = EmotionOutput(
            loss=None if labels is None else F.cross_entropy(logits.float(), labels),
            logits=logits,
            dimensions=None if self.regressor is None else self.regressor(features).clamp(0, 1),
            embedding=F.normalize(embedding, dim=1),
        )
        return output.to_tuple() if return_dict is False else output

    def _pooled_states(self, waveform: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the states that are pooled, (batch, frames, width), and their mask (batch, frames)."""
        frames, lengths = self.backbone.embed(waveform, lengths)
        states, lengths = merge_frames(frames, lengths, self.config.merge)
        mask = frame_mask(lengths, states.shape[1])
        layers = [states]
        for index in range(self.config.num_layers):
            layers.append(self.backbone.layer(index, layers[-1], mask))
        if self.mix is None:
            return torch.cat([layers[layer] for layer in self.config.pool], dim=2), mask
        normed = [F.layer_norm(layer, layer.shape[-1:]) for layer in layers]
        return (torch.stack(normed, dim=-1) * self.mix.softmax(dim=0)).sum(dim=-1), mask


def make_backbone(config: EmoDistillConfig) -> Any:
    """Return the speech backbone of a student. Raises `ValueError` for a family that is not known."""
    kind, settings = config.encoder_type, dict(config.encoder_config)
    if kind == "compact":
        return Compact(settings["width"], config.num_layers, settings["num_mels"])
    if kind == "whisper":
        return Whisper(WhisperEncoder(WhisperConfig(**settings)), config.num_layers)
    if kind in CONVOLUTIONAL:
        model = AutoModel.from_config(AutoConfig.for_model(kind, **settings))
        return (WavLM if kind == "wavlm" else Convolutional)(model, config.num_layers)
    raise ValueError(f"bad encoder_type '{kind}', expected one of {list(ENCODERS)}")


class Compact(nn.Module):
    """Log-mel, two strided convolutions, ConvNeXt blocks (Liu et al. 2022, arXiv 2201.03545)."""

    def __init__(self, width: int, num_layers: int, num_mels: int) -> None:
        super().__init__()
        self.width, self.num_mels = width, num_mels
        self.conv1 = nn.Conv1d(num_mels, width, 5, stride=2, padding=2)
        self.conv2 = nn.Conv1d(width, width, 5, stride=2, padding=2)
        self.norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(ConvNeXtBlock(width) for _ in range(num_layers))

    def embed(self, waveform: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the input of the first layer, (batch, frames, width), and its lengths in frames."""
        x, lengths = log_mel(waveform, lengths, self.num_mels)
        x = x.to(self.conv1.weight.dtype)
        for conv in (self.conv1, self.conv2):
            x = F.gelu(conv(x.transpose(1, 2)).transpose(1, 2))
            lengths = None if lengths is None else (lengths - 1) // 2 + 1
            x = zero_padding(x, frame_mask(lengths, x.shape[1]))
        return self.norm(x), lengths

    def layer(self, index: int, x: Tensor, mask: Tensor | None) -> Tensor:
        """Apply one block."""
        return self.blocks[index](x, mask)


class ConvNeXtBlock(nn.Module):
    """A depthwise convolution over time, then a multilayer perceptron per frame."""

    def __init__(self, width: int, kernel: int = 7) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x : (batch, frames, width); mask : (batch, frames) or None."""
        mixed = self.depthwise(zero_padding(x, mask).transpose(1, 2)).transpose(1, 2)
        return x + self.contract(F.gelu(self.expand(self.norm(mixed))))


class Whisper(nn.Module):
    """The encoder of Whisper (Radford et al. 2022, arXiv 2212.04356) at the true length of the audio."""

    def __init__(self, model: Any, num_layers: int) -> None:
        super().__init__()
        self.width, self.num_mels, self.num_layers = (
            model.config.d_model, model.config.num_mel_bins, num_layers,
        )  # fmt: skip
        self.conv1, self.conv2 = model.conv1, model.conv2
        self.positions = nn.Parameter(model.embed_positions.weight.detach().clone(), requires_grad=False)
        self.blocks = model.layers[:num_layers]
        self.final_norm = model.layer_norm if num_layers == len(model.layers) else None

    def embed(self, waveform: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the input of the first layer, (batch, frames, width), and its lengths in frames."""
        x, lengths = log_mel(waveform, lengths, self.num_mels)
        x = x.to(self.conv1.weight.dtype)
        x = F.gelu(self.conv1(x.transpose(1, 2))).transpose(1, 2)
        x = zero_padding(x, frame_mask(lengths, x.shape[1]))
        x = F.gelu(self.conv2(x.transpose(1, 2))).transpose(1, 2)
        if x.shape[1] > len(self.positions):
            raise ValueError(
                f"got {x.shape[1]} frames of 20 ms, at most {len(self.positions)}: cut the audio"
            )
        lengths = None if lengths is None else (lengths - 1) // 2 + 1
        return x + self.positions[: x.shape[1]], lengths

    def layer(self, index: int, x: Tensor, mask: Tensor | None) -> Tensor:
        """Apply one transformer layer; the encoder's last norm follows its very last layer."""
        x = tensor_of(self.blocks[index](x, additive_mask(mask, x.dtype)))
        is_last = index == self.num_layers - 1
        return self.final_norm(x) if self.final_norm is not None and is_last else x


class Convolutional(nn.Module):
    """wav2vec 2.0, HuBERT and data2vec: strided convolutions over the waveform, then transformer layers."""

    def __init__(self, model: Any, num_layers: int) -> None:
        super().__init__()
        config = model.config
        self.width = config.hidden_size
        self.convolutions = model.feature_extractor.conv_layers
        self.projection = model.feature_projection
        self.positions = model.encoder.pos_conv_embed
        self.norm = model.encoder.layer_norm
        # The norm belongs to the output of this many layers. Post-norm encoders have it before the first one.
        has_stable_norm = getattr(config, "do_stable_layer_norm", False)
        self.norm_after = config.num_hidden_layers if has_stable_norm else 0
        self.blocks = model.encoder.layers[:num_layers]
        self.shape = list(zip(config.conv_kernel, config.conv_stride, strict=True))

    def embed(self, waveform: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the input of the first layer, (batch, frames, width), and its lengths in frames."""
        x = standardise_waveform(waveform.float(), lengths)[:, None].to(
            self.projection.projection.weight.dtype
        )
        for (kernel, stride), convolution in zip(self.shape, self.convolutions, strict=True):
            lengths = None if lengths is None else (lengths - kernel) // stride + 1
            norm = getattr(convolution, "layer_norm", None)
            if isinstance(norm, nn.GroupNorm):  # over time, so padding must not count
                x = convolution.activation(masked_group_norm(convolution.conv(x), norm, lengths))
            else:
                x = convolution(x)
        x = tensor_of(self.projection(x.transpose(1, 2)))
        mask = frame_mask(lengths, x.shape[1])
        x = zero_padding(x, mask)
        return self._normalised(x + self._position_embedding(x, mask), 0), lengths

    def layer(self, index: int, x: Tensor, mask: Tensor | None) -> Tensor:
        """Apply one transformer layer, and the norm if the encoder has it there."""
        return self._normalised(self._transformer_layer(index, x, mask), index + 1)

    def _position_embedding(self, x: Tensor, mask: Tensor | None) -> Tensor:
        convolutions = getattr(self.positions, "layers", None)  # data2vec has several
        if convolutions is None:
            return self.positions(x)
        for convolution in convolutions:
            x = convolution(zero_padding(x, mask).transpose(1, 2)).transpose(1, 2)
        return x

    def _transformer_layer(self, index: int, x: Tensor, mask: Tensor | None) -> Tensor:
        return tensor_of(self.blocks[index](x, attention_mask=additive_mask(mask, x.dtype)))

    def _normalised(self, x: Tensor, num_applied: int) -> Tensor:
        return self.norm(x) if num_applied == self.norm_after else x


class WavLM(Convolutional):
    """WavLM (Chen et al. 2021, arXiv 2110.13900): each layer gates the position bias of the first one."""

    def _transformer_layer(self, index: int, x: Tensor, mask: Tensor | None) -> Tensor:
        batch, frames, _ = x.shape
        first = self.blocks[0].attention
        bias = first.compute_bias(frames, frames)[None].expand(batch, -1, -1, -1)
        bias = bias.reshape(batch * first.num_heads, frames, frames).to(x.dtype)
        valid = None if mask is None else mask.long()
        return tensor_of(self.blocks[index](x, attention_mask=valid, position_bias=bias, index=index))


class AttentiveStatistics(nn.Module):
    """Mean and standard deviation over time, with a learned weight for each frame and each of 4 heads."""

    def __init__(self, width: int, num_heads: int = 4, hidden: int = 64) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.score = nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, num_heads))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return (batch, 2 * width) for x (batch, frames, width)."""
        scores = self.score(x)
        if mask is not None:
            scores = scores.masked_fill(~mask[:, :, None], float("-inf"))
        weights = scores.softmax(dim=1)[..., None].float()  # (batch, frames, heads, 1)
        slices = x.float().unflatten(2, (self.num_heads, -1))
        mean = (weights * slices).sum(dim=1)
        variance = (weights * (slices - mean[:, None]).square()).sum(dim=1)
        return torch.cat([mean.flatten(1), (variance.flatten(1) + 1e-5).sqrt()], dim=1).to(x.dtype)


class PlainStatistics(nn.Module):
    """The mean and the standard deviation over time."""

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return (batch, 2 * width) for x (batch, frames, width)."""
        values = zero_padding(x.float(), mask)
        weight = 1 / values.shape[1] if mask is None else 1 / mask.sum(dim=1, keepdim=True).float()
        mean = values.sum(dim=1) * weight
        variance = zero_padding(values - mean[:, None], mask).square().sum(dim=1) * weight
        return torch.cat([mean, (variance + 1e-5).sqrt()], dim=1).to(x.dtype)


class Standardise(nn.Module):
    """(x - mean) / std, by constants of the training split."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """x : (batch, dim)."""
        return (x - self.mean) / self.std


class FrameQueries(nn.Module):
    """Learned queries that attend over frames with several heads."""

    HEAD_WIDTH = 64

    def __init__(self, width: int, num_queries: int, dim: int) -> None:
        super().__init__()
        self.num_heads = max(1, width // self.HEAD_WIDTH) if width % self.HEAD_WIDTH == 0 else 1
        self.queries = nn.Parameter(torch.zeros(num_queries, width))
        self.norm = nn.LayerNorm(width)
        self.keys_and_values = nn.Linear(width, 2 * width)
        self.out = nn.Linear(num_queries * width, dim)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return (batch, dim) for x (batch, frames, width)."""
        keys, values = (
            part.unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for part in self.keys_and_values(self.norm(x)).chunk(2, dim=2)
        )
        queries = self.queries.unflatten(1, (self.num_heads, -1)).transpose(0, 1)
        queries = queries.expand(len(x), -1, -1, -1)  # (batch, heads, queries, …)
        allowed = None if mask is None else mask[:, None, None, :]
        attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=allowed)
        return self.out(attended.transpose(1, 2).flatten(1))


@cache
def mel_constants(num_mels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the windowed kernels of the DFT and the mel filters, float32."""
    time = np.arange(FFT_SAMPLES)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * time / FFT_SAMPLES)
    num_bins = FFT_SAMPLES // 2 + 1
    angle = 2 * np.pi * np.outer(np.arange(num_bins), time) / FFT_SAMPLES
    kernels = np.concatenate([np.cos(angle), -np.sin(angle)]) * window
    filters = mel_filter_bank(
        num_bins, num_mels, 0.0, SAMPLE_RATE / 2, SAMPLE_RATE, norm="slaney", mel_scale="slaney"
    )
    return kernels[:, None].astype(np.float32), filters.astype(np.float32)


def log_mel(waveform: Tensor, lengths: Tensor | None, num_mels: int) -> tuple[Tensor, Tensor | None]:
    """Return Whisper's log-mel spectrogram at the true length, (batch, frames, mels), and its lengths.

    Each row is scaled to a peak of 1 first. The floor is 80 dB below the maximum of the row itself. It is
    computed in float32, whatever the type of the model.
    """
    with torch.autocast(waveform.device.type, enabled=False):
        waveform = zero_samples(waveform.float(), lengths)
        waveform = waveform / waveform.abs().amax(dim=1, keepdim=True).clamp(min=1e-6)
        kernels, filters = (torch.from_numpy(value).to(waveform) for value in mel_constants(num_mels))
        num_frames = waveform.shape[1] // FRAME_SAMPLES
        padded = F.pad(waveform[:, None], (FFT_SAMPLES // 2, FFT_SAMPLES // 2))
        real, imaginary = F.conv1d(padded, kernels, stride=FRAME_SAMPLES).chunk(2, dim=1)
        power = (real**2 + imaginary**2)[:, :, :num_frames].transpose(1, 2)
        log = (power @ filters).clamp(min=1e-10).log10()
        lengths = None if lengths is None else lengths // FRAME_SAMPLES
        mask = frame_mask(lengths, num_frames)
        visible = log if mask is None else log.masked_fill(~mask[:, :, None], -10.0)
        log = (torch.maximum(log, visible.amax(dim=(1, 2), keepdim=True) - 8.0) + 4.0) / 4.0
        return zero_padding(log, mask), lengths


def standardise_waveform(waveform: Tensor, lengths: Tensor | None) -> Tensor:
    """Scale each row of (batch, samples) to mean 0 and variance 1 over its length, with zero padding."""
    count = float(waveform.shape[1]) if lengths is None else lengths[:, None].to(waveform.dtype)
    mean = zero_samples(waveform, lengths).sum(dim=1, keepdim=True) / count
    centred = zero_samples(waveform - mean, lengths)
    return centred / ((centred**2).sum(dim=1, keepdim=True) / count + 1e-7).sqrt()


def masked_group_norm(x: Tensor, norm: nn.GroupNorm, lengths: Tensor | None) -> Tensor:
    """Apply a group norm of one channel a group over valid frames alone; x : (batch, channels, frames)."""
    mask = frame_mask(lengths, x.shape[2])
    if mask is None:
        return norm(x)
    weight = mask[:, None, :].to(x.dtype)
    count = weight.sum(dim=2, keepdim=True)
    mean = (x * weight).sum(dim=2, keepdim=True) / count
    variance = ((x - mean) ** 2 * weight).sum(dim=2, keepdim=True) / count
    scaled = (x - mean) / (variance + norm.eps).sqrt()
    return scaled * norm.weight[None, :, None] + norm.bias[None, :, None]


def merge_frames(x: Tensor, lengths: Tensor | None, size: int) -> tuple[Tensor, Tensor | None]:
    """Average each group of `size` frames of x (batch, frames, width), over its valid frames."""
    if size == 1:
        return x, lengths
    mask = frame_mask(lengths, x.shape[1])
    valid = torch.ones_like(x[:1, :, :1]) if mask is None else mask[:, :, None].to(x.dtype)
    total, share = (
        F.avg_pool1d(part.transpose(1, 2), size, ceil_mode=True).transpose(1, 2)
        for part in (zero_padding(x, mask), valid)
    )
    merged = total / share.clamp(min=1 / (2 * size))
    return merged, None if lengths is None else (lengths - 1) // size + 1


def frame_mask(lengths: Tensor | None, size: int) -> Tensor | None:
    """Return lengths (batch,) as a mask (batch, size), True = valid; None stays None."""
    return None if lengths is None else torch.arange(size, device=lengths.device)[None] < lengths[:, None]


def zero_padding(x: Tensor, mask: Tensor | None) -> Tensor:
    """Set the padded frames of x (batch, frames, width) to zero."""
    return x if mask is None else x * mask[:, :, None].to(x.dtype)


def zero_samples(waveform: Tensor, lengths: Tensor | None) -> Tensor:
    """Set the padding of waveforms (batch, samples) to zero."""
    mask = frame_mask(lengths, waveform.shape[1])
    return waveform if mask is None else waveform * mask.to(waveform.dtype)


def additive_mask(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Return mask (batch, frames) as (batch, 1, 1, frames) to add to attention scores."""
    if mask is None:
        return None
    return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)[:, None, None]


def tensor_of(output: Any) -> Tensor:
    """Return the first value of a layer that returns a tuple in some versions of transformers."""
    return output[0] if isinstance(output, tuple) else output


# The pipeline reports every model that is not in this list as unsupported, although it runs it.
MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES.setdefault(
    EmoDistillConfig.model_type, EmoDistillForAudioClassification.__name__
)
# `save_pretrained` then copies this file beside the weights, and names the classes in `auto_map`.
EmoDistillConfig.register_for_auto_class()
EmoDistillFeatureExtractor.register_for_auto_class()
EmoDistillForAudioClassification.register_for_auto_class("AutoModelForAudioClassification")
