"""wav2vec 2.0, HuBERT and WavLM: strided convolutions over the waveform, then transformer layers."""

from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emodistill.citations import Citation
from emodistill.models.base import PretrainedBackbone, additive_mask
from emodistill.models.layers import frame_mask, zero_padding


class ConvolutionalBackbone(PretrainedBackbone):
    """What wav2vec 2.0 and its relatives share; a family overrides `position_embedding` or
    `transformer_layer`.

    Encoders of two kinds differ in the place of their layer norm. Post-norm encoders (the base models) apply
    it to the input of the first layer. Pre-norm encoders (the large ones, `do_stable_layer_norm`) apply it
    after their last layer.
    """

    def __init__(self, model: Any, num_layers: int | None) -> None:
        super().__init__(model, num_layers)
        config = model.config
        config.layerdrop = 0.0
        config.mask_time_prob = 0.0
        self.convolutions = model.feature_extractor.conv_layers
        self.projection = model.feature_projection
        self.positions = model.encoder.pos_conv_embed
        self.norm = model.encoder.layer_norm
        # The norm applies to the output of this many layers. With fewer layers in use, a pre-norm encoder has
        # none.
        self.norm_after = self.total_layers if getattr(config, "do_stable_layer_norm", False) else 0
        self.blocks = model.encoder.layers[: self.num_layers]
        self.conv_shape = tuple(zip(config.conv_kernel, config.conv_stride, strict=True))

    def embed(self, waveform: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Zero mean and unit variance, convolutions, projection, convolutional position embedding."""
        x = standardise_waveform(waveform, lengths)[:, None]
        for (kernel, stride), convolution in zip(self.conv_shape, self.convolutions, strict=True):
            lengths = None if lengths is None else (lengths - kernel) // stride + 1
            norm = getattr(convolution, "layer_norm", None)
            if isinstance(norm, nn.GroupNorm):  # over time, so it must not see padding
                x = convolution.activation(masked_group_norm(convolution.conv(x), norm, lengths))
            else:
                x = convolution(x)
        projected = self.projection(x.transpose(1, 2))
        x = projected[0] if isinstance(projected, tuple) else projected
        mask = frame_mask(lengths, x.shape[1])
        x = zero_padding(x, mask)
        return self._normalised(x + self.position_embedding(x, mask), 0), lengths

    def layer(self, index: int, x: Tensor, mask: Tensor | None) -> Tensor:
        """Apply one transformer layer, and the norm if the encoder has it there."""
        return self._normalised(self.transformer_layer(index, x, mask), index + 1)

    def position_embedding(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return what is added to x (batch, frames, width); padded frames of x are zero already."""
        embedding: Tensor = self.positions(x)
        return embedding

    def transformer_layer(self, index: int, x: Tensor, mask: Tensor | None) -> Tensor:
        """Apply one layer to x (batch, frames, width) without the encoder's own norm."""
        out: Tensor = self.blocks[index](x, attention_mask=additive_mask(mask, x.dtype))
        return out

    def _normalised(self, x: Tensor, num_applied: int) -> Tensor:
        """x after `num_applied` layers, normalised if the encoder's norm belongs there."""
        return self.norm(x) if num_applied == self.norm_after else x


class Wav2Vec2(ConvolutionalBackbone):
    """wav2vec 2.0 (Baevski et al. 2020, arXiv 2006.11477) and HuBERT (Hsu et al. 2021, arXiv 2106.07447)."""

    model_types = ("wav2vec2", "hubert")
    citations: ClassVar = {
        "wav2vec2": Citation(
            "baevski2020wav2vec2", "inproceedings",
            author="Baevski, Alexei and Zhou, Yuhao and Mohamed, Abdelrahman and Auli, Michael",
            title="wav2vec 2.0: A Framework for Self-Supervised Learning of Speech Representations",
            year=2020, booktitle="Advances in Neural Information Processing Systems", volume="33",
            eprint="2006.11477",
        ),
        "hubert": Citation(
            "hsu2021hubert", "article",
            author="Hsu, Wei-Ning and Bolte, Benjamin and Tsai, Yao-Hung Hubert and Lakhotia, Kushal and "
            "Salakhutdinov, Ruslan and Mohamed, Abdelrahman",
            title="{HuBERT}: Self-Supervised Speech Representation Learning by Masked Prediction of Hidden "
            "Units",
            year=2021, journal="IEEE/ACM Transactions on Audio, Speech, and Language Processing",
            volume="29", pages="3451--3460", doi="10.1109/TASLP.2021.3122291", eprint="2106.07447",
        ),
    }  # fmt: skip


class WavLM(ConvolutionalBackbone):
    """WavLM (Chen et al. 2021, arXiv 2110.13900): attention with a gated relative position bias."""

    model_types = ("wavlm",)
    citations: ClassVar = {
        "wavlm": Citation(
            "chen2022wavlm", "article",
            author="Chen, Sanyuan and Wang, Chengyi and Chen, Zhengyang and Wu, Yu and others",
            title="{WavLM}: Large-Scale Self-Supervised Pre-Training for Full Stack Speech Processing",
            year=2022, journal="IEEE Journal of Selected Topics in Signal Processing", volume="16",
            number="6", pages="1505--1518", doi="10.1109/JSTSP.2022.3188113", eprint="2110.13900",
        )
    }  # fmt: skip

    def transformer_layer(self, index: int, x: Tensor, mask: Tensor | None) -> Tensor:
        """Apply one layer; each gates the bias of the first, which depends on the number of frames alone."""
        batch, frames, _ = x.shape
        first: Any = self.blocks[0].attention
        bias = first.compute_bias(frames, frames)[None].expand(batch, -1, -1, -1)
        bias = bias.reshape(batch * first.num_heads, frames, frames)
        valid = None if mask is None else mask.long()
        out: Tensor = self.blocks[index](x, attention_mask=valid, position_bias=bias, index=index)[0]
        return out

    def call_linear_layers(self, on: bool) -> None:
        for block in self.blocks:
            attention: Any = block.attention
            if on:
                attention.torch_multi_head_self_attention = partial(_attend_by_calls, attention)
            else:
                vars(attention).pop("torch_multi_head_self_attention", None)


def _attend_by_calls(
    attention: Any, x: Tensor, attention_mask: Tensor | None, position_bias: Tensor
) -> tuple[Tensor, None]:
    """Return the result of WavLM's attention, whose own function reads the weights of its linear layers.

    x : (batch, frames, width); attention_mask : (batch, frames), 1 = valid; position_bias : (batch * heads,
    frames, frames).
    """
    batch, frames, width = x.shape
    query, key, value = (
        layer(x).view(batch, frames, attention.num_heads, -1).transpose(1, 2)
        for layer in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    bias = position_bias.view(batch, attention.num_heads, frames, frames).to(query.dtype)
    if attention_mask is not None:
        bias = bias.masked_fill(attention_mask[:, None, None].ne(1), float("-inf"))
    dropout = attention.dropout if attention.training else 0.0
    attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout)
    return attention.out_proj(attended.transpose(1, 2).reshape(batch, frames, width)), None


def standardise_waveform(waveform: Tensor, lengths: Tensor | None) -> Tensor:
    """Scale each row of (batch, samples) to mean 0 and variance 1 over its length, with zero padding."""
    mask = frame_mask(lengths, waveform.shape[1])
    weight = torch.ones_like(waveform) if mask is None else mask.to(waveform.dtype)
    count = weight.sum(dim=1, keepdim=True)
    mean = (waveform * weight).sum(dim=1, keepdim=True) / count
    centred = (waveform - mean) * weight
    variance = (centred**2).sum(dim=1, keepdim=True) / count
    return centred / (variance + 1e-7).sqrt()


def masked_group_norm(x: Tensor, norm: nn.GroupNorm, lengths: Tensor | None) -> Tensor:
    """Apply a group norm of one channel a group over valid frames alone; x : (batch, channels, frames)."""
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
