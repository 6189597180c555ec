"""Paired comparison of runs: the same utterances, the same folds, differences with intervals and p-values."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

from emodistill.errors import ConfigError, ModelError
from emodistill.evaluation.bootstrap import bounds, drawn_confusions
from emodistill.evaluation.metrics import of_confusions, unweighted_accuracy, weighted_accuracy
from emodistill.evaluation.predictions import Predictions
from emodistill.evaluation.run import Run, read_run
from emodistill.protocol.folds import SPLITS, Protocol

COMPARED_MEASURES: dict[str, Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64]], float]] = {
    "ua": unweighted_accuracy,
    "wa": weighted_accuracy,
}
RESAMPLES = 10_000


@dataclass(frozen=True)
class Difference:
    """One measure of a run less the reference's, pooled over all test utterances."""

    reference: float
    run: float
    low: float  # 95 % interval of run - reference
    high: float
    p_value: float  # two-sided, that there is no difference
    p_holm: float | None = None  # the same, corrected for all comparisons made together

    @property
    def value(self) -> float:
        """run - reference."""
        return self.run - self.reference


@dataclass(frozen=True)
class McNemar:
    """Utterances that one of two runs alone got right (McNemar 1947), with the exact binomial p-value.

    It takes utterances for independent, which those of one speaker are not: it finds differences sooner than
    the bootstrap over speakers, sometimes too soon.
    """

    only_reference: int
    only_run: int
    p_value: float
    p_holm: float | None = None


@dataclass(frozen=True)
class Comparison:
    """Two runs under one protocol on the same utterances."""

    reference: str
    run: str
    num_utterances: int
    num_speakers: int
    differences: dict[str, Difference]  # by measure
    mcnemar: McNemar
    unfinished: tuple[str, ...] = ()  # folds that neither run has done

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        found = asdict(self)
        for name, item in self.differences.items():
            found["differences"][name]["difference"] = item.value
        return found


def compare_runs(
    reference: Path, run: Path, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Difference]:
    """UA and WA of a run's student against a reference's; see `compare_all`."""
    return compare_all([reference, run], resamples=resamples, seed=seed)[0].differences


def compare_all(
    folders: Sequence[Path], every_pair: bool = False, resamples: int = RESAMPLES, seed: int = 0
) -> list[Comparison]:
    """The first run against each other, or with `every_pair` each against each, on test.

    Differences are by paired bootstrap: speakers are drawn with replacement (Bisani & Ney 2004), and both runs
    scored on the same draw. The p-value is twice the share of draws on the other side of zero, at least
    2 / (draws + 1): the interval and it agree. Holm's correction (1979) is over all comparisons of a measure.

    Raises `ConfigError` for fewer than two runs and `ModelError` where runs differ in protocol or utterances,
    naming the first difference.
    """
    if len(folders) < 2:
        raise ConfigError(f"a comparison needs two runs or more, got {len(folders)}")
    runs = [read_run(folder) for folder in folders]
    for run in runs[1:]:
        check_one_protocol(runs[0], run)
    tables = [run.table() for run in runs]
    for run, table in zip(runs[1:], tables[1:], strict=True):
        check_same_utterances(runs[0], tables[0], run, table)
    draws = [of_confusions(drawn_confusions(table, resamples, seed)) for table in tables]
    found = []
    for a, b in combinations(range(len(runs)), 2):
        if a and not every_pair:
            break
        differences = {
            name: _difference(measure, tables[a], tables[b], draws[b][name] - draws[a][name])
            for name, measure in COMPARED_MEASURES.items()
        }
        found.append(
            Comparison(
                str(folders[a]), str(folders[b]), len(tables[a]), len(set(tables[a].speakers)),
                differences, mcnemar(tables[a], tables[b]), runs[a].unfinished,
            )
        )  # fmt: skip
    return _corrected(found)


def mcnemar(reference: Predictions, run: Predictions) -> McNemar:
    """The test over two tables of the same utterances."""
    right_a, right_b = (table.predicted == table.truth for table in (reference, run))
    only_a, only_b = int(np.sum(right_a & ~right_b)), int(np.sum(right_b & ~right_a))
    differing = only_a + only_b
    return McNemar(only_a, only_b, float(binomtest(only_a, differing).pvalue) if differing else 1.0)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: valid whatever the tests have in common, never weaker than Bonferroni's."""
    order = np.argsort(p_values, kind="stable")
    scaled = np.asarray(p_values)[order] * np.arange(len(order), 0, -1)
    corrected = np.empty(len(order))
    corrected[order] = np.minimum(1, np.maximum.accumulate(scaled))
    return [float(value) for value in corrected]


def _difference(
    measure: Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64]], float],
    reference: Predictions,
    run: Predictions,
    spread: npt.NDArray[np.float64],
) -> Difference:
    low, high = bounds(spread)
    beyond = min(int(np.sum(spread <= 0)), int(np.sum(spread >= 0)))
    return Difference(
        measure(reference.truth, reference.predicted),
        measure(run.truth, run.predicted),
        low,
        high,
        min(1.0, 2 * (beyond + 1) / (len(spread) + 1)),
    )


def _corrected(found: Sequence[Comparison]) -> list[Comparison]:
    by_measure = {
        name: holm([item.differences[name].p_value for item in found]) for name in found[0].differences
    }
    of_mcnemar = holm([item.mcnemar.p_value for item in found])
    return [
        replace(
            item,
            differences={
                name: replace(one, p_holm=by_measure[name][row]) for name, one in item.differences.items()
            },
            mcnemar=replace(item.mcnemar, p_holm=of_mcnemar[row]),
        )
        for row, item in enumerate(found)
    ]


def check_one_protocol(one: Run, two: Run) -> None:
    """Raise `ModelError` where two runs lie under different protocols, saying where these first differ."""
    a, b = one.protocol, two.protocol
    if a.hash != b.hash:
        raise ModelError(
            f"'{one.folder / 'protocol.json'}' and '{two.folder / 'protocol.json'}' are not one protocol ({a.hash}, "
            f"{a.description}; {b.hash}, {b.description}), so the runs' scores can't be compared: "
            f"{_protocol_difference(a, b)}"
        )


def _protocol_difference(a: Protocol, b: Protocol) -> str:
    names = [[fold.name for fold in protocol.folds] for protocol in (a, b)]
    if names[0] != names[1]:
        return f"the folds are {names[0]} and {names[1]}"
    for x, y in zip(a.folds, b.folds, strict=True):
        for split in SPLITS:
            ids = x.split(split), y.split(split)
            for place, (first, second) in enumerate(zip(*ids, strict=False), start=1):
                if first != second:
                    return f"in fold {x.name}, {split}, utterance {place} is '{first}' and '{second}'"
            if len(ids[0]) != len(ids[1]):
                longer = max(ids, key=len)
                return (
                    f"fold {x.name} has {len(ids[0])} and {len(ids[1])} utterances in {split}; "
                    f"one alone has '{longer[min(map(len, ids))]}'"
                )
    return f"leaks allowed are {list(a.allowed)} and {list(b.allowed)}"


def check_same_utterances(one: Run, a: Predictions, two: Run, b: Predictions) -> None:
    """Raise `ModelError` where two runs' test tables are over other utterances or emotions."""
    files = f"'{one.folder / 'predictions.csv'}' and '{two.folder / 'predictions.csv'}'"
    folds = list(a.by_fold()), list(b.by_fold())
    if folds[0] != folds[1]:
        raise ModelError(f"{files} are over folds {folds[0]} and {folds[1]}: finish both runs")
    if a.labels != b.labels:
        raise ModelError(f"{files} are over emotions {list(a.labels)} and {list(b.labels)}")
    for what in ("utterances", "folds", "speakers", "emotions"):
        for row, (x, y) in enumerate(zip(getattr(a, what), getattr(b, what), strict=False), start=2):
            if x != y:
                raise ModelError(f"{files} differ in row {row}: {what[:-1]} '{x}' and '{y}'")
    if len(a) != len(b):
        raise ModelError(f"{files} have {len(a)} and {len(b)} rows: finish both runs")
