"""emodistill predict: one emotion for each file."""

import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from enum import StrEnum
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emodistill.cli.options import (
    TABLE,
    Adapt,
    Adaptation,
    ChannelsRead,
    Emotions,
    Force,
    Jobs,
    MinConfidence,
    Model,
    Provider,
    Threads,
    Verbose,
    VoiceFile,
    app,
    channels_in,
    choose_format,
    file_or_none,
    names_in,
    number_of_jobs,
    stoppable,
)
from emodistill.console import hint_at_channels, report_failures, say
from emodistill.errors import ConfigError
from emodistill.files import ensure_not_read, ensure_writable, is_stream, only_writer, open_output
from emodistill.inference.prediction_rows import PREDICTION_FORMATS

if TYPE_CHECKING:
    from emodistill.inference.inputs import Input
    from emodistill.inference.prediction import Prediction

if TYPE_CHECKING:  # typer needs an Enum, which mypy cannot build from a registry; its members are strings
    PredictionChoice = str
else:
    PredictionChoice = StrEnum("PredictionChoice", {name: name for name in PREDICTION_FORMATS})

_COVERAGE_FORMATS = [format.name for format in PREDICTION_FORMATS.values() if not format.can_resume]
LONG_S = 60.0  # one emotion says little about a longer input
MAX_NOTES = 3  # about long inputs

_TEACHER_FORMATS = [format.name for format in PREDICTION_FORMATS.values() if format.holds_teachers]

PredictionFormatOption = Annotated[
    PredictionChoice | None,
    typer.Option(
        "--format",
        "-f",
        help="How the rows are written. Default: by the suffix of --output, else a table.",
    ),
]
PredictionOutputOption = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="Write to this file. An existing .jsonl file is continued: files that failed or "
        "have changed are done again. Default: standard output.",
    ),
]
CoverageOption = Annotated[
    float | None,
    typer.Option(
        min=0, max=1,
        help="Give an emotion for this share of the files, the most confident ones. Formats: "
        f"{', '.join(_COVERAGE_FORMATS)}.",
    ),
]  # fmt: skip
TeachersOption = Annotated[
    bool,
    typer.Option(
        "--teachers",
        help=f"Also write the probabilities of each teacher. Formats: {', '.join(_TEACHER_FORMATS)}.",
    ),
]


PathsOption = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="PATH",
        help="Audio files; folders: all audio and video files in and below them, sorted; `-` reads one audio "
        "file from standard input.",
        show_default=False,
    ),
]
ListOption = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="FILE",
        help="Read the inputs from a list, or from standard input with `-`: one path a line, or CSV or JSON "
        "lines with `path`, and if you like `id`, `start` and `end` (seconds or m:ss), `speaker`, `channel` "
        "(from 0). Paths are relative to the folder of the list, and may name any file: check the list of a "
        "stranger. The rows get `id` and `speaker` back.",
    ),
]


# Long: Typer makes an option of each parameter.
@app.command()
def predict(
    paths: PathsOption = None,
    listed: ListOption = None,
    model: Model = "bundled",
    format: PredictionFormatOption = None,
    output: PredictionOutputOption = None,
    emotions: Emotions = None,
    min_confidence: MinConfidence = None,
    coverage: CoverageOption = None,
    teachers: TeachersOption = False,
    voice: VoiceFile = None,
    adapt: Adapt = Adaptation.none,
    channels: ChannelsRead = "mix",
    provider: Provider = "cpu",
    threads: Threads = None,
    jobs: Jobs = None,
    force: Force = False,
    verbose: Verbose = False,
) -> None:
    """Recognise one emotion for each audio file, or for each of its channels.

    People differ in how they usually sound. With --voice or --adapt, the recogniser compares each file with
    the usual of its speaker: what is left is how this file differs from the speaker's other utterances. No
    labels are needed. Do not use it where the speaker has one emotion only, for example where all recordings
    are angry: anger is then the usual, and the model does not find it. A voice file is personal data (see
    `emodistill enrol --help`). A model without voices refuses both options.

    Exit code 0: all inputs were read. 1: an input could not be read (its row holds the error), or a folder
    holds no audio; the others are done. 2: nothing was started, since an option or the model is wrong.
    130: you stopped it with Ctrl-C.

    Example: emodistill predict call.wav clips/ --format json
    """
    from emodistill.inference.adaptation import groups_of, inputs_sha256, predict_compared
    from emodistill.inference.audio_progress import with_audio_progress
    from emodistill.inference.confidence import NO_COVERAGE, check_confidence, keep_most_confident
    from emodistill.inference.inputs import num_rows, predict_inputs
    from emodistill.inference.prediction_rows import Columns, write_rows
    from emodistill.inference.recognizer import Recognizer
    from emodistill.inference.resume import finished_keys, stopped_message
    from emodistill.inference.voices import Voice, check_voice, ensure_voices

    output = file_or_none(output)
    format = choose_format(format, output, {f".{name}": name for name in PREDICTION_FORMATS if name != TABLE})
    if teachers and format not in _TEACHER_FORMATS:
        raise ConfigError(
            f"the format {format} cannot hold the teachers' probabilities: "
            f"add --format {' or '.join(_TEACHER_FORMATS)}"
        )
    read_channels = channels_in(channels)
    if coverage is not None and format not in _COVERAGE_FORMATS:
        raise ConfigError(NO_COVERAGE)
    ensure_writable(output, PREDICTION_FORMATS[format].binary)
    if (check := PREDICTION_FORMATS[format].check) is not None:
        check()
    adapted = adapt is not Adaptation.none
    if voice is not None and adapted:
        raise ConfigError(
            f"--voice and --adapt {adapt} exclude each other: a file is compared with a voice or with the "
            "other files; give one of them"
        )
    known = None if voice is None else Voice.load(voice)
    inputs, undecodable, num_empty = read_inputs(paths or [], listed)
    ensure_not_read([output], [*(item.location for item in inputs), listed, voice])
    jobs = number_of_jobs(jobs, len(inputs))
    recognizer = Recognizer(
        model, emotions=names_in(emotions), min_confidence=min_confidence,
        threads=threads or (1 if jobs > 1 else None), provider=provider,
    )  # fmt: skip
    if coverage is not None:
        check_confidence(recognizer.card, "coverage")
    if known is not None:
        check_voice(known, recognizer.card)
    elif adapted:
        ensure_voices(recognizer.card)
    requested = {item.key: str(item.location) for item in inputs}
    finished: set[str] = set()
    resumed = output is not None and PREDICTION_FORMATS[format].can_resume and not is_stream(output)
    # Two processes would both add the rows that are missing.
    with only_writer(output, "writes") if output is not None and resumed else nullcontext():
        if output is not None and resumed:
            settings = {
                **recognizer.settings,
                "teachers": teachers,
                "voice": None if known is None else known.sha256,
                "adapt": str(adapt) if adapted else None,
                "set of files": inputs_sha256(inputs) if adapted else None,
                "channels": None if read_channels == "mix" else read_channels,
            }
            groups = [{item.key for item in group} for group in groups_of(inputs, adapt)] if adapted else []
            input_of = {item.key: item for item in inputs}
            finished = finished_keys(
                output, requested, recognizer.emotions, settings, groups, force,
                num_rows=lambda key: num_rows(input_of[key], read_channels),
            )  # fmt: skip
        unfinished = [item for item in inputs if item.key not in finished]
        if adapted:
            predictions = predict_compared(recognizer, unfinished, adapt, jobs, read_channels)
        else:
            predictions = with_audio_progress(
                predict_inputs(recognizer, unfinished, read_channels, known, jobs), "predict", unfinished, 3
            )
        noted = _note_long(unfinished, predictions) if recognizer.emotions else predictions
        rows = hint_at_channels(report_failures(chain.from_iterable(noted), undecodable))
        if not teachers:
            rows = (replace(row, teachers=None) for row in rows)
        stopped = stoppable(lambda: stopped_message(output, resumed, requested))
        with stopped, open_output(output, append=resumed) as stream:
            if coverage is not None:
                rows = iter(keep_most_confident(list(rows), coverage))
            columns = Columns(recognizer.emotions, known is not None or adapted, listed is not None)
            num_failed = write_rows(rows, format, stream, columns)
    if finished:
        say(f"{len(finished)} rows were there already, {len(unfinished)} added to {output}")
    raise typer.Exit(1 if num_failed or num_empty else 0)


def read_inputs(
    paths: Sequence[Path], listed: Path | None, label: str | None = None
) -> tuple[list["Input"], frozenset[str], int]:
    """Return the inputs, the paths that this install cannot decode, and the number of empty folders.

    `label` names a column of the list.

    Raises `ConfigError` if there are neither paths nor a list, or both read standard input.
    """
    from emodistill.inference.input_files import find_audio_files
    from emodistill.inference.input_lists import read_list
    from emodistill.inference.inputs import inputs_of
    from emodistill.inference.sources import STANDARD_INPUT

    if not paths and listed is None:
        raise ConfigError(
            "no input: give audio files or folders, - for standard input, or a list with --from FILE"
        )
    if Path(STANDARD_INPUT) in paths and listed == Path(STANDARD_INPUT):
        raise ConfigError("- and --from - both read standard input: give one of them")
    found = find_audio_files(paths)
    inputs = inputs_of(found.files)
    if listed is not None:
        inputs += read_list(listed, label)
    return inputs, found.undecodable, found.num_empty


def _note_long(
    inputs: Iterable["Input"], predictions: Iterable[list["Prediction"]]
) -> Iterator[list["Prediction"]]:
    """The same predictions, for each input. At the end, also after Ctrl-C, a note names the long inputs."""
    long: list[Input] = []
    try:
        for item, rows in zip(inputs, predictions, strict=True):
            if rows[0].error is None and (item.duration_s() or 0.0) > LONG_S:
                long.append(item)
            yield rows
    finally:
        for item in long[:MAX_NOTES]:
            # Standard input has been read to its end, so no command is given for it.
            file = "" if item.path == "-" else f" {shlex.quote(str(item.location))}"
            advice = f"emodistill timeline{file}"
            say(f"{item.path}: is longer than {LONG_S:g} s; for its emotions over time: {advice}")
        if len(long) > MAX_NOTES:
            say(f"{len(long) - MAX_NOTES} more inputs are longer than {LONG_S:g} s")
