"""Paired comparison of runs on the same test utterances: differences with intervals and p-values."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

from emodistill.errors import ConfigError, ModelError
from emodistill.evaluation.bootstrap import (
    Floats,
    bootstrap_confusions,
    percentile_interval,
    two_sided_p_value,
)
from emodistill.evaluation.metrics import ACCURACIES, scores_of_confusions
from emodistill.evaluation.predictions import Predictions
from emodistill.evaluation.run import Run, read_run
from emodistill.protocol.folds import SPLITS, Protocol

RESAMPLES = 10_000


@dataclass(frozen=True)
class Difference:
    """A measure of a run minus the reference's, pooled over all test utterances."""

    reference: float
    run: float
    low: float  # 95 % interval of run - reference
    high: float
    p_value: float  # two-sided; the null hypothesis is that there is no difference
    p_holm: float | None = None  # p_value with Holm's correction over all comparisons made together

    @property
    def value(self) -> float:
        """run - reference."""
        return self.run - self.reference


@dataclass(frozen=True)
class McNemar:
    """How many utterances only one of two runs classified correctly (McNemar 1947), with the exact p-value.

    The test treats utterances as independent, which utterances of one speaker are not. So its p-values are
    smaller than those of the bootstrap over speakers, sometimes too small.
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
    differences: dict[str, Difference]  # by measure: ua, wa
    mcnemar: McNemar
    unfinished: tuple[str, ...] = ()  # folds that have no scores in either run

    def as_dict(self) -> dict[str, Any]:
        """The comparison as JSON has it."""
        data = asdict(self)
        for name, difference in self.differences.items():
            data["differences"][name]["difference"] = difference.value
        return data


def compare_runs(
    folders: Sequence[Path], every_pair: bool = False, resamples: int = RESAMPLES, seed: int = 0
) -> list[Comparison]:
    """Compare the first run with each other run on test, or with `every_pair` each run with each other.

    Differences are by paired bootstrap over speakers: both runs are scored on the same draw. The interval and
    the p-value come from the same draws, so they agree. Holm's correction (1979) is over all comparisons of a
    measure.

    Raises `ConfigError` for fewer than two runs. Raises `ModelError` with the first difference where the runs
    have different protocols or utterances.
    """
    if len(folders) < 2:
        raise ConfigError(f"a comparison needs two runs or more, got {len(folders)}")
    runs = [read_run(folder) for folder in folders]
    for run in runs[1:]:
        check_same_protocol(runs[0], run)
    tables = [run.table() for run in runs]
    for run, table in zip(runs[1:], tables[1:], strict=True):
        check_same_utterances(runs[0], tables[0], run, table)
    draws = [scores_of_confusions(bootstrap_confusions(table, resamples, seed)) for table in tables]
    comparisons = []
    for first, second in combinations(range(len(runs)), 2):
        if first and not every_pair:
            break
        differences = {
            name: _difference(name, tables[first], tables[second], draws[second][name] - draws[first][name])
            for name in ACCURACIES
        }
        comparisons.append(
            Comparison(
                str(folders[first]), str(folders[second]),
                len(tables[first]), len(set(tables[first].speakers)),
                differences, mcnemar(tables[first], tables[second]), runs[first].missing_folds,
            )
        )  # fmt: skip
    return _with_holm(comparisons)


def mcnemar(reference: Predictions, run: Predictions) -> McNemar:
    """McNemar's exact test on two tables of the same utterances."""
    reference_correct, run_correct = (table.predicted == table.truth for table in (reference, run))
    only_reference = int(np.sum(reference_correct & ~run_correct))
    only_run = int(np.sum(run_correct & ~reference_correct))
    total = only_reference + only_run
    p_value = float(binomtest(only_reference, total).pvalue) if total else 1.0
    return McNemar(only_reference, only_run, p_value)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values with Holm's correction (1979), which is valid for tests that depend on each other."""
    order = np.argsort(p_values, kind="stable")
    scaled = np.asarray(p_values)[order] * np.arange(len(order), 0, -1)
    corrected = np.empty(len(order))
    corrected[order] = np.minimum(1, np.maximum.accumulate(scaled))
    return [float(value) for value in corrected]


def _difference(name: str, reference: Predictions, run: Predictions, draws: Floats) -> Difference:
    measure = ACCURACIES[name]
    return Difference(
        measure(reference.truth, reference.predicted),
        measure(run.truth, run.predicted),
        *percentile_interval(draws),
        two_sided_p_value(draws),
    )


def _with_holm(comparisons: Sequence[Comparison]) -> list[Comparison]:
    by_measure = {
        name: holm([comparison.differences[name].p_value for comparison in comparisons])
        for name in comparisons[0].differences
    }
    for_mcnemar = holm([comparison.mcnemar.p_value for comparison in comparisons])
    return [
        replace(
            comparison,
            differences={
                name: replace(difference, p_holm=by_measure[name][row])
                for name, difference in comparison.differences.items()
            },
            mcnemar=replace(comparison.mcnemar, p_holm=for_mcnemar[row]),
        )
        for row, comparison in enumerate(comparisons)
    ]


def check_same_protocol(first: Run, second: Run) -> None:
    """Raise `ModelError` with the first difference where two runs have different protocols."""
    a, b = first.protocol, second.protocol
    if a.hash != b.hash:
        raise ModelError(
            f"'{first.folder / 'protocol.json'}' ({a.hash}, {a.description}) and "
            f"'{second.folder / 'protocol.json'}' ({b.hash}, {b.description}) are different protocols, so "
            f"the runs' scores can't be compared: {_protocol_difference(a, b)}"
        )


def _protocol_difference(a: Protocol, b: Protocol) -> str:
    names = [[fold.name for fold in protocol.folds] for protocol in (a, b)]
    if names[0] != names[1]:
        return f"the folds are {names[0]} and {names[1]}"
    for fold_a, fold_b in zip(a.folds, b.folds, strict=True):
        for split in SPLITS:
            ids = fold_a.split(split), fold_b.split(split)
            for place, (id_a, id_b) in enumerate(zip(*ids, strict=False), start=1):
                if id_a != id_b:
                    return f"in fold {fold_a.name}, {split}, utterance {place} is '{id_a}' and '{id_b}'"
            if len(ids[0]) != len(ids[1]):
                longer = max(ids, key=len)
                return (
                    f"fold {fold_a.name} has {len(ids[0])} and {len(ids[1])} utterances in {split}; "
                    f"only one of them has '{longer[min(map(len, ids))]}'"
                )
    return f"the allowed leaks are {list(a.allowed)} and {list(b.allowed)}"


def check_same_utterances(first: Run, a: Predictions, second: Run, b: Predictions) -> None:
    """Raise `ModelError` with the first difference where two runs' test tables have different utterances."""
    files = f"'{first.folder / 'predictions.csv'}' and '{second.folder / 'predictions.csv'}'"
    folds = list(a.by_fold()), list(b.by_fold())
    if folds[0] != folds[1]:
        raise ModelError(f"{files} have folds {folds[0]} and {folds[1]}: finish both runs")
    if a.labels != b.labels:
        raise ModelError(f"{files} have emotions {list(a.labels)} and {list(b.labels)}")
    for column in ("utterances", "folds", "speakers", "emotions"):
        for row, (x, y) in enumerate(zip(getattr(a, column), getattr(b, column), strict=False), start=2):
            if x != y:
                raise ModelError(f"{files} differ in row {row}: {column[:-1]} '{x}' and '{y}'")
    if len(a) != len(b):
        raise ModelError(f"{files} have {len(a)} and {len(b)} rows: finish both runs")
