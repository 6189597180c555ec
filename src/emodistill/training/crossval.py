"""All folds of a recipe into one run folder, and its scores.

run folder/
  recipe.toml  protocol.json  labels.json
  fold-<name>/            see `fold`
  predictions.csv         every fold's test predictions (predictions-<teacher>.csv: a teacher's)
  scores.json
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from emodistill.config import TEACHERS, Recipe, load_recipe, recipe_toml
from emodistill.console import say, warn
from emodistill.corpora.opening import open_corpus
from emodistill.errors import ConfigError
from emodistill.evaluation.predictions import Predictions, join, read_predictions, write_predictions
from emodistill.protocol import Protocol, audit, build_protocol, read_protocol
from emodistill.training.fold import FoldRun


def crossval(recipe: Recipe, out: Path, only: Sequence[str] | None = None) -> dict[str, Any]:
    """Run a recipe over its folds (or `only` those named) and return the scores, also in `scores.json`.

    Resumes where a killed run stopped. Raises `ConfigError` where `out` holds another recipe's run and
    `LeakError` where the protocol leaks.
    """
    runs = open_run(recipe, out, only)
    for run in runs:
        run.run()
    return collect(recipe, out, [run.fold.name for run in runs])


def first_fold(recipe: Recipe) -> str:
    """The name of a recipe's first fold."""
    return build_protocol(open_corpus(recipe.corpus, say), recipe.protocol).folds[0].name


def open_run(recipe: Recipe, out: Path, only: Sequence[str] | None = None) -> list[FoldRun]:
    """Check data and protocol, write `recipe.toml` and `protocol.json`; the folds to be run."""
    if recipe.runtime.threads is not None:
        torch.set_num_threads(recipe.runtime.threads)
    corpus = open_corpus(recipe.corpus, say)
    protocol = build_protocol(corpus, recipe.protocol)
    found = audit(corpus, protocol, recipe.runtime.workers)
    _claim(recipe, protocol, out)
    say(
        f"{corpus.name}: {len(corpus)} utterances, {len(corpus.speakers)} speakers, {len(corpus.labels)} emotions; "
        f"{len(protocol.folds)} folds ({protocol.description}), protocol {protocol.stamp}"
    )
    for pair in found.duplicates:
        warn(f"identical recordings inside one split: {pair[0]} = {pair[1]}")
    if found.shared_transcripts:
        share = np.mean(list(found.shared_transcripts.values()))
        say(f"test transcripts that also occur in training: {100 * share:.1f} %")
    folds = protocol.folds if only is None else [protocol.fold(name) for name in only]
    return [FoldRun(recipe, corpus, corpus.labels, fold, out / f"fold-{fold.name}") for fold in folds]


def _claim(recipe: Recipe, protocol: Protocol, out: Path) -> None:
    """Make the run folder this recipe's, or refuse if it is another's; where it runs does not matter."""
    recorded = out / "recipe.toml"
    if recorded.is_file():
        there, asked = load_recipe(recorded).model_dump(), recipe.model_dump()
        there.pop("runtime"), asked.pop("runtime")
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
    partial = recorded.with_suffix(".partial")
    partial.write_text(recipe_toml(recipe), encoding="utf-8")
    partial.replace(recorded)


def _difference(there: Any, asked: Any, where: str = "") -> str:
    for key in there.keys() | asked.keys():
        one, two = there.get(key), asked.get(key)
        if one != two:
            if isinstance(one, dict) and isinstance(two, dict):
                return _difference(one, two, f"{where}{key}.")
            return f"{where}{key}: {one!r} there, {two!r} asked"
    return "no difference"


def collect(recipe: Recipe, out: Path, folds: Sequence[str]) -> dict[str, Any]:
    """Join the folds' predictions into the run's tables and write `scores.json`."""
    stamp = read_protocol(out / "protocol.json").stamp
    scores: dict[str, Any] = {
        "recipe": recipe.name, "seed": recipe.seed, "protocol": stamp, "folds": list(folds),
        "environment": {"torch": torch.__version__, "threads": torch.get_num_threads()}, "models": {},
    }  # fmt: skip
    for model in ("student", *TEACHERS):
        middle = "" if model == "student" else f"-{model}"
        entry: dict[str, Any] = {}
        for split, suffix in (("test", ""), ("dev", "-dev")):
            name = f"predictions{middle}{suffix}.csv"
            parts = [out / f"fold-{fold}" / name for fold in folds]
            if model != "student" and not all(part.is_file() for part in parts):
                continue
            table = join(read_predictions(part) for part in parts)
            write_predictions(table, out / name)
            entry[split] = summarise(table)
        if entry:
            scores["models"][model] = entry
    (out / "scores.json").write_text(
        json.dumps(scores, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    return scores


def summarise(table: Predictions) -> dict[str, Any]:
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
    """Print the scores: a line per model and split, then the student's recalls and confusion."""
    table = Table(title=f"{scores['recipe']}, seed {scores['seed']}, {len(scores['folds'])} fold(s), "
                  f"protocol {scores['protocol']}")  # fmt: skip
    for column in ("model", "split", "UA", "WA", "macro-F1", "pooled UA", "pooled WA"):
        table.add_column(column, justify="left" if column in ("model", "split") else "right")
    for model, entry in scores["models"].items():
        for split, part in entry.items():
            means = [part["mean_over_folds"][measure] for measure in ("ua", "wa", "macro_f1")]
            cells = [f"{100 * item['mean']:.2f} ± {100 * item['sd']:.2f}" for item in means]
            pooled = [f"{100 * part['pooled'][measure]:.2f}" for measure in ("ua", "wa")]
            table.add_row(model, split, *cells, *pooled)
    table.caption = "%, mean ± standard deviation over folds"
    to.print(table)
    test = scores["models"]["student"]["test"]
    matrix = Table(title="student on test: recall (%) and confusion (rows: truth)")
    matrix.add_column("emotion")
    matrix.add_column("recall", justify="right")
    for name in test["emotions"]:
        matrix.add_column(name, justify="right")
    for name, row in zip(test["emotions"], test["pooled"]["confusion"], strict=True):
        recall = test["pooled"]["recall"].get(name)
        matrix.add_row(name, "–" if recall is None else f"{100 * recall:.1f}", *map(str, row))
    to.print(matrix)
