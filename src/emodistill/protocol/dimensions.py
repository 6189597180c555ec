"""The dimensions of each split of each fold: how many utterances have them, and the check before training."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from emodistill.console import say, warn
from emodistill.corpora import Utterance
from emodistill.errors import ConfigError
from emodistill.protocol.folds import SPLITS, Protocol


@dataclass(frozen=True)
class DimensionCounts:
    """The labels of one dimension in one split, from 0 to 1; all but the number is None without any."""

    num_utterances: int
    mean: float | None = None
    lowest: float | None = None
    highest: float | None = None


# fold -> split -> dimension
Dimensions = Mapping[str, Mapping[str, Mapping[str, DimensionCounts]]]


def count_dimensions(
    utterances: Iterable[Utterance], protocol: Protocol, dimensions: Sequence[str]
) -> Dimensions:
    """Return the counts of each dimension in each split of each fold.

    Raises `CorpusError` where an utterance has a dimension, but no scale.
    """
    values = {item.id: item.unit_dimensions() for item in utterances} if dimensions else {}
    return {
        fold.name: {
            split: {
                name: _counts([values[item][name] for item in fold.split(split) if name in values[item]])
                for name in dimensions
            }
            for split in SPLITS
        }
        for fold in protocol.folds
    }


def _counts(values: Sequence[float]) -> DimensionCounts:
    if not values:
        return DimensionCounts(0)
    return DimensionCounts(len(values), float(np.mean(values)), min(values), max(values))


def dimension_warnings(counts: Dimensions) -> tuple[str, ...]:
    """Return a warning for each dimension that dev or test of a fold lacks, or that never varies there."""
    consequences = {
        "train": "a model cannot learn from it",
        "dev": "the epoch is chosen without it",
        "test": "it is not scored there",
    }
    warnings = []
    for split, consequence in consequences.items():
        lacking: dict[str, list[str]] = {}
        constant: dict[str, list[str]] = {}
        for fold, splits in counts.items():
            for name, item in splits[split].items():
                if not item.num_utterances and splits["train"][name].num_utterances:
                    lacking.setdefault(name, []).append(fold)
                elif item.num_utterances and item.lowest == item.highest:
                    constant.setdefault(name, []).append(fold)
        for name, folds in lacking.items():
            warnings.append(f"no utterance has {name} in {split} of {_folds(folds)}, where training needs it")
        for name, folds in constant.items():
            warnings.append(
                f"{name} has one value in all of {split} of {_folds(folds)}: its concordance correlation is "
                f"not defined there, so {consequence}"
            )
    return tuple(warnings)


def _folds(names: Sequence[str]) -> str:
    return f"fold {names[0]}" if len(names) == 1 else f"folds {', '.join(names)}"


def report_dimensions(utterances: Iterable[Utterance], counts: Dimensions) -> None:
    """Report how many utterances have each dimension, with mean and range from 0 to 1, and the warnings."""
    names = next(iter(counts.values()))["train"]
    # Without them a corpus may lack scales.
    found = [item.unit_dimensions() for item in utterances] if names else []
    for name in names:
        whole = _counts([values[name] for values in found if name in values])
        sizes = {
            split: [splits[split][name].num_utterances for splits in counts.values()] for split in SPLITS
        }
        parts = ", ".join(f"{split} {count_range(numbers)}" for split, numbers in sizes.items())
        say(
            f"{name}: {whole.num_utterances} of {len(found)} utterances, mean {whole.mean:.3f}, from "
            f"{whole.lowest:.3f} to {whole.highest:.3f} on a scale from 0 to 1; in {parts}"
        )
    for warning in dimension_warnings(counts):
        warn(warning)


def count_range(numbers: Sequence[int]) -> str:
    """Return the lowest and the highest of some numbers as text, or the number where all are equal."""
    low, high = min(numbers), max(numbers)
    return f"{low}" if low == high else f"{low}–{high}"


def check_dimensions(
    utterances: Iterable[Utterance], protocol: Protocol, dimensions: Sequence[str]
) -> Dimensions:
    """Return the counts of `count_dimensions`.

    Raises `ConfigError` where no training utterance of a fold has one of the dimensions.
    """
    counts = count_dimensions(utterances, protocol, dimensions)
    for fold, splits in counts.items():
        for name, item in splits["train"].items():
            if not item.num_utterances:
                raise ConfigError(
                    f"targets asks for {name}, and no training utterance of fold {fold} has it: take it out "
                    "of targets, or choose other folds (protocol.kind)"
                )
    return counts
