"""A classifier fitted again, what lies before it left as it is: a convex problem, so no choice of epochs.

A student knows its training speakers by heart, so its classifier has seen embeddings that are cleaner than those
of speakers to come. The dev speakers are such, and a classifier fitted on train and dev learns what theirs look like.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from emodistill.distillation import hard_label_loss

GROUPS = 10  # of held-out speakers at most
STEPS = 100  # of L-BFGS at most


@dataclass(frozen=True)
class ClassifierInputs:
    """What a classifier is given of some utterances, and what it should say; a row may be a view of one."""

    inputs: Tensor  # (rows, dim)
    labels: Tensor  # (rows,)
    possible: Tensor | None  # (rows, emotions), False: the utterance's corpus lacks the emotion
    weights: Tensor | None  # (rows,)

    def take(self, rows: Tensor) -> "ClassifierInputs":
        """Some of the rows."""
        possible, weights = (None if x is None else x[rows] for x in (self.possible, self.weights))
        return ClassifierInputs(self.inputs[rows], self.labels[rows], possible, weights)


def fit_classifier(classifier: nn.Linear, rows: ClassifierInputs, pull: float) -> nn.Linear:
    """A new classifier: least cross entropy + pull * ||W - W_0||^2, where W_0 are the weights that it had.

    With a Gaussian prior around what was learned before, this is the most probable classifier; found by L-BFGS.
    """
    prior = classifier.weight.detach().double()
    weight, bias = prior.clone().requires_grad_(), classifier.bias.detach().double().requires_grad_()
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=STEPS, line_search_fn="strong_wolfe")
    inputs, weights = rows.inputs.double(), rows.weights

    def loss() -> Tensor:
        optimizer.zero_grad()
        hard = hard_label_loss(inputs @ weight.T + bias, rows.labels, possible=rows.possible, weights=weights)
        total = hard + pull * ((weight - prior) ** 2).sum()
        total.backward()
        return total

    optimizer.step(loss)
    made = nn.Linear(classifier.in_features, classifier.out_features)
    with torch.no_grad():
        made.weight.copy_(weight)
        made.bias.copy_(bias)
    return made


@torch.no_grad()
def held_out_logits(
    classifier: nn.Linear,
    rows: ClassifierInputs,
    speakers: Sequence[str],
    held: Sequence[str],
    asked: Tensor,
    pull: float,
) -> Tensor:
    """Logits (utterances, emotions) of the speakers `held`, each by a classifier fitted without that speaker.

    `speakers` are of the rows of `judged`; `asked` are the rows, one an utterance, whose logits are wanted. With over
    `GROUPS` speakers these are left out in so many groups.
    """
    names = sorted(set(held))
    said = torch.zeros(len(asked), classifier.out_features)
    whose = [speakers[row] for row in asked.tolist()]
    for first in range(min(GROUPS, len(names))):
        out = set(names[first::GROUPS])
        kept = torch.tensor([row for row, speaker in enumerate(speakers) if speaker not in out])
        with torch.enable_grad():
            made = fit_classifier(classifier, rows.take(kept), pull)
        mine = torch.tensor(
            [place for place, speaker in enumerate(whose) if speaker in out], dtype=torch.long
        )
        said[mine] = made(rows.inputs[asked[mine]].float())
    return said
