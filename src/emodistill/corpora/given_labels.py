"""What a row of a manifest states of its emotion: one name, several, or listeners' votes."""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from emodistill.corpora.base import most_frequent
from emodistill.errors import CorpusError
from emodistill.labels import EMOTIONS, LEFT_OUT
from emodistill.reading import parse_json

LIST = ";"  # between the emotions of an utterance that has several
_EXPECTED = 'expected {emotion: count} as JSON, such as {"angry": 2, "sad": 1}'


@dataclass(frozen=True)
class GivenLabels:
    """The emotion and the votes of a row, by the file's names."""

    emotion: str | None
    votes: Mapping[str, float]  # empty: none; no count is 0
    from_votes: bool  # the emotion is the one with most votes

    @property
    def names(self) -> tuple[str, ...]:
        """All names of emotions of the row."""
        return (*self.votes, *(() if self.emotion is None else (self.emotion,)))

    def emotion_of(self, names: Mapping[str, str]) -> str | None:
        """Return the label by our names: an emotion, "-" if it is left out, or None if there is none.

        `names` is that of `renamed`.
        """
        if not self.from_votes:
            return None if self.emotion is None else names[self.emotion]
        counts: defaultdict[str, float] = defaultdict(int)
        for theirs, count in self.votes.items():  # emotions that are left out do not add up
            counts[LEFT_OUT + theirs if names[theirs] == LEFT_OUT else names[theirs]] += count
        winner = most_frequent(counts)
        return LEFT_OUT if winner is not None and winner.startswith(LEFT_OUT) else winner

    def renamed(self, names: Mapping[str, str]) -> dict[str, float]:
        """Return the votes by our names. `names` is {emotion of the file: ours, or "-" to leave it out}.

        Votes for one of our emotions that is left out stay, because listeners gave them.
        """
        renamed: defaultdict[str, float] = defaultdict(int)
        for theirs, count in self.votes.items():
            ours = theirs.lower() if names[theirs] == LEFT_OUT else names[theirs]
            if ours in EMOTIONS:
                renamed[ours] += count
        return dict(renamed)


def read_labels(emotion: str | None, votes: str | None, has_emotions: bool) -> GivenLabels:
    """Read the cells of `emotion` and of `votes`. `has_emotions`: the file has a column of emotions.

    A list such as `angry;sad` has one vote for each of its emotions, and an emotion may occur several times.
    In a file without emotions, those with most votes are the labels.
    Raises `CorpusError` for votes that are no counts, that sum to nothing, or that are given twice.
    """
    if emotion is None or LIST not in emotion:
        return GivenLabels(emotion, _read_votes(votes), from_votes=not has_emotions)
    if votes is not None:
        raise CorpusError(f"'{emotion}' are several emotions, and there are votes too; expected one of them")
    listed = Counter(filter(None, (part.strip() for part in emotion.split(LIST))))
    return GivenLabels(None, listed, from_votes=True)


MAX_VOTES = 1e9  # of one emotion


def _read_votes(text: str | None) -> dict[str, float]:
    if text is None:
        return {}
    try:
        votes = parse_json(text)
    except ValueError as error:
        hint = "" if "{" in text else ". A list such as angry;sad stands in the column emotion"
        raise CorpusError(f"votes are '{text}', which is no JSON ({error}); {_EXPECTED}{hint}") from error
    if not isinstance(votes, dict):
        raise CorpusError(f"votes are '{text}', {_EXPECTED}")
    for name, count in votes.items():
        is_number = isinstance(count, (int, float)) and not isinstance(count, bool)
        if not is_number or not 0 <= count <= MAX_VOTES:
            shown = json.dumps(count)[:40]
            raise CorpusError(
                f"votes for '{name}' are {shown}, expected a count of 0 or more, at most {MAX_VOTES:g}"
            )
    if not sum(votes.values()):
        raise CorpusError(f"votes are '{text}', which sum to 0; expected a vote, or an empty cell")
    return {name: count for name, count in votes.items() if count}
