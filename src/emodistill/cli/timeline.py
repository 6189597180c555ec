"""emodistill timeline: emotions over time."""

from contextlib import nullcontext
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emodistill.cli.options import (
    TABLE,
    ChannelNames,
    ChannelsRead,
    Emotions,
    Force,
    Hop,
    Jobs,
    MinConfidence,
    MinDuration,
    Model,
    NoCoverage,
    Paths,
    Provider,
    Smooth,
    SpeakerVoices,
    TimelineAdapt,
    TimelineAdaptation,
    Verbose,
    Window,
    app,
    channels_in,
    choose_format,
    file_or_none,
    names_in,
    number_of_jobs,
    refuse_coverage,
    speaker_voices,
    stoppable,
)
from emodistill.console import hint_at_channels, report_failures, say
from emodistill.errors import ConfigError
from emodistill.files import ensure_not_read, only_writer
from emodistill.inference.formats import FORMAT_BY_SUFFIX, FORMATS
from emodistill.inference.segmentation_options import HOP_S, MIN_DURATION_S, SMOOTH_S, WINDOW_S

if TYPE_CHECKING:  # typer needs an Enum, which mypy cannot build from a registry; its members are strings
    TimelineChoice = str
else:
    TimelineChoice = StrEnum("TimelineChoice", {name: name for name in (TABLE, *FORMATS)})

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
        "recording. A folder is continued: recordings that have a file and did not change are skipped. "
        "Default: standard output.",
    ),
]
SegmentsOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Recognise the emotion of these segments; without it, speech is detected. RTTM, JSON of "
        "whisperX or pyannote, or CSV with the columns start and end (seconds, m:ss or hh:mm:ss), and "
        "optionally speaker, path, channel and text. `-` reads them from standard input.",
    ),
]
PlotOption = Annotated[
    Path | None,
    typer.Option(
        help="Also draw a picture, a .png, .svg or .pdf file. A path without a suffix is a folder, which "
        "gets one picture for each recording. Default: no picture."
    ),
]
TrendOption = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        help="Write the trend in place of the segments: emotions and dimensions for each step of this "
        "many seconds, e.g. 60. As a table, csv or json. A page (html) and a picture use this step too.",
    ),
]
NoAudioOption = Annotated[
    bool,
    typer.Option("--no-audio", help="Write a page (html) without the sound of the recording."),
]


# Long: Typer makes an option of each parameter.
@app.command()
def timeline(
    paths: Paths,
    model: Model = "bundled",
    format: TimelineFormatOption = None,
    output: TimelineOutputOption = None,
    segments: SegmentsOption = None,
    plot: PlotOption = None,
    trend: TrendOption = None,
    no_audio: NoAudioOption = False,
    emotions: Emotions = None,
    min_confidence: MinConfidence = None,
    coverage: NoCoverage = None,
    voice: SpeakerVoices = None,
    adapt: TimelineAdapt = TimelineAdaptation.none,
    channels: ChannelsRead = "mix",
    names: ChannelNames = None,
    smooth: Smooth = SMOOTH_S,
    min_duration: MinDuration = MIN_DURATION_S,
    hop: Hop = HOP_S,
    window: Window = WINDOW_S,
    provider: Provider = "cpu",
    jobs: Jobs = None,
    force: Force = False,
    verbose: Verbose = False,
) -> None:
    """Recognise emotions over time: segments with start, end, emotion and confidence.

    A segment below the confidence that you ask for has no emotion.

    People differ in how they usually sound. With --voice or --adapt, the recogniser compares the speech with
    the usual of its speaker: what is left is how a moment differs from the rest. No labels are needed. Do not
    use it where the speaker has one emotion only, for example where a whole recording is angry: anger then is
    the usual, and is not found. A model without voices refuses both options.

    A call often has one speaker in each channel. --channels split recognises each of them, and the answer
    names the speaker. With several speakers in one channel, a diarizer finds who speaks when: see --segments.
    In both cases each speaker may have a voice, e.g. --voice agent=anna.json --voice customer=ben.json.

    Exit code 0: all inputs were read. 1: an input could not be read, or a folder holds no audio; the others
    are done. 2: nothing was started, since an option or the model is wrong. 130: you stopped it with Ctrl-C.

    Examples:

    emodistill timeline call.wav -o call.html

    emodistill timeline call.wav --trend 60

    emodistill timeline call.wav --format srt -o call.srt --plot call.png
    """
    from dataclasses import replace

    from emodistill.inference import batch
    from emodistill.inference.audio_progress import with_audio_progress
    from emodistill.inference.formats import WriterContext
    from emodistill.inference.given_segments import read_segments
    from emodistill.inference.input_files import find_audio_files
    from emodistill.inference.inputs import inputs_of
    from emodistill.inference.recognizer import Recognizer
    from emodistill.inference.timelines import TimelineOptions, check_options
    from emodistill.inference.trend import check_trend

    refuse_coverage(coverage)
    voice_files, voices = speaker_voices(voice or (), adapt)
    options = TimelineOptions(
        voice=voices,
        adapt=adapt.value,
        channels=channels_in(channels),
        names=names_in(names),
        hop_s=hop,
        window_s=window,
        smooth_s=smooth,
        min_duration_s=min_duration,
    )
    found = find_audio_files(paths)
    files = found.files
    inputs_of(files)  # It refuses a terminal as standard input.
    if Path("-") in files and segments == Path("-"):
        raise ConfigError("- and --segments - both read standard input: give one of them")
    output = file_or_none(output)
    outputs = batch.plan(files, paths, choose_format(format, output, FORMAT_BY_SUFFIX), output, plot)
    ensure_not_read(outputs.paths, [*files, segments, *voice_files])
    if trend is not None:
        check_trend(trend, outputs.format)
    if no_audio and outputs.format != "html":
        raise ConfigError(f"--no-audio is for the format html, but the format is {outputs.format}")
    given = read_segments(segments, len(files)) if segments is not None else None
    recognizer = Recognizer(
        model, emotions=names_in(emotions), min_confidence=min_confidence, threads=1, provider=provider
    )
    check_options(recognizer, given is not None, **options)
    outputs = replace(outputs, context=WriterContext(recognizer.card, not no_audio, trend))
    if outputs.folder is not None:
        outputs.folder.mkdir(parents=True, exist_ok=True)
    with nullcontext() if outputs.folder is None else only_writer(outputs.folder, "writes to"):
        unfinished = outputs.begin(files, outputs.settings(recognizer, given, **options), force)
        jobs = number_of_jobs(jobs, len(unfinished))
        written = batch.run(recognizer, unfinished, outputs, given, jobs, **options)
        rows, num_failed = [], 0
        passes = 2 if options["channels"] == "split" else 1
        shown = with_audio_progress(written, "timeline", inputs_of(unfinished), passes)
        reported = report_failures(shown, found.undecodable)
        with stoppable(lambda: outputs.stopped_message(files)):
            for row in hint_at_channels(reported):
                num_failed += row.error is not None
                if (
                    outputs.folder is None
                ):  # in a folder it is written by now; many rows would fill the memory
                    rows.append(row)
            batch.finish(rows, outputs, recognizer.emotions)
    if len(unfinished) < len(files):
        num_skipped = len(files) - len(unfinished)
        say(f"{num_skipped} files were there already, {len(unfinished) - num_failed} added to {output}")
    raise typer.Exit(1 if num_failed or found.num_empty else 0)
