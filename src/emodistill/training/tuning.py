"""Tuning: trials of a recipe with other values of some fields, compared by their mean dev score.

tune folder/
  tune.toml       the recipe and the space. A folder holds one search.
  study.journal   the trials, as Optuna keeps them.
  trials/<k>/     run folders that stop after dev. No trial predicts test, and only the best keeps its models.
  artifacts/      teachers and targets that the trials share.
  trials.csv  tune.png   every trial, and the history of dev scores.
  best.toml       the recipe of the best trial, with the number of trials in its section [tuned].
  crossval-<n>/   the run folder of best.toml after n trials, made by `crossval_best`.
"""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from emodistill.config import Recipe, TunedConfig, recipe_toml, stable_seed
from emodistill.console import say, warn
from emodistill.errors import ConfigError, MissingExtraError
from emodistill.evaluation.dev_scores import dev_score
from emodistill.evaluation.run import CHECKSUMS, UTTERANCES
from emodistill.files import atomic_write, copy_file, only_writer
from emodistill.training.ablation import GridProgress, GridRuns, data_key
from emodistill.training.artifact_cache import LAST, ArtifactCache, place_file
from emodistill.training.cross_validation import crossval, prepare_run
from emodistill.training.grid import with_fields
from emodistill.training.preflight import AuditedData, check_recipe
from emodistill.training.search_space import (
    SETTINGS,
    Dimension,
    refuse_other_search,
    searched_recipe,
    value_of,
)
from emodistill.training.trials import (
    State,
    TrialRow,
    TuneResult,
    describe_values,
    format_score,
    plot_trials,
    write_trials,
)

if TYPE_CHECKING:
    import optuna

JOURNAL, BEST = "study.journal", "best.toml"


def tune(
    recipe: Recipe,
    out: Path,
    space: Mapping[str, Any] | None = None,
    trials: int | None = None,
    prune: bool | None = None,
) -> TuneResult:
    """Search the values of some fields that have the best dev score, and write the best recipe.

    A search that was stopped continues where it was, and ends as one that was not stopped. More `trials` can
    be added later. The first trial has the recipe's own values, where the space holds them.

    Args:
        space: further fields to search, in the form of `TuneConfig.space`.
        trials: number of trials in all; default: that of the recipe.
        prune: whether to stop trials early; default: as the recipe says.

    Raises `ConfigError` for a field that cannot be searched, before anything is trained, and where `out`
    holds another search. Raises `MissingExtraError` without Optuna, and whatever `crossval` raises.
    """
    recipe, dimensions = searched_recipe(recipe, space or {}, trials, prune)
    optuna = _open_optuna()
    out.mkdir(parents=True, exist_ok=True)
    with only_writer(out, "searches in"):
        return Search(recipe, out, dimensions, optuna).run()


def crossval_best(result: TuneResult, out: Path) -> tuple[dict[str, Any], Path]:
    """Run the `crossval` of the best recipe in a search's folder; returns its scores and its run folder.

    The models that dev chose are those of the best trial, so they are not trained again.
    """
    assert result.recipe.tuned is not None
    run = out / f"crossval-{result.recipe.tuned.trials}"
    trial = out / "trials" / f"{result.best:03d}"
    # A folder with `LAST` is a complete checkpoint, so this file comes after all others.
    files = [path for path in trial.glob("fold-*/select/**/*") if path.is_file()]
    for path in sorted(files, key=lambda path: (path.name == LAST, path)):
        target = run / path.relative_to(trial)
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            place_file(path, target)
    return crossval(result.recipe, run, artifacts=ArtifactCache(out / "artifacts")), run


def _open_optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise MissingExtraError("optuna", "tune", "tuning") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


class Search:
    """The trials of one search, one after the other in one process."""

    def __init__(self, recipe: Recipe, out: Path, dimensions: Sequence[Dimension], optuna: Any) -> None:
        assert recipe.tune is not None
        self.recipe, self.out, self.dimensions, self.optuna = recipe, out, dimensions, optuna
        self.settings = recipe.tune
        refuse_other_search(recipe, out)
        out.mkdir(parents=True, exist_ok=True)
        with atomic_write(out / SETTINGS) as partial:
            partial.write_text(recipe_toml(recipe), encoding="utf-8")
        self.artifacts = ArtifactCache(out / "artifacts")
        self.data: AuditedData = check_recipe(recipe).data
        self.data_of_trials = GridRuns(out, {data_key(recipe): self.data})  # votes need other utterances
        main = recipe.student or (
            recipe.acoustic.student if recipe.main_model == "acoustic" else getattr(recipe, recipe.main_model)
        )
        self.measure: Literal["ua", "weighted_f1", "ccc"] = recipe.measure(main.optim)
        self.study: optuna.Study = self._open_study()

    def run(self) -> TuneResult:
        """Run the trials that are missing, and return all of them."""
        num_folds = len(self.data.protocol.folds)
        missing = max(0, self.settings.trials - len(self.rows()))
        progress = GridProgress(
            self.settings.trials * num_folds, (self.settings.trials - missing) * num_folds, verb="tune"
        )
        progress.show(f"{self.settings.trials} trials × {num_folds} folds, {missing} trials to run")
        for _ in range(missing):
            self._run_trial(progress)
            if _best(self.rows()) is not None:
                self._write()
        return self._write()

    def rows(self) -> list[TrialRow]:
        """The finished trials. A trial that was killed is not one of them: it is run again."""
        states = self.optuna.trial.TrialState
        finished = self.study.get_trials(states=(states.COMPLETE, states.PRUNED))
        return [
            TrialRow(
                number, trial.user_attrs["state"], trial.user_attrs["dev_score"], trial.user_attrs["folds"],
                trial.user_attrs["seconds"], trial.user_attrs["values"],
            )
            for number, trial in enumerate(finished, start=1)
        ]  # fmt: skip

    def _open_study(self) -> "optuna.Study":
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

        path = str(self.out / JOURNAL)
        _repair_journal(Path(path))
        pruner = (
            self.optuna.pruners.MedianPruner() if self.settings.prune else self.optuna.pruners.NopPruner()
        )
        study: optuna.Study = self.optuna.create_study(
            storage=JournalStorage(JournalFileBackend(path, JournalFileOpenLock(path))),
            study_name="tune", direction="maximize", pruner=pruner, load_if_exists=True,
        )  # fmt: skip
        for trial in study.trials:
            if trial.state == self.optuna.trial.TrialState.RUNNING:  # it was killed
                study.tell(trial.number, state=self.optuna.trial.TrialState.FAIL)
        return study

    def _run_trial(self, progress: GridProgress) -> None:
        rows = self.rows()
        number = len(rows) + 1
        # A new sampler for each trial: its proposal depends on the finished trials alone, not on what this
        # process has drawn before. So a search that was stopped goes on as one that was not.
        seed = stable_seed(self.recipe.seed, "tune", number) % 2**32
        self.study.sampler = self.optuna.samplers.TPESampler(seed=seed)
        if not rows:
            self._propose_own_values()
        trial = self.study.ask()
        values = {item.field: item.suggest(trial) for item in self.dimensions}
        say(f"trial {number} of {self.settings.trials}: {describe_values(values)}")
        started = time.monotonic()
        earlier = next((row for row in rows if row.values == values and row.state == "complete"), None)
        scores: list[float] = []
        state: State = "complete"
        if earlier is not None:
            state, score = "repeated", earlier.dev_score
            message = f"trial {number}: the same values as trial {earlier.number}"
        else:
            state, message = self._score_folds(trial, number, values, scores, progress)
            score = sum(scores) / len(scores) if scores else None
        seconds = time.monotonic() - started
        for name, value in (
            ("values", values), ("dev_score", score), ("folds", len(scores)), ("seconds", seconds),
            ("state", state),
        ):  # fmt: skip
            trial.set_user_attr(name, value)
        is_scored = state in ("complete", "repeated")
        trial_states = self.optuna.trial.TrialState
        self.study.tell(trial, score if is_scored else None, state=None if is_scored else trial_states.PRUNED)
        num_counted = len(scores) - (state == "complete")  # the last fold is counted with its trial
        num_left = len(self.data.protocol.folds) - num_counted
        best = _best(self.rows())
        end = ""
        if best is not None:
            best_score = format_score(best.dev_score, self.measure)
            end = f"; best so far: {best_score} of trial {best.number}"
        progress.count(message + end, num_left)

    def _propose_own_values(self) -> None:
        """Let the first trial have the recipe's own values, where the space holds them."""
        own = {item.field: value_of(self.recipe, item.field) for item in self.dimensions}
        outside = [item.field for item in self.dimensions if not item.holds(own[item.field])]
        if outside:
            values = describe_values({field: own[field] for field in outside})
            warn(f"the space lacks the recipe's own {values}, so no trial has the recipe's own values")
        else:
            parameters = {item.field: item.as_parameter(own[item.field]) for item in self.dimensions}
            self.study.enqueue_trial(parameters, skip_if_exists=False)

    def _score_folds(
        self,
        trial: "optuna.Trial",
        number: int,
        values: Mapping[str, Any],
        scores: list[float],
        progress: GridProgress,
    ) -> tuple[State, str]:
        """Train the folds of a trial, and append the dev score of each; returns its state and a message."""
        try:
            variant = with_fields(self.recipe, values, f"trial {number}")
        except ConfigError as error:  # values that contradict each other
            return "invalid", str(error)
        folder = self.out / "trials" / f"{number:03d}"
        self._place_utterances(folder)
        variant = variant.model_copy(update={"tune": None})
        for fold_run in prepare_run(variant, folder, None, self.data_of_trials.data(variant), self.artifacts):
            fold_run.run_on_dev()
            scores.append(dev_score(fold_run.folder, self.measure))
            mean = sum(scores) / len(scores)
            mean_score = format_score(mean, self.measure)
            trial.report(mean, len(scores))
            if len(scores) == len(self.data.protocol.folds):
                break
            progress.count(
                f"trial {number}, fold {fold_run.fold.name}: dev {format_score(scores[-1], self.measure)}"
            )
            if trial.should_prune():
                return "pruned", f"trial {number} pruned: mean dev {mean_score} over {len(scores)} folds"
        return "complete", f"trial {number}: mean dev {mean_score}"

    def _place_utterances(self, folder: Path) -> None:
        """Copy the manifest of an earlier trial, because it is slow to measure every recording again."""
        for source in sorted(self.out.glob(f"trials/*/{UTTERANCES}"))[:1]:
            if not folder.is_dir():
                copy_file(source.with_name(CHECKSUMS), folder / CHECKSUMS)
                copy_file(source, folder / UTTERANCES)

    def _write(self) -> TuneResult:
        """Write the tables, the plot and the best recipe; delete the models of all other trials."""
        rows = self.rows()
        best = _best(rows)
        if best is None:
            raise ConfigError(
                f"none of {len(rows)} trials could be trained: the values of the space contradict each other "
                "or other fields of the recipe"
            )
        chosen = with_fields(self.recipe, best.values, "best trial")
        assert best.dev_score is not None
        tried = [row for row in rows if row.state in ("complete", "pruned")]
        tuned = TunedConfig(
            trials=len(tried),
            pruned=sum(row.state == "pruned" for row in rows),
            dev_score=best.dev_score,
            measure=self.measure,
            space=self.settings.space,
            dev_is_test_elsewhere=self.data.protocol.dev_is_test_elsewhere,
        )
        chosen = chosen.model_copy(update={"name": f"{self.recipe.name}-tuned", "tune": None, "tuned": tuned})
        result = TuneResult(chosen, tuple(rows), best.number)
        with atomic_write(self.out / BEST) as partial:
            partial.write_text(f"# {tuned.note}\n{recipe_toml(chosen)}", encoding="utf-8")
        write_trials(result, self.out / "trials.csv")
        plot_trials(result, self.measure, self.out / "tune.png")
        for row in rows:
            if row.number != best.number:
                _delete_models(self.out / "trials" / f"{row.number:03d}")
        return result


def _repair_journal(path: Path) -> None:
    """Remove from a journal what a killed search left: its lock, and a last line that is not complete.

    `only_writer` keeps other searches away. Optuna would wait 30 s for the lock, and append to the line.
    """
    for lock in path.parent.glob(f"{path.name}.lock*"):
        lock.unlink()
    if path.is_file() and (last := path.read_bytes().rsplit(b"\n", 1)[-1]):
        os.truncate(path, path.stat().st_size - len(last))


def _delete_models(trial: Path) -> None:
    """Delete the models of a trial; its predictions of dev and its `fit.json` stay."""
    for fold in trial.glob("fold-*"):
        for phase in ("select", "refit"):
            for path in (fold / phase).rglob("*"):
                if path.is_file() and path.name != "fit.json":
                    path.unlink()


def _best(rows: Sequence[TrialRow]) -> TrialRow | None:
    """The complete trial with the best score; of equal ones the first."""
    complete = [row for row in rows if row.state == "complete"]
    return max(complete, key=lambda row: (row.dev_score or 0.0, -row.number), default=None)
