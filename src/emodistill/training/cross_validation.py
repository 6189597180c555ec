"""All folds of a recipe into one run folder, and its scores.

run folder/
  recipe.toml  protocol.json  utterances.csv
  fold-<name>/            see `fold`
  predictions.csv         every fold's test predictions (predictions-<teacher>.csv: a teacher's)
  scores.json
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from emodistill.config import TEACHERS, Recipe, load_recipe, recipe_toml
from emodistill.console import say, warn
from emodistill.corpora import Corpus
from emodistill.corpora.load import open_corpus
from emodistill.errors import ConfigError, ModelError
from emodistill.evaluation.predictions import (
    Predictions,
    join_predictions,
    read_predictions,
    write_predictions,
)
from emodistill.evaluation.run import UTTERANCES, is_unchanged, table_name, write_utterances
from emodistill.files import atomic_write
from emodistill.inference.model_card import file_sha256
from emodistill.protocol.audit import audit_protocol
from emodistill.protocol.folds import Protocol, build_protocol, read_protocol
from emodistill.training.artifact_cache import ArtifactCache
from emodistill.training.fold import FoldRun


@dataclass(frozen=True)
class Data:
    """A recipe's corpus and folds, audited."""

    corpus: Corpus
    protocol: Protocol


def crossval(
    recipe: Recipe,
    out: Path,
    only: Sequence[str] | None = None,
    limit: int | None = None,
    artifacts: ArtifactCache | None = None,
) -> dict[str, Any]:
    """Run a recipe over its folds and return the scores of all that are done, also in `scores.json`.

    `only` names the folds to run, `limit` runs the first few; by default all. `artifacts` holds what several runs
    have in common. Resumes where a killed run
    stopped. Raises `ConfigError` where `out` holds another recipe's run and `LeakError` where the protocol
    leaks.
    """
    recipe = with_absolute_paths(recipe)
    for run in open_run(recipe, out, only, artifacts=artifacts)[:limit]:
        run.run()
    return collect(recipe, out)


def with_absolute_paths(recipe: Recipe) -> Recipe:
    """Files and folders that exist, by absolute path: a run folder can then be read from anywhere."""
    names = ("root", "manifest", "transcripts", "run", "init", "backbone", "encoder")

    def absolute(value: Any, name: str = "") -> Any:
        if isinstance(value, dict):
            return {key: absolute(item, key) for key, item in value.items()}
        local = name in names and isinstance(value, str) and value not in ("compact", "scratch", "bundled")
        return str(Path(value).resolve()) if local and Path(value).exists() else value

    return Recipe.model_validate(absolute(recipe.model_dump()))


def open_run(
    recipe: Recipe,
    out: Path,
    only: Sequence[str] | None = None,
    data: Data | None = None,
    artifacts: ArtifactCache | None = None,
) -> list[FoldRun]:
    """Check data and protocol, write `recipe.toml` and `protocol.json`; the folds to be run.

    Runs of one grid share `data`, where they have it in common, and `artifacts`.
    """
    if recipe.runtime.threads is not None:
        torch.set_num_threads(recipe.runtime.threads)
    data = data or open_data(recipe)
    corpus, protocol = data.corpus, data.protocol
    _claim(recipe, protocol, out)
    if not (out / UTTERANCES).is_file():
        write_utterances(corpus, out)
    folds = protocol.folds if only is None else [protocol.fold(name) for name in only]
    return [
        FoldRun(recipe, corpus, corpus.labels, fold, out / f"fold-{fold.name}", artifacts) for fold in folds
    ]


def open_data(recipe: Recipe) -> Data:
    """Read the corpus, divide it, and refuse what leaks."""
    corpus = open_corpus(recipe.corpus, say)
    protocol = build_protocol(corpus, recipe.protocol)
    found = audit_protocol(corpus, protocol, recipe.runtime.workers)
    say(
        f"{corpus.name}: {len(corpus)} utterances, {len(corpus.speakers)} speakers, {len(corpus.labels)} emotions; "
        f"{len(protocol.folds)} folds ({protocol.description}), protocol {protocol.stamp}"
    )
    for pair in found.duplicates:
        warn(f"identical recordings inside one split: {pair[0]} = {pair[1]}")
    if found.shared_transcripts:
        share = np.mean(list(found.shared_transcripts.values()))
        say(f"test transcripts that also occur in training: {100 * share:.1f} %")
    return Data(corpus, protocol)


def _claim(recipe: Recipe, protocol: Protocol, out: Path) -> None:
    """Make the run folder this recipe's, or refuse if it is another's; where it runs does not matter."""
    recorded = out / "recipe.toml"
    if recorded.is_file():
        there, asked = _deciding(load_recipe(recorded)), _deciding(recipe)
        if there != asked:
            raise ConfigError(
                f"'{out}' holds a run of another recipe ({_difference(there, asked)}); give another --out"
            )
        if read_protocol(out / "protocol.json").hash != protocol.hash:
            raise ConfigError(
                f"'{out}' was run on other data or folds: its protocol hash differs; give another --out"
            )
        return
    out.mkdir(parents=True, exist_ok=True)
    protocol.write(out / "protocol.json")
    with atomic_write(recorded) as partial:
        partial.write_text(recipe_toml(recipe), encoding="utf-8")


def holds(out: Path, recipe: Recipe) -> bool:
    """Whether a folder is a finished run of a recipe."""
    recorded = out / "recipe.toml"
    if not recorded.is_file() or not (out / "scores.json").is_file():
        return False
    return _deciding(load_recipe(recorded)) == _deciding(recipe)


def _deciding(recipe: Recipe) -> dict[str, Any]:
    """What of a recipe decides a result: where it runs may change, what it computes in may not."""
    return {**recipe.model_dump(), "runtime": {"precision": recipe.runtime.precision}}


def _difference(there: Any, asked: Any, where: str = "") -> str:
    for key in there.keys() | asked.keys():
        one, two = there.get(key), asked.get(key)
        if one != two:
            if isinstance(one, dict) and isinstance(two, dict):
                return _difference(one, two, f"{where}{key}.")
            return f"{where}{key}: {one!r} there, {two!r} asked"
    return "no difference"


def collect(recipe: Recipe, out: Path) -> dict[str, Any]:
    """Join the predictions of the folds that are done into the run's tables, and write `scores.json`."""
    protocol = read_protocol(out / "protocol.json")
    done = [fold.name for fold in protocol.folds if (out / f"fold-{fold.name}" / "predictions.csv").is_file()]
    scores: dict[str, Any] = {
        "recipe": recipe.name, "seed": recipe.seed, "protocol": protocol.stamp, "folds": done,
        "environment": {"torch": torch.__version__, "threads": torch.get_num_threads()}, "models": {},
        "sha256": {},  # of the tables below: whether one was edited since
    }  # fmt: skip
    main = recipe.main_model
    for model in dict.fromkeys((main, *TEACHERS)):
        entry: dict[str, Any] = {}
        for split in ("test", "dev"):
            name = table_name(model, split, main)
            parts = [out / f"fold-{fold}" / name for fold in done]
            if model != main and not all(part.is_file() for part in parts):
                continue
            for part in parts:
                if not is_unchanged(part):
                    raise ModelError(
                        f"'{part}' was changed after its fold was done; delete '{part.with_name('predictions.csv')}' and "
                        "run the same command again: trained models stay, and the tables are written anew"
                    )
            table = join_predictions(read_predictions(part) for part in parts)
            write_predictions(table, out / name)
            entry[split] = summarise_scores(table)
            scores["sha256"][name] = file_sha256(out / name)
        if entry:
            scores["models"][model] = entry
    with atomic_write(out / "scores.json") as partial:
        partial.write_text(json.dumps(scores, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return scores


def summarise_scores(table: Predictions) -> dict[str, Any]:
    """Scores pooled over all utterances, and mean and standard deviation over folds."""
    by_fold = {name: part.scores() for name, part in table.by_fold().items()}
    over_folds = {}
    for measure in ("ua", "wa", "macro_f1"):
        values = [getattr(item, measure) for item in by_fold.values()]
        over_folds[measure] = {
            "mean": float(np.mean(values)),
            "sd": float(np.std(values, ddof=len(values) > 1)),
        }
    return {
        "emotions": list(table.labels.names),
        "mean_over_folds": over_folds,
        "pooled": table.scores().as_dict(),
        "by_fold": {name: item.as_dict() for name, item in by_fold.items()},
    }


def show(scores: dict[str, Any], to: Console) -> None:
    """Print the scores: a line per model and split, then the main model's recalls and confusion."""
    table = Table(title=f"{scores['recipe']}, seed {scores['seed']}, {len(scores['folds'])} fold(s), "
                  f"protocol {scores['protocol']}")  # fmt: skip
    for column in ("model", "split", "UA", "WA", "macro-F1", "pooled UA", "pooled WA", "weighted F1"):
        table.add_column(column, justify="left" if column in ("model", "split") else "right")
    for model, entry in scores["models"].items():
        for split, part in entry.items():
            means = [part["mean_over_folds"][measure] for measure in ("ua", "wa", "macro_f1")]
            cells = [f"{100 * item['mean']:.2f} ± {100 * item['sd']:.2f}" for item in means]
            pooled = [f"{100 * part['pooled'][measure]:.2f}" for measure in ("ua", "wa", "weighted_f1")]
            table.add_row(model, split, *cells, *pooled)
    table.caption = "%, mean ± standard deviation over folds"
    to.print(table)
    main = next(iter(scores["models"]))
    test = scores["models"][main]["test"]
    matrix = Table(title=f"{main} on test: recall (%) and confusion (rows: truth)")
    matrix.add_column("emotion")
    matrix.add_column("recall", justify="right")
    for name in test["emotions"]:
        matrix.add_column(name, justify="right")
    for name, row in zip(test["emotions"], test["pooled"]["confusion"], strict=True):
        recall = test["pooled"]["recall"].get(name)
        matrix.add_row(name, "–" if recall is None else f"{100 * recall:.1f}", *map(str, row))
    to.print(matrix)
