"""The student: a speech backbone, pooling, a classifier, and projection heads for its teachers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emodistill.config import StudentConfig
from emodistill.errors import ConfigError
from emodistill.models.base import Backbone
from emodistill.models.layers import (
    AttentiveStatistics,
    FrameQueries,
    Output,
    PlainStatistics,
    frame_mask,
    linear_classifier,
    make_regressor,
    merge_frames,
)
from emodistill.models.mel import LogMel
from emodistill.models.student_checks import check_layers, pooled_layers

FRAME_HEAD = "_hidden"  # ends the name of a head over frames; exported models have no such head


def frame_head(teacher: str) -> str:
    """The name of the student's head for a teacher's frame-level states."""
    return teacher + FRAME_HEAD


class Standardise(nn.Module):
    """(x - mean) / std, with constants that are set from the training split before training starts."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """x : (batch, dim)."""
        return (x - self.mean) / self.std


class RunningStandardise(Standardise):
    """(x - mean) / std, by running values over the batches of training, for a trunk that is trained.

    A layer norm compares the statistics of one utterance with each other, and a batch norm with those of the
    batch. Neither leaves values that can be averaged over utterances. No gradient flows through the running
    values. They follow the batches until `UNTIL` of the epochs are over, and then they are fixed.
    """

    MIN_STD = 1e-3
    UNTIL = 0.8
    SHARE = 0.02  # of a batch in the running values, except in the first batches

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.share = 1.0  # of the present batch in the running values

    def schedule(self, step: int, progress: float) -> None:
        """Set the share of the next batch, by the number of steps and the share of epochs that are over."""
        self.share = 0.0 if progress >= self.UNTIL else max(self.SHARE, 1 / (1 + step))

    def forward(self, x: Tensor) -> Tensor:
        """x : (batch, dim)."""
        if self.training and self.share:
            self._update(x.detach().float())
        return super().forward(x)

    @torch.no_grad()
    def _update(self, x: Tensor) -> None:
        self.mean.lerp_(x.mean(dim=0), self.share)
        variance = self.std.square().lerp((x - self.mean).square().mean(dim=0), self.share)
        self.std.copy_(variance.sqrt().clamp(min=self.MIN_STD))


# What is known about the voices of a batch: (batch, dim), or a function of the statistics (batch, dim) of the
# batch that returns it. None: nothing is known.
Voices = Tensor | Callable[[Tensor], Tensor] | None


class Student(nn.Module):
    """Maps waveforms (batch, samples) and lengths to an `Output`, in two parts.

    `prefix` is the front-end and the frozen layers. If layers are frozen it never changes, so its states can
    be computed once and cached. `suffix` is the rest.

    With `has_voices` the student classifies the statistics of an utterance minus what is usual for the
    speaker's voice: the shrunk mean of the statistics of other utterances (`training.voices`).
    """

    def __init__(
        self,
        backbone: Backbone,
        config: StudentConfig,
        num_classes: int,
        teachers: Mapping[str, int],
        has_voices: bool = False,
        dimensions: Sequence[str] = (),
    ) -> None:
        """Make a student with random weights around a backbone.

        `teachers` maps the name of each projection head to its output size: a teacher's name for a head over
        the embedding, `frame_head(teacher)` for a head over the pooled states. `dimensions` are the names of
        those that a linear regressor predicts, beside the classifier. Raises `ConfigError` if `config` does
        not fit the backbone.
        """
        super().__init__()
        self.config, self.has_voices = config, has_voices
        self.dimensions = tuple(dimensions)
        self.backbone = backbone
        self.teacher_dims = dict(teachers)
        last = backbone.num_layers
        self.pool_layers = pooled_layers(config, last)
        self._check(num_classes)
        wanted = range(last + 1) if config.pool == "mix" else self.pool_layers
        # What the prefix returns: the output of the last frozen layer, and lower ones that are pooled.
        self.prefix_layers = tuple(
            sorted({layer for layer in wanted if layer < config.frozen} | {config.frozen})
        )
        self.mix = nn.Parameter(torch.zeros(last + 1)) if config.pool == "mix" else None
        width = backbone.width * len(self.pool_layers)
        self.pool = AttentiveStatistics(width) if config.attentive else PlainStatistics()
        # Some dimensions of a transformer's states are so large that a layer norm would almost erase the
        # others.
        standardise = config.standardise
        if standardise is None:
            standardise = config.pool != "mix" and config.frozen > 0
        self.has_fixed_norm = standardise
        self.norm: nn.Module
        if standardise:
            self.norm = Standardise(2 * width)
        else:  # a voice is a mean over utterances, which a layer norm makes meaningless
            self.norm = RunningStandardise(2 * width) if has_voices else nn.LayerNorm(2 * width)
        self.dropout = nn.Dropout(config.dropout)
        self.embed = nn.Linear(2 * width, config.embedding_dim)
        self.queries = (
            FrameQueries(backbone.width, config.queries, config.embedding_dim) if config.queries else None
        )
        self.classifier = linear_classifier(config.embedding_dim, num_classes)
        self.heads = nn.ModuleDict(
            {
                name: nn.Linear(width if name.endswith(FRAME_HEAD) else config.embedding_dim, dim)
                for name, dim in teachers.items()
            }
        )
        self.regressor = make_regressor(config.embedding_dim, self.dimensions)
        self._prepare_backbone()

    def _prepare_backbone(self) -> None:
        """Set the augmentation of the spectrogram, and stop the training of frozen layers."""
        backbone, config = self.backbone, self.config
        mel = getattr(backbone, "mel", None)
        if isinstance(mel, LogMel):
            mel.warp, mel.band_mask = config.warp, config.band_mask
        if config.frozen:
            backbone.requires_grad_(False)
            for layer in list(backbone.blocks)[config.frozen :]:
                layer.requires_grad_(True)

    def _check(self, num_classes: int) -> None:
        """Raise `ConfigError` if the configuration does not fit the backbone or the number of emotions."""
        config = self.config
        check_layers(config, self.backbone.num_layers, num_classes)
        if (config.warp or config.band_mask) and not isinstance(getattr(self.backbone, "mel", None), LogMel):
            raise ConfigError(
                "student.warp and student.band_mask augment a log-mel spectrogram, which "
                f"'{config.backbone}' does not have: set both to 0"
            )

    def prefix(self, waveform: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return states (batch, frames, len(prefix_layers), width) and their lengths in frames, or None.

        waveform : (batch, samples); lengths : (batch,) in samples, or None.
        """
        x, lengths = merge_frames(*self.backbone.embed(waveform, lengths), self.config.merge)
        mask = frame_mask(lengths, x.shape[1])
        states = [x]
        for index in range(self.config.frozen):
            states.append(self.backbone.layer(index, states[-1], mask))
        return torch.stack([states[layer] for layer in self.prefix_layers], dim=2), lengths

    def suffix(self, states: Tensor, lengths: Tensor | None, voice: Voices = None) -> Output:
        """Compute the outputs for the states (batch, frames, layers, width) that `prefix` returns."""
        mask = frame_mask(lengths, states.shape[1])
        hidden = self._pooled_states(states, mask)
        statistics: Tensor = self.norm(self.pool(hidden, mask))
        if callable(voice) and not isinstance(voice, Tensor):
            voice = voice(statistics)
        attended = None
        if self.queries is not None:
            attended = self.queries(self.dropout(hidden[:, :, -self.backbone.width :]), mask)
        output = self.head(statistics if voice is None else statistics - voice, attended)
        frame_projections = {
            name.removesuffix(FRAME_HEAD): head(hidden)
            for name, head in self.heads.items()
            if name.endswith(FRAME_HEAD)
        }
        return replace(
            output, hidden_projections=frame_projections, hidden=hidden, mask=mask, statistics=statistics
        )

    def head(self, x: Tensor, attended: Tensor | None = None) -> Output:
        """Compute the outputs that need no frames, for the statistics (batch, dim) minus the voice.

        `attended` (batch, embedding_dim) is the result of the queries, where the student has some.
        """
        embedding = self.embed(self.dropout(x))
        if attended is not None:
            embedding = embedding + attended
        projections = {
            name: head(embedding) for name, head in self.heads.items() if not name.endswith(FRAME_HEAD)
        }
        classifier_input = self.dropout(F.gelu(embedding)) if self.config.nonlinear else embedding
        logits = self.classifier(classifier_input)
        embedding = F.normalize(embedding, dim=1)
        dimensions = None if self.regressor is None else self.regressor(classifier_input)
        return Output(
            logits, embedding, projections, classifier_input=classifier_input, dimensions=dimensions
        )

    def pooled_statistics(self, states: Tensor) -> Tensor:
        """Return the input of the norm, (2 * width,), for one utterance's states (frames, layers, width)."""
        pooled: Tensor = self.pool(self._pooled_states(states[None], None), None)[0]
        return pooled

    def _pooled_states(self, states: Tensor, mask: Tensor | None) -> Tensor:
        """Return the states that are pooled, (batch, frames, width), from what `prefix` returns."""
        if self.mix is None and tuple(self.pool_layers) == self.prefix_layers:
            return states.flatten(2)  # all are frozen and in this order, so nothing has to be copied
        layers = dict(zip(self.prefix_layers, states.unbind(dim=2), strict=True))
        for index in range(self.config.frozen, self.backbone.num_layers):
            layers[index + 1] = self.backbone.layer(index, layers[index], mask)
        if self.mix is None:
            return torch.cat([layers[layer] for layer in self.pool_layers], dim=2)
        weights = self.mix.softmax(dim=0)
        normed = [F.layer_norm(layers[layer], layers[layer].shape[-1:]) for layer in range(len(weights))]
        return (torch.stack(normed, dim=-1) * weights).sum(dim=-1)

    def forward(self, waveform: Tensor, lengths: Tensor | None = None, voice: Voices = None) -> Output:
        """Compute both parts; waveform : (batch, samples), lengths : (batch,) in samples, or None."""
        return self.suffix(*self.prefix(waveform, lengths), voice)

    @torch.no_grad()
    def set_standardisation(self, mean: Tensor, std: Tensor) -> None:
        """Set mean and standard deviation, each (2 * width,), of the pooled statistics over the training
        split.
        """
        assert isinstance(self.norm, Standardise)
        self.norm.mean.copy_(mean)
        self.norm.std.copy_(std)

    @torch.no_grad()
    def set_probe(self, weight: Tensor, bias: Tensor) -> None:
        """Start from a linear probe: logits = weight @ standardised statistics + bias.

        weight : (classes, 2 * width); bias : (classes,). The logits become the first dimensions of the
        embedding. The others stay random: the projection heads use them, and the classifier ignores them at
        first.
        """
        classes = len(weight)
        self.embed.weight[:classes] = weight
        self.embed.bias[:classes] = bias
        self.classifier.weight.zero_()
        self.classifier.weight[:, :classes].copy_(torch.eye(classes))
        self.classifier.bias.zero_()


class Suffix(nn.Module):
    """The trained part of a student as its own module, so that it can be trained on cached states."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student

    def forward(self, states: Tensor, lengths: Tensor | None, voice: Voices = None) -> Output:
        """states : (batch, frames, layers, width), as `Student.prefix` returns them."""
        return self.student.suffix(states.float(), lengths, voice)
