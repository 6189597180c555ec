"""The targets of a student: a teacher's outputs for the training utterances.

They are computed once and kept on disk as `targets-<method>.safetensors`. The method is one of two:

* in-sample: the teacher of the fold, which has learned from these utterances;
* out-of-fold: the logits are those of teachers that were trained without the utterance's speaker.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from emodistill.audio.waveform import SAMPLE_RATE
from emodistill.config import AugmentConfig, VoiceConfig
from emodistill.console import progress
from emodistill.corpora import Utterance
from emodistill.errors import ConfigError, ModelError
from emodistill.features.preparation import prepare_waveform
from emodistill.files import atomic_write
from emodistill.training.data import view_of
from emodistill.training.stages import SpeechStage
from emodistill.training.voices import crop, crop_span


@dataclass(frozen=True)
class TeacherTargets:
    """A teacher's outputs for the training utterances, in the order of `ids`."""

    ids: tuple[str, ...]
    logits: Tensor  # (utterances, emotions)
    embedding: Tensor  # (utterances, dim)
    available: Tensor  # (utterances,), False: the teacher lacks its input, such as a transcript
    hidden: Tensor | None = None  # (all frames of all views, width), float16, standardised
    offsets: Tensor | None = None  # (utterances, views, 2): where an utterance's frames start and end

    def write(self, path: Path, teacher: str, method: str) -> None:
        """Write the targets; `method` is "in-sample" or "out-of-fold"."""
        tensors = {"logits": self.logits, "embedding": self.embedding, "available": self.available.byte()}
        if self.hidden is not None and self.offsets is not None:
            tensors |= {"hidden": self.hidden, "offsets": self.offsets}
        metadata = {"teacher": teacher, "method": method, "ids": json.dumps(self.ids)}
        with atomic_write(path) as partial:
            save_file(tensors, partial, metadata=metadata)

    @classmethod
    def read(cls, path: Path, expected_ids: Sequence[str]) -> "TeacherTargets":
        """Read targets; raises `ModelError` where they are those of other utterances."""
        with safe_open(path, framework="pt") as file:
            ids = tuple(json.loads(file.metadata()["ids"]))
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
        if ids != tuple(expected_ids):
            raise ModelError(
                f"'{path}' holds the targets of {len(ids)} other utterances, expected {len(expected_ids)} of "
                "this fold: delete it and run the same command again"
            )
        return cls(ids, **{**tensors, "available": tensors["available"].bool()})


@dataclass(frozen=True)
class TeacherTargetSource:
    """A teacher's targets as the student's dataset reads them.

    Hidden states are those of the view, and of the crop, that the student's input has in the same epoch.
    """

    targets: TeacherTargets
    rows: Sequence[int]  # index in the student's dataset -> row of the targets
    augment: AugmentConfig
    seed: int
    voice: VoiceConfig | None = None  # its crops

    def __call__(self, index: int, epoch: int) -> dict[str, Tensor]:
        targets, row = self.targets, self.rows[index]
        values = {
            "logits": targets.logits[row],
            "embedding": targets.embedding[row],
            "available": targets.available[row],
        }
        if targets.hidden is not None and targets.offsets is not None:
            view = view_of(self.augment, self.seed, epoch, targets.ids[row])
            start, end = targets.offsets[row, view].tolist()
            span = crop_span(self.voice, self.seed, epoch, targets.ids[row], (end - start) / HIDDEN_HZ)
            values["hidden"] = crop(targets.hidden[start:end], span).float()
        return values


def align_to_ids(
    ids: Sequence[str], output_ids: Sequence[str], outputs: Mapping[str, Tensor]
) -> TeacherTargets:
    """Expands a teacher's outputs for `output_ids` to all ids; missing rows are zero and unavailable."""
    position = {utterance_id: row for row, utterance_id in enumerate(ids)}
    rows = torch.tensor([position[utterance_id] for utterance_id in output_ids], dtype=torch.long)
    available = torch.zeros(len(ids), dtype=torch.bool)
    available[rows] = True

    def expand(values: Tensor) -> Tensor:
        expanded = torch.zeros(len(ids), values.shape[1])
        expanded[rows] = values
        return expanded

    return TeacherTargets(tuple(ids), expand(outputs["logits"]), expand(outputs["embedding"]), available)


# --- hidden states -------------------------------------------------------------------------------

HIDDEN_HZ = 25  # frames a second that hidden states are averaged down to


@torch.no_grad()
def with_hidden_states(
    targets: TeacherTargets, stage: SpeechStage, model: nn.Module, train: Sequence[Utterance]
) -> TeacherTargets:
    """The same targets with the acoustic teacher's hidden states for every view of the student's inputs.

    Raises `ConfigError` where the number of views is not fixed.
    """
    augment = stage.recipe.augment
    if augment.views == 0:
        raise ConfigError("distillation.hidden needs a fixed number of views: set augment.views to 1 or more")
    student_views = SpeechStage(stage.name, stage.recipe, stage.labels, stage.config, augment, {})
    spoken = [utterance for utterance in train if stage.can_use(utterance)]
    source = student_views.source(model, spoken, 0)
    teacher = stage.trained_part(model).eval()
    states_by_id: dict[str, list[Tensor]] = {}
    bar, task = progress("hidden states", len(spoken))
    with bar:
        for index, utterance in enumerate(spoken):
            length_s = len(prepare_waveform(utterance, stage.recipe.audio)) / SAMPLE_RATE
            states = [
                teacher(source.at_view(index, view)[None], None).hidden[0] for view in range(augment.views)
            ]
            states_by_id[utterance.id] = [downsample(item, length_s).half() for item in states]
            bar.advance(task)
    no_frames = next(iter(states_by_id.values()))[0][:0]  # for an utterance without audio
    hidden, offsets = pack_hidden([states_by_id.get(item.id, [no_frames] * augment.views) for item in train])
    return replace(targets, hidden=hidden, offsets=offsets)


def downsample(states: Tensor, length_s: float) -> Tensor:
    """Average hidden states (frames, width) of an utterance of `length_s` down to about `HIDDEN_HZ`."""
    ratio = max(1, round(len(states) / length_s / HIDDEN_HZ))
    if ratio == 1 or len(states) < ratio:
        return states
    return F.avg_pool1d(states.T[None], ratio)[0].T


def pack_hidden(states: Sequence[Sequence[Tensor]]) -> tuple[Tensor, Tensor]:
    """Concatenate hidden states [utterance][view] (frames, width); returns them and the offsets of each.

    Each dimension is standardised over all frames. Without it a few dimensions of a transformer's states,
    which are very large, would alone decide the cosine.
    """
    parts = [item for views in states for item in views]
    frames = torch.cat(parts)
    mean = frames.mean(dim=0, dtype=torch.float32)
    std = torch.stack([column.float().std() for column in frames.T])
    ends = torch.tensor([len(item) for item in parts]).cumsum(0)
    starts = torch.cat([torch.zeros(1, dtype=torch.long), ends[:-1]])
    offsets = torch.stack([starts, ends], dim=1).reshape(len(states), -1, 2)
    for block in frames.split(2**16):  # in place, since all frames together may be many GB
        block.copy_((block - mean) / (std + 1e-6))
    return frames.half(), offsets
