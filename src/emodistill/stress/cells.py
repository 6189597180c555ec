"""Cells: what a change did to the answers of a model on one corpus, checked against the marks."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from emodistill.evaluation.metrics import unweighted_accuracy
from emodistill.stress.base import Cell, Change, Check, Marks

SMALL_MOVE = 0.05  # a dimension that moves by less is unchanged, as in ser-tests
NO_ANSWER = "no answer"  # in a confusion

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class AnswerRow:
    """What a model answers to one recording: an emotion, or dimensions, or neither."""

    emotion: str | None = None
    dimensions: tuple[float, ...] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there is no answer."""
        return self.emotion is None and self.dimensions is None


Rows = Sequence[AnswerRow]


def change_cell(
    change: Change,
    marks: Marks,
    corpus: str,
    voice: bool,
    answers: tuple[Rows, Rows],
    truth: Sequence[str | None],
    emotions: Sequence[str],
) -> Cell:
    """Return the cell of a change.

    Args:
        answers: to the clean recordings, and to the changed ones, in one order.
        truth: the emotions by label; None: no label.
        emotions: that the model can answer.

    Recordings whose clean version has no answer are left out. A changed recording without an answer has
    changed, and its answer is wrong. UA and precision come from the recordings with a label that the model
    can answer, if they have two emotions or more.
    """
    clean, changed = answers
    places = [place for place, row in enumerate(clean) if not row.is_empty]
    if not places:
        note = "the model gives no answer to the unchanged recordings"
        return Cell(change.group, change.name, corpus, voice, 0, (), marks.source, note=note)
    pairs = [(clean[place], changed[place]) for place in places]
    figures, confusion = _unchanged(pairs)
    figures |= _scores(pairs, [truth[place] for place in places], emotions)
    required = {"unchanged": marks.unchanged, "ua_change": marks.ua, "precision_change": marks.precision}
    checks = [
        Check(measure, figures[measure], mark)
        for measure, mark in required.items()
        if mark is not None and measure in figures
    ]
    return Cell(
        change.group, change.name, corpus, voice, len(places), tuple(checks), marks.source, figures,
        sum(after.is_empty for _, after in pairs), confusion,
    )  # fmt: skip


def _unchanged(
    pairs: Sequence[tuple[AnswerRow, AnswerRow]],
) -> tuple[dict[str, float], Mapping[str, Mapping[str, int]]]:
    """The share of answers that stay, and how often each clean answer became each changed answer.

    A dimension stays if it moves by less than `SMALL_MOVE`. Of several, the least stable one counts.
    """
    first = pairs[0][0].dimensions
    if pairs[0][0].emotion is None and first is not None:
        stays = np.array(
            [
                np.zeros(len(first), bool) if after.dimensions is None
                else np.abs(np.subtract(after.dimensions, before.dimensions or ())) < SMALL_MOVE
                for before, after in pairs
            ]
        )  # fmt: skip
        return {"unchanged": float(stays.mean(axis=0).min())}, {}
    confusion: dict[str, Counter[str]] = defaultdict(Counter)
    for before, after in pairs:
        confusion[before.emotion or NO_ANSWER][after.emotion or NO_ANSWER] += 1
    share = sum(counts[name] for name, counts in confusion.items()) / len(pairs)
    return {"unchanged": share}, {name: dict(sorted(row.items())) for name, row in sorted(confusion.items())}


def _scores(
    pairs: Sequence[tuple[AnswerRow, AnswerRow]], truth: Sequence[str | None], emotions: Sequence[str]
) -> dict[str, float]:
    """UA and mean precision of the changed recordings, and their difference from the clean ones."""
    index = {name: label for label, name in enumerate(dict.fromkeys(emotions))}
    rows = [place for place, name in enumerate(truth) if name in index]
    labels = np.array([index[str(truth[place])] for place in rows], dtype=np.int64)
    if len(np.unique(labels)) < 2:
        return {}
    before, after = (
        np.array([index.get(pairs[place][side].emotion or "", -1) for place in rows], dtype=np.int64)
        for side in (0, 1)
    )
    ua, precision = unweighted_accuracy(labels, after), mean_precision(labels, after)
    return {
        "ua": ua,
        "ua_change": ua - unweighted_accuracy(labels, before),
        "precision": precision,
        "precision_change": precision - mean_precision(labels, before),
    }


def mean_precision(truth: Labels, predicted: Labels) -> float:
    """The precision of each emotion that occurs in `truth`, averaged; 0 for one that is never predicted.

    Both arguments are labels (utterances,); -1 in `predicted` is no answer.
    """
    return float(
        np.mean(
            [
                np.mean(truth[predicted == label] == label) if (predicted == label).any() else 0.0
                for label in np.unique(truth)
            ]
        )
    )
