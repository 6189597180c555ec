"""Verbs that score: evaluate, scores, compare, report."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from emodistill.cli.options import (
    app,
    names_in,
    need_training,
)
from emodistill.console import console, results, say


class Tabular(StrEnum):
    """How scores are written."""

    table = "table"
    json = "json"
    csv = "csv"


class HeardRule(StrEnum):
    """What `evaluate` does with utterances that a model learned from."""

    refuse = "refuse"
    leave_out = "leave-out"
    allow = "allow"


@app.command()
def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            help="bundled, an exported folder, a checkpoint or run folder, a Hugging Face audio classifier, or the hub id "
            "of one (organisation/name[@revision])."
        ),
    ],
    corpus: Annotated[
        str, typer.Argument(help="A manifest (.csv, .tsv, .parquet), or a known corpus by name.")
    ],
    folder: Annotated[
        Path | None, typer.Argument(help="Of a known corpus, as its authors distribute it.")
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="Label map of the corpus: own, four, seven, all, or a list a,b,c.")
    ] = None,
    map: Annotated[
        str | None,
        typer.Option(help="What the model's names mean: ang=angry,hap=happy; oth=- leaves one out."),
    ] = None,
    emotions: Annotated[
        str | None, typer.Option(help="Score these alone, where model and corpus know different ones.")
    ] = None,
    heard: Annotated[
        HeardRule,
        typer.Option(
            help="What the model learned from, and its speakers: refuse, leave-out, or allow and stamp."
        ),
    ] = HeardRule.refuse,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder. Default: runs/evaluate-MODEL-CORPUS.")
    ] = None,
    format: Annotated[Tabular, typer.Option("--format", "-f", help="table, json or csv.")] = Tabular.table,
) -> None:
    """Scores of any model on any corpus, with predictions.csv, in a folder that compare and report read.

    Exported models are asked through the recogniser, as their users hear them. A model that lists what it learned
    from is refused on a corpus with these utterances or speakers in it, unless told otherwise.

    Exit code 0: all judged; 1: some audio could not be read, the rest is done; 2: nothing was done.

    Example: emodistill evaluate bundled ravdess RAVDESS --labels seven --heard leave-out
    """
    need_training()
    from emodistill.evaluation.run import read_run
    from emodistill.evaluation.scores import score_run
    from emodistill.evaluation.tables import show_scores
    from emodistill.inference.hub import short_name
    from emodistill.training.evaluation_run import evaluate as run
    from emodistill.training.evaluation_run import open_labelled, open_model, read_mapping

    mapping = read_mapping(map)
    labelled, lacking = open_labelled(corpus, folder, labels)
    judge, digest = open_model(model)
    there = out or Path("runs") / f"evaluate-{short_name(model)}-{labelled.name}"
    failed = run(judge, labelled, there, model, mapping, names_in(emotions), heard.value, digest)
    show_scores(score_run(read_run(there)), format, results())
    say(f"folder: {there}")
    raise typer.Exit(1 if failed or lacking else 0)


@app.command()
def scores(
    run: Annotated[Path, typer.Argument(help="A run folder of train, crossval or evaluate.")],
    format: Annotated[Tabular, typer.Option("--format", "-f", help="table, json or csv.")] = Tabular.table,
) -> None:
    """All that a run's test predictions say, with 95 % intervals by bootstrap over speakers.

    UA, WA, macro and weighted F1, recall and confusion of the student and each teacher; calibration before and
    after scaling by a temperature fitted on each fold's dev speakers; scores by speaker, gender, language, duration
    and corpus; agreement with the teachers; what a single listener achieves, where a corpus has listeners' votes.

    Example: emodistill scores runs/ravdess-whisper-seed0 --format json
    """
    need_training()
    from emodistill.evaluation.run import read_run
    from emodistill.evaluation.scores import score_run
    from emodistill.evaluation.tables import show_scores

    with console.status("drawing speakers"):
        found = score_run(read_run(run))
    show_scores(found, format, results())


@app.command()
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Two or more run folders under one protocol; the first is the reference."),
    ],
    format: Annotated[Tabular, typer.Option("--format", "-f", help="table, json or csv.")] = Tabular.table,
    every_pair: Annotated[
        bool, typer.Option("--every-pair", help="Also the others with each other.")
    ] = False,
    resamples: Annotated[int, typer.Option(min=100, help="Draws of the bootstrap.")] = 10_000,
) -> None:
    """Paired differences of runs on the same test utterances: is one better, or was it luck?

    UA and WA by bootstrap over speakers, with 95 % intervals and p-values; McNemar's test counts the utterances
    that one run alone got right. "Holm" is the p-value corrected for all the comparisons in the table. Runs whose
    protocols differ are refused, with the first difference.

    Example: emodistill compare runs/plain runs/prosodic runs/both
    """
    need_training()
    from emodistill.evaluation.compare import compare_runs
    from emodistill.evaluation.tables import show_comparisons

    show_comparisons(compare_runs(runs, every_pair, resamples), format, results())


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders; several are compared with the first.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The page.")] = Path("report.html"),
    errors: Annotated[int, typer.Option(min=0, help="How many of the most confident errors are shown.")] = 12,
    audio: Annotated[
        bool, typer.Option(help="Put the sound of these errors into the page; mind who may hear it.")
    ] = True,
    fold: Annotated[
        str | None, typer.Option(help="Whose student's embeddings are mapped; default: the first's.")
    ] = None,
) -> None:
    """Runs as one HTML page that needs no network: scores, curves, calibration, and errors to listen to.

    What a run folder no longer holds (checkpoints, audio) is left out, and the page says so.

    Example: emodistill report runs/plain runs/taught -o report.html
    """
    need_training()
    from emodistill.report.build import write_report

    with console.status("gathering"):
        notes = write_report(runs, out, errors, audio, fold)
    for note in notes:
        say(note)
    say(f"{out}: {out.stat().st_size / 1e6:.1f} MB")
