"""Teacher targets on disk: `targets-<how>.safetensors`, computed once per fold and read by the student."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from emodistill.config import AugmentConfig
from emodistill.errors import ModelError
from emodistill.training.data import view_of


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
        partial = path.with_suffix(".partial")
        save_file(tensors, partial, metadata={"teacher": teacher, "how": how, "ids": json.dumps(self.ids)})
        partial.replace(path)

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


HIDDEN_HZ = 25  # frames a second that hidden states are averaged down to


def slowed(states: Tensor, seconds: float) -> Tensor:
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
