"""emodistill listen: recognise emotions while somebody speaks."""

import sys
from typing import Annotated

import typer

from emodistill.cli.options import (
    Emotions,
    Hop,
    MinConfidence,
    MinDuration,
    Model,
    NoCoverage,
    Provider,
    Smooth,
    SpeakerVoice,
    StreamAdapt,
    StreamAdaptation,
    Window,
    app,
    names_in,
    refuse_coverage,
    speaker_voice,
)
from emodistill.console import results, say
from emodistill.errors import ConfigError
from emodistill.inference.segmentation_options import (
    HOP_S,
    MIN_DURATION_S,
    SMOOTH_S,
    WINDOW_S,
    SegmentationOptions,
)


# Long: Typer makes an option of each parameter.
@app.command()
def listen(
    source: Annotated[
        str | None,
        typer.Argument(
            help="`-` reads raw 16-bit PCM or WAV from standard input. Without it, the microphone is used."
        ),
    ] = None,
    model: Model = "bundled",
    rate: Annotated[
        int, typer.Option(min=1, help="Sampling rate of raw PCM on standard input, in Hz.")
    ] = 16_000,
    channels: Annotated[
        int, typer.Option(min=1, help="Number of channels of raw PCM on standard input.")
    ] = 1,
    device: Annotated[
        str | None,
        typer.Option(
            help="The microphone: a part of its name, or its number. Default: the one that the system uses."
        ),
    ] = None,
    emotions: Emotions = None,
    min_confidence: MinConfidence = None,
    coverage: NoCoverage = None,
    voice: SpeakerVoice = None,
    adapt: StreamAdapt = StreamAdaptation.none,
    smooth: Smooth = SMOOTH_S,
    min_duration: MinDuration = MIN_DURATION_S,
    hop: Hop = HOP_S,
    window: Window = WINDOW_S,
    provider: Provider = "cpu",
) -> None:
    """Recognise emotions while somebody speaks.

    A terminal shows a live display. Otherwise each event is one line of JSON on standard output. Ctrl-C, or
    the end of the input, prints a summary.

    With --voice or --adapt, the recogniser compares the speech with the usual of its speaker. Do not use it
    where the speaker has one emotion only: this emotion then is the usual, and is not found.

    Example: ffmpeg -i call.mp4 -f s16le -ar 16000 -ac 1 - | emodistill listen - --rate 16000
    """
    from emodistill.inference.adapted_windows import check_adaptation
    from emodistill.inference.listen import listen as run_listen
    from emodistill.inference.listen import microphone, pipe
    from emodistill.inference.recognizer import Recognizer

    if source not in (None, "-"):
        raise ConfigError(
            f"bad source '{source}', expected - for a pipe, or nothing for the microphone; for a file: "
            f"emodistill timeline {source}"
        )
    if source and sys.stdin.isatty():
        raise ConfigError(
            "- reads standard input, which is a terminal: pipe audio into it, or leave the - out to use the "
            "microphone"
        )
    refuse_coverage(coverage)
    options = SegmentationOptions(hop, window, smooth, min_duration)
    known = speaker_voice(voice, adapt)
    recognizer = Recognizer(
        model, emotions=names_in(emotions), min_confidence=min_confidence, threads=1, provider=provider
    )
    check_adaptation(recognizer, known, adapt.value)
    opened = pipe(sys.stdin.buffer, rate, channels) if source else microphone(device)
    with opened as audio:
        summary = run_listen(recognizer, audio, sys.stdout, results(), known, adapt.value, options)
    say(summary)
