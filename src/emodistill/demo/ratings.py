"""The ratings of the demo corpus: arousal, valence and dominance, from its drawn prosody and words.

Each dimension is an exact function of what was drawn for an utterance, see `true_dimensions`. Each of four
raters gives a whole number from 1 to 5, with noise. The table has their mean. So the truth is known, and even
an oracle that knows it cannot predict the ratings without error. The formulas claim nothing about people.
"""

import math
import random
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from emodistill.labels import Scale

SCALE: Final[Scale] = (1.0, 5.0)
NUM_RATERS: Final = 4
RATER_SD: Final = 0.8  # of the noise of one rater, before the number is rounded
_GRADES: Final = range(1, 6)
WORD_VALENCE: Final[Mapping[str, float]] = MappingProxyType(
    {"angry": -1.0, "happy": 1.0, "neutral": 0.0, "sad": -1.0}
)


def true_dimensions(
    rate_wpm: float, pitch_shift: float, range_percent: float, word_emotion: str
) -> dict[str, float]:
    """Return arousal, valence and dominance on the scale 1..5, without noise.

    With r = (rate − 180) / 30, p = (pitch − 6) / 12 and g = (range − 100) / 60. The valence w of the words is
    1 for happy ones, 0 for neutral ones and −1 for others.

        arousal   = 3 + 0.7 r + 0.3 p + 0.3 g
        valence   = 3 − 0.4 r + 0.6 p + 0.6 w
        dominance = 3 + 0.9 r − 0.5 p

    Values beyond the ends of the scale become its ends.

    Args:
        rate_wpm: words per minute at the speaker's usual rate, so without the speaker's factor.
        pitch_shift: the pitch of the utterance minus the speaker's pitch, in the units of espeak-ng.
        range_percent: the pitch range.
        word_emotion: the emotion of the words.
    """
    r, p, g = (rate_wpm - 180.0) / 30.0, (pitch_shift - 6.0) / 12.0, (range_percent - 100.0) / 60.0
    values = {
        "arousal": 3.0 + 0.7 * r + 0.3 * p + 0.3 * g,
        "valence": 3.0 - 0.4 * r + 0.6 * p + 0.6 * WORD_VALENCE[word_emotion],
        "dominance": 3.0 + 0.9 * r - 0.5 * p,
    }
    return {name: min(max(value, SCALE[0]), SCALE[1]) for name, value in values.items()}


def draw_ratings(rng: random.Random, true: Mapping[str, float]) -> dict[str, float]:
    """Return the mean of the raters for each dimension; each rater hears the true value with noise."""

    def rating(value: float) -> int:
        return min(max(round(rng.gauss(value, RATER_SD)), _GRADES[0]), _GRADES[-1])

    return {name: sum(rating(value) for _ in range(NUM_RATERS)) / NUM_RATERS for name, value in true.items()}


def expected_ratings(true: Mapping[str, float]) -> dict[str, float]:
    """Return the expected mean of the raters: the prediction of an oracle that knows the true values.

    A rater's number is above k where the true value with noise is above k + ½. So its expectation is 1 plus
    the sum of these probabilities for k from 1 to 4.
    """

    def below(limit: float, value: float) -> float:
        return 0.5 * (1.0 + math.erf((limit - value) / (RATER_SD * math.sqrt(2.0))))

    return {
        name: 1.0 + sum(1.0 - below(grade + 0.5, value) for grade in _GRADES[:-1])
        for name, value in true.items()
    }
