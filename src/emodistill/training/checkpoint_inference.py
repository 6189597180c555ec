"""What any checkpoint of ours says of any utterances, outside of the fold that it was trained in."""

from collections.abc import Sequence

from torch import Tensor

from emodistill.config import AudioConfig, AugmentConfig, Recipe, RuntimeConfig
from emodistill.corpora import Utterance
from emodistill.models.checkpoint import Checkpoint
from emodistill.models.linguistic import LinguisticTeacher
from emodistill.models.prosodic import ProsodicTeacher
from emodistill.models.student import Student
from emodistill.training.data import UtteranceDataset
from emodistill.training.fit import device_of, infer
from emodistill.training.stages import NO_VIEWS, LinguisticStage, ProsodicStage, SpeechStage, Stage


def stage_of(found: Checkpoint, audio: AudioConfig, runtime: RuntimeConfig) -> Stage:
    """The stage that feeds a checkpoint's model as it was fed in training."""
    recipe = Recipe(name="checkpoint", audio=audio, runtime=runtime)
    if isinstance(found.model, ProsodicTeacher):
        recipe = recipe.model_copy(update={"prosodic": found.model.config})
        return ProsodicStage("prosodic", recipe, found.labels)
    if isinstance(found.model, LinguisticTeacher):
        recipe = recipe.model_copy(update={"linguistic": found.model.config})
        return LinguisticStage("linguistic", recipe, found.labels)
    assert isinstance(found.model, Student), type(found.model)
    model = found.model
    return SpeechStage("student", recipe, found.labels, model.config, AugmentConfig(), model.teacher_dims)


def predict_checkpoint(
    found: Checkpoint,
    utterances: Sequence[Utterance],
    audio: AudioConfig | None = None,
    runtime: RuntimeConfig | None = None,
    batch_size: int = 32,
) -> tuple[list[int], dict[str, Tensor]]:
    """Rows of the utterances that the model can judge, and its `logits` and `embedding` for these, (rows, …).

    `audio` is how its recordings were prepared in training; default: `AudioConfig()`. Raises `AudioError` for a
    recording that cannot be read.
    """
    runtime = runtime or RuntimeConfig(workers=1)
    stage = stage_of(found, audio or AudioConfig(), runtime)
    rows = [row for row, utterance in enumerate(utterances) if stage.uses(utterance)]
    if not rows:
        return [], {}
    asked = [utterances[row] for row in rows]
    dataset = UtteranceDataset(stage.source(found.model, asked, NO_VIEWS), [0] * len(asked))
    device = device_of(runtime)
    said = infer(stage.trained(found.model.to(device)), dataset, batch_size, device)
    found.model.cpu()
    return rows, said
