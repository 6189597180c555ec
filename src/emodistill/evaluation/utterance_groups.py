"""Groups of test utterances: by speaker, gender, language, duration and corpus."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from emodistill.corpora.base import Utterance, natural_sort_key
from emodistill.evaluation.dimension_predictions import DimensionPredictions
from emodistill.evaluation.predictions import Predictions

DURATION_EDGES_S = (1.0, 2.0, 3.0, 5.0, 10.0)  # between the bins of durations


def group_rows(
    table: Predictions | DimensionPredictions, utterances: Mapping[str, Utterance], notes: list[str]
) -> dict[str, dict[str, list[int]]]:
    """The rows of each group of utterances, by name, for each way to group them that utterances allow.

    Adds a note for each way for which no utterance has a name.
    """
    group_names: dict[str, Callable[[Utterance], str | None]] = {
        "gender": lambda utterance: utterance.gender,
        "language": lambda utterance: utterance.language,
        "duration": lambda utterance: (
            None if utterance.duration_s is None else duration_bin(utterance.duration_s)
        ),
        "corpus": lambda utterance: utterance.corpus,
    }
    groups = {"speaker": _rows_by_name(table.speakers)}
    for by, group_name in group_names.items():
        names = [group_name(utterances[name]) for name in table.utterances]
        if not any(names):
            notes.append(f"No utterance has a {by}, so there are no scores by {by}.")
            continue
        groups[by] = _rows_by_name([name or "not known" for name in names])
    return groups


def duration_bin(seconds: float) -> str:
    """The name of the bin of a duration, between two of `DURATION_EDGES_S`."""
    place = int(np.searchsorted(DURATION_EDGES_S, seconds, side="right"))
    if place == 0:
        return f"under {DURATION_EDGES_S[0]:g} s"
    if place == len(DURATION_EDGES_S):
        return f"{DURATION_EDGES_S[-1]:g} s and over"
    return f"{DURATION_EDGES_S[place - 1]:g} – {DURATION_EDGES_S[place]:g} s"


_DURATION_BINS = [duration_bin(seconds) for seconds in (0.0, *DURATION_EDGES_S)]


def _rows_by_name(names: Sequence[str]) -> dict[str, list[int]]:
    """The rows that share a name, in the order in which tables show names; `names` is (utterances,)."""
    rows_by_name: dict[str, list[int]] = defaultdict(list)
    for row, name in enumerate(names):
        rows_by_name[name].append(row)
    order = sorted(
        rows_by_name,
        key=lambda name: (
            _DURATION_BINS.index(name) if name in _DURATION_BINS else 0,
            natural_sort_key(name),
        ),
    )
    return {name: rows_by_name[name] for name in order}
