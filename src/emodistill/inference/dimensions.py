"""Arousal and valence from 0 to 1, computed from the probabilities of the emotions.

They are for models that have no head for dimensions.

    arousal = Σ_e p(e) · arousal of e      valence = Σ_e p(e) · valence of e

The coordinates of an emotion are the mean ratings of its English word in the Glasgow Norms, about 33 raters a
word: Scott, Keitel, Becirspahic, Yao & Sereno 2019, "The Glasgow Norms: Ratings of 5,500 words on nine
scales", Behavior Research Methods 51, 1258-1270, https://doi.org/10.3758/s13428-018-1099-3. Their licence is
CC BY 4.0, which permits commercial use. The raters read words, they heard no speech.
"""

from collections.abc import Mapping

LOWEST, HIGHEST = 1, 9  # of the rating scales
# emotion -> (arousal, valence), the mean ratings of the word.
RATINGS: Mapping[str, tuple[float, float]] = {
    "angry": (5.906, 2.394),
    "happy": (6.938, 8.242),
    "sad": (3.941, 2.200),
    "neutral": (4.000, 5.206),
    "fearful": (6.323, 2.364),
    "disgusted": (4.576, 2.029),
    "surprised": (7.353, 7.088),  # of "surprise", because the norms lack "surprised"
    "calm": (3.743, 7.343),
    "bored": (2.469, 2.943),
    "excited": (7.882, 8.143),
    "frustrated": (4.559, 2.576),
    "contempt": (4.714, 3.286),
}
COORDINATES: Mapping[str, tuple[float, float]] = {  # the ratings on a scale from 0 to 1
    emotion: ((arousal - LOWEST) / (HIGHEST - LOWEST), (valence - LOWEST) / (HIGHEST - LOWEST))
    for emotion, (arousal, valence) in RATINGS.items()
}


def dimensions(probabilities: Mapping[str, float]) -> dict[str, float] | None:
    """Return arousal and valence, each from 0 to 1, for probabilities by emotion.

    Emotions without coordinates, such as `other`, do not count: the rest is scaled to sum to 1. Returns None
    if no emotion with coordinates has a probability above 0.

    >>> dimensions({"neutral": 1.0})
    {'arousal': 0.375, 'valence': 0.52575}
    """
    known = {emotion: value for emotion, value in probabilities.items() if emotion in COORDINATES}
    total = sum(known.values())
    if not total > 0:
        return None
    return {
        name: sum(value * COORDINATES[emotion][axis] for emotion, value in known.items()) / total
        for axis, name in enumerate(("arousal", "valence"))
    }
