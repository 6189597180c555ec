"""Paired comparison of runs, or of groups of seeds, on the same test utterances."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from emodistill.errors import ConfigError, ModelError
from emodistill.evaluation.bootstrap import bootstrap_confusions
from emodistill.evaluation.differences import (
    Difference,
    DrawnMeasure,
    mean_of_measures,
    over_seeds,
    paired_difference,
)
from emodistill.evaluation.dimension_predictions import DimensionPredictions
from emodistill.evaluation.dimension_scores import drawn_cccs
from emodistill.evaluation.groups import RunGroup, group_runs, run_seed, ungrouped
from emodistill.evaluation.metrics import ACCURACIES, scores_of_confusions
from emodistill.evaluation.predictions import Predictions
from emodistill.evaluation.run import LABEL_TOLERANCE, Run, read_run
from emodistill.evaluation.vote_scores import VOTE_TITLES, vote_measures, voted_part
from emodistill.protocol.folds import SPLITS, Protocol

RESAMPLES = 10_000
MEAN_CCC, CCC_PREFIX = "ccc", "ccc_"  # measures: the mean CCC over dimensions, and the CCC of one dimension


VOTES_PREFIX = "votes_"  # before the keys of `VOTE_TITLES`


def measure_title(name: str) -> str:
    """The name of a measure in tables: UA, WA, CCC (the mean over dimensions), CCC arousal, votes: KL."""
    if name.startswith(VOTES_PREFIX):
        return f"votes: {VOTE_TITLES[name.removeprefix(VOTES_PREFIX)]}"
    kind, _, dimension = name.partition("_")
    return f"{kind.upper()} {dimension}".strip()


def is_share(name: str) -> bool:
    """Whether a measure is a share, which tables show in percent. CCC and scores of votes are none."""
    return not name.startswith((MEAN_CCC, VOTES_PREFIX))


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
    # By measure: ua, wa; ccc, the mean over several dimensions; ccc_<dimension>; votes_<key of VOTE_TITLES>.
    differences: dict[str, Difference]
    # None: one of the two predicts no emotions, or is a group of seeds. The models of several seeds predict
    # the same utterances. So their counts are not independent, and McNemar's test does not hold for sums.
    mcnemar: McNemar | None
    unfinished: tuple[str, ...] = ()  # folds that have no scores in either run
    reference_runs: tuple[str, ...] = ()  # the folders that were compared
    run_runs: tuple[str, ...] = ()
    reference_seeds: tuple[int | None, ...] = ()  # of these folders; None: an evaluation of a model
    run_seeds: tuple[int | None, ...] = ()
    note: str | None = None  # which seeds were left out, or that the groups have other seeds
    undefined: tuple[str, ...] = ()  # dimensions whose CCC is not defined, since all labels are equal

    @property
    def measure(self) -> str:
        """The measure that stands first: ua, or the CCC of runs with dimensions alone."""
        return next(iter(self.differences))

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

    Emotions are compared by UA and WA, and by the scores of votes where test utterances have votes.
    Dimensions are compared by CCC, as far as both runs of a pair predict them.

    Differences are by paired bootstrap over speakers: all runs are scored on the same draws. See
    `make_difference` for the interval, the p-value and the smallest detectable difference. Holm's correction
    (1979) is over all comparisons of a measure.

    Raises `ConfigError` for fewer than two groups. Raises `ModelError` with the first difference where the
    runs have different protocols or utterances, or predict nothing in common.
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
    """A run's test predictions, and its measures."""

    emotions: Predictions | None
    dimensions: DimensionPredictions | None
    measures: dict[str, DrawnMeasure]


def _read_compared(runs: Sequence[Run], resamples: int, seed: int) -> dict[int, _Compared]:
    """The predictions and draws of each run, by `id` of the run, after checking that runs are comparable."""
    for run in runs[1:]:
        check_same_protocol(runs[0], run)
    emotions = {id(run): run.table() for run in runs if run.has_emotions}
    dimensions = {id(run): run.dimension_table() for run in runs if run.main_model in run.dimension_models()}
    with_emotions, with_dimensions = (
        [run for run in runs if id(run) in tables] for tables in (emotions, dimensions)
    )
    for run in with_emotions[1:]:
        first = with_emotions[0]
        check_same_utterances(first, emotions[id(first)], run, emotions[id(run)])
    for run in with_dimensions[1:]:
        first = with_dimensions[0]
        check_same_labels(first, dimensions[id(first)], run, dimensions[id(run)])
    found = {}
    for run in runs:
        tables = emotions.get(id(run)), dimensions.get(id(run))
        measures = _measures(*tables, resamples, seed)
        if tables[0] is not None:
            measures |= _vote_measures(tables[0], run, resamples, seed)
        found[id(run)] = _Compared(*tables, measures)
    return found


def _measures(
    emotions: Predictions | None, dimensions: DimensionPredictions | None, resamples: int, seed: int
) -> dict[str, DrawnMeasure]:
    measures: dict[str, DrawnMeasure] = {}
    if emotions is not None:
        draws = scores_of_confusions(bootstrap_confusions(emotions, resamples, seed))
        num_speakers = len(set(emotions.speakers))
        for name, accuracy in ACCURACIES.items():
            value = accuracy(emotions.truth, emotions.predicted)
            measures[name] = DrawnMeasure(np.array([value]), np.asarray(draws[name]), num_speakers)
    if dimensions is not None:
        cccs = drawn_cccs(dimensions, resamples, seed)
        measures |= {CCC_PREFIX + name: ccc for name, ccc in cccs.items()}
    return measures


def _vote_measures(table: Predictions, run: Run, resamples: int, seed: int) -> dict[str, DrawnMeasure]:
    """The measures against listeners' votes; an empty dict where no test utterance has votes."""
    part = voted_part(table, run.utterances)
    if part is None:
        return {}
    voted, shares, _ = part
    return {
        VOTES_PREFIX + name: DrawnMeasure(np.array([value]), draws, len(set(voted.speakers)))
        for name, (value, draws) in vote_measures(voted, shares, resamples, seed).items()
    }


def _common_measures(members: Sequence[_Compared]) -> list[dict[str, DrawnMeasure]]:
    """The measures that all members have, of each of them, with the mean CCC where there are several."""
    names = [name for name in members[0].measures if all(name in item.measures for item in members)]
    cccs = [name for name in names if name.startswith(CCC_PREFIX)]
    found = []
    for item in members:
        measures = {name: item.measures[name] for name in names if name not in cccs}
        if len(cccs) > 1:
            measures[MEAN_CCC] = mean_of_measures([item.measures[name] for name in cccs])
        found.append(measures | {name: item.measures[name] for name in cccs})
    return found


def _compare_groups(reference: RunGroup, run: RunGroup, compared: dict[int, _Compared]) -> Comparison:
    references, runs, note = _seeds_to_compare(reference, run)
    members = [compared[id(item)] for item in (*references, *runs)]
    measures = _common_measures(members)
    sides = measures[: len(references)], measures[len(references) :]
    titles = _title(reference, references), _title(run, runs)
    undefined = _undefined(members)
    if not measures[0]:
        reason = (
            f"CCC of {', '.join(undefined)} is not defined, since all labels are equal"
            if undefined
            else ("one predicts emotions alone, and the other one other dimensions")
        )
        raise ModelError(f"'{titles[0]}' and '{titles[1]}' have no measure in common: {reason}")

    def difference(name: str) -> Difference:
        return paired_difference(*(over_seeds([item[name] for item in side]) for side in sides))

    tables = [item.emotions for item in members]
    is_single = len(members) == 2
    first = tables[0] if "ua" in measures[0] else members[0].dimensions
    assert first is not None
    return Comparison(
        *titles, len(first), len(set(first.speakers)),
        {name: difference(name) for name in measures[0]},
        mcnemar(tables[0], tables[1]) if is_single and tables[0] and tables[1] else None,
        references[0].missing_folds,
        tuple(str(item.folder) for item in references), tuple(str(item.folder) for item in runs),
        tuple(map(run_seed, references)), tuple(map(run_seed, runs)), note, undefined,
    )  # fmt: skip


def _undefined(members: Sequence[_Compared]) -> tuple[str, ...]:
    """The dimensions that all members predict, and whose CCC is not defined."""
    tables = [item.dimensions for item in members]
    return tuple(
        name
        for name in (tables[0].dimensions if tables[0] else ())
        if all(table is not None and name in table.dimensions for table in tables)
        and CCC_PREFIX + name not in members[0].measures
    )


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
    names = dict.fromkeys(name for comparison in comparisons for name in comparison.differences)
    by_measure = {name: _holm_of_measure(comparisons, name) for name in names}
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


def _holm_of_measure(comparisons: Sequence[Comparison], name: str) -> list[float | None]:
    """The corrected p-value of a measure in each comparison; None where a comparison lacks it."""
    differences = [comparison.differences.get(name) for comparison in comparisons]
    return holm_where_known([None if item is None else item.p_value for item in differences])


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


def check_same_labels(first: Run, a: DimensionPredictions, second: Run, b: DimensionPredictions) -> None:
    """Raise `ModelError` with the first difference where two runs' dimensions are of different utterances.

    The labels of the dimensions that both have must be the same.
    """
    files = f"'{first.folder / 'dimensions.csv'}' and '{second.folder / 'dimensions.csv'}'"
    for column in ("utterances", "folds", "speakers"):
        for row, (x, y) in enumerate(zip(getattr(a, column), getattr(b, column), strict=False), start=2):
            if x != y:
                raise ModelError(f"{files} differ in row {row}: {column[:-1]} '{x}' and '{y}'")
    if len(a) != len(b):
        raise ModelError(f"{files} have {len(a)} and {len(b)} rows: finish both runs")
    for name in a.dimensions:
        if name in b.dimensions:
            labels = [table.truth[:, table.dimensions.index(name)] for table in (a, b)]
            is_same = np.isclose(labels[0], labels[1], rtol=0, atol=LABEL_TOLERANCE, equal_nan=True)
            if not is_same.all():
                row = int(np.argmin(is_same))
                raise ModelError(
                    f"{files} differ in row {row + 2}: {name} of '{a.utterances[row]}' is {labels[0][row]:g} "
                    f"and {labels[1][row]:g}"
                )
