"""The command line app, and the options that several verbs share."""

# Long: the options that several verbs share, each with its help text.
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from importlib.util import find_spec
from os import cpu_count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emodistill.cli.defaults import VERBS, read_defaults
from emodistill.console import say, warn
from emodistill.errors import ConfigError, MissingExtraError, one_of
from emodistill.labels import read_scale
from emodistill.version import __version__

if TYPE_CHECKING:
    from emodistill.audio.channels import Channels
    from emodistill.inference.voices import Voice

TABLE = "table"  # for reading; the format where neither --format nor a suffix chooses one
TABLE_SUFFIX = ".txt"
INTERRUPTED = 130  # the exit code after Ctrl-C

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},  # every verb inherits this
    rich_markup_mode="markdown",  # wraps paragraphs to the width of the terminal
    help="Speech emotion recognition from audio alone. Trains students from teachers, exports and runs them.",
)
corpus_app = typer.Typer(
    no_args_is_help=True,
    help="Read a corpus or your own table into utterances.csv, count it, check its folds for leaks.",
)
app.add_typer(corpus_app, name="corpus")

Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Set a field of the recipe, e.g. student.optim.epochs=3. Repeatable.",
    ),
]
# An option of every verb that trains; `corpus.words` of a recipe.
Words = Annotated[
    Path | None,
    typer.Option(
        "--words",
        metavar="FILE",
        help="Times of words by an aligner or a speech recogniser, for distillation.words: a table, a .ctm "
        "file, or a folder with JSON of whisperX.",
    ),
]
# Options of every verb that reads a table of utterances; in a recipe corpus.columns, .emotions and .scale.
TableColumns = Annotated[
    list[str] | None,
    typer.Option(
        "--columns", metavar="OURS=THEIRS,…",
        help="Name the columns of a table of your own, e.g. path=wav,speaker=who.",
    ),
]  # fmt: skip
MapEmotions = Annotated[
    list[str] | None,
    typer.Option(
        "--map-emotions", metavar="THEIRS=OURS,…",
        help="The emotion of each name in the data, before --labels, e.g. anger=angry,oth=-; "
        "oth=- leaves oth out.",
    ),
]  # fmt: skip
DimensionScale = Annotated[
    str | None,
    typer.Option(
        "--scale", metavar="LOW..HIGH",
        help="Lowest and highest possible value of the dimensions, e.g. 1..5, for rows without a scale.",
    ),
]  # fmt: skip
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Run folder. Default: runs/RECIPE-seedN.")]
Paths = Annotated[
    list[Path],
    typer.Argument(
        metavar="PATH",
        help="Audio files; folders: all audio and video files in and below them, sorted; `-` reads one "
        "audio file from standard input.",
    ),
]


class Tabular(StrEnum):
    """Output formats of scores."""

    table = "table"
    json = "json"
    csv = "csv"
    latex = "latex"


Format = Annotated[
    Tabular,
    typer.Option("--format", "-f", help="Output format; latex is a table for a paper, with booktabs."),
]
# Options of every verb that recognises emotions.
Model = Annotated[
    str,
    typer.Option(
        "--model", "-m", envvar="EMODISTILL_MODEL",
        help="bundled; large, after 'emodistill fetch large'; the folder of an exported model; or a hub id "
        "(organisation/name[@revision]).",
    ),
]  # fmt: skip
Emotions = Annotated[str | None, typer.Option(help="Allow only these emotions, e.g. angry,happy,sad.")]
MinConfidence = Annotated[
    str | None,
    typer.Option(
        metavar="CONFIDENCE",
        help="Below this confidence, from 0 to 1, give no emotion. dev:0.8 stands for the confidence that "
        "80 % of the utterances had that the model was calibrated on.",
    ),
]
NoCoverage = Annotated[
    float | None,
    typer.Option("--coverage", hidden=True, help="Only for predict; here, use --min-confidence dev:0.8."),
]
Force = Annotated[
    bool,
    typer.Option("--force", help="Begin anew: replace the results that an earlier run left in --output."),
]


def _check_provider(name: str) -> str:
    """Return --provider. Raises `ConfigError` before anything is read."""
    from emodistill.audio.providers import check_provider

    return check_provider(name)


Provider = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        envvar="EMODISTILL_PROVIDER",
        callback=_check_provider,
        help="The hardware that runs the model: cpu, cuda, tensorrt, coreml, openvino, directml, rocm, "
        "migraphx, or ONNX Runtime's own name. All but cpu need another package of ONNX Runtime.",
    ),
]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads for one run of the model.")]
Jobs = Annotated[
    int | None, typer.Option(min=1, help="Files processed in parallel. Default: one for each CPU core.")
]


class Adaptation(StrEnum):
    """The other files that `predict` compares a file with."""

    none = "none"
    together = "together"
    folder = "folder"


VoiceFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Compare each file with the usual of this voice, a file of `emodistill enrol`. "
        "Default: no voice.",
    ),
]
Adapt = Annotated[
    Adaptation,
    typer.Option(
        help="Compare each file with the usual of the other files: of all others (`together`), or of the "
        "others in its folder (`folder`). The files should be of one speaker, with different emotions."
    ),
]


class TimelineAdaptation(StrEnum):
    """The speech of a recording that `timeline` compares its windows with."""

    none = "none"
    auto = "auto"
    recording = "recording"
    running = "running"


class StreamAdaptation(StrEnum):
    """The speech of a stream that `listen` compares its windows with."""

    none = "none"
    running = "running"


SpeakerVoice = Annotated[
    Path | None,
    typer.Option(
        "--voice",
        metavar="FILE",
        help="Compare the speech with the usual of this voice, a file of `emodistill enrol`. "
        "Default: no voice.",
    ),
]
SpeakerVoices = Annotated[
    list[str] | None,
    typer.Option(
        "--voice",
        metavar="[NAME=]FILE",
        help="Compare the speech with the usual of this voice, a file of `emodistill enrol`. NAME=FILE: only "
        "the speech of this speaker, repeatable; with --channels split, or with speakers in --segments. "
        "Default: no voice.",
    ),
]
TimelineAdapt = Annotated[
    TimelineAdaptation,
    typer.Option(
        "--adapt",
        help="Compare the speech with the usual of its own recording: with all of its speech (`recording`), "
        "or with the speech before it (`running`). `auto`: as `recording`, but only where the recording "
        "evidently has several emotions. With --segments, each speaker has a usual of their own, and there "
        "is no `auto`.",
    ),
]
StreamAdapt = Annotated[
    StreamAdaptation,
    typer.Option("--adapt", help="Compare the speech with the usual of the speech before it (`running`)."),
]

Hop = Annotated[
    float, typer.Option(metavar="S", help="Seconds from one window of the model to the next, at least 0.1.")
]
Window = Annotated[
    float, typer.Option(metavar="S", help="Seconds of a window of the model, a whole number of hops.")
]
Smooth = Annotated[
    float,
    typer.Option(
        metavar="S",
        help="How strongly to smooth changes of emotion, 0 to 60 seconds. The higher, the more evidence a "
        "change needs; a live segment comes up to this much later. 0: each stretch of speech stands alone.",
    ),
]
MinDuration = Annotated[
    float,
    typer.Option(
        metavar="S", help="The least seconds of speech of an emotion, if there is another one, 0 to 60."
    ),
]


ChannelsRead = Annotated[
    str,
    typer.Option(
        "--channels",
        metavar="mix|split|N",
        help="mix: the mean of all channels. split: each channel on its own, for calls that record each "
        "speaker in a channel. N: one channel, counted from 0.",
    ),
]
ChannelNames = Annotated[
    str | None,
    typer.Option(
        "--names",
        metavar="NAME,NAME",
        help="With --channels split: who speaks in each channel, in order, e.g. agent,customer. "
        "Default: channel 0, channel 1, and so on.",
    ),
]


class _LogPrinter(logging.Handler):
    """Prints log records as messages."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        say(record.getMessage())


def _be_verbose(context: typer.Context, requested: bool) -> bool:
    """Print what the recogniser logs, and which file states the defaults, if `--verbose` is given."""
    logger = logging.getLogger("emodistill.inference")
    logger.setLevel(logging.INFO if requested else logging.NOTSET)
    logger.handlers = [_LogPrinter()] if requested else []
    if requested and context.obj is not None:
        say(f"defaults: {context.obj}")
    return requested


Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose",
        "-v",
        callback=_be_verbose,
        help="Print the model, its folder and emotions, and for each file its rate, channels, duration and "
        "the time it took, to standard error.",
    ),
]


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"emodistill {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    verb = context.invoked_subcommand
    if verb in VERBS:
        callbacks = [info.callback for info in app.registered_commands if info.callback is not None]
        defaults = read_defaults(verb, {callback.__name__: callback for callback in callbacks})
        if defaults is not None:
            context.default_map = {verb: dict(defaults.values)}
            context.obj = defaults.source  # for `--verbose`


def read_renaming(
    columns: list[str] | None, map_emotions: list[str] | None
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the columns and emotions of --columns and --map-emotions. Raises `ConfigError` for bad text."""
    from emodistill.config.renaming import read_columns, read_emotions

    return read_columns(columns or (), "--columns"), read_emotions(map_emotions or (), "--map-emotions")


def words_overrides(words: Path | None) -> list[str]:
    """Return --words as an override of a recipe."""
    return [] if words is None else [f"corpus.words={json.dumps(str(words))}"]


def given_scale(scale: str | None) -> tuple[float, float] | None:
    """Return the scale of --scale. Raises `ConfigError` for text that is no range."""
    return None if scale is None else read_scale(scale, "--scale")


def renaming_overrides(
    columns: list[str] | None, map_emotions: list[str] | None, scale: str | None = None
) -> list[str]:
    """Return --columns, --map-emotions and --scale as overrides of a recipe, for verbs that read one."""
    read_renaming(columns, map_emotions)  # raises with the name of the option, as the next line does
    own = [] if given_scale(scale) is None else [f"corpus.scale={scale}"]
    given = {"corpus.columns": columns, "corpus.emotions": map_emotions}
    return own + [f"{field}={','.join(texts)}" for field, texts in given.items() if texts]


def need_training() -> None:
    """Raise `MissingExtraError` if torch or Lightning is not installed. It loads neither, which would take
    seconds."""
    for package in ("torch", "lightning"):
        if find_spec(package) is None:
            raise MissingExtraError(package, "train")


def refuse_coverage(coverage: float | None) -> None:
    """Raise `ConfigError` for --coverage in a verb whose answers are written one by one."""
    from emodistill.inference.confidence import NO_COVERAGE

    if coverage is not None:
        raise ConfigError(NO_COVERAGE)


def names_in(listed: str | None) -> list[str] | None:
    """Return the names of a comma-separated list, or None for None."""
    return None if listed is None else [name.strip() for name in listed.split(",") if name.strip()]


def file_or_none(output: Path | None) -> Path | None:
    """Return the path of --output; None for `-`, which is standard output."""
    return None if output == Path("-") else output


def choose_format(
    format: str | None, output: Path | None, by_suffix: Mapping[str, str], option: str = "--output"
) -> str:
    """Return the format that was named, else the one of the output's suffix.

    Without an output, and for an output without a suffix, it is `table`. Raises `ConfigError` for a suffix
    that is not in `by_suffix`.
    """
    if format is not None:
        return str(format)
    if output is None or not output.suffix or output.is_dir():
        return TABLE
    known = {TABLE_SUFFIX: TABLE, **by_suffix}
    if output.suffix.lower() not in known:
        message = one_of(f"suffix of {option}", output.suffix, known)
        raise ConfigError(f"{message}; with --format the file may have any name")
    return known[output.suffix.lower()]


class Stopped(SystemExit):
    """Ctrl-C was pressed while files were processed, and the message was printed."""


@contextmanager
def stoppable(message: Callable[[], str]) -> Iterator[None]:
    """After Ctrl-C, print the message and raise `Stopped`."""
    try:
        yield
    except KeyboardInterrupt:
        warn(message())
        raise Stopped(INTERRUPTED) from None


def channels_in(text: str) -> "Channels":
    """Return the channels that --channels names. Raises `ConfigError` for another value."""
    from emodistill.audio.channels import check_channels

    channels: Channels = int(text) if text.isascii() and text.isdigit() else text  # type: ignore[assignment]
    check_channels(channels)
    return channels


def number_of_jobs(jobs: int | None, num_files: int) -> int:
    """Return how many files to process at a time: `jobs` or the number of CPU cores, at most `num_files`."""
    return min(jobs or cpu_count() or 1, max(1, num_files))


def speaker_voice(voice: Path | None, adapt: StreamAdaptation) -> "Voice | None":
    """Return the voice of a file, or None for None. Raises `ConfigError` if --adapt is given too."""
    from emodistill.inference.voices import Voice

    if voice is None:
        return None
    _refuse_voice_and_adapt(adapt)
    return Voice.load(voice)


def speaker_voices(
    listed: Sequence[str], adapt: TimelineAdaptation
) -> tuple[list[Path], "Voice | dict[str, Voice] | None"]:
    """Return the files and the voices that --voice names: one voice for all speech, or voices by speaker.

    An existing file is one voice, also if its path contains `=`. Raises `ConfigError` for several voices
    without a name, for a name that comes twice, and if --adapt is given too.
    """
    from emodistill.inference.voices import Voice

    if not listed:
        return [], None
    _refuse_voice_and_adapt(adapt)
    by_speaker: dict[str, Path] = {}
    for text in listed:
        name, sign, file = text.partition("=")
        if not sign or Path(text).is_file():
            if len(listed) > 1:
                raise ConfigError(
                    f"got {len(listed)} voices, and '{text}' without a speaker: give one --voice FILE, or "
                    "--voice NAME=FILE for each speaker"
                )
            return [Path(text)], Voice.load(text)
        if not name.strip() or not file:
            raise ConfigError(f"bad --voice '{text}', expected FILE or NAME=FILE, e.g. agent=anna.voice.json")
        if name.strip() in by_speaker:
            raise ConfigError(f"the speaker '{name.strip()}' has two voices, expected one for each speaker")
        by_speaker[name.strip()] = Path(file)
    return list(by_speaker.values()), {name: Voice.load(file) for name, file in by_speaker.items()}


def _refuse_voice_and_adapt(adapt: TimelineAdaptation | StreamAdaptation) -> None:
    if adapt.value != "none":
        raise ConfigError(
            f"--voice and --adapt {adapt.value} exclude each other: the speech is compared with a voice or "
            "with its own recording; give one of them"
        )
