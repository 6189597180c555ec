"""All scores of a run's test predictions, with intervals by bootstrap over speakers."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from emodistill.corpora.base import Utterance
from emodistill.evaluation.bootstrap import (
    RESAMPLES,
    Estimate,
    Floats,
    Indices,
    bootstrap_confusions,
    bootstrap_means,
    estimate_of_rows,
    make_estimate,
)
from emodistill.evaluation.calibration import (
    DEV_PREDICTOR,
    ReliabilityBin,
    calibration_error_estimate,
    confidences,
    error_if_calibrated,
    fit_temperature,
    log_losses,
    reliability,
    risk_by_coverage,
    risk_coverage,
    squared_errors,
    with_temperature,
)
from emodistill.evaluation.cost import RunCost, read_cost
from emodistill.evaluation.dimension_scores import RunDimensions, score_run_dimensions
from emodistill.evaluation.known_scores import KnownScore, score_known
from emodistill.evaluation.metrics import SCORE_TITLES, scores_of_confusions
from emodistill.evaluation.predictions import Predictions
from emodistill.evaluation.run import Run
from emodistill.evaluation.utterance_groups import group_rows
from emodistill.evaluation.vote_scores import VoteScores, score_votes

CURVE_POINTS = 101  # of the risk–coverage curve in the result

# The field names of the classes below are the keys of `emodistill scores --format json`.


@dataclass(frozen=True)
class Group:
    """The scores of a group of utterances. UA is over the emotions that occur in the group."""

    name: str
    num_utterances: int
    num_speakers: int
    scores: dict[str, Estimate]  # by the keys of `SCORE_TITLES`


@dataclass(frozen=True)
class ModelScores:
    """The scores of one model on test: all folds pooled, and mean and standard deviation over folds."""

    model: str
    num_utterances: int
    num_speakers: int
    scores: dict[str, Estimate]  # by the keys of `SCORE_TITLES`
    recall: dict[str, Estimate]  # by emotion, for the emotions that occur
    confusion: list[list[int]]  # rows: true, columns: predicted
    confusion_share: list[list[Estimate | None]]  # share of the row; None: the emotion does not occur
    folds: dict[str, dict[str, float]]  # by the keys of `SCORE_TITLES`: mean, sd


@dataclass(frozen=True)
class Calibration:
    """Calibration of a model's confidences, before or after temperature scaling."""

    figures: dict[str, Estimate]  # ece (the calibration error, a root mean square), nll (nats), brier, aurc
    ece_if_perfect: float  # the calibration error that chance gives a calibrated model in 5 % of draws
    reliability: tuple[ReliabilityBin, ...]
    risk_coverage: list[tuple[float, float]]  # coverage, risk; at most `CURVE_POINTS`


@dataclass(frozen=True)
class Agreement:
    """Student and teacher on the utterances that both have predictions for, as shares of these."""

    teacher: str
    num_utterances: int
    student_ua: float
    teacher_ua: float
    agree: float
    both_right: float
    only_student_right: float
    only_teacher_right: float
    neither_right: float


@dataclass(frozen=True)
class ListenerScores:
    """How well a single listener does on the test utterances that have listeners' votes.

    `one_listener` is how often a vote is the label. It is too high where the label was made from these votes.
    `one_against_others` is how often a vote is the most frequent one among the other votes; ties count in
    equal parts.
    """

    num_utterances: int
    votes_each: float  # mean number of votes
    one_listener: dict[str, Estimate]  # ua, wa
    one_against_others: Estimate | None  # None: no utterance has two votes
    student: dict[str, Estimate]  # scores on the same utterances


@dataclass(frozen=True)
class RunScores:
    """All scores of a run. `notes` says which scores are missing, and why.

    A run with dimensions alone has no emotions: the fields from `emotions` to `ceiling` are empty.
    """

    name: str
    protocol: str  # hash, and any allowed leak
    emotions: tuple[str, ...]
    models: tuple[ModelScores, ...]  # the main model first
    temperatures: dict[str, float]  # by fold, fitted on its dev speakers; empty: no dev predictions
    calibration: dict[str, Calibration]  # "before" scaling; "after" it where there is a temperature
    groups: dict[str, tuple[Group, ...]]  # by speaker, gender, language, duration, corpus
    agreement: tuple[Agreement, ...]
    ceiling: ListenerScores | None  # None: the test utterances have no votes
    notes: tuple[str, ...]
    known: tuple[KnownScore, ...] = ()  # the curve over known utterances; empty: none were known
    cost: RunCost | None = None  # what the models cost; None: the run is of an older version
    dimensions: RunDimensions | None = None  # None: the run predicts no dimensions
    votes: VoteScores | None = None  # the models against the listeners' votes; None: there are no votes

    def as_dict(self) -> dict[str, Any]:
        """The scores as JSON has them."""
        return {**asdict(self), "cost": None if self.cost is None else self.cost.as_dict()}


def calibration_titles(calibration: Mapping[str, Calibration]) -> dict[str, str]:
    """What the confidences of each entry of `RunScores.calibration` are, in words.

    Without dev no temperature is fitted. The confidences are then the model's own, and an exported model has
    scaled them already.
    """
    if "after" in calibration:
        return {"before": "before scaling", "after": "after scaling"}
    return {"before": "as the model gives them"}


def score_run(run: Run, resamples: int = RESAMPLES) -> RunScores:
    """Score a run's test predictions. Raises `ModelError` where its tables are incomplete or were changed."""
    notes: list[str] = list(run.scores.get("notes", ()))  # on the folds
    if run.missing_folds:
        notes.append(
            f"{len(run.scores['folds'])} of {len(run.protocol.folds)} folds are done, and all figures are of "
            f"these folds. Missing: {', '.join(run.missing_folds)}."
        )
    if run.training_recipe is not None and run.training_recipe.tuned is not None:
        notes.append(run.training_recipe.tuned.note)
    scores = RunScores(run.name, run.scores["protocol"], (), (), {}, {}, {}, (), None, ())
    if run.has_emotions:
        scores = _with_emotions(scores, run, notes, resamples)
    dimensions = score_run_dimensions(run, [] if run.has_emotions else notes, resamples)
    return replace(scores, notes=tuple(notes), cost=read_cost(run.folder), dimensions=dimensions)


def _with_emotions(scores: RunScores, run: Run, notes: list[str], resamples: int) -> RunScores:
    """The scores with those of emotions. Adds notes on what is missing."""
    student = run.table()
    tables = {name: run.table(name) for name in run.models}
    known = run.known()
    scaled, temperatures = _scaled(run, student, notes)
    calibration = {"before": score_calibration(student)}
    if scaled is not None:
        calibration["after"] = score_calibration(scaled)
    return replace(
        scores,
        emotions=student.labels.names,
        models=tuple(
            score_model(run.title_of(name), table, resamples) for name, table in tables.items()
        ),
        temperatures=temperatures,
        calibration=calibration,
        groups=score_groups(student, run.utterances, notes),
        agreement=tuple(
            score_agreement(student, table, name) for name, table in tables.items() if name != run.main_model
        ),
        ceiling=score_listeners(student, run.utterances),
        votes=score_votes(
            {run.title_of(name): table for name, table in tables.items()}, scaled, run.utterances,
            run.table(split="dev") if "dev" in run.scores["models"][run.main_model] else None,
        ),
        known=() if known is None else score_known(known, run.scores["protocol"]),
    )  # fmt: skip


def score_model(name: str, table: Predictions, resamples: int = RESAMPLES) -> ModelScores:
    """All scores of one model that follow from its confusion matrix."""
    scores = table.scores()
    draws = bootstrap_confusions(table, resamples)
    score_draws = scores_of_confusions(draws)
    num_speakers = len(set(table.speakers))

    def estimate(value: float, values: Floats) -> Estimate:
        return make_estimate(value, values, num_speakers)

    with np.errstate(invalid="ignore"):
        share_draws = draws / draws.sum(axis=2, keepdims=True)
    confusion = np.asarray(scores.confusion)
    by_fold = [fold.scores() for fold in table.by_fold().values()]
    return ModelScores(
        model=name,
        num_utterances=len(table),
        num_speakers=num_speakers,
        scores={
            measure: estimate(getattr(scores, measure), score_draws[measure]) for measure in SCORE_TITLES
        },
        recall={
            emotion: estimate(scores.recall[emotion], score_draws["recall"][:, label])
            for label, emotion in enumerate(table.labels)
            if emotion in scores.recall
        },
        confusion=scores.confusion,
        confusion_share=[
            [
                estimate(float(count / row.sum()), share_draws[:, truth, predicted]) if row.sum() else None
                for predicted, count in enumerate(row)
            ]
            for truth, row in enumerate(confusion)
        ],
        folds={
            measure: {
                "mean": float(np.mean([getattr(fold, measure) for fold in by_fold])),
                "sd": float(np.std([getattr(fold, measure) for fold in by_fold], ddof=len(by_fold) > 1)),
            }
            for measure in SCORE_TITLES
        },
    )


# --- calibration -----------------------------------------------------------------------------------


def score_calibration(table: Predictions) -> Calibration:
    """Calibration of the confidences in one table."""
    confidence, correct = confidences(table)

    def aurc(rows: Indices) -> float:
        return float(np.mean(risk_by_coverage(confidence[rows], correct[rows])[1]))

    coverage, risk = risk_coverage(table)
    kept = np.unique(np.linspace(0, len(risk) - 1, min(CURVE_POINTS, len(risk))).astype(int))
    return Calibration(
        figures={
            "ece": calibration_error_estimate(table),
            "nll": _estimate_of_mean(table, log_losses(table)),
            "brier": _estimate_of_mean(table, squared_errors(table)),
            "aurc": estimate_of_rows(table.speakers, aurc),
        },
        ece_if_perfect=error_if_calibrated(table),
        reliability=reliability(table),
        risk_coverage=[(float(coverage[index]), float(risk[index])) for index in kept],
    )


def _estimate_of_mean(table: Predictions, values: Floats) -> Estimate:
    """The mean of a value for each utterance, (utterances,), with its interval."""
    draws = bootstrap_means(values, table.speakers, RESAMPLES)
    return make_estimate(float(np.mean(values)), draws, len(set(table.speakers)))


def _scaled(run: Run, student: Predictions, notes: list[str]) -> tuple[Predictions | None, dict[str, float]]:
    """The test predictions with each fold's temperature, which is fitted on dev, and these temperatures."""
    if "dev" not in run.scores["models"][run.main_model]:
        notes.append(
            "There are no dev predictions, so no temperature is fitted: confidences are as the model gives "
            "them. An exported model has scaled them with the temperature of its card."
        )
        return None, {}
    dev = run.table(split="dev").by_fold()
    temperatures = {fold: fit_temperature(table) for fold, table in dev.items()}
    if run.training_recipe is not None and run.training_recipe.protocol.refit:
        predictor = DEV_PREDICTOR[run.training_recipe.protocol.refit]
        notes.append(f"Temperatures are fitted on dev, which was predicted by {predictor}.")
    parts = [with_temperature(table, temperatures[fold]) for fold, table in student.by_fold().items()]
    return Predictions.join(parts), temperatures


# --- groups of utterances --------------------------------------------------------------------------


def score_groups(
    table: Predictions, utterances: Mapping[str, Utterance], notes: list[str]
) -> dict[str, tuple[Group, ...]]:
    """Scores by speaker, and by gender, language, duration and corpus where utterances have these.

    Adds a note for each of them that no utterance has.
    """
    return {
        by: tuple(score_group(table.take(rows), name) for name, rows in rows_by_name.items())
        for by, rows_by_name in group_rows(table, utterances, notes).items()
    }


def score_group(part: Predictions, name: str) -> Group:
    """The scores of some of the utterances, under a name."""
    scores = part.scores()
    num_speakers = len(set(part.speakers))
    draws = scores_of_confusions(bootstrap_confusions(part, RESAMPLES if num_speakers > 1 else 1))
    return Group(
        name, len(part), num_speakers,
        {
            measure: make_estimate(getattr(scores, measure), draws[measure], num_speakers)
            for measure in SCORE_TITLES
        },
    )  # fmt: skip


# --- teachers and listeners ------------------------------------------------------------------------


def score_agreement(student: Predictions, teacher: Predictions, name: str) -> Agreement:
    """How often student and teacher agree and are correct, on the utterances that the teacher predicts."""
    row_of = {key: row for row, key in enumerate(zip(student.folds, student.utterances, strict=True))}
    same = student.take([row_of[key] for key in zip(teacher.folds, teacher.utterances, strict=True)])
    student_right, teacher_right = same.predicted == same.truth, teacher.predicted == teacher.truth
    return Agreement(
        teacher=name,
        num_utterances=len(same),
        student_ua=same.scores().ua,
        teacher_ua=teacher.scores().ua,
        agree=float(np.mean(same.predicted == teacher.predicted)),
        both_right=float(np.mean(student_right & teacher_right)),
        only_student_right=float(np.mean(student_right & ~teacher_right)),
        only_teacher_right=float(np.mean(~student_right & teacher_right)),
        neither_right=float(np.mean(~student_right & ~teacher_right)),
    )


def score_listeners(student: Predictions, utterances: Mapping[str, Utterance]) -> ListenerScores | None:
    """How well a single listener does on the student's utterances; None where these have no votes."""
    votes: dict[int, dict[str, float]] = {}
    for row, name in enumerate(student.utterances):
        counts = utterances[name].vote_counts()
        if sum(counts.values()):
            votes[row] = counts
    if not votes:
        return None
    voted = student.take(list(votes))
    shares = np.array(
        [counts.get(student.emotions[row], 0) / sum(counts.values()) for row, counts in votes.items()]
    )
    others = {
        row: share for row, counts in votes.items() if (share := _agreement_with_others(counts)) is not None
    }
    return ListenerScores(
        num_utterances=len(votes),
        votes_each=float(np.mean([sum(counts.values()) for counts in votes.values()])),
        one_listener={
            "ua": _mean_over_emotions(shares, voted),
            "wa": _estimate_of_mean(voted, shares),
        },
        one_against_others=_mean(np.array(list(others.values())), student.take(list(others))),
        student=score_group(voted, "student").scores,
    )


def _mean_over_emotions(shares: Floats, table: Predictions) -> Estimate:
    """The mean over emotions of the mean share of their utterances; `shares` is (utterances,)."""

    def mean(rows: Indices) -> float:
        truth = table.truth[rows]
        return float(np.mean([shares[rows][truth == label].mean() for label in np.unique(truth)]))

    return estimate_of_rows(table.speakers, mean)


def _mean(shares: Floats, table: Predictions) -> Estimate | None:
    """The mean of shares (utterances,); None where there are none."""
    return _estimate_of_mean(table, shares) if len(shares) else None


def _agreement_with_others(counts: Mapping[str, float]) -> float | None:
    """How often a vote is the most frequent one among the other votes; None with fewer than two votes."""
    total = sum(counts.values())
    if total < 2:
        return None
    hits = 0.0
    for emotion, count in counts.items():
        others = {name: number - (name == emotion) for name, number in counts.items()}
        most = max(others.values())
        winners = [name for name, number in others.items() if number == most]
        hits += count * (emotion in winners) / len(winners)
    return hits / total
