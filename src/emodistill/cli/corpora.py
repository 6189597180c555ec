"""emodistill corpus: write the manifest of a corpus, count it, audit its folds, write it for others."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from emodistill.cli.options import (
    DimensionScale,
    MapEmotions,
    Set,
    TableColumns,
    corpus_app,
    given_scale,
    read_renaming,
    renaming_overrides,
)
from emodistill.console import console, results, say, warn
from emodistill.errors import ConfigError, CorpusError, one_of
from emodistill.labels import scale_text

if TYPE_CHECKING:
    from emodistill.corpora import Corpus, DimensionStats, TableOptions

Root = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Folder that holds the audio of a table, and where its relative paths start. Default: the "
        "folder of the table. Paths that lead elsewhere are refused.",
    ),
]
_TABLE_COLUMNS = 120  # of the terminal that a file gets a table for


class AuditFormat(StrEnum):
    """Output formats of the audit."""

    table = "table"
    json = "json"


OWN_TABLE = "csv"  # in place of the name of a known corpus
# The names of `corpora.writers.WRITERS`, which the help text shows without loading them.
WRITTEN = ("audformat", "audiofolder", "csv", "kaldi", "lhotse")


# Long: Typer makes an option of each parameter, and the docstring is the help text.
@corpus_app.command("prepare")
def prepare(
    name: Annotated[
        str,
        typer.Argument(
            help="csv for a table of your own; audformat, audb, audiofolder, datasets, kaldi or lhotse for a "
            "corpus of another program; or a known corpus, e.g. ravdess, iemocap or nemo."
        ),
    ],
    source: Annotated[
        Path,
        typer.Argument(
            metavar="FILE|FOLDER",
            help="Your table (CSV, TSV or Parquet), or the folder of a corpus, as its authors distribute it; "
            "for datasets also an id of the Hugging Face hub; for audb the name of a database.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Manifest to write: utterances.csv, .tsv or .parquet.")
    ],
    columns: TableColumns = None,
    map_emotions: MapEmotions = None,
    labels: Annotated[
        str | None,
        typer.Option(help="Label map: own, four, seven, iemocap-4 or all; or a list such as angry,sad."),
    ] = None,
    root: Root = None,
    scale: DimensionScale = None,
    audio_out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder for audio that is no file of its own, e.g. of a dataset."),
    ] = None,
    subset: Annotated[str | None, typer.Option(help="Configuration of a dataset of the hub.")] = None,
    version: Annotated[
        str | None, typer.Option(help="Version of a database, or revision of a dataset.")
    ] = None,
    table: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Table of a database that has the labels. Repeatable."),
    ] = None,
    cache: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for downloads of audb.")] = None,
) -> None:
    """Read a table of your own, a corpus of another program or a known corpus, and write a checked manifest.

    A table of your own is any CSV, TSV or Parquet file with a row for each utterance. It needs columns for
    the audio path, the speaker and the emotion; ids are made of the paths where no column has them. Say
    which column is which with --columns, and what its emotions are called here with --map-emotions. Further
    columns that are read: start_s, end_s, transcript, gender, age, language, session, split. So are the
    dimensions arousal, valence, dominance and intensity; a table that has one needs no emotion. Say their
    range with --scale, or in a column scale. An emotion such as angry;sad;angry has the votes of several
    listeners, and a column votes has their counts.

    The corpora of other programs are read in the same way: databases of audformat and audb, audiofolder and
    datasets of Hugging Face, Kaldi's data folders, and cut manifests of lhotse. Their columns and
    emotions are declared with the same options.

    The header of each audio file is read. Missing, broken and empty files are left out and counted, and the
    manifest gets the duration of the others. A row that cannot be read stops the command, which names the
    row as a text editor numbers it.

    Exit code 0: all utterances are written. 1: some audio could not be read; the others are written. 2:
    nothing was written.

    Example, for a table calls.csv with the lines

        wav;who;feeling
        calls/0001.wav;agent-07;anger
        calls/0002.wav;agent-09;unclear

    emodistill corpus prepare csv calls.csv --columns path=wav,speaker=who,emotion=feeling
    --map-emotions anger=angry,unclear=- -o utterances.csv

    Then: emodistill crossval RECIPE --set corpus.manifest=utterances.csv
    """
    from emodistill.corpora import (
        TABLE_READERS,
        TableOptions,
        drop_bad_audio,
        emotion_table,
        read_corpus,
        read_own_table,
        report_left_out,
        write_manifest,
    )
    from emodistill.corpora.base import NO_EMOTION
    from emodistill.corpora.manifest import check_suffix

    check_suffix(output)
    renamed, emotions = read_renaming(columns, map_emotions)
    if output.resolve() == source.resolve():
        raise ConfigError(
            f"--output '{output}' is the table itself, and would replace it; choose another name"
        )
    options = TableOptions(renamed, root, audio_out, subset, version, tuple(table) if table else None, cache)
    if name == OWN_TABLE or name in TABLE_READERS:
        _refuse_options(name, options)
        _refuse_output(name, source, output)
        rows = TABLE_READERS[name].read(source, options) if name in TABLE_READERS else source
        corpus = read_own_table(rows, renamed, emotions, labels, root, say, given_scale(scale))
    else:
        _refuse_table_options(name, source, options, scale)
        corpus = read_corpus(name, source, labels, emotions)
        if corpus.dropped.get(NO_EMOTION):
            say("utterances without an emotion may have votes or dimensions: --labels all keeps them")
    corpus, problems = drop_bad_audio(corpus, measure=True)
    report_left_out(corpus, problems, say)
    write_manifest(corpus, output)
    width = None if console.is_terminal else max(_TABLE_COLUMNS, console.width)
    console.print(_by_emotion(*emotion_table(corpus)), soft_wrap=False, width=width)
    minutes = sum(utterance.duration_s or 0.0 for utterance in corpus) / 60
    length = f"{minutes:.1f} min" if any(utterance.path for utterance in corpus) else "text alone"
    say(
        f"{len(corpus)} utterances, {len(corpus.speakers)} speakers, {length}, "
        f"{list(corpus.labels)} -> {output}"
    )
    _report_votes(corpus)
    unscaled = sum(bool(utterance.dimensions()) and utterance.scale is None for utterance in corpus)
    if unscaled:
        warn(
            f"{unscaled} utterances have dimensions and no scale, which training needs: give their lowest "
            "and highest possible value, as in --scale 1..5"
        )
    raise typer.Exit(1 if problems else 0)


def _refuse_options(name: str, options: "TableOptions") -> None:
    """Raise `ConfigError` for an option that has no meaning for a format."""
    from emodistill.corpora import TABLE_READERS

    used = TABLE_READERS[name].options if name in TABLE_READERS else ("root",)
    for option in ("root", "audio_out", "subset", "version", "table", "cache"):
        if getattr(options, option) is not None and option not in used:
            raise ConfigError(f"--{option.replace('_', '-')} is not for {name}: leave it out")


def _refuse_output(name: str, source: Path, output: Path) -> None:
    """Raise `ConfigError` where the manifest would stand in place of a table of the corpus."""
    from emodistill.corpora import TABLE_READERS

    is_own = name in TABLE_READERS and output.name in TABLE_READERS[name].own_names
    if is_own and output.resolve().is_relative_to(source.resolve()):
        raise ConfigError(
            f"--output '{output}' has the name of a table of the corpus, and would replace it; choose "
            "another name"
        )


def _refuse_table_options(name: str, source: Path, options: "TableOptions", scale: str | None) -> None:
    """Raise an error where a known corpus gets an option or a file for a table, or the name is unknown."""
    from emodistill.corpora import READERS, TABLE_READERS, TableOptions

    if name not in READERS:
        raise CorpusError(one_of("corpus", name, [OWN_TABLE, *TABLE_READERS, *READERS]))
    if options.columns or options.root is not None or scale is not None:
        raise ConfigError(
            f"--columns, --root and --scale are for a table of your own (corpus prepare csv), not {name}"
        )
    if options != TableOptions():
        raise ConfigError(
            f"--audio-out, --subset, --version, --table and --cache are not for {name}: leave them out"
        )
    if source.is_file():
        raise CorpusError(
            f"'{source}' is a file, expected the folder of {name}; for a table: corpus prepare csv"
        )


def _by_emotion(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return the counts of `emotion_table` for printing."""
    table = Table(*titles)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows[:-1]:
        table.add_row(*map(escape, row))
    table.add_section()
    table.add_row(*rows[-1])
    return table


@corpus_app.command("stats")
def stats(
    manifest: Annotated[Path, typer.Argument(help="Manifest, or a table of your own: .csv, .tsv, .parquet.")],
    columns: TableColumns = None,
    map_emotions: MapEmotions = None,
    root: Root = None,
    scale: DimensionScale = None,
    plot: Annotated[
        Path | None, typer.Option(help="Also draw the counts into this .png, .svg or .pdf file.")
    ] = None,
) -> None:
    """Count utterances by speaker and emotion, and minutes by speaker; and show the dimensions.

    The dimensions are in the units of the corpus, with the scale that it declares.

    Example: emodistill corpus stats calls.csv --columns path=wav,speaker=who,emotion=feeling
    --map-emotions anger=angry,unclear=-
    """
    from emodistill.corpora import corpus_stats, find_audio, plot_stats, read_manifest, report_left_out

    renamed, emotions = read_renaming(columns, map_emotions)
    corpus = find_audio(read_manifest(manifest, renamed, None, emotions, root, scale=given_scale(scale)), say)
    report_left_out(corpus, (), say)
    counts = corpus_stats(corpus)
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
    if counts.dimensions:
        results().print(_dimension_table(counts.dimensions))
    _report_votes(corpus)
    if counts.num_unmeasured:
        warn(f"minutes without {counts.num_unmeasured} utterances whose audio is missing or broken")
    if plot is not None:
        plot_stats(counts, plot)
        say(f"written: {plot}")


def _report_votes(corpus: "Corpus") -> None:
    """Say how many utterances have listeners' votes."""
    voted = [sum(utterance.vote_counts().values()) for utterance in corpus if utterance.votes]
    if voted:
        say(f"{len(voted)} utterances have listeners' votes, {sum(voted) / len(voted):.1f} each")


def _dimension_table(rows: "Sequence[DimensionStats]") -> Table:
    """Return the dimensions of a corpus for printing, in its own units."""
    table = Table(title="dimensions")
    for column in ("dimension", "scale", "utterances", "mean", "lowest", "highest"):
        table.add_column(column, justify="left" if column == "dimension" else "right")
    for row in rows:
        scale = "not declared" if row.scale is None else scale_text(row.scale)
        values = (f"{value:.3f}" for value in (row.mean, row.lowest, row.highest))
        table.add_row(row.name, scale, str(row.num_utterances), *values)
    return table


@corpus_app.command("audit")
def audit(
    recipe: Annotated[str, typer.Argument(help="Recipe whose corpus and folds are checked.")],
    columns: TableColumns = None,
    map_emotions: MapEmotions = None,
    scale: DimensionScale = None,
    format: Annotated[
        AuditFormat, typer.Option("--format", "-f", help="A table for people, or JSON.")
    ] = AuditFormat.table,
    set: Set = None,
) -> None:
    """Check the folds of a recipe for leaks, count emotions and dimensions, and measure the recordings.

    A leak is a speaker, an utterance or an identical recording in two splits of a fold; it ends the command.
    A dimension of `targets` that no training utterance of a fold has ends it, too. Warnings do not end it: an
    emotion that a split lacks, or that is rare; a dimension that dev or test lacks; a DC offset, clipped
    samples or silence; pooled corpora of different levels. Each recording is read once, in runtime.workers
    threads.

    Exit code 0: no leak. 2: a leak, or data that cannot be read.

    Example: emodistill corpus audit ravdess-whisper --set corpus.root=RAVDESS --format json
    """
    from emodistill.config import load_recipe
    from emodistill.corpora import open_corpus, open_further
    from emodistill.protocol import audit_protocol, build_protocol
    from emodistill.protocol.audit_tables import audit_report, show_audit
    from emodistill.training.target_checks import without_voted

    loaded = load_recipe(recipe, [*(set or ()), *renaming_overrides(columns, map_emotions, scale)])
    corpus = open_corpus(loaded.corpus, say, loaded.targets, keep_voted=loaded.learns_from_votes)
    corpus, voted = without_voted(corpus, loaded.dimensions)
    protocol = build_protocol(corpus, loaded.protocol)
    further = (*open_further(loaded.corpus, say), *voted)
    result = audit_protocol(corpus, protocol, loaded.runtime.workers, further, loaded.dimensions)
    show_audit(audit_report(corpus, protocol, result, loaded.protocol), format, results())


@corpus_app.command("write")
def write(
    manifest: Annotated[Path, typer.Argument(help="Manifest, or a table of your own: .csv, .tsv, .parquet.")],
    target: Annotated[
        tuple[str, Path],
        typer.Option(
            "--to", metavar="FORMAT DIR", help=f"Format ({', '.join(WRITTEN)}), and folder to write."
        ),
    ],
    columns: TableColumns = None,
    map_emotions: MapEmotions = None,
    root: Root = None,
    scale: DimensionScale = None,
    copy_audio: Annotated[
        bool | None,
        typer.Option(
            "--copy-audio/--no-copy-audio",
            help="Copy the recordings into the folder, or name those that exist. Default: by format.",
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Write into a folder that has files. Others than the format's stay."),
    ] = False,
) -> None:
    """Write a corpus as a folder for other programs.

    The folder is written complete or not at all. Utterances whose audio is missing or broken are left out and
    counted.

    Exit code 0: all utterances are written. 1: some audio could not be read; the others are written. 2:
    nothing was written.

    Example: emodistill corpus write utterances.csv --to csv corpus/
    """
    from emodistill.corpora import drop_bad_audio, find_audio, read_manifest, report_left_out
    from emodistill.corpora.writers import check_output, write_corpus

    format, folder = target
    check_output(format, folder, copy_audio=copy_audio, force=force)
    renamed, emotions = read_renaming(columns, map_emotions)
    corpus = find_audio(read_manifest(manifest, renamed, None, emotions, root, scale=given_scale(scale)), say)
    corpus, problems = drop_bad_audio(corpus)
    report_left_out(corpus, problems, say)
    write_corpus(corpus, format, folder, copy_audio=copy_audio, force=force, inputs=[manifest])
    say(f"{len(corpus)} utterances, {len(corpus.speakers)} speakers -> {folder}")
    raise typer.Exit(1 if problems else 0)
