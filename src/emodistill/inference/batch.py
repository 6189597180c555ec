"""Many recordings at once: where the outputs of their timelines go."""

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Unpack

from rich.markup import escape
from rich.table import Table

from emodistill.console import results, say
from emodistill.errors import ConfigError, one_of
from emodistill.files import ensure_writable, is_stream, open_output, real_path
from emodistill.inference.formats import FORMATS, UNSURE, WriterContext, write
from emodistill.inference.formats.base import one_line
from emodistill.inference.given_segments import GivenSegments
from emodistill.inference.plots import check_picture, plot_timeline
from emodistill.inference.recognizer import Recognizer
from emodistill.inference.resume import CONTINUE, MadeWith, say_changed
from emodistill.inference.segmentation import Segment
from emodistill.inference.timelines import Timeline, TimelineOptions, segmentation_options, timelines
from emodistill.inference.trend import to_table as to_trend_table

TABLE = "table"  # the format for reading, which is no file format of the registry
FAILURES = "failures.csv"  # in an output folder: path, error
LARGE_PAGE_BYTES = 35_000_000  # an HTML page with sound of about 100 minutes
MADE_WITH = ".made_with.json"  # in an output folder: the settings that a later run must equal


@dataclass(frozen=True)
class Outputs:
    """Which files are written for each recording. `plan` makes it before any recording is read.

    Attributes:
        format: "table", or a name of `FORMATS`.
        folder: the output folder with one file for each recording; None for a single output.
        file: the single output; None for standard output, or with a folder.
        names: recording -> its file, relative to the folder.
        pictures: recording -> its picture; None without pictures.
        context: what the writers need besides the timelines.
    """

    format: str
    folder: Path | None = None
    file: Path | None = None
    names: dict[Path, Path] | None = None
    pictures: dict[Path, Path] | None = None
    context: WriterContext = field(default_factory=WriterContext)

    @property
    def paths(self) -> list[Path]:
        """The files that are written, with the pictures."""
        in_folder = [self.folder / name for name in (self.names or {}).values()] if self.folder else []
        single = [] if self.file is None else [self.file]
        return [*single, *in_folder, *(self.pictures or {}).values()]

    def begin(
        self,
        files: Sequence[Path],
        settings: Mapping[str, object],
        force: bool = False,
    ) -> list[Path]:
        """Return the recordings to process: in a folder, those that have no complete output there.

        The outputs of recordings that have changed since are deleted, and with `force` those of all
        recordings. The folder keeps the `settings`, and the sizes and times of the recordings.

        Raises `ConfigError` if the folder was begun with other settings. With `force` it does so only if the
        folder has outputs of further recordings, because these would stay.
        """
        if self.folder is None or self.names is None:
            return list(files)
        before = MadeWith.read(self.folder / MADE_WITH, self.folder, force)
        others = before.inputs.keys() - set(map(str, files))
        if not force:
            before.ensure_same_settings(settings)
        elif others:
            remedy = f"name its {len(others)} other recordings too (e.g. '{min(others)}'), or another output"
            before.ensure_same_settings(settings, remedy)
        changed = before.changed(map(str, files))
        again = [file for file in files if force or str(file) in changed]
        done = {file for file in again if any(output.is_file() for output in self._outputs_of(file))}
        if not force:
            say_changed(done)
        for output in (output for file in done for output in self._outputs_of(file)):
            real_path(output).unlink(missing_ok=True)
        before.write(settings, map(str, files))
        return self.unfinished(files)

    def settings(
        self, recognizer: Recognizer, given: GivenSegments | None, **options: Unpack[TimelineOptions]
    ) -> dict[str, object]:
        """Return the settings that all timelines of an output folder share, as plain data for JSON."""
        voice, adapt = options.get("voice"), options.get("adapt", "none")
        channels, names = options.get("channels", "mix"), options.get("names")
        return {
            **recognizer.settings,
            "segments": None if given is None else given.sha256,
            "voice": (
                {name: each.sha256 for name, each in voice.items()}
                if isinstance(voice, Mapping)
                else None
                if voice is None
                else voice.sha256
            ),
            "adapt": None if adapt == "none" else adapt,
            "channels": None if channels == "mix" else channels,
            "names": None if names is None else list(names),
            "trend": self.context.trend_s,
            "audio": None if self.context.audio else False,
            **asdict(segmentation_options(options)),
        }

    def unfinished(self, files: Sequence[Path]) -> list[Path]:
        """Return the recordings without a complete output; without a folder, all of them."""
        if self.folder is None or self.names is None:
            return list(files)
        return [file for file in files if not all(output.is_file() for output in self._outputs_of(file))]

    def stopped_message(self, files: Sequence[Path]) -> str:
        """Return what `timeline` says after Ctrl-C: what is done, and how to continue."""
        if self.folder is not None:
            num_done = len(files) - len(self.unfinished(files))
            return f"stopped: {num_done} of {len(files)} files are in {self.folder}; {CONTINUE}"
        state = "nothing was written" + ("" if self.file is None else f" to '{self.file}'")
        return f"stopped: {state}; a folder can be continued, e.g. --format csv -o timelines"

    def _outputs_of(self, file: Path) -> list[Path]:
        """Return the output of a recording in the folder, and its picture if there is one."""
        assert self.folder is not None
        assert self.names is not None
        pictures = [self.pictures[file]] if self.pictures is not None and file in self.pictures else []
        return [self.folder / self.names[file], *pictures]


def plan(
    files: Sequence[Path], roots: Sequence[Path], format: str, output: Path | None, plot: Path | None
) -> Outputs:
    """Decide which files are written.

    `output` and `plot` stand for folders if they are folders, or have no suffix and are no device or pipe. In
    a folder each recording has its own file, at the same place as below the one of `roots` that contains it.
    Otherwise there is one output.

    Raises `ConfigError` for an unknown format, `OSError` for an output that cannot be written, and
    `ConfigError` where one file or picture would have to hold several
    recordings.
    """
    if format not in (TABLE, *FORMATS):
        raise ConfigError(one_of("format", format, [TABLE, *FORMATS]))
    if format != TABLE and (check := FORMATS[format].check) is not None:
        check()
    pictures = _plan_pictures(files, roots, plot)
    if output is not None and _is_folder(output):
        if format == TABLE:
            raise ConfigError(f"a table can't go to the folder '{output}': add --format, e.g. json")
        names = output_names(files, roots, FORMATS[format].suffix)
        return Outputs(format, folder=output, names=names, pictures=pictures)
    ensure_writable(output, format != TABLE and FORMATS[format].to_bytes is not None)
    if len(files) > 1 and format != TABLE and not FORMATS[format].holds_several:
        raise ConfigError(
            f"a file of the format {format} holds one recording, but there are {len(files)}: "
            "name a folder with --output"
        )
    return Outputs(format, file=output, pictures=pictures)


def output_names(paths: Sequence[Path], roots: Sequence[Path], suffix: str) -> dict[Path, Path]:
    """Where each recording's file goes below an output folder: at the same place as below its root.

    A path that leaves its root, as `clips/../a.wav`, goes to the output folder itself. The recording's own
    suffix is kept where two recordings would share a file: `a.wav.srt`, `a.mp3.srt`. Raises `ConfigError`
    where they still do.
    """
    folders = [root for root in roots if root.is_dir()]
    relative: dict[Path, Path] = {}
    for path in paths:
        root = next((folder for folder in folders if path.is_relative_to(folder)), path.parent)
        below = path.relative_to(root)
        relative[path] = Path(path.name) if ".." in below.parts else below
    short_names = {path: name.with_suffix(suffix) for path, name in relative.items()}
    num_uses = Counter(short_names.values())
    names = {
        path: relative[path].with_name(relative[path].name + suffix) if num_uses[name] > 1 else name
        for path, name in short_names.items()
    }
    path_of: dict[Path, Path] = {}
    for path, name in names.items():
        if name in path_of:
            raise ConfigError(
                f"'{path_of[name]}' and '{path}' would both be written to '{name}': give them one at a time"
            )
        path_of[name] = path
    return names


def run(
    recognizer: Recognizer,
    files: Sequence[Path],
    outputs: Outputs,
    given: GivenSegments | None = None,
    jobs: int = 1,
    **options: Unpack[TimelineOptions],
) -> Iterator[Timeline]:
    """Yield the timeline of each recording, in order, after its picture and its file in a folder are written.

    A recording that failed gets no file, so that the next run tries it again. It has a row in `failures.csv`.
    """
    failed: list[Timeline] = []
    options["traced"] = outputs.pictures is not None
    rows = timelines(files, recognizer, given=given, jobs=jobs, **options)
    try:
        for row in rows:
            path = Path(row.path)
            if row.error is not None:
                failed.append(row)
            else:
                if outputs.pictures is not None:
                    plot_timeline(row, recognizer.emotions, outputs.pictures[path], outputs.context.trend_s)
                if outputs.folder is not None and outputs.names is not None:
                    file = outputs.folder / outputs.names[path]
                    write([row], outputs.format, file, recognizer.emotions, outputs.context)
                    _hint_at_size(file, outputs.format)
            yield replace(row, trace=None)  # the traces of many recordings would not fit into memory
    finally:  # after Ctrl-C too
        if outputs.folder is not None:
            _write_failures(outputs.folder / FAILURES, failed)


def finish(rows: Sequence[Timeline], outputs: Outputs, emotions: Sequence[str]) -> None:
    """Write all timelines to the single output. With an output folder there is nothing left to write.

    If every recording failed, an existing file is kept, and formats that cannot hold errors are not written.
    """
    if outputs.folder is not None:
        return
    if rows and all(row.error is not None for row in rows):
        if outputs.file is not None:
            say(f"'{outputs.file}' is not written: every recording failed")
            return
        if outputs.format != TABLE and not FORMATS[outputs.format].holds_errors:
            return
    if outputs.format == TABLE:
        step_s = outputs.context.trend_s
        table = to_table(rows) if step_s is None else to_trend_table(rows, step_s)
        with open_output(outputs.file) as stream:
            results(stream).print(table)
    else:
        write(rows, outputs.format, outputs.file, emotions, outputs.context)
        _hint_at_size(outputs.file, outputs.format)


def _hint_at_size(file: Path | None, format: str) -> None:
    """Print a hint if a page is so large that mail and browsers have trouble with it."""
    if format != "html" or file is None or not file.is_file():
        return
    num_bytes = file.stat().st_size
    if num_bytes > LARGE_PAGE_BYTES:
        say(
            f"{file}: the page has {num_bytes / 1e6:.0f} MB, most of it sound; --no-audio makes a small page "
            "without it"
        )


def to_table(rows: Iterable[Timeline]) -> Table:
    """A table for reading: a line for each segment, and the sums by emotion.

    There is a line with the sums of each recording, and before it one for each speaker.
    """
    rows = list(rows)
    speakers = any(segment.speaker for row in rows for segment in row.segments)
    voices = any(segment.voice_utterances is not None for row in rows for segment in row.segments)
    table = Table(
        "file", "start", "end", *(["speaker"] if speakers else []), "emotion", "confidence",
        *(["utterances known"] if voices else []), "note",
    )  # fmt: skip
    for column in table.columns[1:3]:
        column.justify = "right"
    no_speaker, no_voice = [""] if speakers else [], [""] if voices else []
    for row in rows:
        path = escape(row.path)
        if not row.segments:
            note = row.error or (row.reason or "no speech").replace("_", " ")
            table.add_row(path, "", "", *no_speaker, "–", "", *no_voice, escape(note))
        for segment in row.segments:
            confidence = "" if segment.confidence is None else f"{segment.confidence:.2f}"
            speaker = [escape(segment.speaker or "")] if speakers else []
            times = [clock(segment.start_s), clock(segment.end_s)]
            note = "" if segment.emotion else "low confidence" if confidence else "too short or silent"
            utterances = "" if segment.voice_utterances is None else str(segment.voice_utterances)
            known = [utterances] if voices else []
            table.add_row(path, *times, *speaker, segment.emotion or UNSURE, confidence, *known, note)
        if row.segments and row.duration_s is not None:
            for name, summary in (row.speakers or {}).items():
                cells = ["", "", escape(one_line(name)), "in all", "", *no_voice]
                cells.append(sums_of(summary, [part for part in row.segments if part.speaker == name]))
                table.add_row(path, *cells, style="dim")
            table.add_row(
                path, "", clock(row.duration_s), *no_speaker, "in all", "", *no_voice,
                sums_of(row.summary, row.segments), style="dim", end_section=True,
            )  # fmt: skip
    return table


def sums_of(summary: Mapping[str, float], segments: Sequence[Segment] = ()) -> str:
    """The emotions of a summary with their times, longest first; then `?` with that of segments without one.

    >>> sums_of({"angry": 3.0, "happy": 0.0, "sad": 64.5}, [Segment(2.0, 4.5, None, 0.2, {})])
    'sad 1:04.5, angry 0:03.0, ? 0:02.5'
    """
    longest_first = sorted(summary.items(), key=lambda item: -item[1])
    unsure_s = sum(part.end_s - part.start_s for part in segments if part.emotion is None)
    times = [*longest_first, (UNSURE, unsure_s)]
    return ", ".join(f"{name} {clock(time_s)}" for name, time_s in times if time_s) or "no speech"


def clock(time_s: float) -> str:
    """A time as minutes and seconds, with hours if there are any.

    >>> clock(83.25), clock(7283.0)
    ('1:23.2', '2:01:23.0')
    """
    tenths = round(10 * time_s)
    minutes, seconds = divmod(tenths, 600)
    hours = f"{minutes // 60}:{minutes % 60:02d}" if minutes >= 60 else f"{minutes}"
    return f"{hours}:{seconds // 10:02d}.{seconds % 10}"


def _is_folder(path: Path) -> bool:
    return path.is_dir() or not (path.suffix or is_stream(path))


def _plan_pictures(
    files: Sequence[Path], roots: Sequence[Path], plot: Path | None
) -> dict[Path, Path] | None:
    if plot is None:
        return None
    if _is_folder(plot):
        check_picture(plot / "x.png")
        return {file: plot / name for file, name in output_names(files, roots, ".png").items()}
    check_picture(plot)
    if len(files) > 1:
        raise ConfigError(f"'{plot}' is one picture, but there are {len(files)} recordings: name a folder")
    return dict.fromkeys(files, plot)


def _write_failures(path: Path, failed: Sequence[Timeline]) -> None:
    if not failed:
        path.unlink(missing_ok=True)
        return
    with open_output(path) as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["path", "error"])
        writer.writerows([row.path, row.error] for row in failed)
