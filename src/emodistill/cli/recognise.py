"""Verbs that listen: predict, timeline, listen, serve."""

import sys
from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from os import cpu_count, environ
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from emodistill.cli.options import (
    Coverage,
    Emotions,
    Jobs,
    MinConfidence,
    Model,
    Paths,
    Threads,
    app,
    names_in,
)
from emodistill.console import print_failures, results, say, with_progress
from emodistill.errors import ConfigError, MissingExtraError

F = TypeVar("F", bound=StrEnum)


class Format(StrEnum):
    """How predictions are written."""

    table = "table"
    json = "json"
    jsonl = "jsonl"
    csv = "csv"


class TimelineFormat(StrEnum):
    """How timelines are written: `table`, or one of `emodistill.writers`."""

    table = "table"
    json = "json"
    csv = "csv"
    srt = "srt"
    rttm = "rttm"
    audacity = "audacity"
    textgrid = "textgrid"


def _by_suffix(output: Path | None, formats: Mapping[str, F], otherwise: F) -> F:
    """The format that an output's suffix stands for."""
    return otherwise if output is None else formats.get(output.suffix.lower(), otherwise)


@app.command()
def predict(
    paths: Paths,
    model: Model = "bundled",
    format: Annotated[
        Format | None,
        typer.Option(
            "--format", "-f", help="table, json, jsonl or csv. Default: by the output's suffix, else a table."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write here; a jsonl is resumed, its failed rows tried again."),
    ] = None,
    emotions: Emotions = None,
    min_confidence: MinConfidence = None,
    coverage: Coverage = None,
    teachers: Annotated[
        bool, typer.Option("--teachers", help="Also what each teacher would say (json and jsonl).")
    ] = False,
    threads: Threads = None,
    jobs: Jobs = None,
) -> None:
    """One emotion per audio file.

    Exit code 0: all done; 1: inputs could not be read (their rows say why) or a folder holds no audio,
    the rest is done; 2: nothing was begun, since what was asked for cannot be done.

    Example: emodistill predict call.wav clips/ --format json
    """
    from emodistill.inference.prediction_rows import (
        audio_files,
        open_output,
        report_failures,
        rows_there,
        write_rows,
    )
    from emodistill.inference.recognizer import Recognizer

    format = format or _by_suffix(output, {f".{item}": item for item in Format}, Format.table)
    if teachers and format not in (Format.json, Format.jsonl):
        raise ConfigError(
            f"--teachers is written to json and jsonl alone, not to {format}: add --format json"
        )
    files, empty = audio_files(paths)
    jobs = min(jobs or cpu_count() or 1, max(1, len(files)))
    recognizer = Recognizer(
        model,
        emotions=names_in(emotions),
        min_confidence=min_confidence,
        coverage=coverage,
        threads=threads or (1 if jobs > 1 else None),
    )
    resumed = format is Format.jsonl and output is not None
    made_with = {**recognizer.settings, "teachers": teachers}
    done = (
        rows_there(output, set(map(str, files)), recognizer.emotions, made_with)
        if output is not None and resumed
        else set()
    )
    todo = [file for file in files if str(file) not in done]
    rows = report_failures(with_progress(recognizer.predict_all(todo, jobs=jobs), "predict", len(todo)))
    shown = rows if teachers else (replace(row, teachers=None) for row in rows)
    with open_output(output, resumed) as stream:
        failed = write_rows(shown, format, stream, recognizer.emotions)
    if done:
        say(f"{len(done)} rows were there already, {len(todo)} added to {output}")
    raise typer.Exit(1 if failed or empty else 0)


@app.command()
def timeline(
    paths: Paths,
    model: Model = "bundled",
    format: Annotated[
        TimelineFormat | None,
        typer.Option(
            "--format",
            "-f",
            help="table, json, csv, srt, rttm, audacity or textgrid. Default: by the output's suffix, else a table.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="A file, or a folder with one for each recording; that is resumed."
        ),
    ] = None,
    segments: Annotated[
        Path | None,
        typer.Option(help="Judge these instead of the speech found: RTTM, or a CSV start_s,end_s[,speaker]."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Also draw: a .png or .svg file, or a folder for one each.")
    ] = None,
    emotions: Emotions = None,
    min_confidence: MinConfidence = None,
    coverage: Coverage = None,
    jobs: Jobs = None,
) -> None:
    """Emotion over time: segments with start, end, emotion and confidence.

    Exit code 0: all done; 1: inputs could not be read or a folder holds no audio, the rest is done;
    2: nothing was begun, since what was asked for cannot be done. A segment below the asked-for confidence has no emotion.

    Example: emodistill timeline call.wav --format srt -o call.srt --plot call.png
    """
    from emodistill.inference import batch
    from emodistill.inference.formats import WRITERS
    from emodistill.inference.prediction_rows import audio_files
    from emodistill.inference.recognizer import Recognizer
    from emodistill.inference.timelines import read_segments

    files, empty = audio_files(paths)
    suffixes = {kind.suffix.lower(): TimelineFormat(name) for name, kind in WRITERS.items()}
    del suffixes[".txt"]  # of labels for Audacity, and of tables
    format = format or _by_suffix(output, suffixes, TimelineFormat.table)
    outputs = batch.plan(files, paths, format, output, plot)
    given = read_segments(segments, len(files)) if segments is not None else None
    recognizer = Recognizer(
        model, emotions=names_in(emotions), min_confidence=min_confidence, coverage=coverage, threads=1
    )
    outputs.ensure_same_settings(recognizer, given)
    todo = outputs.todo(files)
    jobs = min(jobs or cpu_count() or 1, max(1, len(todo)))
    rows, failed, total = [], [], 0
    try:
        for row in with_progress(batch.run(recognizer, todo, outputs, given, jobs), "timeline", len(todo)):
            total += 1
            if row.error is not None:
                failed.append(row.error)
            if outputs.folder is None:  # else it is written, and many of them are not held
                rows.append(row)
    finally:  # after Ctrl-C too
        print_failures(failed, total)
    batch.finish(rows, outputs, recognizer.emotions)
    if len(todo) < len(files):
        say(f"{len(files) - len(todo)} were there already, {len(todo) - len(failed)} added to {output}")
    raise typer.Exit(1 if failed or empty else 0)


@app.command()
def listen(
    source: Annotated[
        str | None, typer.Argument(help="- for a pipe of raw 16-bit PCM or WAV. Default: the microphone.")
    ] = None,
    model: Model = "bundled",
    rate: Annotated[int, typer.Option(min=1, help="Of a raw pipe, in Hz.")] = 16_000,
    channels: Annotated[int, typer.Option(min=1, help="Of a raw pipe.")] = 1,
    device: Annotated[
        str | None, typer.Option(help="Which microphone: part of its name, or its number.")
    ] = None,
    emotions: Emotions = None,
    min_confidence: MinConfidence = None,
    coverage: Coverage = None,
) -> None:
    """Emotion while it is spoken: a display in a terminal, otherwise one line of JSON for each event.

    Ctrl-C, or the end of the pipe, ends it with a summary.

    Example: ffmpeg -i call.mp4 -f s16le -ar 16000 -ac 1 - | emodistill listen - --rate 16000
    """
    from emodistill.inference.listen import listen as run_listen
    from emodistill.inference.listen import microphone, pipe
    from emodistill.inference.recognizer import Recognizer

    if source not in (None, "-"):
        raise ConfigError(f"bad source '{source}', expected - for a pipe, or nothing for the microphone")
    if source and sys.stdin.isatty():
        raise ConfigError("nothing is piped in: put a command and | before it, or leave the - away")
    recognizer = Recognizer(
        model, emotions=names_in(emotions), min_confidence=min_confidence, coverage=coverage, threads=1
    )
    opened = pipe(sys.stdin.buffer, rate, channels) if source else microphone(device)
    with opened as sound:
        summary = run_listen(recognizer, sound, sys.stdout, results())
    say(summary)


@app.command()
def serve(
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            envvar="EMODISTILL_MODEL",
            help="bundled, the folder of an exported model, or a hub id (organisation/name[@revision]). Repeatable: the first is the default.",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Where to listen. Only this machine reaches 127.0.0.1; all others: 0.0.0.0.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where on that address.")] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="Processes, each with its own copy of the model.")] = 1,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Recordings judged at a time, in all. Default: one for each CPU core."),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(envvar="EMODISTILL_TOKEN", help="Want Authorization: Bearer TOKEN of everyone."),
    ] = None,
    cors: Annotated[
        list[str] | None, typer.Option(help="An origin whose pages may call this server. Repeatable.")
    ] = None,
    rate: Annotated[
        int | None,
        typer.Option(min=1, help="Requests of one client in a minute, over all workers; more: 429."),
    ] = None,
    proxy: Annotated[
        list[str] | None,
        typer.Option(
            envvar="EMODISTILL_PROXY",
            help="Address or network of a proxy whose X-Forwarded-For names the client. Repeatable. Default: nobody's.",
        ),
    ] = None,
    max_mb: Annotated[int, typer.Option(min=1, help="Of one request; more: 413.")] = 100,
    max_seconds: Annotated[float, typer.Option(min=1, help="Of one recording over time; more: 413.")] = 3600,
    max_requests: Annotated[
        int, typer.Option(min=1, help="At a time, shared out among workers; more: 503.")
    ] = 64,
    max_streams: Annotated[
        int, typer.Option(min=1, help="At a time, shared out among workers; more: 503.")
    ] = 64,
    grace: Annotated[float, typer.Option(min=0, help="Seconds to finish in when told to stop.")] = 30,
    page: Annotated[bool, typer.Option(help="The web page at /.")] = True,
) -> None:
    """Emotions over HTTP and WebSocket, and a web page: http://127.0.0.1:8000/.

    Only this machine can reach it unless --host says otherwise; then give --token, and put TLS before it
    (docs/serving.md). The log goes to standard error, one line of JSON for each request, without audio.

    Example: emodistill serve --port 8080

    Then: curl -F files=@call.wav http://127.0.0.1:8080/v1/predict
    """
    try:
        from emodistill.serving.server import serve as run
        from emodistill.serving.settings import Settings
    except ImportError as error:
        raise MissingExtraError(error.name or "fastapi", "serve", "a server") from error

    settings = Settings(
        models=tuple(model or ("bundled",)), workers=workers, threads=max(1, (threads or cpu_count() or 1) // workers),
        token=environ.get("EMODISTILL_TOKEN") if token is None else token,  # set, and empty, is a mistake to tell
        cors_origins=tuple(cors or ()), rate_per_minute=rate, max_bytes=1_000_000 * max_mb, max_seconds=max_seconds,
        max_requests=max_requests, max_streams=max_streams, grace_s=grace, page=page,
    )  # fmt: skip
    run(settings, host, port, proxy or ())
