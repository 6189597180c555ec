"""emodistill embed: the embeddings of recordings, as a table."""

from enum import StrEnum
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emodistill.cli.options import (
    TABLE,
    ChannelsRead,
    Hop,
    Jobs,
    Model,
    Provider,
    Threads,
    Verbose,
    VoiceFile,
    Window,
    app,
    channels_in,
    choose_format,
    file_or_none,
    number_of_jobs,
    stoppable,
)
from emodistill.cli.predict import ListOption, PathsOption, read_inputs
from emodistill.console import hint_at_channels, report_failures, say, warn
from emodistill.errors import ConfigError
from emodistill.files import ensure_not_read, ensure_writable, open_output
from emodistill.inference.embedding_rows import EMBEDDING_FORMATS
from emodistill.inference.segmentation_options import HOP_S, WINDOW_S, SegmentationOptions

if TYPE_CHECKING:  # typer needs an Enum, which mypy cannot build from a registry; its members are strings
    FormatChoice = str
else:
    FormatChoice = StrEnum("FormatChoice", {name: name for name in EMBEDDING_FORMATS})


# Long: Typer makes an option of each parameter.
@app.command()
def embed(
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help=f"The file to write: {', '.join(f'.{name}' for name in EMBEDDING_FORMATS)}. An existing "
            "file is replaced when all is done.",
        ),
    ],
    paths: PathsOption = None,
    listed: ListOption = None,
    model: Model = "bundled",
    format: Annotated[
        FormatChoice | None,
        typer.Option("--format", "-f", help="How the rows are written. Default: by the suffix of --output."),
    ] = None,
    windows: Annotated[
        bool,
        typer.Option("--windows", help="One row for each window of speech, with its start and end."),
    ] = False,
    hop: Hop = HOP_S,
    window: Window = WINDOW_S,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Also draw the student's vectors in two dimensions, to a .png, .svg or .pdf file.",
        ),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="A column of the list of --from: it is written too, and chooses the colours of the picture. "
            "Default: the emotion.",
        ),
    ] = None,
    voice: VoiceFile = None,
    channels: ChannelsRead = "mix",
    provider: Provider = "cpu",
    threads: Threads = None,
    jobs: Jobs = None,
    verbose: Verbose = False,
) -> None:
    """Write the embeddings of each audio file, or of each window of its speech.

    An embedding is a vector of unit length. `embedding_student` is the layer from which the model computes
    the emotion. `embedding_prosodic` and others are its projections that training compared with a teacher.
    Files are prepared as in `emodistill predict`. Without speech a row has a reason and no vector.

    An embedding holds how a person sounds, not only the emotion. It may serve to recognise the person, so it
    is personal data.

    Exit code 0: all inputs were read. 1: an input could not be read (its row holds the error), or a folder
    holds no audio; the others are done. 2: nothing was started, since an option or the model is wrong.
    130: you stopped it with Ctrl-C, and nothing was written.

    Example: emodistill embed clips/ -o clips.parquet --plot clips.png
    """
    from emodistill.inference.audio_progress import with_audio_progress
    from emodistill.inference.embedding_plot import MIN_POINTS, plot_embeddings
    from emodistill.inference.inputs import embed_inputs
    from emodistill.inference.plots import check_picture
    from emodistill.inference.recognizer import Recognizer
    from emodistill.inference.voices import Voice, check_voice
    from emodistill.inference.window_classifier import check_emotions

    file = file_or_none(output)
    chosen = choose_format(format, file, {f".{name}": name for name in EMBEDDING_FORMATS})
    if chosen == TABLE:
        raise ConfigError(
            f"bad --output '{output}', expected a name that ends in "
            f"{', '.join(f'.{name}' for name in EMBEDDING_FORMATS)}, or --format"
        )
    if label is not None and listed is None:
        raise ConfigError(f"--label {label} names a column of a list: give the list with --from FILE")
    if not windows and (hop, window) != (HOP_S, WINDOW_S):
        raise ConfigError("--hop and --window are for the windows of --windows: add it, or leave them out")
    ensure_writable(file, binary=True)
    if (check := EMBEDDING_FORMATS[chosen].check) is not None:
        check()
    if plot is not None:
        check_picture(plot)
        ensure_writable(plot)
        if file is not None and plot.resolve() == file.resolve():
            raise ConfigError(f"--output and --plot both name '{plot}': give them different names")
    segmentation = SegmentationOptions(hop, window) if windows else None
    read_channels = channels_in(channels)
    known = None if voice is None else Voice.load(voice)
    inputs, undecodable, num_empty = read_inputs(paths or [], listed, label)
    ensure_not_read([file, plot], [*(item.location for item in inputs), listed, voice])
    jobs = number_of_jobs(jobs, len(inputs))
    recognizer = Recognizer(model, threads=threads or (1 if jobs > 1 else None), provider=provider)
    dims = recognizer.embedding_dims
    if known is not None:
        check_voice(known, recognizer.card)
    if windows:
        check_emotions(recognizer)
    found = embed_inputs(recognizer, inputs, read_channels, known, jobs, segmentation)
    shown = with_audio_progress(found, "embed", inputs, 2 if windows else 3)
    with stoppable(lambda: f"stopped: nothing was written to '{output}'"):
        rows = list(hint_at_channels(report_failures(chain.from_iterable(shown), undecodable)))
    with open_output(file) as stream:
        stream.buffer.write(EMBEDDING_FORMATS[chosen].to_bytes(rows, dims))
    if plot is not None and not plot_embeddings(rows, plot, label is not None):
        warn(f"'{plot}' is not drawn: expected at least {MIN_POINTS} rows with a vector")
    num_vectors = sum(bool(row.vectors) for row in rows)
    sizes = ", ".join(f"{name} {dim}" for name, dim in dims.items())
    say(
        f"{output}: {len(rows)} {'row' if len(rows) == 1 else 'rows'}, {num_vectors} with vectors ({sizes}). "
        "They are personal data."
    )
    raise typer.Exit(1 if num_empty or any(row.error is not None for row in rows) else 0)
