"""The commands that recognise emotions in files: predict, timeline; and serve."""

from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from os import cpu_count, environ
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emodistill.cli.options import (
    Adapt,
    Adaptation,
    Coverage,
    Emotions,
    Jobs,
    MinConfidence,
    Model,
    Paths,
    SpeakerVoice,
    Threads,
    TimelineAdapt,
    TimelineAdaptation,
    VoiceFile,
    app,
    names_in,
    number_of_jobs,
    speaker_voice,
)
from emodistill.console import report_failures, say, with_progress
from emodistill.errors import ConfigError, MissingExtraError
from emodistill.inference.formats import FORMAT_BY_SUFFIX, FORMATS
from emodistill.inference.prediction_rows import PREDICTION_FORMATS

TABLE = "table"  # for reading; the format where neither --format nor a suffix chooses one
if TYPE_CHECKING:  # typer needs an Enum, which mypy cannot build from a registry; its members are strings
    PredictionChoice = str
    TimelineChoice = str
else:
    PredictionChoice = StrEnum("PredictionChoice", {name: name for name in PREDICTION_FORMATS})
    TimelineChoice = StrEnum("TimelineChoice", {name: name for name in (TABLE, *FORMATS)})

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
        help="Write to this file. An existing .jsonl file is continued: rows that failed are tried again. "
        "Default: standard output.",
    ),
]
TeachersOption = Annotated[
    bool,
    typer.Option(
        "--teachers",
        help=f"Also write the probabilities of each teacher. Formats: {', '.join(_TEACHER_FORMATS)}.",
    ),
]
TimelineFormatOption = Annotated[
    TimelineChoice | None,
    typer.Option(
        "--format",
        "-f",
        help="How timelines are written. Default: by the suffix of --output, else a table.",
    ),
]
TimelineOutputOption = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="Write to this file. A path without a suffix is a folder, which gets one file for each "
        "recording. A folder is continued: recordings that have a file are skipped. "
        "Default: standard output.",
    ),
]
SegmentsOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Recognise the emotion of these segments; without it, speech is detected. An RTTM file, or a "
        "CSV file with the columns start_s and end_s in seconds, and optionally speaker and path.",
    ),
]
PlotOption = Annotated[
    Path | None,
    typer.Option(
        help="Also draw a picture, a .png, .svg or .pdf file. A path without a suffix is a folder, which "
        "gets one picture for each recording. Default: no picture."
    ),
]


def _choose_format(format: str | None, output: Path | None, by_suffix: Mapping[str, str]) -> str:
    """The format that was named, else the one of the output's suffix, else `table`."""
    if format is not None:
        return str(format)
    return TABLE if output is None else by_suffix.get(output.suffix.lower(), TABLE)


# Long: Typer makes an option of each parameter.
@app.command()
def predict(
    paths: Paths,
    model: Model = "bundled",
    format: PredictionFormatOption = None,
    output: PredictionOutputOption = None,
    emotions: Emotions = None,
    min_confidence: MinConfidence = None,
    coverage: Coverage = None,
    teachers: TeachersOption = False,
    voice: VoiceFile = None,
    adapt: Adapt = Adaptation.none,
    threads: Threads = None,
    jobs: Jobs = None,
) -> None:
    """Recognise one emotion for each audio file.

    People differ in how they usually sound. With --voice or --adapt, the recogniser compares each file with
    the usual of its speaker: what is left is how this file differs from the speaker's other utterances. No
    labels are needed. Do not use it where the speaker has one emotion only, for example where all recordings
    are angry: anger is then the usual, and the model does not find it. A voice file is personal data (see
    `emodistill enrol --help`). A model without voices refuses both options.

    Exit code 0: all inputs were read. 1: an input could not be read (its row holds the error), or a folder
    holds no audio; the others are done. 2: nothing was started, since an option or the model is wrong.

    Example: emodistill predict call.wav clips/ --format json
    """
    from emodistill.inference.adaptation import files_sha256, groups_of, predict_compared
    from emodistill.inference.batch import find_audio_files
    from emodistill.inference.prediction_rows import write_rows
    from emodistill.inference.recognizer import Recognizer
    from emodistill.inference.resume import finished_paths, open_output
    from emodistill.inference.voices import Voice, check_voice, ensure_voices

    format = _choose_format(format, output, {f".{name}": name for name in PREDICTION_FORMATS})
    if teachers and format not in _TEACHER_FORMATS:
        raise ConfigError(
            f"the format {format} cannot hold the teachers' probabilities: "
            f"add --format {' or '.join(_TEACHER_FORMATS)}"
        )
    adapted = adapt is not Adaptation.none
    if voice is not None and adapted:
        raise ConfigError(
            f"--voice and --adapt {adapt} exclude each other: a file is compared with a voice or with the "
            "other files; give one of them"
        )
    known = None if voice is None else Voice.load(voice)
    files, num_empty = find_audio_files(paths)
    jobs = number_of_jobs(jobs, len(files))
    recognizer = Recognizer(
        model, emotions=names_in(emotions), min_confidence=min_confidence, coverage=coverage,
        threads=threads or (1 if jobs > 1 else None),
    )  # fmt: skip
    if known is not None:
        check_voice(known, recognizer.card)
    elif adapted:
        ensure_voices(recognizer.card)
    finished: set[str] = set()
    resumed = output is not None and PREDICTION_FORMATS[format].can_resume
    if output is not None and resumed:
        settings = {
            **recognizer.settings,
            "teachers": teachers,
            "voice": None if known is None else known.sha256,
            "adapt": str(adapt) if adapted else None,
            "set of files": files_sha256(files) if adapted else None,
        }
        groups = [set(map(str, group)) for group in groups_of(files, adapt)] if adapted else []
        finished = finished_paths(output, set(map(str, files)), recognizer.emotions, settings, groups)
    unfinished = [file for file in files if str(file) not in finished]
    if adapted:
        predictions = predict_compared(recognizer, unfinished, adapt, jobs)
    else:
        predictions = with_progress(
            recognizer.predict_all(unfinished, jobs=jobs, voice=known), "predict", len(unfinished)
        )
    rows = report_failures(predictions)
    if not teachers:
        rows = (replace(row, teachers=None) for row in rows)
    with open_output(output, resumed) as stream:
        num_failed = write_rows(
            rows, format, stream, recognizer.emotions, has_voices=known is not None or adapted
        )
    if finished:
        say(f"{len(finished)} rows were there already, {len(unfinished)} added to {output}")
    raise typer.Exit(1 if num_failed or num_empty else 0)


# Long: Typer makes an option of each parameter.
@app.command()
def timeline(
    paths: Paths,
    model: Model = "bundled",
    format: TimelineFormatOption = None,
    output: TimelineOutputOption = None,
    segments: SegmentsOption = None,
    plot: PlotOption = None,
    emotions: Emotions = None,
    min_confidence: MinConfidence = None,
    coverage: Coverage = None,
    voice: SpeakerVoice = None,
    adapt: TimelineAdapt = TimelineAdaptation.none,
    jobs: Jobs = None,
) -> None:
    """Recognise emotions over time: segments with start, end, emotion and confidence.

    A segment below the confidence that you ask for has no emotion.

    People differ in how they usually sound. With --voice or --adapt, the recogniser compares the speech with
    the usual of its speaker: what is left is how a moment differs from the rest. No labels are needed. Do not
    use it where the speaker has one emotion only, for example where a whole recording is angry: anger then is
    the usual, and is not found. A model without voices refuses both options.

    Exit code 0: all inputs were read. 1: an input could not be read, or a folder holds no audio; the others
    are done. 2: nothing was started, since an option or the model is wrong.

    Example: emodistill timeline call.wav --format srt -o call.srt --plot call.png
    """
    from emodistill.inference import batch
    from emodistill.inference.adapted_windows import check_adaptation
    from emodistill.inference.given_segments import read_segments
    from emodistill.inference.recognizer import Recognizer

    known = speaker_voice(voice, adapt)
    files, num_empty = batch.find_audio_files(paths)
    outputs = batch.plan(files, paths, _choose_format(format, output, FORMAT_BY_SUFFIX), output, plot)
    given = read_segments(segments, len(files)) if segments is not None else None
    recognizer = Recognizer(
        model, emotions=names_in(emotions), min_confidence=min_confidence, coverage=coverage, threads=1
    )
    check_adaptation(recognizer, known, adapt.value)
    outputs.ensure_same_settings(recognizer, given, known, adapt.value)
    unfinished = outputs.unfinished(files)
    jobs = number_of_jobs(jobs, len(unfinished))
    written = batch.run(recognizer, unfinished, outputs, given, jobs, known, adapt.value)
    rows, num_failed = [], 0
    for row in report_failures(with_progress(written, "timeline", len(unfinished))):
        num_failed += row.error is not None
        if outputs.folder is None:  # in a folder it is written by now, and many rows would fill the memory
            rows.append(row)
    batch.finish(rows, outputs, recognizer.emotions)
    if len(unfinished) < len(files):
        num_skipped = len(files) - len(unfinished)
        say(f"{num_skipped} files were there already, {len(unfinished) - num_failed} added to {output}")
    raise typer.Exit(1 if num_failed or num_empty else 0)


# Long: Typer makes an option of each parameter, and each option has its help text beside it.
@app.command()
def serve(
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            envvar="EMODISTILL_MODEL",
            help="A model to serve: `bundled`, the folder of an exported model, or a hub id "
            "(organisation/name[@revision]). Repeatable: the first is the default. Default: bundled.",
        ),
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen at. 127.0.0.1 accepts this machine alone; 0.0.0.0 accepts every machine."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen at.")] = 8000,
    workers: Annotated[
        int, typer.Option(min=1, help="Number of processes; each loads its own copy of the model.")
    ] = 1,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Recordings processed at the same time, over all workers. Default: one for each CPU core.",
        ),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="EMODISTILL_TOKEN",
            help="Refuse requests without the header `Authorization: Bearer TOKEN`. Default: no token.",
        ),
    ] = None,
    cors: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORIGIN",
            help="A web origin whose pages may call this server, e.g. https://app.example. Repeatable. "
            "Default: none.",
        ),
    ] = None,
    rate: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Most requests of one client per minute, over all workers; the status for more is 429. "
            "Default: no limit.",
        ),
    ] = None,
    proxy: Annotated[
        list[str] | None,
        typer.Option(
            envvar="EMODISTILL_PROXY",
            metavar="ADDRESS",
            help="Trust the header X-Forwarded-For from this address or network. Repeatable. "
            "Default: no address.",
        ),
    ] = None,
    max_mb: Annotated[
        int, typer.Option(min=1, help="Most megabytes of one request; the status for more is 413.")
    ] = 100,
    max_seconds: Annotated[
        float,
        typer.Option(min=1, help="Longest recording for a timeline, in seconds; the status for more is 413."),
    ] = 3600,
    max_requests: Annotated[
        int,
        typer.Option(
            min=1,
            help="Most requests at the same time, over all workers; the status for more is 503.",
        ),
    ] = 64,
    max_streams: Annotated[
        int,
        typer.Option(
            min=1,
            help="Most streams at the same time, over all workers; the status for more is 503.",
        ),
    ] = 64,
    grace: Annotated[
        float,
        typer.Option(min=0, help="Seconds that running requests get to finish in when the server stops."),
    ] = 30,
    page: Annotated[bool, typer.Option(help="Serve the web page at /.")] = True,
) -> None:
    """Serve HTTP, WebSocket and a web page: http://127.0.0.1:8000/.

    Only this machine can reach the server unless you set --host. Then also set --token, and put a proxy with
    TLS before the server (docs/serving.md). The log goes to standard error, one line of JSON for each
    request. It contains no audio.

    Example: emodistill serve --port 8080

    Then: curl -F files=@call.wav http://127.0.0.1:8080/v1/predict
    """
    try:
        from emodistill.serving.server import serve as run_server
        from emodistill.serving.settings import Settings
    except ImportError as error:
        raise MissingExtraError(error.name or "fastapi", "serve", "a server") from error

    settings = Settings(
        models=tuple(model or ("bundled",)),
        workers=workers,
        threads=max(1, (threads or cpu_count() or 1) // workers),
        # Typer ignores a variable that is set but empty. An empty token is a mistake, so pass it on.
        token=environ.get("EMODISTILL_TOKEN") if token is None else token,
        cors_origins=tuple(cors or ()),
        rate_per_minute=rate,
        max_bytes=1_000_000 * max_mb,
        max_seconds=max_seconds,
        max_requests=max_requests,
        max_streams=max_streams,
        grace_s=grace,
        page=page,
    )
    run_server(settings, host, port, proxy or ())
