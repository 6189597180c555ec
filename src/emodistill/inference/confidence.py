"""The confidence of a prediction: probabilities after calibration, and the threshold for an answer."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from emodistill.errors import ConfigError
from emodistill.inference.model_card import Card

Probabilities = npt.NDArray[np.float64]


def apply_temperature(probabilities: npt.NDArray[Any], temperature: float) -> Probabilities:
    """Return probabilities (…, emotions) whose logits are divided by a temperature τ: p^(1/τ), normalised.

    The order of the emotions stays. Source: Guo et al. 2017, "On Calibration of Modern Neural Networks".
    """
    values = np.asarray(probabilities, dtype=np.float64)
    scaled = (values / values.max(axis=-1, keepdims=True)) ** (1 / temperature)
    return np.asarray(scaled / scaled.sum(axis=-1, keepdims=True), dtype=np.float64)


def confidence_threshold(
    card: Card, emotions: Sequence[str], min_confidence: float | None, coverage: float | None
) -> float:
    """Return the confidence below which the recogniser abstains, from one of two options.

    Args:
        card: of the model; `coverage` needs its curve.
        emotions: which the recogniser considers.
        min_confidence: the confidence itself.
        coverage: the share of the utterances that the model was calibrated on which reached the confidence.

    Without an option it is 0, so the recogniser never abstains. Raises `ConfigError` for values out of range,
    for both options at once, and for `coverage` without a curve over the same emotions.
    """
    for name, value in (("min_confidence", min_confidence), ("coverage", coverage)):
        if value is not None and not 0 <= value <= 1:
            raise ConfigError(f"bad {name} {value}, expected a share from 0 to 1")
    if coverage is None:
        return min_confidence or 0.0
    if min_confidence is not None:
        raise ConfigError("min_confidence and coverage set the same threshold: give one of them")
    if not card.coverage:
        raise ConfigError(
            f"the card of '{card.name}' has no coverage curve: give min_confidence, or export the model again"
        )
    if len(emotions) < len(card.emotions):
        raise ConfigError(
            "the coverage curve of the card is over all its emotions: with fewer emotions, give "
            "min_confidence instead of coverage"
        )
    if coverage == 1:
        return 0.0  # The lowest confidence of the curve may be above that of other audio.
    curve = [(0.0, 1.0), *((point.coverage, point.min_confidence) for point in card.coverage[::-1])]
    shares, thresholds = zip(*curve, strict=True)
    return float(np.interp(coverage, shares, thresholds))
