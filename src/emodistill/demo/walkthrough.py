"""`emodistill demo`: the whole method on the embedded corpus, and a table of the scores with each teacher."""

import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from emodistill.config import Recipe, load_recipe
from emodistill.corpora import DEMO_CORPUS as CORPUS
from emodistill.evaluation.predictions import read_predictions
from emodistill.export import export_run
from emodistill.inference.recognizer import Recognizer
from emodistill.training.artifact_cache import ArtifactCache
from emodistill.training.cross_validation import crossval

INPUTS = {"prosodic": "25 prosodic descriptors", "linguistic": "the transcript", "student": "the waveform"}

# Student -> its teachers. The run of the first student trains both teachers. The other runs take them from
# the artifact cache.
STUDENTS: dict[str, tuple[str, ...]] = {
    "both teachers": ("prosodic", "linguistic"),
    "prosodic teacher": ("prosodic",),
    "linguistic teacher": ("linguistic",),
    "no teacher": (),
}


def run_walkthrough(out: Path, console: Console, recipe: Recipe | None = None) -> dict[str, float]:
    """Train, compare, export and predict; returns the UA on test of each model of the table.

    `out` is the folder of the runs and of the exported model, and `console` gets the tables.
    """
    recipe = recipe or load_recipe("demo")
    started = time.monotonic()
    console.print(
        "The corpus is synthetic: ten voices, four emotions. Words and prosody both depend on the emotion, "
        "and their errors are independent, so each teacher adds to the other. "
        "The student gets only the waveform."
    )
    rows: dict[str, tuple[str, float, float]] = {}
    first, artifacts = out / "both-teachers", ArtifactCache(out / "artifacts")
    for name, teachers in STUDENTS.items():
        run = out / name.replace(" ", "-")
        distillation = recipe.distillation.model_copy(update={"teachers": teachers})
        scores = crossval(
            recipe.model_copy(update={"distillation": distillation}), run, max_folds=1, artifacts=artifacts
        )
        for model in scores["models"]:
            pooled = scores["models"][model]["test"]["pooled"]
            error = (pooled["ua"] * (1 - pooled["ua"]) / pooled["num_utterances"]) ** 0.5
            title = f"student, {name}" if model == "student" else f"{model} teacher"
            rows[title] = (INPUTS[model], pooled["ua"], error)
    _print(rows, console)
    with console.status("exporting, and comparing with torch"):
        card = export_run(first, out / "exported")
    _predict(out / "exported", first, card.fold, console)
    console.print(
        f"{time.monotonic() - started:.0f} s. Next: emodistill predict YOUR.wav --model {out / 'exported'}"
    )
    return {name: ua for name, (_, ua, _) in rows.items()}


def _print(rows: dict[str, tuple[str, float, float]], console: Console) -> None:
    table = Table(title="UA (%) on voices that were not in training, ± one standard error")
    for column in ("model", "input", "UA"):
        table.add_column(column, justify="right" if column == "UA" else "left")
    order = ["prosodic teacher", "linguistic teacher", "student, no teacher", "student, prosodic teacher",
             "student, linguistic teacher", "student, both teachers"]  # fmt: skip
    for name in order:
        input_name, ua, error = rows[name]
        table.add_row(name, input_name, f"{100 * ua:.1f} ± {100 * error:.1f}")
    console.print(table)


def _predict(model: Path, run: Path, fold: str, console: Console) -> None:
    recognizer = Recognizer(model)
    held_out = read_predictions(run / f"fold-{fold}" / "predictions.csv")
    table = Table(title="The exported student, without torch, on voices that were not in training")
    for column in ("file", "truth", "predicted", "confidence"):
        table.add_column(column)
    for index in range(0, len(held_out), max(1, len(held_out) // 8)):
        name = held_out.utterances[index]
        path = next(CORPUS.glob(f"audio/*/{name}.*"))
        prediction = recognizer.predict(path)
        table.add_row(
            path.name, held_out.emotions[index], prediction.emotion or "–", f"{prediction.confidence:.2f}"
        )
    console.print(table)
