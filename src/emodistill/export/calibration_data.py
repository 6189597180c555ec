"""The predictions that the temperatures of an exported model are fitted on, and those that check them.

They are the dev predictions of its own run. For a model that is trained on all data, they are those of its
crossval. Or they are the test predictions of other runs of the same recipe, each of which left out a corpus:
a temperature then holds for recordings that the model never heard.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from emodistill.errors import ConfigError, ModelError
from emodistill.evaluation.known import KNOWN_PREDICTIONS, KNOWN_PREDICTIONS_DEV
from emodistill.evaluation.predictions import Predictions, read_predictions
from emodistill.evaluation.run import Run, is_unchanged, read_run


class CalibrationData(NamedTuple):
    """Tables of predictions. `source` says in words what `fitted` and `known_fitted` are."""

    fitted: Predictions  # without a voice
    test: Predictions | None  # None: the model is trained on all data, so no test is left
    known_fitted: Predictions | None  # with known utterances of the speaker; None: the model has no voices
    known_test: Predictions | None
    source: str | None  # None: dev of the run itself


def calibration_data(run: Run, fold: str, unheard: Sequence[Path] = ()) -> CalibrationData:
    """Read the tables of a run's fold, and of runs that each left out a corpus.

    Raises `ConfigError` where one of those runs heard all of its corpora, has another recipe, or
    where two left out the same corpus. Raises `ModelError` where a table is missing or was edited.
    """
    folder = run.folder / f"fold-{fold}"
    has_voices = run.recipe.voice is not None
    test = known_test = source = None
    if run.all_data is None:
        test = _read(folder / "predictions.csv")
        known_test = _read(folder / KNOWN_PREDICTIONS) if has_voices else None
    else:
        folder = run.folder / "crossval"
    if not unheard:
        dev = _read(folder / "predictions-dev.csv")
        known_dev = _read(folder / KNOWN_PREDICTIONS_DEV) if has_voices else None
        if run.all_data is not None:
            unknown = "utterance" if "speaker" in run.protocol.allowed else "speaker"
            source = (
                f"Fitted on the {len(dev)} dev predictions of {len(set(dev.speakers))} speakers in the "
                f"crossval run {run.all_data['crossval']}. Each is by a model of the same recipe that had "
                f"not learned from the {unknown}."
            )
        return CalibrationData(dev, test, known_dev, known_test, source)
    tables: list[Predictions] = []
    known_tables: list[Predictions] = []
    corpora: list[str] = []
    for other in map(read_run, unheard):
        for name, names in _unheard_corpora(run, other).items():
            if repeated := set(corpora) & set(names):
                raise ConfigError(f"two folds left out {sorted(repeated)}: give one for each corpus")
            corpora += names
            other_folder = other.folder / f"fold-{name}"
            tables.append(_of_corpora(_read(other_folder / "predictions.csv"), other, names))
            if has_voices:
                known = _read(other_folder / KNOWN_PREDICTIONS)
                known_tables.append(_of_corpora(known, other, names))
    fitted = Predictions.join(tables)
    source = (
        f"Fitted on {len(fitted)} utterances of {len(set(fitted.speakers))} speakers of "
        f"{' and '.join(corpora)}, each predicted by a model of the same recipe that learned from the "
        "other corpora alone."
    )
    return CalibrationData(
        fitted, test, Predictions.join(known_tables) if has_voices else None, known_test, source
    )


def _unheard_corpora(run: Run, other: Run) -> dict[str, list[str]]:
    """The corpora in the test split of each fold of another run that the fold did not learn from."""
    recipe = other.recipe
    protocol = run.recipe.protocol.model_copy(update={"fixed": recipe.protocol.fixed})
    if run.recipe.model_copy(update={"protocol": protocol, "runtime": recipe.runtime}) != recipe:
        raise ConfigError(
            f"'{other.folder}' has another recipe than '{run.folder}': its confidences are those of another "
            "model, so no temperature can be fitted on it. Only protocol.fixed and runtime may differ"
        )
    unheard: dict[str, list[str]] = {}
    for name in other.scores["folds"]:
        fold = other.protocol.fold(name)
        heard = {other.utterances[item].corpus for item in (*fold.train, *fold.dev)}
        left_out = {other.utterances[item].corpus or "" for item in fold.test} - heard - {""}
        if left_out:
            unheard[name] = sorted(left_out)
    if not unheard:
        raise ConfigError(f"'{other.folder}' learned from all of its test corpora, expected one left out")
    return unheard


def _of_corpora(table: Predictions, run: Run, names: Sequence[str]) -> Predictions:
    return table.select([run.utterances[item].corpus in names for item in table.utterances])


def _read(path: Path) -> Predictions:
    if not path.is_file():
        raise ModelError(
            f"'{path}' is missing, on which a temperature is fitted: delete "
            f"'{path.with_name('predictions.csv')}' and run the same command again; trained models stay"
        )
    if not is_unchanged(path):
        raise ModelError(
            f"'{path}' was changed after its fold had finished: delete "
            f"'{path.with_name('predictions.csv')}' and run the same command again; trained models stay"
        )
    return read_predictions(path)
