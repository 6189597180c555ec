"""The compact backbone: small, and trained from random weights."""

from typing import Any, ClassVar, Self

from torch import Tensor, nn
from torch.nn import functional as F

from emodistill.citations import Citation
from emodistill.models.base import Backbone, normalise_peak
from emodistill.models.layers import frame_mask, zero_padding
from emodistill.models.mel import LogMel


class ConvNeXtBlock(nn.Module):
    """A ConvNeXt block over time (Liu et al. 2022, arXiv 2201.03545): depthwise convolution, then an MLP per
    frame.
    """

    def __init__(self, width: int, kernel: int = 7) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return (batch, frames, width) for x of that shape and mask (batch, frames) or None."""
        mixed = self.depthwise(zero_padding(x, mask).transpose(1, 2)).transpose(1, 2)
        residual: Tensor = self.contract(F.gelu(self.expand(self.norm(mixed))))
        return x + residual


class Compact(Backbone):
    """Log-mel, two strided convolutions (25 frames a second), ConvNeXt blocks."""

    model_types = ("compact",)
    citations: ClassVar = {
        "compact": Citation(
            "liu2022convnext", "inproceedings",
            author="Liu, Zhuang and Mao, Hanzi and Wu, Chao-Yuan and Feichtenhofer, Christoph and "
            "Darrell, Trevor and Xie, Saining",
            title="A {ConvNet} for the 2020s",
            year=2022, booktitle="IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)",
            eprint="2201.03545", note="The blocks of the compact student",
        )
    }  # fmt: skip

    def __init__(self, width: int = 192, num_layers: int = 6, num_mels: int = 80) -> None:
        config = {"width": width, "num_layers": num_layers, "num_mels": num_mels}
        super().__init__("compact", width, num_layers, config)
        self.mel = LogMel(num_mels)
        self.conv1 = nn.Conv1d(num_mels, width, 5, stride=2, padding=2)
        self.conv2 = nn.Conv1d(width, width, 5, stride=2, padding=2)
        self.norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(ConvNeXtBlock(width) for _ in range(num_layers))

    @classmethod
    def from_config(cls, config: dict[str, Any], num_layers: int) -> Self:
        return cls(**{**config, "num_layers": num_layers})

    def embed(self, waveform: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Log-mel, two strided convolutions, layer norm."""
        x, lengths = self.mel(normalise_peak(waveform, lengths), lengths)
        for conv in (self.conv1, self.conv2):
            x = F.gelu(conv(x.transpose(1, 2)).transpose(1, 2))
            lengths = None if lengths is None else (lengths - 1) // 2 + 1
            x = zero_padding(x, frame_mask(lengths, x.shape[1]))
        return self.norm(x), lengths

    def layer(self, index: int, x: Tensor, mask: Tensor | None) -> Tensor:
        """Apply one ConvNeXt block."""
        block: nn.Module = self.blocks[index]
        out: Tensor = block(x, mask)
        return out
