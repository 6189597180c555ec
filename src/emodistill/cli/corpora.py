"""emodistill corpus: what is in a folder of recordings, and how it is divided."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from emodistill.cli.options import (
    Set,
    corpus_app,
)
from emodistill.console import results, say


@corpus_app.command("prepare")
def prepare(
    name: Annotated[str, typer.Argument(help="A known corpus, e.g. ravdess, iemocap, nemo.")],
    folder: Annotated[Path, typer.Argument(help="The corpus as its authors distribute it.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="utterances.csv, .tsv or .parquet")],
    labels: Annotated[
        str | None, typer.Option(help="Label map: own, four, seven, iemocap-4, all, or a list a,b,c.")
    ] = None,
) -> None:
    """Read a corpus folder and write its manifest; whatever is dropped or merged is counted."""
    from emodistill.corpora import drop_bad_audio, read_corpus, write_manifest
    from emodistill.corpora.load import report_left_out

    corpus, problems = drop_bad_audio(read_corpus(name, folder, labels))
    report_left_out(corpus, problems, say)
    write_manifest(corpus, output)
    say(f"{len(corpus)} utterances, {len(corpus.speakers)} speakers, {list(corpus.labels)} -> {output}")
    raise typer.Exit(1 if problems else 0)


@corpus_app.command("stats")
def stats(
    manifest: Annotated[Path, typer.Argument(help="utterances.csv, .tsv or .parquet")],
    plot: Annotated[Path | None, typer.Option(help="Also draw it: a .png or .svg file.")] = None,
) -> None:
    """Utterances per emotion and speaker, and hours."""
    from emodistill.corpora import read_manifest
    from emodistill.corpora.stats import corpus_stats, plot_stats

    found = corpus_stats(read_manifest(manifest))
    table = Table(
        title=f"{manifest}: {found.num_utterances} utterances, {found.num_speakers} speakers, {found.hours:.2f} h"
    )
    table.add_column("speaker")
    for emotion in (*found.emotions, "all", "minutes"):
        table.add_column(emotion, justify="right")
    for speaker, counts in found.by_speaker.items():
        row = [str(counts.get(emotion, 0)) for emotion in found.emotions]
        table.add_row(escape(speaker), *row, str(sum(counts.values())), f"{found.minutes[speaker]:.1f}")
    totals = [
        str(sum(counts.get(emotion, 0) for counts in found.by_speaker.values())) for emotion in found.emotions
    ]
    table.add_section()
    table.add_row("all", *totals, str(found.num_utterances), f"{60 * found.hours:.1f}")
    results().print(table)
    if plot is not None:
        plot_stats(found, plot)
        say(f"drawn: {plot}")


@corpus_app.command("audit")
def audit(
    recipe: Annotated[str, typer.Argument(help="Recipe whose corpus and folds are to be audited.")],
    set: Set = None,
) -> None:
    """Check the folds of a recipe for leaks: speakers, utterances or identical recordings in two splits."""
    from emodistill.config import load_recipe
    from emodistill.corpora.load import open_corpus
    from emodistill.protocol.audit import audit_protocol
    from emodistill.protocol.folds import build_protocol

    loaded = load_recipe(recipe, set or ())
    corpus = open_corpus(loaded.corpus, say)
    protocol = build_protocol(corpus, loaded.protocol)
    found = audit_protocol(corpus, protocol, loaded.runtime.workers)
    table = Table(title=f"{corpus.name}, {protocol.description}, hash {protocol.stamp}: no leak")
    for column in ("fold", "train", "dev", "test", "test transcripts also in training"):
        table.add_column(column, justify="right")
    for fold in protocol.folds:
        share = found.shared_transcripts.get(fold.name)
        shown = "–" if share is None else f"{100 * share:.1f} %"
        table.add_row(fold.name, str(len(fold.train)), str(len(fold.dev)), str(len(fold.test)), shown)
    results().print(table)
    for one, two in found.duplicates:
        results().print(f"identical recordings, always in one split: {one} = {two}")
