"""The verb that searches the values of a recipe's fields: tune."""

from pathlib import Path
from typing import Annotated

import typer

from emodistill.cli.options import Set, Words, app, need_training, words_overrides
from emodistill.cli.training import RecipeName
from emodistill.console import results, say


# Long: its signature holds the options and their help.
@app.command()
def tune(
    recipe: RecipeName,
    space: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD=VALUES",
            help="A field to search: student.optim.lr=1e-4..1e-2:log, student.dropout=0.1..0.6:0.1 (in "
            "steps) or distillation.distance=cosine,mse. Repeatable. It adds to the recipe's [tune.space].",
        ),
    ] = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Number of trials in all. Default: the recipe's, or 20.")
    ] = None,
    prune: Annotated[
        bool | None,
        typer.Option(
            "--prune/--no-prune",
            help="Stop a trial after a fold if its mean dev score is below the median of the earlier trials. "
            "Default: the recipe's, or no.",
        ),
    ] = None,
    crossval: Annotated[
        bool, typer.Option("--crossval", help="Then run crossval of the best recipe, with scores on test.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the search. Default: runs/RECIPE-tune.")
    ] = None,
    words: Words = None,
    set: Set = None,
) -> None:
    """Search the values of some fields that score best on dev (needs [tune]).

    Each trial trains the recipe's folds with other values, and its score is the mean dev score over the
    folds. No trial predicts test. Optuna's TPE sampler proposes the values; the first trial has the recipe's
    own ones, where the space holds them. Trials share the teachers that their values do not change.

    It writes trials.csv, tune.png and best.toml, the recipe of the best trial. The number of trials stands in
    the scores of every run of best.toml. If you stop the command, run it again: it continues. More --trials
    can be added later. Only the best trial keeps its models.

    Example: emodistill tune ravdess-whisper --set corpus.root=RAVDESS --trials 30
    --space student.optim.lr=1e-4..1e-2:log --space student.dropout=0.1..0.6
    """
    need_training()
    from emodistill.config import load_recipe, read_space
    from emodistill.corpora.load import check_source
    from emodistill.training.search_space import refuse_other_search, searched_recipe

    loaded, more = load_recipe(recipe, [*(set or ()), *words_overrides(words)]), read_space(space or [])
    prepared, _ = searched_recipe(loaded, more, trials, prune)
    check_source(loaded.corpus)
    folder = out or Path("runs") / f"{loaded.name}-tune"
    refuse_other_search(prepared, folder)

    # They load torch, so they come last.
    from emodistill.training.cross_validation import print_scores
    from emodistill.training.trials import show_trials
    from emodistill.training.tuning import BEST, crossval_best
    from emodistill.training.tuning import tune as search

    result = search(loaded, folder, more, trials, prune)
    show_trials(result, results())
    say(f"written: {folder}/trials.csv, tune.png, {BEST}")
    if not crossval:
        say(f"next: emodistill crossval {folder / BEST}")
        return
    scores, run = crossval_best(result, folder)
    print_scores(scores, results())
    say(f"run folder: {run}\nnext: emodistill export {run} -o exported")
