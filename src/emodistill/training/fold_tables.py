"""The tables of a fold's folder: predictions of each model, and their checksums."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from emodistill.config import Recipe
from emodistill.corpora import Utterance
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
from emodistill.inference.model_card import file_sha256
from emodistill.labels import LabelSet
from emodistill.training.known_tables import known_table, predict_with_known

LAST = "predictions.csv"  # the table that marks a fold as done


@dataclass(frozen=True)
class FoldTables:
    """Writes the tables of one fold."""

    folder: Path
    labels: LabelSet
    fold: str

    @property
    def are_complete(self) -> bool:
        """Whether all tables are written, those of test included."""
        return (self.folder / LAST).is_file()

    @property
    def are_complete_on_dev(self) -> bool:
        """Whether the tables of dev are written."""
        return (self.folder / CHECKSUMS).is_file()

    def write(self, utterances: Sequence[Utterance], logits: Tensor, path: Path) -> None:
        """Write a model's probabilities of utterances. `logits` is (utterances, emotions)."""
        table = Predictions(
            self.labels,
            tuple(utterance.id for utterance in utterances),
            (self.fold,) * len(utterances),
            tuple(utterance.speaker for utterance in utterances),
            tuple(utterance.emotion or "" for utterance in utterances),
            logits.double().softmax(dim=1).numpy(),
        )
        if path != self.folder / LAST:
            write_predictions(table, path)
            return
        # This table marks the fold as done, so it appears after the checksums of all tables are written.
        partial = path.with_suffix(".last")
        write_predictions(table, partial)
        write_checksums(self.folder, {**self._checksums(), path.name: file_sha256(partial)})
        partial.replace(path)

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
        self.write(utterances, torch.from_numpy(result.probabilities).log(), self.folder / name)

    def finish_on_dev(self) -> None:
        """Write the checksums of the tables so far, none of which is of test."""
        write_checksums(self.folder, self._checksums())

    def _checksums(self) -> dict[str, str]:
        known = (KNOWN_CSV, KNOWN_PREDICTIONS, KNOWN_PREDICTIONS_DEV)
        tables = [*sorted(self.folder.glob("predictions*.csv")), *map(self.folder.joinpath, known)]
        return {file.name: file_sha256(file) for file in tables if file.is_file()}
