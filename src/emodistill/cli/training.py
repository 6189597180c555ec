"""Verbs that train: train, crossval, ablate, demo."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emodistill.cli.options import (
    Format,
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

RecipeName = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="A shipped recipe by name (an unknown name lists them all), or the path of a TOML file.",
    ),
]


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


def _whole_number(text: str) -> int:
    if not text.isdecimal():
        raise ConfigError(
            f"bad seed '{text}', expected whole numbers with commas between, as in --seeds 0,1,2"
        )
    return int(text)
