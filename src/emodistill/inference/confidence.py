"""What a recogniser answers for probabilities: their temperature, the threshold of an answer, its surety."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from emodistill.errors import ConfigError
from emodistill.inference.dimensions import dimensions
from emodistill.inference.model_card import GUESS_FACTOR, LIKELY_ACCURACY, AccuracyPoint, Card, CoveragePoint
from emodistill.inference.prediction import DimensionsSource, Prediction, Surety

DEV_PREFIX = "dev:"  # of a threshold that is a share of the utterances of the calibration

NO_COVERAGE = (
    "coverage needs all answers before the first one is written: use it in predict with the formats table, "
    "json, csv or parquet; elsewhere give min_confidence, a confidence from 0 to 1, or e.g. dev:0.8. That is "
    "the confidence that 80 % of the utterances of the calibration reached"
)

Probabilities = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Answer:
    """What a recogniser says about probabilities by emotion. The fields are those of `Prediction`."""

    emotion: str | None
    confidence: float
    surety: Surety | None = None
    dimensions: dict[str, float] | None = None
    dimensions_from: DimensionsSource | None = None

    @classmethod
    def of(
        cls,
        probabilities: Mapping[str, float],
        min_confidence: float = 0.0,
        surety: Surety | None = None,
        emotion: str | None = None,
        from_head: Mapping[str, float] | None = None,
    ) -> "Answer":
        """Return an emotion, or none below `min_confidence`, with its dimensions.

        `emotion` was chosen by other means; None: the most probable one. The dimensions are `from_head`,
        which a head of the model predicts. If it is None, they are arousal and valence, computed from the
        probabilities. One answer never mixes both sources.
        """
        emotion = emotion or max(probabilities, key=probabilities.__getitem__)
        confidence = probabilities[emotion]
        source: DimensionsSource = "emotions" if from_head is None else "head"
        place = dimensions(probabilities) if from_head is None else dict(from_head)
        return cls(
            emotion if confidence >= min_confidence else None,
            confidence,
            surety,
            place,
            None if place is None else source,
        )


def apply_temperature(probabilities: npt.NDArray[Any], temperature: float) -> Probabilities:
    """Return probabilities (…, emotions) whose logits are divided by a temperature τ: p^(1/τ), normalised.

    The order of the emotions stays. Source: Guo et al. 2017, "On Calibration of Modern Neural Networks".
    """
    values = np.asarray(probabilities, dtype=np.float64)
    scaled = (values / values.max(axis=-1, keepdims=True)) ** (1 / temperature)
    return np.asarray(scaled / scaled.sum(axis=-1, keepdims=True), dtype=np.float64)


def check_confidence(card: Card, option: str) -> None:
    """Raise `ConfigError` for an option that compares confidences, if the model has none.

    A model without emotions has no confidence.
    """
    if not card.emotions:
        raise ConfigError(
            f"the model '{card.name}' predicts no emotions, only {', '.join(card.dimensions)}. So it has no "
            f"confidence: leave {option} out"
        )


def confidence_thresholds(
    card: Card, emotions: Sequence[str], min_confidence: float | str | None
) -> tuple[float, float]:
    """Return the confidences below which the recogniser abstains: without a voice, and with one.

    Args:
        card: of the model; "dev:…" needs its curve.
        emotions: which the recogniser considers.
        min_confidence: the confidence itself; or "dev:0.8", the confidence that this share of the utterances
            that the model was calibrated on reached; None: 0, so the recogniser never abstains.

    Raises `ConfigError` for values out of range, and for "dev:…" without a curve over the same emotions.
    """
    if min_confidence is None:
        return 0.0, 0.0
    check_confidence(card, "min_confidence")
    is_share = isinstance(min_confidence, str) and min_confidence.startswith(DEV_PREFIX)
    try:
        value = float(min_confidence.removeprefix(DEV_PREFIX) if isinstance(min_confidence, str) else
                      min_confidence)  # fmt: skip
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise ConfigError(
            f"bad min_confidence {min_confidence}, expected a confidence from 0 to 1, or {DEV_PREFIX} and a "
            f"share, e.g. {DEV_PREFIX}0.8"
        )
    if not is_share:
        return value, value
    if not card.coverage:
        raise ConfigError(
            f"the card of '{card.name}' has no coverage curve, which min_confidence {min_confidence} needs: "
            "give a confidence from 0 to 1, or export the model again"
        )
    if len(emotions) < len(card.emotions):
        raise ConfigError(
            f"min_confidence {min_confidence} needs a coverage curve over the chosen emotions, but the card "
            "has one over all emotions: give a confidence from 0 to 1"
        )
    return (
        _threshold_of_share(card.coverage, value),
        _threshold_of_share(card.coverage_voice or card.coverage, value),
    )


def _threshold_of_share(points: Sequence[CoveragePoint], share: float) -> float:
    if share == 1:
        return 0.0  # The lowest confidence of the curve may be above that of other audio.
    curve = [(0.0, 1.0), *((point.coverage, point.min_confidence) for point in points[::-1])]
    shares, thresholds = zip(*curve, strict=True)
    return float(np.interp(share, shares, thresholds))


def surety(card: Card, num_emotions: int, confidence: float, has_voice: bool) -> Surety | None:
    """Return how far an answer can be trusted, from how often answers of its confidence are right.

    The card has this accuracy by confidence. It is over all emotions of the model. With fewer emotions, the
    confidence itself takes its place, up to the highest accuracy of the table. Returns None for a card
    without the table.

    Returns None too if there is one emotion alone, whose confidence is always 1.

    "likely": right in at least `LIKELY_ACCURACY`. "no better than a guess": right less often than
    `GUESS_FACTOR` / number of emotions. "unsure": between the two.
    """
    table = (card.accuracy_voice or card.accuracy) if has_voice else card.accuracy
    if not table or num_emotions == 1:
        return None
    if num_emotions < len(card.emotions):
        accuracy = min(confidence, max(point.accuracy for point in table))
    else:
        accuracy = expected_accuracy(table, confidence)
    if accuracy >= LIKELY_ACCURACY:
        return "likely"
    return "no better than a guess" if accuracy < GUESS_FACTOR / num_emotions else "unsure"


def expected_accuracy(table: Sequence[AccuracyPoint], confidence: float) -> float:
    """Return the share of right answers at a confidence, interpolated between the points of a card."""
    return float(
        np.interp(confidence, [point.confidence for point in table], [point.accuracy for point in table])
    )


def keep_most_confident(predictions: Sequence[Prediction], coverage: float) -> list[Prediction]:
    """Return the predictions, with an emotion for the share `coverage` of those that have one.

    The least confident ones abstain with the reason `low_confidence`. Of n predictions with an emotion,
    round(coverage · n) keep it; of equal confidences, the earlier prediction keeps it.

    Raises `ConfigError` for a share outside of 0 to 1.
    """
    if not 0 <= coverage <= 1:
        raise ConfigError(f"bad coverage {coverage}, expected a share from 0 to 1")
    answered = [place for place, row in enumerate(predictions) if row.emotion is not None]
    by_confidence = sorted(answered, key=lambda place: -(predictions[place].confidence or 0.0))
    dropped = set(by_confidence[round(coverage * len(answered)) :])
    return [
        replace(row, emotion=None, abstained=True, reason="low_confidence") if place in dropped else row
        for place, row in enumerate(predictions)
    ]
