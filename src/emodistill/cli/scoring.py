"""The verbs that score, and that help to write a paper: evaluate, scores, compare, report, cite."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from emodistill.cli.options import (
    DimensionScale,
    Format,
    MapEmotions,
    Provider,
    TableColumns,
    Tabular,
    app,
    choose_format,
    given_scale,
    names_in,
    need_training,
    read_renaming,
)
from emodistill.console import console, results, say
from emodistill.errors import ConfigError, one_of


class SeenRule(StrEnum):
    """What `evaluate` does with speakers whose utterances the model was trained or chosen on."""

    refuse = "refuse"
    leave_out = "leave-out"
    allow = "allow"


FileFormat = Annotated[
    Tabular | None,
    typer.Option(
        "--format",
        "-f",
        help="Output format; latex is a table for a paper, with booktabs. Default: by the suffix of --out "
        "(.json, .csv, .tex), else a table.",
    ),
]
TABULAR_SUFFIXES = {".json": Tabular.json, ".csv": Tabular.csv, ".tex": Tabular.latex}
OutFile = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o", metavar="FILE", help="Write to this file. Default: standard output.", dir_okay=False
    ),
]


# Long: Typer makes an option of each parameter, and each option has its help text beside it.
@app.command()
def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            help="bundled, an exported folder, a checkpoint or run folder, a Hugging Face audio model of "
            "emotions or dimensions, or the hub id of one (organisation/name[@revision])."
        ),
    ],
    corpus: Annotated[
        str, typer.Argument(help="A manifest (.csv, .tsv, .parquet), or the name of a known corpus.")
    ],
    folder: Annotated[
        Path | None, typer.Argument(help="The folder of a known corpus, as its authors distribute it.")
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="Label map of the corpus: own, four, seven, all, or a list a,b,c.")
    ] = None,
    columns: TableColumns = None,
    map_emotions: MapEmotions = None,
    scale: DimensionScale = None,
    map: Annotated[
        str | None,
        typer.Option(
            help="The emotion of each of the model's names, e.g. ang=angry,hap=happy; oth=- leaves oth out."
        ),
    ] = None,
    emotions: Annotated[
        str | None,
        typer.Option(help="Score only these emotions. Needed where model and corpus have different ones."),
    ] = None,
    seen: Annotated[
        SeenRule,
        typer.Option(
            help="What to do with utterances of speakers that the model was trained or chosen on: refuse the "
            "corpus, leave them out, or allow them and mark the scores."
        ),
    ] = SeenRule.refuse,
    known: Annotated[
        str | None,
        typer.Option(
            help="Also score with so many other utterances of the speaker known, e.g. 0,1,2,5,10,20,all. "
            "Needs a model with voices."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder. Default: runs/evaluate-MODEL-CORPUS.")
    ] = None,
    provider: Provider = "cpu",
    format: Format = Tabular.table,
) -> None:
    """Score any model on any corpus.

    Writes predictions.csv and scores into a folder that compare and report can read.

    A model with dimensions (arousal, valence, dominance, intensity) is scored by CCC against the labels of
    the corpus, from 0 to 1.

    Exported models run through the recogniser, as in predict, on the hardware of --provider. If a model lists
    its training data, and the corpus has utterances or speakers of it, the corpus is refused unless --seen
    says otherwise.

    With --known, the model also gets what is usual for the speaker's voice, made of other utterances. These
    are drawn 10 times without labels, from all emotions of the speaker. The scores are means over the draws,
    in rows of their own: plain scores do not change. Rows with "mostly neutral" are a stress test, in which
    labels decide which utterances are known.

    Exit code 0: the model classified all utterances. 1: some audio could not be read; the other utterances
    are scored. 2: nothing was scored.

    Example: emodistill evaluate bundled ravdess RAVDESS --labels seven --seen leave-out
    """
    need_training()
    from emodistill.corpora.load import CorpusSource
    from emodistill.corpora.manifest import check_manifest
    from emodistill.corpora.tables import TABLE_SUFFIXES
    from emodistill.evaluation.known import read_counts
    from emodistill.evaluation.latex import scores_latex
    from emodistill.evaluation.run import read_run
    from emodistill.evaluation.scores import score_run
    from emodistill.evaluation.tables import show_scores
    from emodistill.inference.hub import folder_name
    from emodistill.training.evaluated_models import open_model, voice_model
    from emodistill.training.evaluation_run import (
        KnownUtterances,
        open_labelled_corpus,
        read_every_utterance,
        read_mapping,
    )
    from emodistill.training.evaluation_run import evaluate as evaluate_model

    mapping = read_mapping(map)
    counts = None if known is None else read_counts(known)
    source = CorpusSource(corpus, folder, *read_renaming(columns, map_emotions), given_scale(scale))
    if Path(corpus).suffix in TABLE_SUFFIXES:
        check_manifest(Path(corpus))
    evaluated, digest = open_model(model, provider)
    labelled, lacks_audio = open_labelled_corpus(source, labels, with_emotions=bool(evaluated.names))
    known_utterances = None
    if counts is not None:
        voice_model(evaluated)  # raises where it has no voices
        known_utterances = KnownUtterances(counts, read_every_utterance(source))
    run = out or Path("runs") / f"evaluate-{folder_name(model)}-{labelled.name}"
    num_failed = evaluate_model(
        evaluated, labelled, run, model, mapping, names_in(emotions), seen.value, digest, known_utterances
    )
    evaluation = read_run(run)
    if format == Tabular.latex:
        results().file.write(scores_latex(score_run(evaluation), evaluation))
    else:
        show_scores(score_run(evaluation), format, results())
    say(f"folder: {run}")
    raise typer.Exit(1 if num_failed or lacks_audio else 0)


@app.command()
def scores(
    run: Annotated[Path, typer.Argument(help="A folder of train, crossval or evaluate.")],
    format: FileFormat = None,
    out: OutFile = None,
) -> None:
    """Show all scores of a run's test predictions, with 95 % intervals by bootstrap over speakers.

    UA, WA, macro and weighted F1, recall and confusion of the student and each teacher. CCC, Pearson's r and
    RMSE of each dimension, such as arousal. Parameters, MACs, latency, memory and training time. Calibration
    before and after temperature scaling, fitted on each fold's dev speakers. Scores by speaker, gender,
    language, duration and corpus. Scores with known utterances of the speaker, where the model has voices.
    Agreement of student and teachers. Where a corpus has listeners' votes: the scores of a single listener,
    cross entropy and KL and Jensen-Shannon distance from the votes, calibration against them, and the
    distance of listeners from listeners.

    Example: emodistill scores runs/ravdess-whisper-seed0 --format latex -o scores.tex
    """
    need_training()
    chosen = Tabular(choose_format(format, out, TABULAR_SUFFIXES, "--out"))
    from emodistill.evaluation.latex import scores_latex
    from emodistill.evaluation.run import read_run
    from emodistill.evaluation.scores import score_run
    from emodistill.evaluation.tables import show_scores
    from emodistill.files import open_output

    with console.status("scoring"):
        opened = read_run(run)
        run_scores = score_run(opened)
    with open_output(out) as file:
        if chosen == Tabular.latex:
            file.write(scores_latex(run_scores, opened))
        else:
            show_scores(run_scores, chosen, results(file))


@app.command()
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Two or more run folders with the same protocol. The first run, with its seeds, is the "
            "reference."
        ),
    ],
    format: FileFormat = None,
    every_pair: Annotated[
        bool, typer.Option("--every-pair", help="Compare the other runs with each other too.")
    ] = False,
    resamples: Annotated[int, typer.Option(min=100, help="Number of bootstrap draws.")] = 10_000,
    ungrouped: Annotated[
        bool,
        typer.Option("--ungrouped", help="Compare single runs, also those that differ in the seed alone."),
    ] = False,
    out: OutFile = None,
) -> None:
    """Compare runs on the same test utterances, with intervals and p-values.

    Runs whose recipes differ in the seed alone are one group: its scores are mean ± standard deviation over
    seeds, and a pair of groups is one comparison. Where two groups have several seeds in common, these alone
    are compared.

    Differences of UA and WA, of the CCC of dimensions, and of the scores of votes are by paired bootstrap
    over speakers. "Detectable" is the smallest true difference that such an experiment finds with a power of
    80 %. McNemar's test counts the utterances that only one run classified correctly; it is for single runs.
    "p, Holm" is corrected for all comparisons in the table. Runs with different protocols are refused with
    the first difference. A second table has what each student and its teachers together cost.

    Example: emodistill compare runs/plain-seed0 runs/plain-seed1 runs/both-seed0 runs/both-seed1
    """
    need_training()
    chosen = Tabular(choose_format(format, out, TABULAR_SUFFIXES, "--out"))
    from emodistill.evaluation.compare import compare_runs
    from emodistill.evaluation.latex import comparisons_latex
    from emodistill.evaluation.run import read_run
    from emodistill.evaluation.tables import show_comparisons
    from emodistill.files import open_output

    comparisons = compare_runs(runs, every_pair, resamples, grouped=not ungrouped)
    with open_output(out) as file:
        if chosen == Tabular.latex:
            file.write(comparisons_latex(comparisons, [read_run(run) for run in runs]))
        else:
            show_comparisons(comparisons, chosen, results(file))


@app.command()
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Run folders. Each is compared with the first; seeds of a recipe are one group."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The HTML file.")] = Path("report.html"),
    errors: Annotated[
        int, typer.Option(min=0, help="How many of the most confident errors the page shows.")
    ] = 12,
    audio: Annotated[
        bool, typer.Option(help="Put the sound of these errors into the page. It may be personal data.")
    ] = True,
    fold: Annotated[
        str | None, typer.Option(help="The fold of the map of embeddings. Default: the first.")
    ] = None,
) -> None:
    """Write runs as one HTML page that needs no network: scores, curves, calibration, errors with sound.

    Parts whose files (checkpoints, audio) are missing are left out, and the page says so.

    Example: emodistill report runs/plain runs/taught -o report.html
    """
    need_training()
    if out.suffix.lower() not in ("", ".html", ".htm"):
        raise ConfigError(one_of("suffix of --out", out.suffix, [".html", ".htm"]))
    from emodistill.report.build import write_report

    with console.status("collecting scores, curves and sounds"):
        notes = write_report(runs, out, errors, audio, fold)
    for note in notes:
        say(note)
    say(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


@app.command()
def cite(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SOURCE",
            help="Run folders, folders of ablate, folders of exported models, or bundled. "
            "Default: the method and this software alone.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="A .bib file. Default: standard output.")
    ] = None,
) -> None:
    """Write BibTeX of all that runs or models were made with.

    The paper of the method, this software, the corpora, the backbone, the text encoder, the features of the
    prosodic teacher, and the libraries for training. What has no publication that is known here stands above
    the entries as a comment.

    Example: emodistill cite runs/ravdess-whisper-seed0 -o references.bib
    """
    need_training()
    from emodistill.files import open_output
    from emodistill.report.bibliography import references

    found = references(sources or ())
    with open_output(out) as file:
        file.write(found.bibtex())
    if out is not None:
        say(f"{out}: {len(found.citations)} publications; {len(found.unknown)} comments on what to look up")
