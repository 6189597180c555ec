"""Verbs that train and export: train, crossval, ablate, export, demo."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emodistill.cli.options import (
    Format,
    Model,
    Out,
    Set,
    Tabular,
    Words,
    app,
    names_in,
    need_training,
    words_overrides,
)
from emodistill.console import results, say
from emodistill.errors import ConfigError

if TYPE_CHECKING:
    from emodistill.config import Recipe
    from emodistill.inference.model_card import Card

RecipeName = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="A shipped recipe by name (an unknown name lists them all), or the path of a TOML file.",
    ),
]


class Precision(StrEnum):
    """The numbers of an exported model."""

    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"


@app.command()
def train(
    recipe: RecipeName,
    fold: Annotated[str | None, typer.Option(help="Name of the fold. Default: the first one.")] = None,
    init: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Start the student from a model: bundled, or the folder of an exported model or of a "
            "checkpoint.",
        ),
    ] = None,
    all: Annotated[
        bool,
        typer.Option("--all", help="Train on all utterances, to ship the model. No test speakers are left."),
    ] = False,
    epochs_from: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="With --all: the finished crossval run of this recipe whose epochs and scores count. "
            "Default: runs/RECIPE-seedN, which is run first if it is not finished.",
        ),
    ] = None,
    words: Words = None,
    out: Out = None,
    set: Set = None,
) -> None:
    """Train one fold of a recipe: first the teachers, then the student that learns from them.

    A recipe is a TOML file that names the corpus, the models and their settings. A fold is one division of
    the corpus into train, dev and test. The models learn from train, dev chooses the epoch, and the scores
    are of test. Use `train` for one model, and `crossval` for scores over all folds.

    The run folder holds checkpoints, predictions and scores. If you stop the command, run it again: it
    continues.

    With --all the model learns from every utterance, for the epochs that dev chose in crossval: the median
    over its folds. Such a model cannot be tested. Its scores and its calibration are those of the crossval
    run, and its card says so. Export it to ship it.

    Example: emodistill train ravdess-whisper --set corpus.root=RAVDESS --set student.backbone=DIR
    """
    overrides = [*(set or ()), *words_overrides(words), *([] if init is None else [f"student.init={init}"])]
    if all:
        if fold is not None:
            raise ConfigError("--all trains on all utterances, so it has no fold: leave --fold out")
        _train_all(recipe, overrides, out, epochs_from)
        return
    if epochs_from is not None:
        raise ConfigError("--epochs-from is for --all: one fold chooses its epochs on its own dev")
    _crossval(recipe, overrides, out, folds=None if fold is None else [fold], max_folds=1)


@app.command()
def crossval(recipe: RecipeName, words: Words = None, out: Out = None, set: Set = None) -> None:
    """Train and test every fold of a recipe, and print the scores over all folds.

    Each fold trains its own teachers, so no teacher has seen the test speakers of its fold.

    The run folder holds checkpoints, predictions and scores. If you stop the command, run it again: it
    continues.

    Example: emodistill crossval ravdess-whisper --set corpus.root=RAVDESS --set seed=1
    """
    _crossval(recipe, [*(set or ()), *words_overrides(words)], out)


# Long: its signature holds the options and their help.
@app.command()
def ablate(
    recipe: RecipeName,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD=VALUE,…",
            help="Add a cell for each value of a recipe field, e.g. distillation.temperature=1,2,4,8 or "
            "distillation.weights.prosodic=0.5,1,2 or student.backbone=compact,DIR. Repeatable.",
        ),
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Run every cell with these seeds, e.g. 0,1,2. Default: the recipe's.")
    ] = None,
    cells: Annotated[
        str | None,
        typer.Option(
            help="Run only these cells and the full method, e.g. no-distillation,prosodic-only. Default: all."
        ),
    ] = None,
    parts: Annotated[
        bool,
        typer.Option(
            help="Run the cells that lack a part of the method, or only the full method and the sweeps."
        ),
    ] = True,
    show_test: Annotated[
        bool,
        typer.Option(
            "--show-test",
            help="Show the test scores of all swept values. Do not choose a value by them: then it is chosen "
            "on test.",
        ),
    ] = False,
    over_folds: Annotated[
        bool,
        typer.Option(
            "--over-folds", help="Also show mean and standard deviation over folds of UA and WA, or of CCC."
        ),
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the grid. Default: runs/RECIPE-ablation.")
    ] = None,
    format: Format = Tabular.table,
    words: Words = None,
    set: Set = None,
) -> None:
    """Measure what each part of the method contributes: a grid of runs, and one table with intervals.

    The recipe is the full method. Each cell of the grid is a variant of it: without distillation, with one
    teacher alone, with one loss term alone, without labels, or with another value of a swept field. A cell
    that needs transcripts is left out where the corpus has none, if distillation.allow_missing_teachers is
    true; else the command stops.

    All cells share teachers, targets and features, and each cell predicts exactly what `crossval` of its
    recipe would. If you stop the command, run it again: it continues. You can add seeds, cells and sweeps
    later. It writes ablation.md, .csv, .json, .tex and .png. `emodistill report` shows its folder as a page.

    UA and WA are pooled over folds, as mean ± standard deviation over seeds. The difference is of these
    figures. A recipe of dimensions alone is compared by CCC instead, and its sweeps choose by dev CCC. Where
    there are dimensions, a table has CCC, Pearson's r and RMSE of each. "Detectable" is the smallest true
    difference that the grid would find with a power of 80 %.

    The values of a sweep are compared on dev, and the best one is chosen. Test scores are shown for the
    chosen value and the recipe's own value alone. Cells that lack a part always show test, since nothing is
    chosen there. The dev scores are in sweeps.csv and sweeps.png too.

    Example: emodistill ablate ravdess-whisper --set corpus.root=RAVDESS --seeds 0,1,2
    --sweep distillation.temperature=1,2,4,8
    """
    need_training()
    from emodistill.config import load_recipe
    from emodistill.training.grid import make_grid
    from emodistill.training.preflight import check_recipe

    loaded = load_recipe(recipe, [*(set or ()), *words_overrides(words)])
    chosen = None if seeds is None else [_whole_number(text) for text in names_in(seeds) or ()]
    make_grid(loaded, sweep or (), parts, only=names_in(cells))  # it checks sweeps and names of cells
    checked = check_recipe(loaded)
    folder = out or Path("runs") / f"{checked.recipe.name}-ablation"

    from emodistill.evaluation.ablation_table import show_ablation_table
    from emodistill.training.ablation import ablate as run_grid  # it loads torch, so it comes last

    table = run_grid(
        loaded, folder, chosen, sweep or (), parts, names_in(cells), show_test, over_folds, checked.data
    )
    if format == Tabular.table:
        show_ablation_table(table, results())
    else:
        suffix = "tex" if format == Tabular.latex else format.value
        results().file.write((folder / f"ablation.{suffix}").read_text(encoding="utf-8"))
    files = "ablation.md, .csv, .json, .tex, .png" + (", sweeps.csv, sweeps.png" if table.sweeps else "")
    say(f"written: {folder}/{files}; the runs are in {folder / 'cells'}")


# Long: its signature holds the options and their help.
@app.command()
def export(
    run: Annotated[Path | None, typer.Argument(help="A run folder of train or crossval.")] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for model.onnx, card.json and README.md."),
    ] = None,
    web: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Also write a static web page that recognises in the browser. "
            "Without RUN, its model is --model.",
        ),
    ] = None,
    web_model: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Also write the model for programs of JavaScript with the npm package emodistill. "
            "Without RUN, it is --model.",
        ),
    ] = None,
    model: Model = "bundled",
    fold: Annotated[
        str | None, typer.Option(help="The fold whose student is exported. Default: the run's first fold.")
    ] = None,
    precision: Annotated[
        Precision,
        typer.Option(
            help="fp32; fp16: half the size, the same speed; int8: a third of the size, about twice as fast."
        ),
    ] = Precision.fp32,
    check: Annotated[
        Path | None,
        typer.Option(
            help="Manifest of labelled utterances to compare int8 with fp32 on. Default: the test split."
        ),
    ] = None,
    texts: Annotated[
        Path | None,
        typer.Option(
            help="TOML file with texts for the model card: name, backbone, licence, limits, intended_use."
        ),
    ] = None,
    unheard: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="RUN",
            help="A run of the same recipe that left out a corpus; may be given several times. The "
            "temperatures are fitted on these corpora. Default: on the dev speakers of RUN.",
        ),
    ] = None,
) -> None:
    """Export the student of a run as an ONNX model with its card. It then runs without torch.

    The exported model is compared with the trained one on real utterances. The export is refused, with the
    figures, where

    * fp32: an output differs from torch by more than 1e-4;
    * fp16: a probability or a dimension differs from fp32 by more than 1e-2, or any emotion changes;
    * int8: UA (mean recall of the emotions) falls by more than one point, more than 2 % of the emotions
      change, or a dimension differs by more than 0.02 (root mean square).

    Then the recogniser classifies the fold's test files with the exported model. These differences from
    crossval also refuse the export, the first two only if chance does not explain them:
    * UA is more than 1 point lower;
    * fewer than 95 % of the emotions are equal;
    * a dimension differs by more than 0.05 on average.

    Example: emodistill export runs/ravdess-whisper-seed0 -o exported --precision int8

    A web page: emodistill export --web page && python -m http.server --directory page
    """
    if run is None and unheard:
        raise ConfigError("--unheard is for the export of a RUN: give its folder and --out")
    if run is None and out is None and (web or web_model):
        _export_web(model, web, web_model)
        return
    if run is None or out is None:
        raise ConfigError(
            "expected RUN and --out DIR, or --web DIR alone for a web page that runs --model, or "
            "--web-model DIR alone for a JavaScript program that runs it"
        )
    need_training()
    from emodistill.corpora import read_manifest
    from emodistill.evaluation.run import read_run

    check_corpus = None if check is None else read_manifest(check)
    opened = read_run(run, needs_scores=False)
    opened.checkpoint_folder(fold)
    folds = opened.scores["folds"]
    if fold is None and opened.all_data is None and len(folds) > 1:
        say(
            f"of {len(folds)} folds the student of fold {folds[0]} is exported: --fold chooses another one, "
            "and 'emodistill train --all' makes one of all data"
        )
    for other in unheard or ():
        read_run(other)

    from emodistill.export import export_run, read_card_texts  # it loads torch, so it comes last

    card_texts = None if texts is None else read_card_texts(texts)
    card = export_run(run, out, fold, precision.value, check_corpus, card_texts, unheard or ())
    say(_describe_export(card, out))
    _export_web(str(out), web, web_model)


@app.command()
def demo(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the runs and the exported model.")
    ] = Path("runs/demo"),
) -> None:
    """Show the whole method on a small synthetic corpus, offline, in about two minutes.

    It trains a prosodic teacher, a linguistic teacher, and four students, which learn from both teachers,
    from one of them, or from none. Then it compares them, exports the student of both teachers, and
    recognises emotions with it.
    """
    need_training()
    from emodistill.demo.walkthrough import run_walkthrough

    run_walkthrough(out, results())


def _crossval(
    recipe: str,
    overrides: Sequence[str],
    out: Path | None,
    folds: Sequence[str] | None = None,
    max_folds: int | None = None,
) -> None:
    need_training()
    from emodistill.config import load_recipe
    from emodistill.training.preflight import check_recipe, refuse_other_run

    loaded = load_recipe(recipe, overrides)
    folder = out or _default_folder(loaded)
    checked = check_recipe(loaded, folds, max_folds, out=folder)
    folder = out or _default_folder(checked.recipe)
    refuse_other_run(checked.recipe, checked.data.protocol, folder)

    # It loads torch, so it comes last.
    from emodistill.training.cross_validation import crossval, print_scores

    scores = crossval(checked.recipe, folder, folds, max_folds, data=checked.data)
    print_scores(scores, results())
    # The student alone can be exported.
    following = f"scores {folder}" if loaded.student is None else f"export {folder} -o exported"
    say(f"run folder: {folder}\nnext: emodistill {following}")


def _train_all(recipe: str, overrides: Sequence[str], out: Path | None, epochs_from: Path | None) -> None:
    need_training()
    from emodistill.config import load_recipe
    from emodistill.training.finished_crossval import finished_crossval
    from emodistill.training.preflight import check_recipe

    checked = check_recipe(load_recipe(recipe, overrides))
    run = _default_folder(checked.recipe)
    folder = out or run.with_name(f"{run.name}-all")
    if epochs_from is not None:
        finished_crossval(checked.recipe, epochs_from, checked.data)  # it raises where it does not fit

    from emodistill.training.all_data import train_all  # it loads torch, so it comes last

    scores = train_all(checked.recipe, folder, epochs_from or run, epochs_from is None, checked.data)
    say(scores["all_data"]["note"])
    say(f"run folder: {folder}\nnext: emodistill export {folder} -o exported")


def _default_folder(recipe: "Recipe") -> Path:
    return Path("runs") / f"{recipe.name}-seed{recipe.seed}"


def _describe_export(card: "Card", out: Path) -> str:
    size_mb = (out / "model.onnx").stat().st_size / 1e6
    figures, through = card.quantisation, card.through_recogniser
    tested = card.scores_note
    if "ua_recogniser" in through:
        tested = (
            f"through the recogniser it has UA {100 * through['ua_recogniser']:.1f} % on "
            f"{through['utterances']:.0f} test utterances, where crossval had "
            f"{100 * through['ua_crossval']:.1f} %"
        )
    test = card.scores.get("test", {})
    cccs = [f"{name} {test[f'ccc_{name}']:.3f}" for name in card.dimensions if f"ccc_{name}" in test]
    tested = "; ".join(filter(None, (tested, f"CCC on test: {', '.join(cccs)}" if cccs else "")))
    difference = max(card.parity["alone"], card.parity["batched"])
    predicted = [f"emotions {list(card.emotions)}"] if card.emotions else []
    predicted += [f"dimensions {list(card.dimensions)}"] if card.dimensions else []
    what = " or a ".join(
        name for name, present in (("probability", card.emotions), ("dimension", card.dimensions)) if present
    )
    kept = (
        [f"{100 * figures['agreement']:.1f} % of {figures['utterances']:.0f} utterances keep their emotion"]
        if "agreement" in figures
        else []
    )
    kept += (
        [f"a dimension differs by {figures['dimension_rmse']:.3f} (root mean square)"]
        if "dimension_rmse" in figures
        else []
    )
    fewer_bits = {
        "fp32": "",
        "fp16": f"; in fp16 a {what} differs from fp32 by at most {figures.get('difference', 0):.1e}",
        "int8": f"; in int8 {', '.join(kept)}, at {figures.get('speed_ratio', 0):.2f} × the speed of fp32",
    }
    return (
        f"{out}: {size_mb:.1f} MB, {card.num_parameters / 1e6:.2f} M parameters, "
        f"{', '.join(predicted)}; its outputs differ from torch by at most {difference:.1e} over "
        f"{card.parity['utterances']:.0f} utterances{fewer_bits[card.precision]}; {tested}"
    )


def _export_web(model: str, page: Path | None, web_model: Path | None) -> None:
    """Write a model as a page, as a folder for the npm package, as both, or as none."""
    from emodistill.serving.static_page import export_web, export_web_model

    if page is not None:
        size = export_web(model, page)
        say(f"{page}: {size / 1e6:.1f} MB; to open the page: python -m http.server --directory {page}")
    if web_model is not None:
        size = export_web_model(model, web_model)
        say(f"{web_model}: {size / 1e6:.1f} MB; serve this folder, and load it with Recognizer.load(its URL)")


def _whole_number(text: str) -> int:
    if not text.isdecimal():
        raise ConfigError(
            f"bad seed '{text}', expected whole numbers with commas between, as in --seeds 0,1,2"
        )
    return int(text)
