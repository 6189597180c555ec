"""Predictions with known utterances: how much a model gains when it knows the voice of a speaker.

Known are n other utterances of the speaker, never the scored one. They are drawn without labels from all
utterances of the speaker, also those of emotions that are not scored. The model gets the mean of their
statistics, shrunk as a `Voice` is. The draw is repeated, and each draw has its own predictions.

One variant is a stress test: `MOSTLY_NEUTRAL` chooses by label which utterances are known. It shows what is
lost where a speaker mostly sounds neutral, and it is never the main result.

`known.csv` has a row for each scored utterance, number of known utterances, draw and variant. A
temperature is fitted on probabilities, so those with `KNOWN_FOR_TEMPERATURE` known utterances are kept too:
`KNOWN_PREDICTIONS` has the columns of `predictions.csv`.
"""

import csv
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from emodistill.config import stable_seed
from emodistill.errors import ConfigError, ModelError, one_of
from emodistill.files import atomic_write
from emodistill.inference.voices import UTTERANCE_S, shrinkage
from emodistill.labels import LabelSet

Count = int | Literal["all"]  # a number of known utterances; "all": all others of the speaker
Floats = npt.NDArray[np.floating]
Indices = npt.NDArray[np.int64]
Labels = npt.NDArray[np.int64]

# (statistics (rows, dim), voice (rows, dim)) -> probabilities (rows, names); names as the model has them
Head = Callable[[Floats, Floats], Floats]

KNOWN_CSV = "known.csv"
KNOWN_PREDICTIONS = "known-predictions.csv"
KNOWN_PREDICTIONS_DEV = "known-predictions-dev.csv"
KNOWN_FOR_TEMPERATURE = 10  # known utterances in `KNOWN_PREDICTIONS`, of the first draw
COUNTS: tuple[Count, ...] = (0, 1, 2, 5, 10, 20, "all")
DRAWS = 10
DRAWN = "drawn"  # the variant without labels
MOSTLY_NEUTRAL = "mostly neutral"
VARIANTS = (DRAWN, MOSTLY_NEUTRAL)
NEUTRAL_PERCENT = 85  # of the known utterances of `MOSTLY_NEUTRAL`, at least
HEAD_ROWS = 1024  # in one call of a head; more would only take more memory

COLUMNS = (
    "utterance", "fold", "corpus", "speaker", "truth", "predicted", "known", "used", "draw", "variant",
)  # fmt: skip


class Setting(NamedTuple):
    """One point of the curve."""

    variant: str  # one of `VARIANTS`
    known: Count

    def stamp(self, protocol: str) -> str:
        """The protocol's stamp, followed by what is known, so that it differs from that of plain scores."""
        if not self.known:
            return protocol
        return f"{protocol}+known-{self.known}" + ("" if self.variant == DRAWN else "-mostly-neutral")


@dataclass(frozen=True)
class SpeakerStatistics:
    """The statistics of utterances, as rows of windows: a long utterance has several.

    `Recognizer.statistics` gives one of its results for each utterance. An utterance without speech has no
    window: it is never known, and it keeps the prediction without a voice.
    """

    windows: Floats  # (windows, dim)
    utterance_of_window: Indices  # (windows,), positions of utterances
    speech_s: Floats  # (windows,), seconds of speech, the weights of means

    @classmethod
    def join(cls, parts: Sequence[tuple[Floats, Floats]]) -> "SpeakerStatistics":
        """The statistics of utterances, each given as its windows (n, dim) and their speech (n,) in s."""
        spoken = [(windows, speech_s) for windows, speech_s in parts if len(windows)]
        return cls(
            np.concatenate([windows for windows, _ in spoken]) if spoken else np.zeros((0, 1)),
            np.repeat(np.arange(len(parts)), [len(windows) for windows, _ in parts]),
            np.concatenate([speech_s for _, speech_s in spoken]) if spoken else np.zeros(0),
        )

    def means(self, num_utterances: int) -> "UtteranceMeans":
        """The means over windows, weighted by their seconds of speech."""
        seconds = np.bincount(self.utterance_of_window, self.speech_s, num_utterances).astype(np.float64)
        sums = np.zeros((num_utterances, self.windows.shape[1]))
        np.add.at(sums, self.utterance_of_window, self.windows * self.speech_s[:, None])
        windows = np.bincount(self.utterance_of_window, minlength=num_utterances)
        several = np.maximum(1, np.round(seconds / UTTERANCE_S))
        return UtteranceMeans(
            sums / np.where(seconds > 0, seconds, 1)[:, None],
            seconds,
            np.where(windows > 1, several, windows),
        )


class UtteranceMeans(NamedTuple):
    """What a voice is made of, for each utterance."""

    mean: Floats  # (utterances, dim), of its windows
    speech_s: Floats  # (utterances,)
    counts_for: Floats  # (utterances,): a long utterance counts for several, as in `Recognizer.enrol`

    def voice(self, known: Indices) -> Floats:
        """The shrunk voice (dim,) of the utterances with these positions, as `Recognizer.enrol` makes it."""
        weights = self.speech_s[known]
        factor = shrinkage(float(self.counts_for[known].sum()))
        return np.asarray(factor * (weights @ self.mean[known]) / weights.sum())


@dataclass(frozen=True)
class KnownPredictions:
    """Predicted labels of scored utterances for each setting, draw by draw."""

    labels: LabelSet
    utterances: tuple[str, ...]
    folds: tuple[str, ...]
    corpora: tuple[str, ...]
    speakers: tuple[str, ...]
    emotions: tuple[str, ...]  # the true ones
    predicted: Mapping[Setting, Labels]  # (draws, utterances)
    used: Mapping[Setting, Labels]  # (draws, utterances): how many utterances were known

    def __len__(self) -> int:
        return len(self.utterances)

    @property
    def truth(self) -> Labels:
        """The true labels (utterances,)."""
        return np.array([self.labels.index(name) for name in self.emotions], dtype=np.int64)

    def select(self, rows: Indices) -> "KnownPredictions":
        """The utterances with these positions."""

        def pick(values: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(values[row] for row in rows)

        return KnownPredictions(
            self.labels, pick(self.utterances), pick(self.folds), pick(self.corpora), pick(self.speakers),
            pick(self.emotions),
            {setting: values[:, rows] for setting, values in self.predicted.items()},
            {setting: values[:, rows] for setting, values in self.used.items()},
        )  # fmt: skip


def read_counts(text: str) -> tuple[Count, ...]:
    """The numbers of known utterances in a text such as `0,1,5,all`, sorted. Raises `ConfigError`."""
    counts: set[Count] = set()
    for part in (piece.strip() for piece in text.split(",")):
        if part != "all" and not (part.isascii() and part.isdigit()):
            raise ConfigError(f"bad --known '{part}', expected numbers of utterances or all, as in 0,1,5,all")
        counts.add("all" if part == "all" else int(part))
    return tuple(sorted(counts, key=lambda count: float("inf") if count == "all" else count))


# --- which utterances are known --------------------------------------------------------------------


def draw_known(
    utterances: Sequence[str], speakers: Sequence[str], scored: Iterable[int], draw: int, seed: int = 0
) -> list[Indices]:
    """For each scored utterance, the other utterances of its speaker in the order in which they are known.

    The first n are the n known ones. No label has a part in it. The order depends on the seed, the draw and
    the ids of the speaker's utterances alone. The order of the arguments does not matter.

    Args:
        utterances: the ids of all utterances, (utterances,); `speakers` has the speaker of each.
        scored: positions of the scored utterances.

    Returns positions in `utterances`, one array for each scored utterance.
    """
    of_speaker: dict[str, list[int]] = defaultdict(list)
    for position in sorted(range(len(utterances)), key=lambda row: utterances[row]):
        of_speaker[speakers[position]].append(position)
    members = {name: np.array(positions, dtype=np.int64) for name, positions in of_speaker.items()}
    orders = []
    for position in scored:
        others = members[speakers[position]]
        rng = np.random.default_rng(stable_seed("known", seed, draw, utterances[position]))
        orders.append(rng.permutation(others[others != position]))
    return orders


def keep_mostly_neutral(order: Indices, is_neutral: npt.NDArray[np.bool_]) -> Indices:
    """The order for the stress test, in which at least `NEUTRAL_PERCENT` of the first n are neutral.

    It ends where the speaker has no more neutral utterances. `is_neutral` is (utterances,).
    """
    neutral, others = iter(order[is_neutral[order]].tolist()), iter(order[~is_neutral[order]].tolist())
    kept: list[int] = []
    for place in range(1, len(order) + 1):
        wanted = -(-NEUTRAL_PERCENT * place // 100), -(-NEUTRAL_PERCENT * (place - 1) // 100)
        item = next(others, None) if wanted[0] == wanted[1] else None
        item = next(neutral, None) if item is None else item
        if item is None:
            break
        kept.append(item)
    return np.array(kept, dtype=np.int64)


# --- predictions -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class KnownTask:
    """What is scored, with the utterances that may be known and the model's predictions without a voice."""

    utterances: Sequence[str]  # ids of all utterances with statistics or a score
    speakers: Sequence[str]  # (utterances,)
    scored: Indices  # positions of the scored utterances
    plain: Floats  # (scored, emotions), probabilities without a voice
    statistics: SpeakerStatistics  # of all utterances
    emotion_of_name: Floats  # (names, emotions): 1 where a column of the head's probabilities is an emotion
    is_neutral: npt.NDArray[np.bool_] | None = None  # (utterances,); None: no stress test
    seed: int = 0


class KnownResult(NamedTuple):
    """What `predict_known` returns."""

    predicted: dict[Setting, Labels]  # (draws, scored)
    used: dict[Setting, Labels]  # (draws, scored): how many utterances were known
    # (scored, emotions), of the first draw with `KNOWN_FOR_TEMPERATURE` known; None where the counts
    # lack that number.
    probabilities: npt.NDArray[np.float64] | None


def settings_of(counts: Sequence[Count], stress: bool) -> list[Setting]:
    """The points of the curve. The stress test has no point for 0 and none for all."""
    settings = [Setting(DRAWN, count) for count in counts]
    if stress:
        settings += [Setting(MOSTLY_NEUTRAL, count) for count in counts if count and count != "all"]
    return settings


def predict_known(
    task: KnownTask,
    head: Head,
    counts: Sequence[Count] = COUNTS,
    draws: Iterable[int] = range(DRAWS),
) -> KnownResult:
    """Predict with known utterances, in each setting and draw.

    Nothing is drawn for 0 known utterances and for all of them, so these have one draw. Where no utterance is
    known, the prediction is the plain one. `draws` are the numbers of the draws, the first is 0.
    """
    has_windows = np.zeros(len(task.utterances), dtype=bool)
    has_windows[task.statistics.utterance_of_window] = True
    means = task.statistics.means(len(task.utterances))
    predicted: dict[Setting, list[Labels]] = {
        setting: [] for setting in settings_of(counts, task.is_neutral is not None)
    }
    used: dict[Setting, list[Labels]] = {setting: [] for setting in predicted}
    probabilities: npt.NDArray[np.float64] | None = None
    for draw in draws:
        orders = [
            order[has_windows[order]]
            for order in draw_known(task.utterances, task.speakers, task.scored, draw, task.seed)
        ]
        for setting in predicted:
            if draw and setting.known in (0, "all"):
                continue
            known = list(_known(orders, setting, task.is_neutral))
            used[setting].append(np.array([len(rows) for rows in known], dtype=np.int64))
            values = _predict(task, head, _voices(known, means), used[setting][-1])
            predicted[setting].append(values.argmax(axis=1))
            if not draw and setting == Setting(DRAWN, KNOWN_FOR_TEMPERATURE):
                probabilities = values
    return KnownResult(
        {setting: np.stack(values) for setting, values in predicted.items()},
        {setting: np.stack(values) for setting, values in used.items()},
        probabilities,
    )


def _known(
    orders: Sequence[Indices], setting: Setting, is_neutral: npt.NDArray[np.bool_] | None
) -> Iterator[Indices]:
    for order in orders:
        if setting.variant == MOSTLY_NEUTRAL and is_neutral is not None:
            order = keep_mostly_neutral(order, is_neutral)
        yield order if setting.known == "all" else order[: setting.known]


def _voices(known: Sequence[Indices], means: UtteranceMeans) -> npt.NDArray[np.float32]:
    """The shrunk voice of each scored utterance, (scored, dim); zero where nothing is known."""
    voices = np.zeros((len(known), means.mean.shape[1]), dtype=np.float32)
    for row, positions in enumerate(known):
        if len(positions):
            voices[row] = means.voice(positions)
    return voices


def _predict(task: KnownTask, head: Head, voices: Floats, used: Labels) -> npt.NDArray[np.float64]:
    """Probabilities (scored, emotions) with voices (scored, dim).

    They are the plain ones without statistics or a voice. As in the recogniser, the probabilities of an
    utterance are the mean over its windows.
    """
    place = np.full(len(task.utterances), -1)
    place[task.scored[used > 0]] = np.flatnonzero(used > 0)
    rows = np.flatnonzero(place[task.statistics.utterance_of_window] >= 0)
    scored_of_row = place[task.statistics.utterance_of_window[rows]]
    probabilities = np.array(task.plain, dtype=np.float64)
    answered = np.unique(scored_of_row)
    probabilities[answered] = 0
    for start in range(0, len(rows), HEAD_ROWS):
        part, scored = rows[start : start + HEAD_ROWS], scored_of_row[start : start + HEAD_ROWS]
        of_names = head(task.statistics.windows[part].astype(np.float32), voices[scored])
        np.add.at(probabilities, scored, of_names @ task.emotion_of_name)
    probabilities[answered] += 1e-12  # an utterance may have probability 0 for all emotions that are scored
    return np.asarray(probabilities / probabilities.sum(axis=1, keepdims=True))


# --- the file --------------------------------------------------------------------------------------


def join_known(tables: Iterable[KnownPredictions]) -> KnownPredictions:
    """The tables of several folds in one. All have the same labels and settings."""
    parts = list(tables)
    first = parts[0]

    def column(name: str) -> tuple[str, ...]:
        return tuple(value for part in parts for value in getattr(part, name))

    def side_by_side(name: str) -> dict[Setting, Labels]:
        return {
            setting: np.concatenate([getattr(part, name)[setting] for part in parts], axis=1)
            for setting in first.predicted
        }

    return KnownPredictions(
        first.labels, column("utterances"), column("folds"), column("corpora"), column("speakers"),
        column("emotions"), side_by_side("predicted"), side_by_side("used"),
    )  # fmt: skip


def write_known(table: KnownPredictions, path: Path) -> None:
    """Write `known.csv`."""
    names = table.labels.names
    with atomic_write(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for setting, predicted in table.predicted.items():
            for draw, labels in enumerate(predicted):
                for row, (label, used) in enumerate(zip(labels, table.used[setting][draw], strict=True)):
                    writer.writerow(
                        [
                            table.utterances[row], table.folds[row], table.corpora[row], table.speakers[row],
                            table.emotions[row], names[label], setting.known, used, draw, setting.variant,
                        ]
                    )  # fmt: skip


def read_known(path: Path, labels: LabelSet) -> KnownPredictions:
    """Read a table that `write_known` wrote.

    Raises `ModelError` with the file and the row in these cases: a column is missing, an emotion or a variant
    is unknown, or a count is no number. A draw has other utterances than the first one.
    """
    blocks: dict[Setting, list[list[tuple[int, int]]]] = {}
    facts: list[tuple[str, ...]] = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="")  # a row may be cut off
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise ModelError(f"'{path}' is no table of known utterances: it lacks {missing}")
            for number, row in enumerate(reader, start=2):
                setting, draw, answer = _read_row(row, labels, f"'{path}', row {number}")
                draws_read = blocks.setdefault(setting, [])
                if draw == len(draws_read):
                    draws_read.append([])
                place = len(draws_read[-1]) if draws_read else 0
                fact = tuple(row[name] for name in COLUMNS[:5])
                if len(blocks) == 1 and len(draws_read) == 1:
                    facts.append(fact)
                if draw != len(draws_read) - 1 or place >= len(facts) or facts[place] != fact:
                    raise ModelError(
                        f"'{path}', row {number}: '{row['utterance']}' of draw {draw} is not the expected "
                        "row: all draws have the same utterances in the same order; was the file edited?"
                    )
                draws_read[-1].append(answer)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ModelError(f"'{path}' is no table of known utterances: {error}") from error
    short = [
        setting for setting, draws in blocks.items() if any(len(answers) != len(facts) for answers in draws)
    ]
    if short or not facts:
        raise ModelError(f"'{path}' lacks rows of {short or 'all settings'}; was the file edited?")
    ids, folds, corpora, speakers, emotions = zip(*facts, strict=True)
    answers = {setting: np.array(draws, dtype=np.int64) for setting, draws in blocks.items()}
    return KnownPredictions(
        labels, ids, folds, corpora, speakers, emotions,
        {setting: values[..., 0] for setting, values in answers.items()},
        {setting: values[..., 1] for setting, values in answers.items()},
    )  # fmt: skip


def _read_row(row: Mapping[str, str], labels: LabelSet, where: str) -> tuple[Setting, int, tuple[int, int]]:
    """Setting, draw, and (predicted label, number of known utterances) of a row."""
    for column in ("truth", "predicted"):
        if row[column] not in labels.names:
            raise ModelError(f"{where}: {one_of('emotion', row[column], labels.names)}")
    if row["variant"] not in VARIANTS:
        raise ModelError(f"{where}: {one_of('variant', row['variant'], VARIANTS)}")
    try:
        known: Count = "all" if row["known"] == "all" else int(row["known"])
        used, draw = int(row["used"]), int(row["draw"])
        if not 0 <= used < 2**63:
            raise ValueError(f"got {used}")
    except ValueError as error:
        raise ModelError(f"{where}: known, used and draw must be numbers of utterances: {error}") from error
    return Setting(row["variant"], known), draw, (labels.index(row["predicted"]), used)
