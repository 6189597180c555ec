"""What teachers say of the training utterances: on disk as `targets-<how>.safetensors`, read by the student."""

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
from emodistill.config import AugmentConfig
from emodistill.console import progress
from emodistill.corpora import Utterance
from emodistill.errors import ConfigError, ModelError
from emodistill.features.preparation import prepare_waveform
from emodistill.files import atomic_write
from emodistill.training.data import view_of
from emodistill.training.stages import SpeechStage


@dataclass(frozen=True)
class TeacherTargets:
    """What a teacher says of the training utterances, in the order of `ids`."""

    ids: tuple[str, ...]
    logits: Tensor  # (utterances, emotions)
    embedding: Tensor  # (utterances, dim)
    available: Tensor  # (utterances,), False: no transcript to judge by
    hidden: Tensor | None = None  # (all frames of all views, width), float16, standardised
    offsets: Tensor | None = None  # (utterances, views, 2): where an utterance's frames start and end

    def write(self, path: Path, teacher: str, how: str) -> None:
        """Write the targets; `how` is in-sample or out-of-fold."""
        tensors = {"logits": self.logits, "embedding": self.embedding, "available": self.available.byte()}
        if self.hidden is not None and self.offsets is not None:
            tensors |= {"hidden": self.hidden, "offsets": self.offsets}
        with atomic_write(path) as partial:
            save_file(
                tensors, partial, metadata={"teacher": teacher, "how": how, "ids": json.dumps(self.ids)}
            )

    @classmethod
    def read(cls, path: Path, expected_ids: Sequence[str]) -> "TeacherTargets":
        """Read targets; raises `ModelError` where they are of other utterances."""
        with safe_open(path, framework="pt") as file:
            ids = tuple(json.loads(file.metadata()["ids"]))
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
        if ids != tuple(expected_ids):
            raise ModelError(
                f"'{path}' holds targets of {len(ids)} other utterances, expected {len(expected_ids)}: "
                "delete it and run again"
            )
        return cls(ids, **{**tensors, "available": tensors["available"].bool()})


@dataclass(frozen=True)
class TargetRows:
    """Targets as the dataset reads them: hidden states follow the view that the student sees."""

    targets: TeacherTargets
    rows: Sequence[int]  # index in the student's dataset -> row of the targets
    augment: AugmentConfig
    seed: int

    def row(self, index: int, epoch: int) -> dict[str, Tensor]:
        """The targets of an utterance in an epoch."""
        found, index = self.targets, self.rows[index]
        row = {
            "logits": found.logits[index],
            "embedding": found.embedding[index],
            "available": found.available[index],
        }
        if found.hidden is not None and found.offsets is not None:
            view = view_of(self.augment, self.seed, epoch, found.ids[index])
            start, end = found.offsets[index, view].tolist()
            row["hidden"] = found.hidden[start:end].float()
        return row


def align_to_ids(ids: Sequence[str], known: Sequence[str], said: Mapping[str, Tensor]) -> TeacherTargets:
    """Targets of all ids, of what a teacher `said` of the known ones: the others are zero, and not available."""
    position = {name: row for row, name in enumerate(ids)}
    rows = torch.tensor([position[name] for name in known], dtype=torch.long)
    available = torch.zeros(len(ids), dtype=torch.bool)
    available[rows] = True

    def over_all(values: Tensor) -> Tensor:
        out = torch.zeros(len(ids), values.shape[1])
        out[rows] = values
        return out

    return TeacherTargets(tuple(ids), over_all(said["logits"]), over_all(said["embedding"]), available)


# --- hidden states -------------------------------------------------------------------------------

HIDDEN_HZ = 25  # frames a second that hidden states are averaged down to


@torch.no_grad()
def with_hidden(
    targets: TeacherTargets, stage: SpeechStage, model: nn.Module, train: Sequence[Utterance]
) -> TeacherTargets:
    """The same targets with an acoustic teacher's frame-level states of every view that the student will hear."""
    views = stage.recipe.augment
    if views.views == 0:
        raise ConfigError("distillation.hidden needs a fixed number of views: set augment.views to 1 or more")
    student_views = SpeechStage(stage.name, stage.recipe, stage.labels, stage.config, views, {})
    spoken = [utterance for utterance in train if stage.uses(utterance)]
    source = student_views.source(model, spoken, 0)
    speech = stage.trained(model).eval()
    said: dict[str, list[Tensor]] = {}
    bar, task = progress("hidden states", len(spoken))
    with bar:
        for index, utterance in enumerate(spoken):
            seconds = len(prepare_waveform(utterance, stage.recipe.audio)) / SAMPLE_RATE
            found = [speech(source.at_view(index, view)[None], None).hidden[0] for view in range(views.views)]
            said[utterance.id] = [downsample(states, seconds).half() for states in found]
            bar.advance(task)
    nothing = [next(iter(said.values()))[0][:0]] * views.views  # of an utterance that is text alone
    hidden, offsets = pack_hidden([said.get(utterance.id, nothing) for utterance in train])
    return replace(targets, hidden=hidden, offsets=offsets)


def downsample(states: Tensor, seconds: float) -> Tensor:
    """Frame-level states (frames, width) of so many seconds, neighbours averaged down to `HIDDEN_HZ`."""
    ratio = max(1, round(len(states) / seconds / HIDDEN_HZ))
    if ratio == 1 or len(states) < ratio:
        return states
    return F.avg_pool1d(states.T[None], ratio)[0].T


def pack_hidden(states: Sequence[Sequence[Tensor]]) -> tuple[Tensor, Tensor]:
    """Frame-level states [utterance][view] (frames, width) -> all frames in a row, and offsets.

    Each dimension is standardised over all frames: a few of a transformer's are so large that they alone
    would decide the cosine.
    """
    flat = [item for views in states for item in views]
    all_frames = torch.cat(flat)
    mean = all_frames.mean(dim=0, dtype=torch.float32)
    std = torch.stack([column.float().std() for column in all_frames.T])
    ends = torch.tensor([len(item) for item in flat]).cumsum(0)
    starts = torch.cat([torch.zeros(1, dtype=torch.long), ends[:-1]])
    offsets = torch.stack([starts, ends], dim=1).reshape(len(states), -1, 2)
    for part in all_frames.split(2**16):
        part.copy_((part - mean) / (std + 1e-6))
    return all_frames.half(), offsets
