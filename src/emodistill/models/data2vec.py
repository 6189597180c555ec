"""data2vec audio (Baevski et al. 2022, arXiv 2202.03555)."""

from typing import ClassVar

from torch import Tensor

from emodistill.citations import Citation
from emodistill.models.layers import zero_padding
from emodistill.models.wav2vec2 import ConvolutionalBackbone


class Data2VecAudio(ConvolutionalBackbone):
    """Like wav2vec 2.0, but for its position embedding: several convolutions in a row, each with a layer
    norm.
    """

    model_types = ("data2vec-audio",)
    citations: ClassVar = {
        "data2vec-audio": Citation(
            "baevski2022data2vec", "inproceedings",
            author="Baevski, Alexei and Hsu, Wei-Ning and Xu, Qiantong and Babu, Arun and Gu, Jiatao and "
            "Auli, Michael",
            title="data2vec: A General Framework for Self-supervised Learning in Speech, Vision and Language",
            year=2022, booktitle="International Conference on Machine Learning (ICML)", eprint="2202.03555",
        )
    }  # fmt: skip

    def position_embedding(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return what is added to x (batch, frames, width).

        A convolution fills the padding with values that the next one would read, so padding is zeroed before
        each.
        """
        for convolution in self.positions.layers:
            x = convolution(zero_padding(x, mask).transpose(1, 2)).transpose(1, 2)
        return x
