"""The interface of a speech backbone, and what several families need.

A backbone turns a waveform into frames: `embed` computes the input of the first layer, `layer` applies one
layer. Padding must not change the result, so a family follows three rules:

- statistics over time are computed over valid frames alone;
- padded frames are zero before every convolution over time;
- attention gets a mask.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel
from transformers.utils import logging as transformers_logging

from emodistill.citations import Citation
from emodistill.errors import ModelError
from emodistill.models.layers import frame_mask
from emodistill.models.student_checks import too_few_layers


class Backbone(nn.Module, ABC):
    """Maps a waveform to frames, layer by layer.

    `model_type` and `config` are enough to rebuild the architecture without its weights, see `from_config`.
    """

    model_types: ClassVar[tuple[str, ...]]  # the values of `model_type` that this family implements
    citations: ClassVar[Mapping[str, Citation | str]]  # by model type; a text says that there is none
    blocks: nn.ModuleList  # the layers in use, so that a student can freeze some

    def __init__(self, model_type: str, width: int, num_layers: int, config: dict[str, Any]) -> None:
        super().__init__()
        self.model_type = model_type
        self.width = width
        self.num_layers = num_layers
        self.config = config

    @classmethod
    @abstractmethod
    def from_config(cls, config: dict[str, Any], num_layers: int) -> Self:
        """Build the first `num_layers` layers of a saved `config` with random weights; downloads nothing."""

    @abstractmethod
    def embed(self, waveform: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the input of layer 0, (batch, frames, width), and its lengths in frames, or None.

        Args:
            waveform: (batch, samples).
            lengths: (batch,) in samples; None if no row is padded.
        """

    @abstractmethod
    def layer(self, index: int, x: Tensor, mask: Tensor | None) -> Tensor:
        """Apply one layer to x (batch, frames, width); mask (batch, frames), True = valid, or None."""

    def call_linear_layers(self, on: bool) -> None:
        """Switch on that a block calls each of its linear layers, which an adapter on a layer requires.

        A family whose blocks read the weights of a layer without calling it overrides this.
        """


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its kind if it has none."""
    return (str(error) or type(error).__name__).splitlines()[0]


def plain_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a saved architecture without those that name code, kernels or files to load."""
    named = (
        "auto_map",
        "attn_implementation",
        "experts_implementation",
        "quantization_config",
        "custom_pipelines",
    )
    return {
        name: value
        for name, value in config.items()
        if name not in named and (name == "_name_or_path" or not name.startswith("_"))
    }


class PretrainedBackbone(Backbone):
    """A family whose weights come from transformers; `model_types` are names of transformers."""

    def __init__(self, model: Any, num_layers: int | None) -> None:
        """Use the first `num_layers` layers of a transformers model; None uses all.

        Raises `ModelError` if the model has fewer layers.
        """
        config = model.config
        total: int = config.num_hidden_layers
        if num_layers is not None and num_layers > total:
            raise ModelError(too_few_layers(num_layers, total))
        super().__init__(config.model_type, config.hidden_size, num_layers or total, config.to_dict())
        self.total_layers = total  # those of the pretrained model

    @classmethod
    def from_pretrained(cls, name: str, num_layers: int | None) -> Self:
        """Load the weights of a hub id or a folder; `num_layers` None takes all layers."""
        model = AutoModel.from_pretrained(name, dtype=torch.float32, trust_remote_code=False)
        return cls(model, num_layers)

    @classmethod
    def from_config(cls, config: dict[str, Any], num_layers: int) -> Self:
        plain = plain_config(config)
        return cls(AutoModel.from_config(AutoConfig.for_model(**plain), trust_remote_code=False), num_layers)


def additive_mask(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Return mask (batch, frames) as (batch, 1, 1, frames) to add to attention scores; None stays None."""
    if mask is None:
        return None
    return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)[:, None, None, :]


def normalise_peak(waveform: Tensor, lengths: Tensor | None) -> Tensor:
    """Scale each row of (batch, samples) to a peak of 1 and zero its padding, so that gain has no effect."""
    mask = frame_mask(lengths, waveform.shape[1])
    if mask is not None:
        waveform = waveform * mask.to(waveform.dtype)
    return waveform / waveform.abs().amax(dim=1, keepdim=True).clamp(min=1e-6)


@contextmanager
def no_progress_bar(name: str) -> Iterator[None]:
    """Hide transformers' progress bar while weights are loaded from a folder, which takes no time."""
    hide = transformers_logging.is_progress_bar_enabled() and Path(name).is_dir()
    if hide:
        transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if hide:
            transformers_logging.enable_progress_bar()
