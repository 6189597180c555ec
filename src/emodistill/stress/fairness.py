"""Whether a model answers as well for a group of speakers as for all, compared with models that know nothing.

The tests are those of ser-tests: by sex and by pitch, and here also by age. A group must not differ from all
utterances by more than a model that guesses does. A mark is the largest difference in 1000 such models, which
answer the same utterances at random; each emotion is as likely as the others.

Groups whose emotions are not equally frequent differ without any unfairness: the precision depends on the
frequencies. ser-tests draws as many utterances of each emotion from each group. Here each utterance gets a
weight instead, so that all groups have the frequencies of all utterances, and none is left out. An emotion
that a group lacks is left out of the test. Guesses get the same weights.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from emodistill.config import stable_seed
from emodistill.corpora.base import Utterance
from emodistill.stress.base import Answers, Cell, Check, read_marks
from emodistill.stress.pitch import speaker_pitch_hz

MIN_GROUP = 30  # utterances; a smaller group is not tested
AGE_EDGES = (30, 50)  # years
PITCH_EDGES_HZ = (145.0, 190.0)  # as in ser-tests
# Speakers whose files disagree about their sex; see the reader.
_UNSURE_SEX: Mapping[str, frozenset[str]] = {"ased": frozenset({"09", "15", "21", "23", "25"})}
_SOURCE = "1000 models that guess, as in ser-tests"

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Counts:
    """Weighted counts (models, true emotions, answers). The first answers are the true emotions."""

    counts: Numbers

    def recalls(self) -> Numbers:
        """Return the recall of each emotion (models, emotions)."""
        return self._hits() / self.counts.sum(axis=2)

    def precisions(self) -> Numbers:
        """Return the precision of each emotion (models, emotions); NaN where it was never answered."""
        answered = self.counts.sum(axis=1)[:, : self.counts.shape[1]]
        return np.divide(self._hits(), answered, out=np.full_like(answered, np.nan), where=answered > 0)

    def _hits(self) -> Numbers:
        return np.diagonal(self.counts, axis1=1, axis2=2).copy()

    def figures(self) -> Numbers:
        """Return UA, mean precision, recalls and precisions (models, 2 + 2 emotions).

        An emotion that was never answered counts as 0 in the mean precision.
        """
        recalls, precisions = self.recalls(), self.precisions()
        means = recalls.mean(axis=1), np.nan_to_num(precisions).mean(axis=1)
        return np.concatenate([np.stack(means, axis=1), recalls, precisions], axis=1)


def fairness_cells(answers: Sequence[Answers], seed: int = 0) -> list[Cell]:
    """Return the cells of fairness, from the answers to unchanged utterances: one `Answers` a corpus.

    A cell is one group of one corpus, such as "sex: female". Groups without enough utterances have a cell
    without checks. A corpus has no cell for what is not known of its speakers. Raises `MissingExtraError`
    without the extra "stress".
    """
    pitch_hz: dict[str, Mapping[str, float]] = {}
    cells: list[Cell] = []
    for item in answers:
        if not item.emotions:
            continue
        if item.corpus not in pitch_hz:
            pitch_hz[item.corpus] = speaker_pitch_hz((*item.utterances, *item.for_pitch))
        groupings = {"sex": _sex, "age": _age, "pitch": _pitch_of(pitch_hz[item.corpus])}
        for name, group_of in groupings.items():
            cells += _cells(item, name, group_of, seed)
    return cells


def _sex(utterance: Utterance) -> str | None:
    unsure = utterance.speaker in _UNSURE_SEX.get(utterance.corpus or "", ())
    return None if unsure else utterance.gender


def _age(utterance: Utterance) -> str | None:
    if utterance.age is None:
        return None
    middle, older = AGE_EDGES
    return (
        f"under {middle}"
        if utterance.age < middle
        else f"{middle} to {older - 1}"
        if utterance.age < older
        else f"{older} and over"
    )


def _pitch_of(pitch_hz: Mapping[str, float]) -> Callable[[Utterance], str | None]:
    def group_of(utterance: Utterance) -> str | None:
        hz = pitch_hz.get(utterance.speaker)
        if hz is None:
            return None
        low, medium = PITCH_EDGES_HZ
        return "low" if hz <= low else "medium" if hz <= medium else "high"

    return group_of


def _cells(item: Answers, name: str, group_of: Callable[[Utterance], str | None], seed: int) -> list[Cell]:
    """Return a cell for each group of one way to group the utterances of a corpus."""
    rows = [
        (group, utterance.emotion, answer)
        for utterance, answer in zip(item.utterances, item.predicted, strict=True)
        if (group := group_of(utterance)) is not None and utterance.emotion in item.emotions
    ]
    groups = np.array([row[0] for row in rows])
    names = sorted(set(groups))
    large = [group for group in names if np.sum(groups == group) >= MIN_GROUP]

    def cell(group: str, checks: tuple[Check, ...], figures: Mapping[str, float], note: str | None) -> Cell:
        return Cell(
            "fairness", f"{name}: {group}", item.corpus, item.voice, int(np.sum(groups == group)), checks,
            _SOURCE, figures, note=note,
        )  # fmt: skip

    cells = [
        cell(group, (), {}, f"{np.sum(groups == group)} utterances; at least {MIN_GROUP} are needed")
        for group in names
        if group not in large
    ]
    if len(large) == 1:
        cells.append(cell(large[0], (), {}, "no other group is large enough to compare it with"))
    if len(large) < 2:
        return cells
    kept = np.isin(groups, large)
    rows = [row for row, is_kept in zip(rows, kept, strict=True) if is_kept]
    tested = _Test.of(rows, item.emotions, large)
    if tested is None:
        return [*cells, *(cell(group, (), {}, "the groups have no emotion in common") for group in large)]
    rng = np.random.default_rng(stable_seed("fairness", seed, item.corpus, name))
    for group, checks, figures in tested.results(read_marks()["fairness"]["simulations"], rng):
        cells.append(cell(group, checks, figures, None))
    return cells


@dataclass(frozen=True)
class _Test:
    """The utterances of groups that are compared: labels of emotions, answers and groups, all (utterances,).

    Labels are places in `emotions`. Answers are places in `emotions` too, or one of the further numbers below
    `num_answers`; an answer of `num_answers` is none.
    """

    emotions: tuple[str, ...]  # that all groups have
    num_answers: int  # that the model can give
    truth: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]
    groups: npt.NDArray[np.int64]  # places in `names`
    names: tuple[str, ...]

    @classmethod
    def of(
        cls, rows: Sequence[tuple[str, str | None, str | None]], emotions: Sequence[str], names: Sequence[str]
    ) -> "_Test | None":
        """Return the test of rows of group, emotion and answer; None where no emotion is in all groups."""
        found = {group: {row[1] for row in rows if row[0] == group} for group in names}
        common = tuple(name for name in emotions if all(name in found[group] for group in names))
        if not common:
            return None
        order = {
            name: place for place, name in enumerate((*common, *(e for e in emotions if e not in common)))
        }
        kept = [row for row in rows if row[1] in common]
        none = len(emotions)
        return cls(
            common,
            len(emotions),
            np.array([order[str(row[1])] for row in kept]),
            np.array([none if row[2] is None else order.get(row[2], none) for row in kept]),
            np.array([list(names).index(row[0]) for row in kept]),
            tuple(names),
        )

    def results(
        self, num_models: int, rng: np.random.Generator
    ) -> list[tuple[str, tuple[Check, ...], dict[str, float]]]:
        """Return each group with its checks and figures. Marks come from `num_models` models that guess."""
        guesses = rng.integers(self.num_answers, size=(num_models, len(self.truth)))
        weights = self._weights()
        everyone = np.ones(len(self.truth), dtype=bool)
        all_real = self._figures(self.predicted[None], everyone, weights)[0]
        all_guessed = self._figures(guesses, everyone, weights)
        titles = [
            "ua", "precision", *(f"recall {name}" for name in self.emotions),
            *(f"precision {name}" for name in self.emotions),
        ]  # fmt: skip
        results = []
        for place, group in enumerate(self.names):
            members = self.groups == place
            real = self._figures(self.predicted[None], members, weights)[0]
            chance = np.abs(self._figures(guesses, members, weights) - all_guessed)
            marks = np.nan_to_num(chance).max(axis=0)
            differences = np.abs(real - all_real)
            checks = tuple(
                Check(f"{title} difference", float(difference), float(mark), at_most=True)
                for title, difference, mark in zip(titles, differences, marks, strict=True)
                if not np.isnan(difference)
            )
            figures = {
                **{title: float(value) for title, value in zip(titles, real, strict=True) if value == value},
                "ua of all": float(all_real[0]),
                "precision of all": float(all_real[1]),
            }
            results.append((group, checks, figures))
        return results

    def _weights(self) -> Numbers:
        """Return weights (utterances,) with which each group has the emotions of all utterances.

        The weights of a group sum to its number of utterances.
        """
        joint = np.zeros((len(self.names), len(self.emotions)))
        np.add.at(joint, (self.groups, self.truth), 1)
        shares = joint.sum(axis=0) / joint.sum()
        weights = shares * joint.sum(axis=1, keepdims=True) / joint
        return weights[self.groups, self.truth]

    def _figures(
        self, predicted: npt.NDArray[np.int64], members: npt.NDArray[np.bool_], weights: Numbers
    ) -> Numbers:
        """Return the figures (models, 2 + 2 emotions) of the members' answers (models, utterances)."""
        models, num_emotions = len(predicted), len(self.emotions)
        num_answers = self.num_answers + 1  # and none
        answers = predicted[:, members]
        cells = (np.arange(models)[:, None] * num_emotions + self.truth[members]) * num_answers + answers
        counts = np.bincount(
            cells.ravel(),
            np.broadcast_to(weights[members], answers.shape).ravel(),
            models * num_emotions * num_answers,
        )
        table = counts.reshape(models, num_emotions, num_answers)
        return _Counts(table.astype(np.float64, copy=False)).figures()
