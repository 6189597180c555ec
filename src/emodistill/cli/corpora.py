"""emodistill corpus: write the manifest of a corpus, count it, and audit its folds."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from emodistill.cli.options import Set, corpus_app
from emodistill.console import results, say


@corpus_app.command("prepare")
def prepare(
    name: Annotated[str, typer.Argument(help="Name of a known corpus, e.g. ravdess, iemocap or nemo.")],
    folder: Annotated[Path, typer.Argument(help="Folder of the corpus, as its authors distribute it.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Manifest to write: utterances.csv, .tsv or .parquet.")
    ],
    labels: Annotated[
        str | None,
        typer.Option(help="Label map: own, four, seven, iemocap-4 or all; or a list such as angry,sad."),
    ] = None,
) -> None:
    """Read a corpus folder and write its manifest. Dropped and merged utterances are counted."""
    from emodistill.corpora import drop_bad_audio, read_corpus, report_left_out, write_manifest
    from emodistill.corpora.manifest import check_suffix

    check_suffix(output)
    corpus, problems = drop_bad_audio(read_corpus(name, folder, labels))
    report_left_out(corpus, problems, say)
    write_manifest(corpus, output)
    say(f"{len(corpus)} utterances, {len(corpus.speakers)} speakers, {list(corpus.labels)} -> {output}")
    raise typer.Exit(1 if problems else 0)


@corpus_app.command("stats")
def stats(
    manifest: Annotated[Path, typer.Argument(help="Manifest: utterances.csv, .tsv or .parquet.")],
    plot: Annotated[
        Path | None, typer.Option(help="Also draw the counts into this .png, .svg or .pdf file.")
    ] = None,
) -> None:
    """Count utterances by speaker and emotion, and minutes by speaker."""
    from emodistill.corpora import corpus_stats, plot_stats, read_manifest

    counts = corpus_stats(read_manifest(manifest))
    table = Table(
        title=f"{manifest}: {counts.num_utterances} utterances, {counts.num_speakers} speakers, "
        f"{counts.hours:.2f} h"
    )
    table.add_column("speaker")
    for column in (*counts.emotions, "all", "minutes"):
        table.add_column(column, justify="right")
    for speaker, by_emotion in counts.by_speaker.items():
        cells = [str(by_emotion.get(emotion, 0)) for emotion in counts.emotions]
        total = str(sum(by_emotion.values()))
        table.add_row(escape(speaker), *cells, total, f"{counts.minutes[speaker]:.1f}")
    totals = [
        str(sum(by_emotion.get(emotion, 0) for by_emotion in counts.by_speaker.values()))
        for emotion in counts.emotions
    ]
    table.add_section()
    table.add_row("all", *totals, str(counts.num_utterances), f"{60 * counts.hours:.1f}")
    results().print(table)
    if plot is not None:
        plot_stats(counts, plot)
        say(f"written: {plot}")


@corpus_app.command("audit")
def audit(
    recipe: Annotated[str, typer.Argument(help="Recipe whose corpus and folds are checked.")],
    set: Set = None,
) -> None:
    """Check the folds of a recipe for leaks: a speaker, utterance or identical recording in two splits."""
    from emodistill.config import load_recipe
    from emodistill.corpora import open_corpus
    from emodistill.protocol import audit_protocol, build_protocol

    loaded = load_recipe(recipe, set or ())
    corpus = open_corpus(loaded.corpus, say)
    protocol = build_protocol(corpus, loaded.protocol)
    result = audit_protocol(corpus, protocol, loaded.runtime.workers)
    table = Table(title=f"{corpus.name}, {protocol.description}, hash {protocol.hash}: {protocol.leaks}")
    for column in ("fold", "train", "dev", "test", "test transcripts also in training"):
        table.add_column(column, justify="right")
    for fold in protocol.folds:
        share = result.shared_transcripts.get(fold.name)
        cell = "–" if share is None else f"{100 * share:.1f} %"
        table.add_row(fold.name, str(len(fold.train)), str(len(fold.dev)), str(len(fold.test)), cell)
    results().print(table)
    for one, two in result.duplicates:
        results().print(f"identical recordings, always in one split: {one} = {two}")
