"""Paired comparison of runs, or of groups of seeds, on the same test utterances."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from emodistill.errors import ConfigError, ModelError
from emodistill.evaluation.bootstrap import Floats, bootstrap_confusions
from emodistill.evaluation.differences import Difference, make_difference
from emodistill.evaluation.groups import RunGroup, group_runs, run_seed, ungrouped
from emodistill.evaluation.metrics import ACCURACIES, scores_of_confusions
from emodistill.evaluation.predictions import Predictions
from emodistill.evaluation.run import Run, read_run
from emodistill.protocol.folds import SPLITS, Protocol

RESAMPLES = 10_000


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
    """Two runs or groups of seeds under one protocol on the same utterances."""

    reference: str
    run: str
    num_utterances: int
    num_speakers: int
    differences: dict[str, Difference]  # by measure: ua, wa
    # None: one of the two is a group of seeds. The models of several seeds predict the same utterances, so
    # their counts are not independent, and McNemar's test does not hold for their sum.
    mcnemar: McNemar | None
    unfinished: tuple[str, ...] = ()  # folds that have no scores in either run
    reference_runs: tuple[str, ...] = ()  # the folders that were compared
    run_runs: tuple[str, ...] = ()
    reference_seeds: tuple[int | None, ...] = ()  # of these folders; None: an evaluation of a model
    run_seeds: tuple[int | None, ...] = ()
    note: str | None = None  # which seeds were left out, or that the groups have other seeds

    def as_dict(self) -> dict[str, Any]:
        """The comparison as JSON has it."""
        data = asdict(self)
        for name, difference in self.differences.items():
            data["differences"][name]["difference"] = difference.value
        return data


def compare_runs(
    folders: Sequence[Path],
    every_pair: bool = False,
    resamples: int = RESAMPLES,
    seed: int = 0,
    grouped: bool = True,
) -> list[Comparison]:
    """Compare the first run with each other run on test, or with `every_pair` each run with each other.

    Runs that differ in their seed alone are one group, unless `grouped` is False. A group's measure is the
    mean over its seeds, and a pair of groups is one comparison. Where two groups have several seeds in
    common, these alone are compared. Otherwise all seeds of each group are averaged.

    Differences are by paired bootstrap over speakers: all runs are scored on the same draws. See
    `make_difference` for the interval, the p-value and the smallest detectable difference. Holm's correction
    (1979) is over all comparisons of a measure.

    Raises `ConfigError` for fewer than two groups. Raises `ModelError` with the first difference where the
    runs have different protocols or utterances.
    """
    if len(folders) < 2:
        raise ConfigError(f"a comparison needs two runs or more, got {len(folders)}")
    runs = [read_run(folder) for folder in folders]
    groups = group_runs(runs) if grouped else ungrouped(runs)
    if len(groups) < 2:
        raise ConfigError(
            f"all {len(runs)} runs are seeds of one recipe ({groups[0].title}), which are one group: give a "
            "run of another recipe, or compare single runs with --ungrouped"
        )
    compared = _read_compared(runs, resamples, seed)
    return _with_holm(
        [
            _compare_groups(groups[first], groups[second], compared)
            for first, second in combinations(range(len(groups)), 2)
            if every_pair or not first
        ]
    )


@dataclass(frozen=True)
class _Compared:
    """A run's test predictions, and its measures on each draw of speakers."""

    table: Predictions
    draws: dict[str, Floats]  # measure -> (resamples,)


def _read_compared(runs: Sequence[Run], resamples: int, seed: int) -> dict[int, _Compared]:
    """The predictions and draws of each run, by `id` of the run, after checking that runs are comparable."""
    for run in runs[1:]:
        check_same_protocol(runs[0], run)
    tables = [run.table() for run in runs]
    for run, table in zip(runs[1:], tables[1:], strict=True):
        check_same_utterances(runs[0], tables[0], run, table)
    return {
        id(run): _Compared(table, scores_of_confusions(bootstrap_confusions(table, resamples, seed)))
        for run, table in zip(runs, tables, strict=True)
    }


def _compare_groups(reference: RunGroup, run: RunGroup, compared: dict[int, _Compared]) -> Comparison:
    references, runs, note = _seeds_to_compare(reference, run)
    members = [[compared[id(item)] for item in group] for group in (references, runs)]
    first = members[0][0].table
    num_speakers = len(set(first.speakers))

    def difference(name: str) -> Difference:
        values = [
            np.array([ACCURACIES[name](item.table.truth, item.table.predicted) for item in group])
            for group in members
        ]
        draws = [np.mean([item.draws[name] for item in group], axis=0) for group in members]
        return make_difference(values[0], values[1], draws[1] - draws[0], num_speakers)

    is_single = len(references) == len(runs) == 1
    return Comparison(
        _title(reference, references), _title(run, runs), len(first), num_speakers,
        {name: difference(name) for name in ACCURACIES},
        mcnemar(first, members[1][0].table) if is_single else None,
        references[0].missing_folds,
        tuple(str(item.folder) for item in references), tuple(str(item.folder) for item in runs),
        tuple(map(run_seed, references)), tuple(map(run_seed, runs)), note,
    )  # fmt: skip


def _title(group: RunGroup, compared: tuple[Run, ...]) -> str:
    """The name of the runs of a group that are compared."""
    return str(compared[0].folder) if len(compared) == 1 else RunGroup(group.name, compared).title


def _seeds_to_compare(
    reference: RunGroup, run: RunGroup
) -> tuple[tuple[Run, ...], tuple[Run, ...], str | None]:
    """The runs of two groups that are compared, and a note on this."""
    if len(reference.runs) == len(run.runs) == 1 or reference.seeds == run.seeds:
        return reference.runs, run.runs, None
    common = {seed for seed in reference.seeds if seed is not None and seed in run.seeds}
    if len(common) < 2:
        return reference.runs, run.runs, "fewer than two common seeds, so each is averaged over all its seeds"
    kept = [tuple(item for item in group.runs if run_seed(item) in common) for group in (reference, run)]
    left_out = [
        f"seed {run_seed(item)} of '{group.name}'"
        for group in (reference, run)
        for item in group.runs
        if run_seed(item) not in common
    ]
    names = " ".join(map(str, sorted(common)))
    note = f"compared on the common seeds {names}; left out is {', '.join(left_out)}"
    return kept[0], kept[1], note


def mcnemar(reference: Predictions, run: Predictions) -> McNemar:
    """McNemar's exact test on two tables of the same utterances."""
    from scipy.stats import binomtest  # it takes half a second to load

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


def holm_where_known(p_values: Sequence[float | None]) -> list[float | None]:
    """The p-values with Holm's correction over those that are not None."""
    corrected = iter(holm([value for value in p_values if value is not None]))
    return [None if value is None else next(corrected) for value in p_values]


def _with_holm(comparisons: Sequence[Comparison]) -> list[Comparison]:
    by_measure = {
        name: holm_where_known([comparison.differences[name].p_value for comparison in comparisons])
        for name in comparisons[0].differences
    }
    for_mcnemar = holm_where_known(
        [comparison.mcnemar.p_value if comparison.mcnemar else None for comparison in comparisons]
    )
    return [
        replace(
            comparison,
            differences={
                name: replace(difference, p_holm=by_measure[name][row])
                for name, difference in comparison.differences.items()
            },
            mcnemar=replace(comparison.mcnemar, p_holm=for_mcnemar[row]) if comparison.mcnemar else None,
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
