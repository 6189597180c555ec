"""Everything that a run's predictions say of its models, with intervals by speaker."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from emodistill.corpora.base import Utterance, natural_sort_key
from emodistill.evaluation.bootstrap import bounds, drawn_confusions, drawn_means, interval_of_rows
from emodistill.evaluation.calibration import (
    JUDGED_BY,
    ReliabilityBin,
    area_under_risk,
    brier_score,
    calibration_error,
    calibration_gap,
    confidences,
    fit_temperature,
    gap_if_calibrated,
    log_losses,
    negative_log_likelihood,
    reliability,
    risk_by_coverage,
    risk_coverage,
    squared_errors,
    with_temperature,
)
from emodistill.evaluation.metrics import of_confusions
from emodistill.evaluation.predictions import Predictions, join
from emodistill.evaluation.run import UTTERANCES, Run

RESAMPLES = 2000
SCORE_MEASURES = ("ua", "wa", "macro_f1", "weighted_f1")
LENGTHS_S = (1.0, 2.0, 3.0, 5.0, 10.0)  # where one bin of durations ends and the next begins
CURVE_POINTS = 101  # of the risk–coverage curve that is kept

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval; the bounds are None where it is of a single speaker."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Group:
    """The scores of some of the utterances; UA is over the emotions that occur among them."""

    name: str
    num_utterances: int
    num_speakers: int
    scores: dict[str, Estimate]  # by measure


@dataclass(frozen=True)
class ModelScores:
    """One model on test, all folds pooled, with mean and standard deviation over folds beside it."""

    model: str
    num_utterances: int
    num_speakers: int
    scores: dict[str, Estimate]  # by measure
    recall: dict[str, Estimate]  # by emotion, those that occur
    confusion: list[list[int]]  # rows: truth, columns: predicted
    confusion_share: list[list[Estimate | None]]  # of its row; None: the emotion does not occur
    folds: dict[str, dict[str, float]]  # measure -> mean, sd over folds


@dataclass(frozen=True)
class Calibrated:
    """How far confidences can be trusted, as the model says them or scaled."""

    figures: dict[str, Estimate]  # ece, nll (nats), brier, aurc
    ece_if_perfect: float  # what a perfectly calibrated model would show on so many utterances
    reliability: tuple[ReliabilityBin, ...]
    risk_coverage: list[tuple[float, float]]  # coverage, risk, some hundred points


@dataclass(frozen=True)
class Agreement:
    """Student and teacher on the utterances that both judge, in shares of these."""

    teacher: str
    num_utterances: int
    student_ua: float  # on these utterances
    teacher_ua: float
    agree: float
    both_right: float
    only_student_right: float
    only_teacher_right: float
    neither_right: float


@dataclass(frozen=True)
class Ceiling:
    """How well a single listener does, on the test utterances that listeners voted on.

    `one_listener`: how often a listener's vote is the label. Where labels were made of these very votes that
    flatters; `one_against_others`: how often a vote is the most frequent one among the others' (ties in equal parts).
    """

    num_utterances: int
    votes_each: float  # mean
    one_listener: dict[str, Estimate]  # ua, wa
    one_against_others: Estimate | None  # None: one vote an utterance
    student: dict[str, Estimate]  # ua, wa on the same utterances


@dataclass(frozen=True)
class FullScores:
    """All of it; `notes` says what could not be said, and why."""

    name: str
    protocol: str  # its hash, and any leak that was allowed
    emotions: tuple[str, ...]
    models: tuple[ModelScores, ...]  # the student first
    temperatures: dict[str, float]  # by fold, fitted on its dev speakers; empty: no dev predictions
    calibration: dict[str, Calibrated]  # before, and after scaling where there is a temperature
    groups: dict[str, tuple[Group, ...]]  # speaker, gender, language, duration, corpus
    agreement: tuple[Agreement, ...]
    ceiling: Ceiling | None
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def full_scores(run: Run, resamples: int = RESAMPLES) -> FullScores:
    """Score a run's test predictions; raises `ModelError` where its folder is not what it should be."""
    student = run.table()
    tables = {name: run.table(name) for name in run.models}
    notes: list[str] = []
    if run.unfinished:
        notes.append(
            f"{len(run.scores['folds'])} of {len(run.protocol.folds)} folds are done, all figures are of these alone; "
            f"missing: {', '.join(run.unfinished)}."
        )
    scaled, temperatures = _scaled(run, student, notes)
    calibration = {"before": calibrated(student)}
    if scaled is not None:
        calibration["after"] = calibrated(scaled)
    return FullScores(
        name=run.name,
        protocol=run.scores["protocol"],
        emotions=student.labels.names,
        models=tuple(
            score_model(name if run.trained else "model", table, resamples) for name, table in tables.items()
        ),
        temperatures=temperatures,
        calibration=calibration,
        groups=grouped(student, run.utterances, notes),
        agreement=tuple(
            agreement(student, table, name) for name, table in tables.items() if name != run.main_model
        ),
        ceiling=ceiling(student, run.utterances or {}),
        notes=tuple(notes),
    )


def score_model(name: str, table: Predictions, resamples: int = RESAMPLES) -> ModelScores:
    """All that a confusion matrix says, with intervals by speaker."""
    found = table.scores()
    drawn = drawn_confusions(table, resamples)
    spread = of_confusions(drawn)
    several = len(set(table.speakers)) > 1

    def estimate(value: float, values: Floats) -> Estimate:
        return Estimate(value, *bounds(values)) if several else Estimate(value)

    with np.errstate(invalid="ignore"):
        shares = drawn / drawn.sum(axis=2, keepdims=True)
    rows = np.asarray(found.confusion)
    by_fold = [part.scores() for part in table.by_fold().values()]
    return ModelScores(
        model=name,
        num_utterances=len(table),
        num_speakers=len(set(table.speakers)),
        scores={measure: estimate(getattr(found, measure), spread[measure]) for measure in SCORE_MEASURES},
        recall={
            emotion: estimate(found.recall[emotion], spread["recall"][:, label])
            for label, emotion in enumerate(table.labels)
            if emotion in found.recall
        },
        confusion=found.confusion,
        confusion_share=[
            [
                estimate(float(rows[i, j] / rows[i].sum()), shares[:, i, j]) if rows[i].sum() else None
                for j in range(len(rows))
            ]
            for i in range(len(rows))
        ],
        folds={
            measure: {
                "mean": float(np.mean([getattr(item, measure) for item in by_fold])),
                "sd": float(np.std([getattr(item, measure) for item in by_fold], ddof=len(by_fold) > 1)),
            }
            for measure in SCORE_MEASURES
        },
    )


def calibrated(table: Predictions) -> Calibrated:
    """Calibration of one table, as it is."""
    confidence, right = confidences(table)
    figures = {
        "ece": (calibration_error(table), _rows(table, lambda rows: calibration_gap(confidence[rows], right[rows]))),
        "nll": (negative_log_likelihood(table), _means(table, log_losses(table))),
        "brier": (brier_score(table), _means(table, squared_errors(table))),
        "aurc": (
            area_under_risk(table),
            _rows(table, lambda rows: float(np.mean(risk_by_coverage(confidence[rows], right[rows])[1]))),
        ),
    }  # fmt: skip
    coverage, risk = risk_coverage(table)
    kept = np.unique(np.linspace(0, len(risk) - 1, min(CURVE_POINTS, len(risk))).astype(int))
    return Calibrated(
        figures={name: Estimate(value, *around) for name, (value, around) in figures.items()},
        ece_if_perfect=gap_if_calibrated(confidence),
        reliability=reliability(table),
        risk_coverage=[(float(coverage[index]), float(risk[index])) for index in kept],
    )


def _several(table: Predictions) -> bool:
    return len(set(table.speakers)) > 1


def _rows(table: Predictions, measure: Callable[[npt.NDArray[np.int64]], float]) -> tuple[float, ...]:
    return interval_of_rows(table.speakers, measure) if _several(table) else ()


def _means(table: Predictions, values: Floats) -> tuple[float, ...]:
    return bounds(drawn_means(values, table.speakers, RESAMPLES)) if _several(table) else ()


def _scaled(run: Run, student: Predictions, notes: list[str]) -> tuple[Predictions | None, dict[str, float]]:
    """Each fold's test predictions at the temperature of its dev speakers."""
    if "dev" not in run.scores["models"][run.main_model]:
        notes.append("No dev predictions: confidences are shown as the model says them alone.")
        return None, {}
    dev = run.table(split="dev").by_fold()
    temperatures = {fold: fit_temperature(table) for fold, table in dev.items()}
    if run.trained is not None and run.trained.protocol.refit:
        notes.append(f"Temperatures are of dev, judged by {JUDGED_BY[run.trained.protocol.refit]}.")
    parts = [with_temperature(table, temperatures[fold]) for fold, table in student.by_fold().items()]
    return join(parts), temperatures


# --- parts of the utterances -----------------------------------------------------------------------


def grouped(
    table: Predictions, known: Mapping[str, Utterance] | None, notes: list[str]
) -> dict[str, tuple[Group, ...]]:
    """Scores by speaker, gender, language, duration and corpus, where these are known."""
    keys: dict[str, Callable[[Utterance], str | None]] = {
        "gender": lambda item: item.gender,
        "language": lambda item: item.language,
        "duration": lambda item: None if item.duration_s is None else length_bin(item.duration_s),
        "corpus": lambda item: item.corpus,
    }
    found = {"speaker": _groups(table, list(table.speakers))}
    if known is None:
        notes.append(
            f"The run folder has no {UTTERANCES} (an older version made it), so there are no scores by gender, "
            "language, duration or corpus: run the same command again to have it written."
        )
        return found
    lacking = [name for name in table.utterances if name not in known]
    if lacking:
        notes.append(f"{UTTERANCES} lacks {len(lacking)} utterances, first '{lacking[0]}': see 'not known'.")
    for by, key in keys.items():
        names = [key(known[name]) if name in known else None for name in table.utterances]
        if not any(names):
            notes.append(f"No utterance has a {by}: there are no scores by {by}.")
            continue
        found[by] = _groups(table, [name or "not known" for name in names])
    return found


def length_bin(seconds: float) -> str:
    """Between which of `LENGTHS_S` a duration lies."""
    place = int(np.searchsorted(LENGTHS_S, seconds, side="right"))
    if place == 0:
        return f"under {LENGTHS_S[0]:g} s"
    if place == len(LENGTHS_S):
        return f"{LENGTHS_S[-1]:g} s and over"
    return f"{LENGTHS_S[place - 1]:g} – {LENGTHS_S[place]:g} s"


_LENGTH_ORDER = [length_bin(seconds) for seconds in (0.0, *LENGTHS_S)]


def _groups(table: Predictions, names: Sequence[str]) -> tuple[Group, ...]:
    members: dict[str, list[int]] = defaultdict(list)
    for row, name in enumerate(names):
        members[name].append(row)
    order = sorted(
        members,
        key=lambda name: (_LENGTH_ORDER.index(name) if name in _LENGTH_ORDER else 0, natural_sort_key(name)),
    )
    return tuple(group(table.take(members[name]), name) for name in order)


def group(part: Predictions, name: str) -> Group:
    """The scores of a table under a name."""
    speakers = len(set(part.speakers))
    found = part.scores()
    spread = of_confusions(drawn_confusions(part, RESAMPLES)) if speakers > 1 else {}
    return Group(
        name, len(part), speakers,
        {
            measure: Estimate(getattr(found, measure), *(bounds(spread[measure]) if spread else ()))
            for measure in SCORE_MEASURES
        },
    )  # fmt: skip


# --- teachers and listeners ------------------------------------------------------------------------


def agreement(student: Predictions, teacher: Predictions, name: str) -> Agreement:
    """Where student and teacher agree and err, on the utterances that the teacher judges."""
    row = {key: index for index, key in enumerate(zip(student.folds, student.utterances, strict=True))}
    same = student.take([row[key] for key in zip(teacher.folds, teacher.utterances, strict=True)])
    one, two = same.predicted == same.truth, teacher.predicted == teacher.truth
    return Agreement(
        teacher=name,
        num_utterances=len(same),
        student_ua=same.scores().ua,
        teacher_ua=teacher.scores().ua,
        agree=float(np.mean(same.predicted == teacher.predicted)),
        both_right=float(np.mean(one & two)),
        only_student_right=float(np.mean(one & ~two)),
        only_teacher_right=float(np.mean(~one & two)),
        neither_right=float(np.mean(~one & ~two)),
    )


def ceiling(student: Predictions, known: Mapping[str, Utterance]) -> Ceiling | None:
    """The ceiling that listeners' votes set; None: there are no votes."""
    votes: dict[int, dict[str, int]] = {}
    for row, name in enumerate(student.utterances):
        counts = known[name].vote_counts() if name in known else {}
        if sum(counts.values()):
            votes[row] = counts
    if not votes:
        return None
    judged = student.take(list(votes))
    shares = np.array(
        [counts.get(student.emotions[row], 0) / sum(counts.values()) for row, counts in votes.items()]
    )
    others = [(row, share) for row, counts in votes.items() if (share := _against_others(counts)) is not None]
    return Ceiling(
        num_utterances=len(votes),
        votes_each=float(np.mean([sum(counts.values()) for counts in votes.values()])),
        one_listener={
            "ua": _mean_recall(shares, judged),
            "wa": Estimate(float(shares.mean()), *_means(judged, shares)),
        },
        one_against_others=_listener(student, others) if others else None,
        student=group(judged, "student").scores,
    )


def _mean_recall(shares: Floats, judged: Predictions) -> Estimate:
    def of(rows: npt.NDArray[np.int64]) -> float:
        truth = judged.truth[rows]
        return float(np.mean([shares[rows][truth == label].mean() for label in np.unique(truth)]))

    return Estimate(of(np.arange(len(shares))), *_rows(judged, of))


def _listener(student: Predictions, found: Sequence[tuple[int, float]]) -> Estimate:
    part, values = student.take([row for row, _ in found]), np.array([share for _, share in found])
    return Estimate(float(values.mean()), *_means(part, values))


def _against_others(counts: Mapping[str, int]) -> float | None:
    """How often a listener, drawn from these, votes as most of the others do."""
    total = sum(counts.values())
    if total < 2:
        return None
    hits = 0.0
    for emotion, count in counts.items():
        rest = {name: number - (name == emotion) for name, number in counts.items()}
        most = max(rest.values())
        winners = [name for name, number in rest.items() if number == most]
        hits += count * (emotion in winners) / len(winners)
    return hits / total
