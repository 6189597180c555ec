"""data2vec audio (Baevski et al. 2022, arXiv 2202.03555)."""

from torch import Tensor

from emodistill.models.layers import zero_padding
from emodistill.models.wav2vec2 import ConvolutionalBackbone


class Data2VecAudio(ConvolutionalBackbone):
    """Like wav2vec 2.0, but for its position embedding: several convolutions in a row, each with a layer
    norm.
    """

    model_types = ("data2vec-audio",)

    def position_embedding(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return what is added to x (batch, frames, width).

        A convolution fills the padding with values that the next one would read, so padding is zeroed before
        each.
        """
        for convolution in self.positions.layers:
            x = convolution(zero_padding(x, mask).transpose(1, 2)).transpose(1, 2)
        return x
