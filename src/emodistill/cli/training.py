"""Verbs that train, and what comes of it: train, crossval, ablate, export, demo."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from emodistill.cli.options import (
    Model,
    Out,
    Set,
    app,
    names_in,
    need_training,
)
from emodistill.console import console, results, say
from emodistill.errors import ConfigError


class Precision(StrEnum):
    """How a model is exported."""

    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe or the path of a TOML file.")],
    fold: Annotated[str | None, typer.Option(help="Which fold; default: the first.")] = None,
    init: Annotated[
        str | None,
        typer.Option(help="Start the student from a model: bundled, an exported folder, or a checkpoint."),
    ] = None,
    out: Out = None,
    set: Set = None,
) -> None:
    """One fold: teachers, their targets, student, predictions, scores. Resumes where it was stopped.

    Example: emodistill train ravdess-whisper --set corpus.root=RAVDESS --set student.backbone=DIR
    """
    started = [] if init is None else [f"student.init={init}"]
    _run(recipe, [*(set or ()), *started], out, one_fold=True, fold=fold)


@app.command()
def crossval(recipe: Annotated[str, typer.Argument(help="A shipped recipe or the path of a TOML file.")],
             out: Out = None, set: Set = None) -> None:  # fmt: skip
    """Every fold of a recipe, teachers trained inside the fold; then one table. Resumes where it was stopped.

    Example: emodistill crossval ravdess-whisper --set corpus.root=RAVDESS --set seed=1
    """
    _run(recipe, set or (), out, one_fold=False, fold=None)


@app.command()
def ablate(
    recipe: Annotated[
        str, typer.Argument(help="A shipped recipe or the path of a TOML file: the full method.")
    ],
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD=VALUE,…",
            help="Also this field of the recipe at these values, e.g. distillation.temperature=1,2,4,8, "
            "distillation.weights.prosodic=0.5,1,2, distillation.alpha=0.5,1, student.backbone=compact,DIR or "
            "student.layers=2,3,4. Repeatable.",
        ),
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Run every cell with these, e.g. 0,1,2.")] = None,
    cells: Annotated[
        str | None,
        typer.Option(help="Only these cells beside the full method, e.g. no-distillation,prosodic-only."),
    ] = None,
    parts: Annotated[
        bool, typer.Option(help="Take parts of the method away; --no-parts for a sweep alone.")
    ] = True,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder. Default: runs/RECIPE-ablation.")
    ] = None,
    set: Set = None,
) -> None:
    """What does each part of the method give? A grid of runs, and one table with intervals.

    Beside the full method: no distillation; each teacher alone; the embedding level alone; the logit level alone;
    no hard label; and whatever is swept. Cells without the input they need (no transcripts: no linguistic teacher)
    are left out, and it is said. Teachers, targets, features and frozen layers are made once for all cells; each
    cell predicts what crossval of its recipe would. Stop it at any time and run it again, also with more seeds
    or sweeps. Writes ablation.md, ablation.csv and ablation.png.

    Example: emodistill ablate ravdess-whisper --set corpus.root=RAVDESS --seeds 0,1,2
    --sweep distillation.temperature=1,2,4,8
    """
    need_training()
    from emodistill.config import load_recipe
    from emodistill.evaluation.ablation_table import show_ablation_table
    from emodistill.training.ablation import ablate as run_grid

    loaded = load_recipe(recipe, set or ())
    folder = out or Path("runs") / f"{loaded.name}-ablation"
    chosen = None if seeds is None else [_whole_number(text) for text in names_in(seeds) or ()]
    found = run_grid(loaded, folder, chosen, sweep or (), parts, names_in(cells))
    show_ablation_table(found, results())
    say(f"{folder}: ablation.md, ablation.csv, ablation.png; every run is in {folder / 'cells'}")


@app.command()
def export(
    run: Annotated[Path | None, typer.Argument(help="A run folder of train or crossval.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for model.onnx and card.json.")
    ] = None,
    web: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Also, or alone: a static page that runs the model in the browser. Without RUN, that of --model.",
        ),
    ] = None,
    model: Model = "bundled",
    fold: Annotated[str | None, typer.Option(help="Whose student; default: the run's first fold.")] = None,
    precision: Annotated[
        Precision, typer.Option(help="fp32; fp16: half the size, same speed; int8: a quarter, and faster.")
    ] = Precision.fp32,
    check: Annotated[
        Path | None,
        typer.Option(
            help="Manifest of labelled utterances that int8 is judged by; default: the fold's test."
        ),
    ] = None,
    texts: Annotated[
        Path | None,
        typer.Option(help="TOML of what no figure can say in the card: name, licence, limits, intended_use."),
    ] = None,
) -> None:
    """Export a student as ONNX with its card, behind a gate.

    Refused, with the figures, is an fp32 model that differs from torch by over 1e-4, an fp16 one that differs
    from it by over 1e-2 or in an emotion, and an int8 one that loses over a point of UA or changes over 2 %
    of the emotions.

    Example: emodistill export runs/ravdess-whisper-seed0 -o exported --precision int8

    A page: emodistill export --web page && python -m http.server --directory page
    """
    if run is None and web is not None and out is None:
        _export_web(model, web)
        return
    if run is None or out is None:
        raise ConfigError("expected RUN and --out FOLDER; or --web DIR alone, for a page with --model")
    need_training()
    from emodistill.corpora import read_manifest
    from emodistill.export.onnx import export_run, read_texts

    judged = None if check is None else read_manifest(check)
    words = None if texts is None else read_texts(texts)
    with console.status("exporting, and comparing with torch"):
        card = export_run(run, out, fold, precision.value, judged, words)
    size = (out / "model.onnx").stat().st_size / 1e6
    figures = card.quantisation
    moved = {
        "fp32": "",
        "fp16": f"; stored in fp16 a probability moves by at most {figures.get('difference', 0):.1e}",
        "int8": f"; int8 gives {100 * figures.get('agreement', 0):.1f} % of {figures.get('utterances', 0):.0f} utterances "
        f"the same emotion at {figures.get('speed_ratio', 0):.2f} × the speed",
    }
    say(
        f"{out}: {size:.1f} MB, {card.num_parameters / 1e6:.2f} M parameters, emotions {list(card.emotions)}; differs from "
        f"torch by at most {max(card.parity['alone'], card.parity['batched']):.1e} over {card.parity['utterances']:.0f} "
        f"utterances{moved[card.precision]}"
    )
    if web is not None:
        _export_web(str(out), web)


@app.command()
def demo(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Where runs and the exported model are kept.")
    ] = Path("runs/demo"),
) -> None:
    """The whole method on the embedded synthetic corpus, in minutes, offline: teachers, student, export, predict."""
    need_training()
    from emodistill.demo.walkthrough import run_walkthrough

    run_walkthrough(out, results())


def _run(recipe: str, overrides: Sequence[str], out: Path | None, one_fold: bool, fold: str | None) -> None:
    need_training()
    from emodistill.config import load_recipe
    from emodistill.training.cross_validation import crossval as run_all
    from emodistill.training.cross_validation import show

    loaded = load_recipe(recipe, overrides)
    folder = out or Path("runs") / f"{loaded.name}-seed{loaded.seed}"
    only, limit = ([fold], None) if fold else (None, 1 if one_fold else None)
    scores = run_all(loaded, folder, only, limit)
    show(scores, results())
    say(f"run folder: {folder}\nnext: emodistill export {folder} -o exported")


def _export_web(model: str, out: Path) -> None:
    from emodistill.serving.static_page import export_web

    size = export_web(model, out)
    say(f"{out}: {size / 1e6:.1f} MB; to look at it: python -m http.server --directory {out}")


def _whole_number(text: str) -> int:
    if not text.isdecimal():
        raise ConfigError(f"bad seed '{text}', expected whole numbers with commas between, such as 0,1,2")
    return int(text)
