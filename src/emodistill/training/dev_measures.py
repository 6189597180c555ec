"""The scores on dev after each epoch of a training."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from emodistill.evaluation.dimension_scores import mean_concordance
from emodistill.evaluation.metrics import unweighted_accuracy, weighted_f1
from emodistill.models.student import Student
from emodistill.training.data import UtteranceDataset


def dev_scores(
    dev: UtteranceDataset, outputs: Mapping[str, Mapping[str, Tensor]], measure: str
) -> dict[str, float]:
    """Return the scores of a model's outputs for all utterances of dev, by name.

    They are `dev_ua` where the model has emotions, `dev_ccc` where it has dimensions, and the one of
    `measure`.

    Args:
        outputs: `logits` and `dimensions` of the utterances. A student with voices has two of them: "alone",
            and "known" with known utterances of the speaker. The score that chooses is the mean of both.
    """
    scores: dict[str, list[float]] = {}
    for values in outputs.values():
        if values["logits"].shape[1]:
            labels, chosen = np.array(dev.labels), values["logits"].argmax(dim=1).numpy()
            if dev.weights is not None:  # utterances without an emotion have the weight 0
                labelled = dev.weights.numpy() > 0
                labels, chosen = labels[labelled], chosen[labelled]
            scores.setdefault("dev_ua", []).append(unweighted_accuracy(labels, chosen))
            if measure == "weighted_f1":
                scores.setdefault("dev_weighted_f1", []).append(weighted_f1(labels, chosen))
        if dev.dimensions is not None:
            guess = values["dimensions"].clamp(0, 1)
            ccc = mean_concordance(dev.dimensions.double().numpy(), guess.double().numpy())
            scores.setdefault("dev_ccc", []).append(ccc or 0.0)
    named: dict[str, float] = {}
    for name, each in scores.items():
        named[name] = float(np.mean(each))
        if len(each) > 1:
            named |= {f"{name}_{kind}": value for kind, value in zip(outputs, each, strict=True)}
    return named


@torch.no_grad()
def head_outputs(student: Student, statistics: Tensor, device: torch.device | str) -> dict[str, Tensor]:
    """The `logits` and `dimensions`, each (utterances, …), of a student's head, on the CPU.

    `statistics` (utterances, dim) are those of the utterances minus their voices.
    """
    output = student.head(statistics.to(device))
    values = {"logits": output.logits, "dimensions": output.dimensions}
    return {name: value.float().cpu() for name, value in values.items() if value is not None}
