"""`emodistill demo`: the whole method on the demo corpus, with and without each teacher."""

import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from emodistill.config import Recipe, load_recipe
from emodistill.console import say
from emodistill.corpora import DEMO_CORPUS
from emodistill.evaluation.predictions import read_predictions
from emodistill.export import export_run
from emodistill.inference.recognizer import Recognizer
from emodistill.training.artifact_cache import ArtifactCache
from emodistill.training.cross_validation import crossval
from emodistill.training.preflight import read_data

INPUTS = {"prosodic": "25 prosodic descriptors", "linguistic": "the transcript", "student": "the waveform"}

# Student -> its teachers. The first run trains both teachers, and the others get them from the artifact
# cache.
STUDENTS: dict[str, tuple[str, ...]] = {
    "both teachers": ("prosodic", "linguistic"),
    "prosodic teacher": ("prosodic",),
    "linguistic teacher": ("linguistic",),
    "no teacher": (),
}
ROWS = (
    "prosodic teacher",
    "linguistic teacher",
    "student, no teacher",
    "student, prosodic teacher",
    "student, linguistic teacher",
    "student, both teachers",
)


@dataclass(frozen=True)
class Score:
    """The test score of one model."""

    model_input: str
    ua: float
    num_utterances: int

    @property
    def standard_error(self) -> float:
        """The standard error of UA, as of a share."""
        return (self.ua * (1 - self.ua) / self.num_utterances) ** 0.5


def run_walkthrough(out: Path, console: Console, recipe: Recipe | None = None) -> dict[str, float]:
    """Train, compare, export and recognise, into a folder; returns the test UA of each model."""
    recipe = recipe or load_recipe("demo")
    started = time.monotonic()
    console.print(
        "The demo corpus is synthetic: ten voices, four emotions. Words and prosody each show a part of the "
        "emotion and err independently, so each teacher knows what the other does not. The student gets the "
        "waveform alone."
    )
    scores: dict[str, Score] = {}
    data, artifacts = read_data(recipe), ArtifactCache(out / "artifacts")
    for name, teachers in STUDENTS.items():
        say(f"student, {name}:")
        distillation = recipe.distillation.model_copy(update={"teachers": teachers})
        variant = recipe.model_copy(update={"distillation": distillation})
        run = crossval(variant, _run_folder(out, name), max_folds=1, artifacts=artifacts, data=data)
        for model, entry in run["models"].items():
            pooled = entry["test"]["pooled"]
            row = f"student, {name}" if model == "student" else f"{model} teacher"
            scores[row] = Score(INPUTS[model], pooled["ua"], pooled["num_utterances"])
    _print_scores(scores, console)
    card = export_run(_run_folder(out, "both teachers"), out / "exported")
    _recognise(out / "exported", _run_folder(out, "both teachers") / f"fold-{card.fold}", console)
    console.print(
        f"{time.monotonic() - started:.0f} s. Your own recordings: emodistill predict YOUR.wav --model "
        f"{out / 'exported'}"
    )
    return {name: score.ua for name, score in scores.items()}


def _run_folder(out: Path, student: str) -> Path:
    return out / student.replace(" ", "-")


def _print_scores(scores: dict[str, Score], console: Console) -> None:
    table = Table(title="UA (%) on two test voices")
    for column in ("model", "input", "UA"):
        table.add_column(column, justify="right" if column == "UA" else "left")
    for name in ROWS:
        score = scores[name]
        table.add_row(name, score.model_input, f"{100 * score.ua:.1f} ± {100 * score.standard_error:.1f}")
    table.caption = "± is one standard error: most of these differences may be chance"
    console.print(table)


def _recognise(model: Path, fold: Path, console: Console) -> None:
    """Print the emotions that the exported model recognises in some test utterances of a fold."""
    recognizer = Recognizer(model)
    test = read_predictions(fold / "predictions.csv")
    table = Table(title="The exported student, without torch, on some test files")
    for column in ("file", "true emotion", "predicted", "confidence"):
        table.add_column(column, justify="right" if column == "confidence" else "left")
    for row in range(0, len(test), max(1, len(test) // 8)):
        path = next(DEMO_CORPUS.glob(f"audio/*/{test.utterances[row]}.*"))
        prediction = recognizer.predict(path)
        table.add_row(
            path.name, test.emotions[row], prediction.emotion or "–", f"{prediction.confidence:.2f}"
        )
    console.print(table)
