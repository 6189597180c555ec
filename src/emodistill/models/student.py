"""The student: a speech backbone, pooling, a classifier, and one projection head per teacher."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emodistill.config import StudentConfig
from emodistill.models.backbones import Backbone
from emodistill.models.layers import AttentiveStatistics, CosineClassifier, Output, frame_mask


class Student(nn.Module):
    """Waveform (batch, samples) and lengths -> `Output`, in two parts.

    `prefix` is the front-end and the frozen layers: it never changes, so its hidden states can be
    computed once and cached. `suffix` is all that is trained.
    """

    def __init__(
        self, backbone: Backbone, config: StudentConfig, num_classes: int, teachers: Mapping[str, int]
    ) -> None:
        """`teachers` gives the embedding size of each teacher that the student has a head for; the
        name `acoustic_hidden` stands for the width of the acoustic teacher's frame-level states."""
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.teacher_dims = dict(teachers)
        self.num_states = config.frozen + 1 if config.mix_layers else 1
        self.mix = nn.Parameter(torch.zeros(backbone.num_layers + 1)) if config.mix_layers else None
        self.pool = AttentiveStatistics(backbone.width)
        self.norm = nn.LayerNorm(2 * backbone.width)
        self.dropout = nn.Dropout(config.dropout)
        self.embed = nn.Linear(2 * backbone.width, config.embedding_dim)
        self.classifier = CosineClassifier(config.embedding_dim, num_classes)
        self.heads = nn.ModuleDict(
            {
                name: nn.Linear(backbone.width if name.endswith("_hidden") else config.embedding_dim, dim)
                for name, dim in teachers.items()
            }
        )
        if config.frozen:
            trained = nn.ModuleList(list(backbone.blocks)[config.frozen :])
            backbone.requires_grad_(False)
            trained.requires_grad_(True)

    def prefix(self, waveform: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """waveform : (batch, samples) -> states (batch, frames, states, width), lengths in frames.

        One state (the last frozen layer's), or all from the embedding upwards where layers are mixed.
        """
        x, lengths = self.backbone.embed(waveform, lengths)
        mask = frame_mask(lengths, x.shape[1])
        states = [x]
        for index in range(self.config.frozen):
            states.append(self.backbone.layer(index, states[-1], mask))
        return torch.stack(states[-self.num_states :], dim=2), lengths

    def suffix(self, states: Tensor, lengths: Tensor | None) -> Output:
        """states : (batch, frames, states, width), as `prefix` returns them."""
        mask = frame_mask(lengths, states.shape[1])
        layers = list(states.unbind(dim=2))
        for index in range(self.config.frozen, self.backbone.num_layers):
            layers.append(self.backbone.layer(index, layers[-1], mask))
        x = layers[-1]
        if self.mix is not None:
            x = sum(
                (w * F.layer_norm(s, s.shape[-1:]) for w, s in zip(self.mix.softmax(0), layers, strict=True))
            )
        embedding = self.embed(self.dropout(self.norm(self.pool(x, mask))))
        projections = {
            name: head(layers[-1] if name.endswith("_hidden") else embedding)
            for name, head in self.heads.items()
        }
        return Output(
            self.classifier(embedding), F.normalize(embedding, dim=1), projections, layers[-1], mask
        )

    def forward(self, waveform: Tensor, lengths: Tensor | None = None) -> Output:
        """Both parts in a row."""
        return self.suffix(*self.prefix(waveform, lengths))


class Suffix(nn.Module):
    """The trained part of a student as a module of its own, over cached states."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student

    def forward(self, states: Tensor, lengths: Tensor | None) -> Output:
        """states : (batch, frames, states, width)."""
        return self.student.suffix(states.float(), lengths)
