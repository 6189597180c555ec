"""The tables of a fold's folder: predictions of each model, and their checksums."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from emodistill.config import Recipe
from emodistill.corpora import Utterance
from emodistill.evaluation.dimension_predictions import DimensionPredictions, write_dimensions
from emodistill.evaluation.known import (
    COUNTS,
    DRAWS,
    KNOWN_CSV,
    KNOWN_FOR_TEMPERATURE,
    KNOWN_PREDICTIONS,
    KNOWN_PREDICTIONS_DEV,
    write_known,
)
from emodistill.evaluation.predictions import Predictions, write_predictions
from emodistill.evaluation.run import CHECKSUMS, write_checksums
from emodistill.files import atomic_write
from emodistill.inference.model_card import file_sha256
from emodistill.labels import LabelSet
from emodistill.training.known_tables import known_table, predict_with_known
from emodistill.training.labels import dimension_labels


@dataclass(frozen=True)
class FoldTables:
    """Writes the tables of one fold."""

    folder: Path
    labels: LabelSet  # empty: there are no predictions of emotions
    fold: str
    dimensions: tuple[str, ...] = ()

    @property
    def last(self) -> str:
        """The table that is written last: its presence means that the fold is done."""
        return "predictions.csv" if len(self.labels) else "dimensions.csv"

    @property
    def are_complete(self) -> bool:
        """Whether all tables are written, those of test included."""
        return (self.folder / self.last).is_file()

    @property
    def are_complete_on_dev(self) -> bool:
        """Whether the tables of dev are written."""
        return (self.folder / CHECKSUMS).is_file()

    def write(
        self,
        utterances: Sequence[Utterance],
        outputs: Mapping[str, Tensor],
        suffix: str,
        folder: Path | None = None,
    ) -> list[Path]:
        """Write a model's predictions of utterances, and return the paths.

        They are `dimensions<suffix>.csv` and then `predictions<suffix>.csv`, as far as the model predicts
        both. The latter lacks utterances without an emotion.

        Args:
            outputs: `logits` (utterances, emotions) and `dimensions` (utterances, dimensions).
            folder: default: that of the fold.
        """
        folder = folder or self.folder
        paths = []
        truth = dimension_labels(utterances, self.dimensions, torch.float64)
        if truth is not None:
            table = DimensionPredictions(
                self.dimensions,
                tuple(utterance.id for utterance in utterances),
                (self.fold,) * len(utterances),
                tuple(utterance.speaker for utterance in utterances),
                truth.numpy(),
                outputs["dimensions"].double().clamp(0, 1).numpy(),
            )
            paths.append(folder / f"dimensions{suffix}.csv")
            self._place(paths[-1], lambda path: write_dimensions(table, path))
        if len(self.labels):
            paths.append(folder / f"predictions{suffix}.csv")
            self.write_emotions(utterances, outputs["logits"], paths[-1])
        return paths

    def write_emotions(self, utterances: Sequence[Utterance], logits: Tensor, path: Path) -> None:
        """Write a model's probabilities of the utterances that have an emotion.

        `logits` is (utterances, emotions).
        """
        rows = [row for row, utterance in enumerate(utterances) if utterance.emotion is not None]
        labelled = [utterances[row] for row in rows]
        table = Predictions(
            self.labels,
            tuple(utterance.id for utterance in labelled),
            (self.fold,) * len(labelled),
            tuple(utterance.speaker for utterance in labelled),
            tuple(utterance.emotion or "" for utterance in labelled),
            logits[rows].double().softmax(dim=1).numpy(),
        )
        self._place(path, lambda place: write_predictions(table, place))

    def _place(self, path: Path, write: Callable[[Path], None]) -> None:
        """Write a table. The last one appears after the checksums of all tables are written."""
        if path != self.folder / self.last:
            write(path)
            return
        with atomic_write(path) as partial:
            write(partial)
            write_checksums(self.folder, {**self._checksums(), path.name: file_sha256(partial)})

    def write_known(
        self,
        student: nn.Module,
        outputs: Mapping[str, Tensor],
        utterances: Sequence[Utterance],
        recipe: Recipe,
        name: str,
        with_table: bool,
    ) -> None:
        """Write probabilities with known utterances of the speaker; `with_table`: known.csv too.

        `outputs` are those of the student for the utterances.
        """
        counts, draws = (COUNTS, DRAWS) if with_table else ((KNOWN_FOR_TEMPERATURE,), 1)
        result = predict_with_known(student, outputs, utterances, self.labels, recipe.seed, counts, draws)
        if with_table:
            table = known_table(result, utterances, self.labels, self.fold, recipe.corpus.name)
            write_known(table, self.folder / KNOWN_CSV)
        assert result.probabilities is not None
        self.write_emotions(utterances, torch.from_numpy(result.probabilities).log(), self.folder / name)

    def finish_on_dev(self) -> None:
        """Write the checksums of the tables so far, none of which is of test."""
        write_checksums(self.folder, self._checksums())

    def _checksums(self) -> dict[str, str]:
        known = (KNOWN_CSV, KNOWN_PREDICTIONS, KNOWN_PREDICTIONS_DEV)
        tables = [*sorted(self.folder.glob("predictions*.csv")), *map(self.folder.joinpath, known)]
        tables += sorted(self.folder.glob("dimensions*.csv"))
        return {file.name: file_sha256(file) for file in tables if file.is_file()}
