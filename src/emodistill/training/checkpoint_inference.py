"""Inference with any of our checkpoints on any utterances, outside of the fold that it was trained in."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from emodistill.config import AudioConfig, AugmentConfig, Recipe, RuntimeConfig
from emodistill.corpora import Utterance
from emodistill.evaluation.known import SpeakerStatistics
from emodistill.models.checkpoint import Checkpoint
from emodistill.models.linguistic import LinguisticTeacher
from emodistill.models.prosodic import ProsodicTeacher
from emodistill.models.student import Student
from emodistill.training.data import UtteranceDataset
from emodistill.training.fit import device_of, infer
from emodistill.training.stages import CLEAN_ONLY, LinguisticStage, ProsodicStage, SpeechStage, Stage


def stage_of(checkpoint: Checkpoint, audio: AudioConfig, runtime: RuntimeConfig) -> Stage:
    """The stage that prepares the inputs of a checkpoint's model as in training."""
    recipe = Recipe(name="checkpoint", audio=audio, runtime=runtime)
    model, labels = checkpoint.model, checkpoint.labels
    if isinstance(model, ProsodicTeacher):
        return ProsodicStage("prosodic", recipe.model_copy(update={"prosodic": model.config}), labels)
    if isinstance(model, LinguisticTeacher):
        return LinguisticStage("linguistic", recipe.model_copy(update={"linguistic": model.config}), labels)
    assert isinstance(model, Student), type(model)
    return SpeechStage("student", recipe, labels, model.config, AugmentConfig(), model.teacher_dims)


def predict_checkpoint(
    checkpoint: Checkpoint,
    utterances: Sequence[Utterance],
    audio: AudioConfig | None = None,
    runtime: RuntimeConfig | None = None,
    batch_size: int = 32,
) -> tuple[list[int], dict[str, Tensor]]:
    """Run a checkpoint's model on the utterances that have the input it requires.

    `audio` says how recordings were prepared in training; default: `AudioConfig()`. Returns the positions of
    those utterances, and their `logits` (rows, emotions) and `embedding` (rows, dim), {} where there are
    none. Raises `AudioError` for a recording that cannot be read.
    """
    runtime = runtime or RuntimeConfig(workers=1)
    stage = stage_of(checkpoint, audio or AudioConfig(), runtime)
    rows = [row for row, utterance in enumerate(utterances) if stage.can_use(utterance)]
    if not rows:
        return [], {}
    usable = [utterances[row] for row in rows]
    dataset = UtteranceDataset(stage.source(checkpoint.model, usable, CLEAN_ONLY), [0] * len(usable))
    device = device_of(runtime)
    outputs = infer(stage.trained_part(checkpoint.model.to(device)), dataset, batch_size, device)
    checkpoint.model.cpu()
    return rows, outputs


def one_window_each(statistics: Tensor, durations_s: Sequence[float]) -> SpeakerStatistics:
    """The statistics (utterances, dim) of utterances, each as one window of its duration."""
    return SpeakerStatistics(
        statistics.numpy(), np.arange(len(statistics)), np.array(durations_s, dtype=np.float64)
    )


@torch.no_grad()
def classify_statistics(
    student: nn.Module, statistics: npt.NDArray[np.float32], voice: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """Probabilities (rows, emotions) of a student with voices, on the CPU.

    statistics : (rows, dim), as `infer` returns them; voice : (rows, dim), shrunk.
    """
    assert isinstance(student, Student)
    logits = student.eval().head(torch.from_numpy(statistics - voice)).logits
    return np.asarray(logits.double().softmax(dim=1).numpy())
