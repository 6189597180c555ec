"""Emotion names and their colours, label sets and label maps, and the dimensions with their scales."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from emodistill.errors import ConfigError, one_of

# All emotion names. A label set lists its emotions in this order.
EMOTIONS = (
    "angry", "happy", "sad", "neutral", "fearful", "disgusted", "surprised",
    "calm", "bored", "excited", "frustrated", "contempt", "other",
)  # fmt: skip

# All dimensions that a model can predict, each a number from 0 to 1. `intensity` is how strongly an actor was
# asked to show the emotion.
DIMENSIONS = ("arousal", "valence", "dominance", "intensity")

Scale = tuple[float, float]  # the lowest and the highest possible value of a corpus's dimensions

LEFT_OUT = "-"  # stands in a map for an emotion whose utterances are left out

# The colour of each emotion, in every picture and display.
COLOURS = {
    "angry": "#d62728", "happy": "#e8a900", "sad": "#1f6fb4", "neutral": "#7f8790", "fearful": "#7b4ab5",
    "disgusted": "#5d8a2a", "surprised": "#ec6fae", "calm": "#22a699", "bored": "#a1826f",
    "excited": "#ff7f0e", "frustrated": "#8b1e3f", "contempt": "#3b3f8f", "other": "#b0b0b0",
}  # fmt: skip


def in_words(names: Iterable[str]) -> str:
    """Return names of emotions or dimensions as words of a sentence.

    >>> in_words(["arousal"]), in_words(["arousal", "valence", "dominance"])
    ('arousal', 'arousal, valence and dominance')
    """
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


@dataclass(frozen=True)
class LabelSet:
    """The ordered emotion names of a model; a label is an index into `names`.

    Raises `ConfigError` for an unknown emotion, or one that is listed twice.
    """

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        for name in self.names:
            if name not in EMOTIONS:
                raise ConfigError(one_of("emotion", name, EMOTIONS))
        if len(set(self.names)) != len(self.names):
            raise ConfigError(f"bad label set {list(self.names)}: an emotion is listed twice")

    @classmethod
    def from_emotions(cls, emotions: Iterable[str]) -> "LabelSet":
        """The label set of the given emotions, each once, in the order of `EMOTIONS`."""
        present = set(emotions)
        unknown = present - set(EMOTIONS)
        if unknown:
            raise ConfigError(one_of("emotion", sorted(unknown)[0], EMOTIONS))
        return cls(tuple(name for name in EMOTIONS if name in present))

    def index(self, name: str) -> int:
        """The label of an emotion; raises `ConfigError` for an emotion outside the set."""
        if name not in self.names:
            raise ConfigError(one_of("emotion", name, self.names))
        return self.names.index(name)

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)


@dataclass(frozen=True)
class LabelMap:
    """A rule for the emotions of a corpus: first merge some into others, then keep some and drop the rest.

    Attributes:
        name: the value of a recipe's `corpus.labels`.
        merges: emotion -> the emotion that takes its place, or "-" to drop it.
        keep: the emotions that remain after merging; None keeps all of them.
    """

    name: str
    merges: Mapping[str, str] = field(default_factory=dict)
    keep: tuple[str, ...] | None = None

    def apply(self, emotion: str | None) -> str | None:
        """The emotion after merging, or None if it is dropped. An utterance without an emotion is dropped."""
        if emotion is None:
            return None
        merged = self.merges.get(emotion, emotion)
        if merged == LEFT_OUT:
            return None
        return merged if self.keep is None or merged in self.keep else None


LABEL_MAPS = {
    label_map.name: label_map
    for label_map in (
        LabelMap("own"),  # keeps all emotions of the corpus
        # The four classes of most papers on IEMOCAP: 5531 utterances.
        LabelMap("iemocap-4", {"excited": "happy"}, ("angry", "happy", "sad", "neutral")),
        LabelMap("four", {"excited": "happy", "calm": "neutral"}, ("angry", "happy", "sad", "neutral")),
        LabelMap(
            "seven",
            {"excited": "happy", "calm": "neutral"},
            ("angry", "happy", "sad", "neutral", "fearful", "disgusted", "surprised"),
        ),
    )
}


def get_label_map(name: str) -> LabelMap:
    """The label map of a name; a list such as `angry,sad` makes one that keeps these emotions.

    Raises `ConfigError` for an unknown name.
    """
    if "," in name:
        return LabelMap(name, {}, LabelSet(tuple(part.strip() for part in name.split(","))).names)
    if name not in LABEL_MAPS:
        raise ConfigError(one_of("label map", name, [*LABEL_MAPS, "all"]) + ", or a list such as 'angry,sad'")
    return LABEL_MAPS[name]


def check_scale(scale: Scale, name: str = "scale") -> Scale:
    """Return the scale. Raises `ConfigError` where it is no range; `name` is what the message calls it."""
    low, high = scale
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigError(
            f"{name} {scale_text(scale)} is not a range, expected the lowest value before the highest, as in "
            "1..5"
        )
    return scale


def read_scale(text: str, name: str = "scale") -> Scale:
    """Return the scale of a text such as "1..5".

    Raises `ConfigError` for text of another form; `name` is what the message calls the scale.
    """
    low, _, high = text.partition("..")
    try:
        return check_scale((float(low), float(high)), name)
    except ValueError as error:
        raise ConfigError(
            f"{name} is '{text}', expected the lowest and the highest possible value, as in 1..5"
        ) from error


def scale_text(scale: Scale) -> str:
    """Return a scale as text such as "1..5", which `read_scale` reads back without loss."""
    return "..".join(str(int(end)) if float(end).is_integer() else repr(float(end)) for end in scale)
