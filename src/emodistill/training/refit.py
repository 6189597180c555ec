"""Fits the classifier of a trained student again, and its regressor, on train and dev together.

The rest of the student stays as it is. It has memorised its training speakers, so its classifier has learned
from embeddings that are cleaner than those of new speakers. The dev speakers are new to the student, and a
classifier that is fitted on both splits learns what their embeddings look like. The problem is convex, so
there is no number of epochs to choose. The regressor of dimensions is fitted in the same way to the loss that
it was trained with. 1 − CCC is not convex, but the search starts at the trained weights, and it is pulled to
them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from emodistill.config import VoiceConfig
from emodistill.corpora import Utterance
from emodistill.distillation import dimension_loss, hard_label_loss
from emodistill.models.student import Student
from emodistill.training.data import CLEAN, UtteranceDataset, WaveformSource
from emodistill.training.fit import device_of, infer
from emodistill.training.labels import label_indices, training_targets
from emodistill.training.stages import SpeechStage, Stage
from emodistill.training.voices import VoiceContexts, known_speakers

MAX_GROUPS = 10  # of held-out speakers
MAX_STEPS = 100  # of L-BFGS
AUGMENTED_VIEWS = 2  # of each utterance, besides the clean one


@dataclass(frozen=True)
class ClassifierInputs:
    """The inputs of a classifier and their labels. A row is an utterance, or a view of one."""

    inputs: Tensor  # (rows, dim)
    labels: Tensor  # (rows,)
    speakers: tuple[str, ...]  # (rows,)
    possible: Tensor | None = None  # (rows, emotions), False: the utterance's corpus lacks the emotion
    weights: Tensor | None = None  # (rows,)
    votes: Tensor | None = None  # (rows, emotions), see `vote_shares`; None: the labels count
    first_known: int | None = None  # the row from which on utterances of the speaker are known; None: nowhere
    dimensions: Tensor | None = None  # (rows, dimensions), NaN: no label; None: the student has no regressor

    def select(self, rows: Tensor) -> "ClassifierInputs":
        """The given rows."""
        return ClassifierInputs(
            self.inputs[rows],
            self.labels[rows],
            tuple(self.speakers[row] for row in rows.tolist()),
            None if self.possible is None else self.possible[rows],
            None if self.weights is None else self.weights[rows],
            dimensions=None if self.dimensions is None else self.dimensions[rows],
            votes=None if self.votes is None else self.votes[rows],
        )


def collect_classifier_inputs(
    stage: Stage, student: nn.Module, utterances: Sequence[Utterance], seed: int, num_train: int
) -> ClassifierInputs:
    """The input of the student's classifier for each utterance: of the clean view, then of augmented ones.

    The first `num_train` utterances are those of the training split. Babble is made of their voices alone.
    A student with voices then has all of these rows again, with up to `max_known` other utterances of the
    speaker known.
    """
    labels = label_indices(utterances, stage.labels)
    source = stage.source(student, utterances, seed)
    if isinstance(source, WaveformSource):
        source = replace(source, num_babble=num_train)
    dataset = UtteranceDataset(source, labels)
    device = device_of(stage.recipe.runtime)
    model = stage.trained_part(student.to(device))
    epochs = [CLEAN, *range(AUGMENTED_VIEWS)]
    outputs = [infer(model, dataset, stage.optim.batch_size, device, epoch) for epoch in epochs]
    inputs = [output["classifier_input"] for output in outputs]
    student.cpu()
    voice = stage.voice if isinstance(stage, SpeechStage) else None
    if voice is not None:
        inputs += _with_known_voices(student, [output["statistics"] for output in outputs], voice, utterances)
    targets = training_targets(utterances, stage.labels, stage.optim, stage.dimensions)
    repeated = {
        name: None if values is None else values.repeat(len(inputs), *[1] * (values.ndim - 1))
        for name, values in targets.items()
    }
    return ClassifierInputs(
        torch.cat(inputs),
        torch.tensor(labels).repeat(len(inputs)),
        tuple(utterance.speaker for utterance in utterances) * len(inputs),
        first_known=None if voice is None else len(outputs) * len(utterances),
        **repeated,
    )


@torch.no_grad()
def _with_known_voices(
    student: nn.Module, statistics: Sequence[Tensor], voice: VoiceConfig, utterances: Sequence[Utterance]
) -> list[Tensor]:
    """The classifier's inputs (utterances, dim) for each view, with other utterances of the speaker known.

    How many are known differs from view to view: the context of the first view has up to `max_known`.
    """
    assert isinstance(student, Student)
    contexts = VoiceContexts(voice, known_speakers(utterances), 0)
    inputs = []
    for number, values in enumerate(statistics):
        known = contexts.with_known(statistics[0], max(1, voice.max_known // (1 + number)))
        output = student.head(values - known)
        assert output.classifier_input is not None
        inputs.append(output.classifier_input)
    return inputs


def fit_classifier(classifier: nn.Linear, data: ClassifierInputs, prior: float) -> nn.Linear:
    """Return the classifier that minimises cross entropy + prior * ||W - W_0||², found by L-BFGS.

    W_0 are the weights of the given classifier. With a Gaussian prior around W_0, this is the most probable
    one.
    """

    def loss(logits: Tensor) -> Tensor:
        return hard_label_loss(
            logits, data.labels, possible=data.possible, weights=data.weights, votes=data.votes
        )

    return _fit_layer(classifier, data.inputs, loss, prior)


def fit_regressor(regressor: nn.Linear, data: ClassifierInputs, kind: str, prior: float) -> nn.Linear:
    """Return the regressor that minimises the loss of dimensions + prior * ||W - W_0||², found by L-BFGS.

    W_0 are the weights of the given regressor, and `kind` is that of `dimension_loss`.
    """
    labels = data.dimensions
    assert labels is not None
    values = labels.double()
    return _fit_layer(
        regressor, data.inputs, lambda predicted: dimension_loss(predicted, values, kind), prior
    )


def _fit_layer(layer: nn.Linear, inputs: Tensor, loss: Callable[[Tensor], Tensor], prior: float) -> nn.Linear:
    """Return the linear layer that minimises loss(outputs) + prior * ||W - W_0||², found by L-BFGS."""
    initial = layer.weight.detach().double()
    weight, bias = initial.clone().requires_grad_(), layer.bias.detach().double().requires_grad_()
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=MAX_STEPS, line_search_fn="strong_wolfe")
    inputs = inputs.double()

    def closure() -> Tensor:
        optimizer.zero_grad()
        total = loss(inputs @ weight.T + bias) + prior * ((weight - initial) ** 2).sum()
        total.backward()
        return total

    optimizer.step(closure)
    fitted = nn.Linear(layer.in_features, layer.out_features)
    with torch.no_grad():
        fitted.weight.copy_(weight)
        fitted.bias.copy_(bias)
    return fitted


def fit_output_layers(student: Student, data: ClassifierInputs) -> None:
    """Fit the classifier and the regressor of a student again, as far as it has them.

    `student.pull` is their prior.
    """
    config = student.config
    if student.classifier.out_features:
        student.classifier = fit_classifier(student.classifier, data, config.pull)
    if student.regressor is not None:
        student.regressor = fit_regressor(student.regressor, data, config.optim.dimension_loss, config.pull)


def held_out_outputs(student: Student, data: ClassifierInputs, rows: Tensor) -> dict[str, Tensor]:
    """`logits` and `dimensions` of the given rows, each by layers fitted without the row's speaker."""
    config, outputs = student.config, {"logits": torch.zeros(len(rows), 0)}
    if student.classifier.out_features:
        outputs["logits"] = held_out_logits(student.classifier, data, rows, config.pull)
    if student.regressor is not None:
        kind = config.optim.dimension_loss
        outputs["dimensions"] = _held_out(
            student.regressor, data, rows, lambda layer, kept: fit_regressor(layer, kept, kind, config.pull)
        )
    return outputs


def held_out_logits(classifier: nn.Linear, data: ClassifierInputs, rows: Tensor, prior: float) -> Tensor:
    """Logits (rows, emotions) of the given rows, each by a classifier fitted without the row's speaker.

    With more than `MAX_GROUPS` speakers, each classifier leaves out a group of them.
    """
    return _held_out(classifier, data, rows, lambda layer, kept: fit_classifier(layer, kept, prior))


@torch.no_grad()
def _held_out(
    layer: nn.Linear,
    data: ClassifierInputs,
    rows: Tensor,
    fit: Callable[[nn.Linear, ClassifierInputs], nn.Linear],
) -> Tensor:
    """Outputs (rows, …) of the given rows, each by a layer that `fit` fits without the speaker of the row."""
    speakers = [data.speakers[row] for row in rows.tolist()]
    names = sorted(set(speakers))
    outputs = torch.zeros(len(rows), layer.out_features)
    for first in range(min(MAX_GROUPS, len(names))):
        held_out = set(names[first::MAX_GROUPS])
        kept = torch.tensor([row for row, speaker in enumerate(data.speakers) if speaker not in held_out])
        with torch.enable_grad():
            fitted = fit(layer, data.select(kept))
        places = [place for place, speaker in enumerate(speakers) if speaker in held_out]
        own = torch.tensor(places, dtype=torch.long)
        outputs[own] = fitted(data.inputs[rows[own]].float())
    return outputs
