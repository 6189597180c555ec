"""A server of the Model Context Protocol (MCP): an assistant may ask for the emotions of local recordings.

It stands on the official SDK, the package `mcp`. The tools read files below the folders that the user named,
and no other file. They write voices below one more folder, or not at all. Answers are bounded, because they
fill the context of the assistant's model.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, Field

from emodistill.errors import ConfigError, EmodistillError, MissingExtraError
from emodistill.inference.recognizer import Recognizer
from emodistill.inference.segmentation import Segment
from emodistill.inference.timelines import Timeline
from emodistill.inference.trend import STEPS_S, trend
from emodistill.inference.voices import Voice, enrol
from emodistill.version import __version__

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer

MAX_RECORDING_S = 4 * 3600.0  # of a timeline
NUM_SEGMENTS, MAX_SEGMENTS = 20, 200  # that an answer has by default, and at most
MAX_STEPS = 60  # of a trend
MAX_RECORDINGS = 50  # of a voice
VOICE_SUFFIX = ".voice.json"
_DECIMALS = 3  # of the numbers in an answer

PathArgument = Annotated[
    str,
    Field(description="A recording: an absolute path, or one that is relative to a folder of the server."),
]
VoiceArgument = Annotated[
    str | None,
    Field(description="A voice file of the speaker, as `enrol` wrote it. The emotions are then compared with "
          "how this speaker usually sounds."),
]  # fmt: skip


class Answer(BaseModel):
    """The emotion of one recording, or the `reason` for none."""

    path: str
    emotion: str | None
    confidence: float | None = Field(description="The probability of the emotion, 0 to 1.")
    probabilities: dict[str, float]
    reason: str | None = Field(description="Why there is no emotion: silence, no_speech, too_short, …")
    surety: str | None = Field(None, description="How far to trust the emotion.")
    dimensions: dict[str, float] | None = Field(None, description="Such as arousal and valence, 0 to 1.")
    voice_utterances: int | None = Field(None, description="How many utterances the voice is made of.")
    mixed_channels: int | None = Field(
        None,
        description="The answer is of so many channels together, which differ. If each is a speaker, ask for "
        "a timeline with split_channels.",
    )


class Part(BaseModel):
    """A segment of a timeline."""

    start_s: float
    end_s: float
    emotion: str | None = Field(description="null: the recogniser is not sure enough.")
    confidence: float | None
    speaker: str | None = None
    surety: str | None = None
    dimensions: dict[str, float] | None = None


class Step(BaseModel):
    """A step of a trend: the seconds of each emotion in it."""

    start_s: float
    end_s: float
    speaker: str | None = Field(None, description="null: all speakers together.")
    emotion: str | None = Field(description="The one with the most seconds.")
    seconds: dict[str, float]
    dimensions: dict[str, float] | None = None


class TimelineAnswer(BaseModel):
    """The emotions of a recording over time. `cut` names what the answer leaves out."""

    path: str
    duration_s: float | None
    reason: str | None = Field(description="Why there is no segment.")
    summary: dict[str, float] = Field(description="Seconds of each emotion in the whole recording.")
    speakers: dict[str, dict[str, float]] | None = Field(None, description="The summary of each speaker.")
    num_segments: int = Field(description="In the whole recording.")
    segments: list[Part]
    trend: list[Step] | None = None
    cut: str | None = Field(None, description="What was left out, and how to get it. null: nothing.")


class EnrolledVoice(BaseModel):
    """A voice that was written to a file."""

    path: str
    utterances: int
    speech_s: float
    warnings: list[str] = Field(description="Recordings that were left out, and too little speech.")


class Folders:
    """The folders of a server. Its files are below them, also after every symbolic link is followed."""

    def __init__(self, folders: Sequence[Path], option: str = "--folder") -> None:
        """Check the folders. Raises `ConfigError` if there is none, or one is no folder."""
        if not folders:
            raise ConfigError(f"no folder: name the folders that the server may read, e.g. {option} calls/")
        for folder in folders:
            if not folder.is_dir():
                raise ConfigError(f"{option} '{folder}' is no folder: give an existing one")
        self.roots = [folder.resolve() for folder in folders]
        # An absolute path may have the folder as the user named it, which is perhaps a link.
        self._named_roots = [*self.roots, *(folder.absolute() for folder in folders)]

    def file(self, path: str) -> Path:
        """Return the file of a path. Raises `ConfigError` for one that is not below a folder, or is no file.

        The message for a file elsewhere does not depend on whether it exists.
        """
        places = self._places(path)
        inside = [found for found in map(self._followed, places) if found is not None]
        for found in inside:
            if found.exists():
                if not found.is_file():
                    raise ConfigError(f"'{path}' is no file: give the path of a file")
                return found
        if len(inside) < len(places):
            raise self._outside(path)
        raise ConfigError(f"'{path}': no such file in {self._named()}")

    def new_file(self, path: str) -> Path:
        """Return where a new file may be written. Raises `ConfigError` outside of the folders."""
        found = self._followed(self._places(path)[0])
        if found is None:
            raise self._outside(path)
        if not found.parent.is_dir():
            raise ConfigError(f"'{path}': there is no such folder in {self._named()}")
        return found

    def _places(self, path: str) -> list[Path]:
        """Return the absolute paths that a path may stand for."""
        given = Path(path)
        if not path.strip() or "\0" in path or ".." in given.parts:
            raise ConfigError(f"bad path '{path}', expected a path without '..' in {self._named()}")
        if not given.is_absolute():
            return [root / given for root in self.roots]
        if not any(given.is_relative_to(root) for root in self._named_roots):
            raise self._outside(path)
        return [given]

    def _followed(self, place: Path) -> Path | None:
        """Return the place with all links followed; None outside of the folders."""
        try:
            found = place.resolve()
        except RuntimeError:  # Links in a circle lead nowhere.
            return None
        return found if any(found.is_relative_to(root) for root in self.roots) else None

    def _outside(self, path: str) -> ConfigError:
        return ConfigError(f"'{path}' is outside of the folders that this server may use: {self._named()}")

    def _named(self) -> str:
        return ", ".join(str(root) for root in self.roots)


class Tools:
    """The tools of a server. Each raises `EmodistillError` for a call that it cannot answer."""

    def __init__(self, recognizer: Recognizer, folders: Folders, voices: Folders | None) -> None:
        self._recognizer, self._folders, self._voices = recognizer, folders, voices

    def predict(self, path: PathArgument, voice: VoiceArgument = None) -> Answer:
        """Return one emotion for a recording, with the probability of each. For a recording of seconds."""
        row = self._recognizer.predict(self._folders.file(path), voice=self._voice(voice))
        return Answer(
            path=path, emotion=row.emotion, confidence=_rounded(row.confidence), reason=row.reason,
            probabilities=_rounded(row.probabilities), surety=row.surety, dimensions=_rounded(row.dimensions),
            voice_utterances=row.voice_utterances, mixed_channels=row.mixed_channels,
        )  # fmt: skip

    def timeline(
        self,
        path: PathArgument,
        voice: VoiceArgument = None,
        split_channels: Annotated[
            bool, Field(description="Each channel is a speaker, for calls that record each in a channel.")
        ] = False,
        start_s: Annotated[
            float, Field(ge=0, description="List segments that start at this time or later.")
        ] = 0.0,
        max_segments: Annotated[int, Field(ge=0, le=MAX_SEGMENTS)] = NUM_SEGMENTS,
        trend_s: Annotated[
            float | None,
            Field(ge=1, description="Add the emotions of each step of so many seconds, e.g. 60 for minutes."),
        ] = None,
    ) -> TimelineAnswer:
        """Return the emotions of a recording over time: seconds of each emotion, and the first segments.

        The field `cut` names what was left out. For a long recording, ask for a trend with few segments, and
        then for the segments of the time that matters.
        """
        row = self._recognizer.timeline(
            self._folders.file(path), voice=self._voice(voice), max_s=MAX_RECORDING_S,
            channels="split" if split_channels else "mix",
        )  # fmt: skip
        return _timeline_answer(path, row, start_s, max_segments, trend_s)

    def enrol(
        self,
        paths: Annotated[list[str], Field(min_length=1, max_length=MAX_RECORDINGS)],
        output: Annotated[str, Field(description=f"The voice file to write, e.g. anna{VOICE_SUFFIX}.")],
        replace: Annotated[bool, Field(description="Replace an existing voice file.")] = False,
    ) -> EnrolledVoice:
        """Learn the voice of a speaker from recordings of this speaker alone, and write it to a file.

        A voice is personal data. Ask the speaker before you make one.
        """
        assert self._voices is not None, "without a folder for voices there is no such tool"
        if not output.endswith(VOICE_SUFFIX):
            raise ConfigError(f"bad voice file '{output}', expected a name that ends with {VOICE_SUFFIX}")
        target = self._voices.new_file(output)
        if target.exists() and not replace:
            raise ConfigError(f"'{output}' exists: choose another name, or set replace")
        files = list(dict.fromkeys(map(self._folders.file, paths)))
        statistics = self._recognizer.statistics_all(files)
        voice, warnings = enrol(statistics, self._recognizer.card.sha256)
        voice.save(target)
        return EnrolledVoice(
            path=output, utterances=voice.utterances, speech_s=_rounded(voice.speech_s), warnings=warnings
        )

    def _voice(self, path: str | None) -> Voice | None:
        """Return the voice of a file below the folder for voices."""
        if path is None:
            return None
        if self._voices is None:
            raise ConfigError("this server has no folder for voices: leave voice out")
        return Voice.load(self._voices.file(path))


def build_server(
    recognizer: Recognizer, folders: Sequence[Path], voices: Path | None = None
) -> "MCPServer[Any]":
    """Return a server with the tools `predict` and `timeline`; with a folder for voices, `enrol` too.

    `folders` are those that hold recordings, and `voices` is the one that voices are written to. Raises
    `ConfigError` for a folder that does not exist, and `MissingExtraError` without the SDK.
    """
    try:
        from mcp.server.mcpserver import MCPServer
        from mcp.server.mcpserver.exceptions import ToolError
        from mcp.types import ToolAnnotations
    except ImportError as error:
        raise MissingExtraError("mcp", "mcp", "an MCP server") from error
    from functools import wraps

    own = Folders(folders)
    tools = Tools(recognizer, own, None if voices is None else Folders([voices], "--voices"))
    listed = ", ".join(map(str, own.roots))
    server: MCPServer[Any] = MCPServer(
        "emodistill",
        version=__version__,
        log_level="WARNING",
        instructions=f"Recognises emotions in the speech of recordings below: {listed}. An emotion in a "
        f"voice is no evidence of what a person feels. {recognizer.card.limits}",
    )

    def with_messages(tool: Any) -> Any:
        """The tool, whose errors are messages to the assistant."""

        @wraps(tool)
        def call(*args: Any, **options: Any) -> Any:
            try:
                return tool(*args, **options)
            except (EmodistillError, OSError) as error:
                raise ToolError(str(error)) from error

        return call

    reads = ToolAnnotations(read_only_hint=True, open_world_hint=False)
    writes = ToolAnnotations(read_only_hint=False, destructive_hint=True, open_world_hint=False)
    for tool in (tools.predict, tools.timeline):
        server.tool(annotations=reads)(with_messages(tool))
    if voices is not None:
        server.tool(annotations=writes)(with_messages(tools.enrol))
    return server


def _timeline_answer(
    path: str, row: Timeline, start_s: float, max_segments: int, trend_s: float | None
) -> TimelineAnswer:
    """Return a timeline with a bounded number of segments and of steps."""
    later = [part for part in row.segments if part.start_s >= start_s]
    shown = later[:max_segments]
    cut = []
    if len(shown) < len(later):
        next_s = math.floor(100 * later[len(shown)].start_s) / 100
        cut.append(
            f"{len(later) - len(shown)} segments from {next_s:.2f} s on: ask again with "
            f"start_s={next_s:.2f}, or with trend_s"
        )
    steps = None
    if trend_s is not None:
        found = trend(row, trend_s)
        steps = [_step(step.as_dict()) for step in found[:MAX_STEPS]]
        if len(found) > MAX_STEPS:
            rows_a_step = max(1, len(found) // max(1, math.ceil((row.duration_s or 0.0) / trend_s)))
            least_s = (row.duration_s or 0.0) * rows_a_step / MAX_STEPS
            better_s = next((step_s for step_s in STEPS_S if step_s >= least_s), STEPS_S[-1])
            cut.append(
                f"{len(found) - MAX_STEPS} rows of the trend after {steps[-1].end_s:g} s: ask again with "
                f"trend_s={better_s:g}"
            )
    return TimelineAnswer(
        path=path, duration_s=_rounded(row.duration_s), reason=row.reason, summary=_rounded(row.summary),
        speakers=row.speakers and {name: _rounded(seconds) for name, seconds in row.speakers.items()},
        num_segments=len(row.segments), segments=[_part(part) for part in shown], trend=steps,
        cut="; ".join(cut) or None,
    )  # fmt: skip


def _part(segment: Segment) -> Part:
    return Part(
        start_s=_rounded(segment.start_s), end_s=_rounded(segment.end_s), emotion=segment.emotion,
        confidence=_rounded(segment.confidence), speaker=segment.speaker, surety=segment.surety,
        dimensions=_rounded(segment.dimensions),
    )  # fmt: skip


def _step(data: dict[str, Any]) -> Step:
    seconds = {name: value for name, value in data["seconds"].items() if value}
    return Step(**{**data, "seconds": _rounded(seconds), "dimensions": _rounded(data.get("dimensions"))})


def _rounded(value: Any) -> Any:
    """Return a number, or the numbers of a mapping, with few decimals; None stays None."""
    if isinstance(value, dict):
        return {name: round(number, _DECIMALS) for name, number in value.items()}
    return None if value is None else round(value, _DECIMALS)
