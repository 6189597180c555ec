"""The student: a speech backbone, pooling, a classifier, and one projection head per teacher."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emodistill.config import StudentConfig
from emodistill.errors import ConfigError
from emodistill.models.base import Backbone
from emodistill.models.layers import AttentiveStatistics, Output, frame_mask
from emodistill.models.mel import LogMel

FRAME_HEAD = "_hidden"  # ends the name of a head over frames, which no exported model has


def frame_head(teacher: str) -> str:
    """The name of a student's head for a teacher's frame-level states."""
    return teacher + FRAME_HEAD


class Standardise(nn.Module):
    """(x - mean) / std, both fixed: set from training data before training starts."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """x : (batch, dim)."""
        return (x - self.mean) / self.std


class Student(nn.Module):
    """Waveform (batch, samples) and lengths -> `Output`, in two parts.

    `prefix` is the front-end and the frozen layers. Where there are any it never changes, so its hidden
    states can be computed once and cached. `suffix` is the rest.
    """

    def __init__(
        self, backbone: Backbone, config: StudentConfig, num_classes: int, teachers: Mapping[str, int]
    ) -> None:
        """`teachers` gives the embedding size of each teacher that the student has a head for; the
        name `acoustic_hidden` stands for the width of the acoustic teacher's frame-level states, which are those that it pools."""
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.teacher_dims = dict(teachers)
        last = backbone.num_layers
        if config.frozen > last:
            raise ConfigError(f"student.frozen = {config.frozen}, but the backbone has {last} layers")
        self.pooled = (last,) if isinstance(config.pool, str) else config.pool
        if not all(0 <= layer <= last for layer in self.pooled):
            raise ConfigError(f"student.pool = {list(self.pooled)}, but the backbone's layers are 0 … {last}")
        if config.probe is not None and (max(self.pooled) > config.frozen or config.pool == "mix"):
            raise ConfigError(
                f"a probe reads frozen layers: student.pool must list layers up to {config.frozen}"
            )
        if config.probe is not None and config.embedding_dim < num_classes:
            raise ConfigError(
                f"a probe needs student.embedding_dim of at least {num_classes}, one an emotion"
            )
        wanted = range(last + 1) if config.pool == "mix" else self.pooled
        # States that the prefix hands over: the last frozen one, and those below it that are pooled.
        self.kept = tuple(sorted({layer for layer in wanted if layer < config.frozen} | {config.frozen}))
        self.mix = nn.Parameter(torch.zeros(last + 1)) if config.pool == "mix" else None
        width = backbone.width * len(self.pooled)
        self.pool = AttentiveStatistics(width)
        # Of a transformer's states a few dimensions are so large that a layer norm would leave little of the others.
        standardise = config.standardise
        if standardise is None:
            standardise = config.pool != "mix" and config.frozen > 0
        self.norm = Standardise(2 * width) if standardise else nn.LayerNorm(2 * width)
        self.dropout = nn.Dropout(config.dropout)
        self.embed = nn.Linear(2 * width, config.embedding_dim)
        self.classifier = nn.Linear(config.embedding_dim, num_classes)
        self.heads = nn.ModuleDict(
            {
                name: nn.Linear(width if name.endswith(FRAME_HEAD) else config.embedding_dim, dim)
                for name, dim in teachers.items()
            }
        )
        mel = getattr(backbone, "mel", None)
        if isinstance(mel, LogMel):
            mel.warp, mel.band_mask = config.warp, config.band_mask
        elif config.warp or config.band_mask:
            raise ConfigError(
                f"student.warp and band_mask disturb a log-mel spectrogram; '{config.backbone}' has none: set both to 0"
            )
        if config.frozen:
            backbone.requires_grad_(False)
            for layer in list(backbone.blocks)[config.frozen :]:
                layer.requires_grad_(True)

    def prefix(self, waveform: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """waveform : (batch, samples) -> states (batch, frames, kept, width), and lengths in frames."""
        x, lengths = self.backbone.embed(waveform, lengths)
        mask = frame_mask(lengths, x.shape[1])
        states = [x]
        for index in range(self.config.frozen):
            states.append(self.backbone.layer(index, states[-1], mask))
        return torch.stack([states[layer] for layer in self.kept], dim=2), lengths

    def suffix(self, states: Tensor, lengths: Tensor | None) -> Output:
        """states : (batch, frames, kept, width), as `prefix` returns them."""
        mask = frame_mask(lengths, states.shape[1])
        hidden = self._pooled_states(states, mask)
        embedding = self.embed(self.dropout(self.norm(self.pool(hidden, mask))))
        projections, hidden_projections = {}, {}
        for name, head in self.heads.items():
            if name.endswith(FRAME_HEAD):
                hidden_projections[name.removesuffix(FRAME_HEAD)] = head(hidden)
            else:
                projections[name] = head(embedding)
        classifier_input = self.dropout(F.gelu(embedding)) if self.config.nonlinear else embedding
        logits = self.classifier(classifier_input)
        embedding = F.normalize(embedding, dim=1)
        return Output(logits, embedding, projections, hidden_projections, hidden, mask, classifier_input)

    def statistics(self, states: Tensor) -> Tensor:
        """What the norm is given for one utterance's states (frames, kept, width): (2 * width,)."""
        pooled: Tensor = self.pool(self._pooled_states(states[None], None), None)[0]
        return pooled

    def _pooled_states(self, states: Tensor, mask: Tensor | None) -> Tensor:
        """The frames that are pooled, (batch, frames, width), out of what `prefix` returns."""
        if self.mix is None and tuple(self.pooled) == self.kept:
            return states.flatten(2)  # all are frozen, and lie side by side already
        layers = dict(zip(self.kept, states.unbind(dim=2), strict=True))
        for index in range(self.config.frozen, self.backbone.num_layers):
            layers[index + 1] = self.backbone.layer(index, layers[index], mask)
        if self.mix is None:
            return torch.cat([layers[layer] for layer in self.pooled], dim=2)
        weights = self.mix.softmax(dim=0)
        normed = [F.layer_norm(layers[layer], layers[layer].shape[-1:]) for layer in range(len(weights))]
        return (torch.stack(normed, dim=-1) * weights).sum(dim=-1)

    def forward(self, waveform: Tensor, lengths: Tensor | None = None) -> Output:
        """Both parts in a row."""
        return self.suffix(*self.prefix(waveform, lengths))

    @torch.no_grad()
    def set_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Mean and standard deviation (2 * width,) of the pooled statistics over the training split."""
        assert isinstance(self.norm, Standardise)
        self.norm.mean.copy_(mean)
        self.norm.std.copy_(std)

    @torch.no_grad()
    def set_probe(self, weight: Tensor, bias: Tensor) -> None:
        """Start from a linear probe: logits = weight @ standardised statistics + bias, (classes, dim).

        The probe's logits become the first directions of the embedding; the others stay random, for
        the projection heads to use, and the classifier ignores them at first.
        """
        classes = len(weight)
        self.embed.weight[:classes] = weight
        self.embed.bias[:classes] = bias
        self.classifier.weight.zero_()
        self.classifier.weight[:, :classes].copy_(torch.eye(classes))
        self.classifier.bias.zero_()


class Suffix(nn.Module):
    """The trained part of a student as a module of its own, over cached states."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student

    def forward(self, states: Tensor, lengths: Tensor | None) -> Output:
        """states : (batch, frames, kept, width)."""
        return self.student.suffix(states.float(), lengths)
