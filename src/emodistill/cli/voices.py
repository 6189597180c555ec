"""emodistill enrol: learn a voice from recordings of one speaker."""

from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

from emodistill.cli.options import (
    Jobs,
    Model,
    Paths,
    Provider,
    Threads,
    app,
    channels_in,
    number_of_jobs,
    stoppable,
)
from emodistill.console import say, skipped_message, warn, with_progress
from emodistill.errors import ConfigError
from emodistill.files import ensure_not_read, ensure_writable


# Long: Typer makes an option of each parameter, and the help says what a voice is.
@app.command("enrol")
def enrol(
    paths: Paths,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FILE", help="The voice file to write, e.g. anna.voice.json."),
    ],
    model: Model = "bundled",
    channels: Annotated[
        str,
        typer.Option(
            metavar="mix|N",
            help="mix: the mean of all channels. N: the channel of the speaker, counted from 0.",
        ),
    ] = "mix",
    provider: Provider = "cpu",
    threads: Threads = None,
    jobs: Jobs = None,
) -> None:
    """Learn a voice from recordings of one speaker, without labels, and write it to a file.

    People differ in how they usually sound. A voice is the mean of what the model measures in the recordings:
    the usual of this speaker. `predict --voice FILE` compares a recording with it: what is left is how this
    recording differs from the usual. Five or more utterances with different emotions are best.

    Do not use a voice if the recordings have one emotion only, for example if all are angry: anger is then
    the usual, and the model does not find it.

    The file holds no audio and no words, but it is personal data: it may serve to recognise the person. Ask
    the speaker before you make it. To delete the voice, delete the file. It works with the model that made it
    and with no other.

    Exit code 0: all recordings were read. 1: a recording could not be read, or a folder holds no audio; the
    voice is made of the others. 2: no recording has speech, or an option or the model is wrong.

    Example: emodistill enrol clips/ -o anna.voice.json
    """
    from emodistill.inference import voices
    from emodistill.inference.input_files import find_audio_files
    from emodistill.inference.inputs import inputs_of, statistics_of_inputs
    from emodistill.inference.recognizer import Recognizer

    speaker_channel = channels_in(channels)
    if speaker_channel == "split":
        raise ConfigError("a voice is of one speaker: choose the speaker's channel, e.g. --channels 0")
    ensure_writable(output)
    found = find_audio_files(paths)
    ensure_not_read([output], found.files)
    files = list({file.resolve(): file for file in found.files}.values())  # each counts once
    jobs = number_of_jobs(jobs, len(files))
    recognizer = Recognizer(model, threads=threads or (1 if jobs > 1 else None), provider=provider)
    read = with_progress(
        statistics_of_inputs(recognizer, inputs_of(files), speaker_channel, jobs), "enrol", len(files)
    )
    with stoppable(lambda: f"stopped: nothing was written to '{output}'"):
        statistics = list(chain.from_iterable(read))
    skipped = [item.path for item in statistics if item.error and item.path in found.undecodable]
    if skipped:
        warn(skipped_message(skipped))
    heard = [item for item in statistics if item.path not in skipped]
    voice, warnings = voices.enrol(heard, recognizer.card.sha256)
    for warning in warnings:
        warn(warning)
    voice.save(output)
    plural = "" if voice.utterances == 1 else "s"
    say(
        f"{output}: a voice of {voice.utterances} utterance{plural} and {voice.speech_s:.1f} s of speech. It "
        "is personal data; delete the file to delete the voice."
    )
    raise typer.Exit(1 if found.num_empty or any(item.error for item in statistics) else 0)
