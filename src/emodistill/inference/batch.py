"""Timelines of many recordings: where each goes, what is there already, and what failed."""

import csv
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from emodistill.console import UNENCODABLE, results, say
from emodistill.errors import ConfigError, one_of
from emodistill.inference.formats import (
    UNSURE,
    WRITERS,
    check_picture,
    ensure_same_settings,
    output_names,
    plot_timeline,
    write,
)
from emodistill.inference.model_card import file_sha256
from emodistill.inference.recognizer import Recognizer
from emodistill.inference.timelines import GivenSegments, Timeline, timelines

FAILURES = "failures.csv"  # in an output folder: path, error
MADE_WITH = ".made_with.json"  # in an output folder: model, emotions, min_confidence, segments


@dataclass(frozen=True)
class Outputs:
    """What is to be written of each recording; made by `plan` before anything is judged."""

    format: str  # of WRITERS, or table
    folder: Path | None = None
    file: Path | None = None
    names: dict[Path, Path] | None = None  # recording -> its file below the folder
    pictures: dict[Path, Path] | None = None  # recording -> its picture

    def ensure_same_settings(self, recognizer: Recognizer, given: GivenSegments | None) -> None:
        """Note in an output folder what its files are made with; raises `ConfigError` where it was another."""
        if self.folder is None:
            return
        segments = None if given is None else file_sha256(given.source)
        ensure_same_settings(
            self.folder / MADE_WITH, self.folder, {**recognizer.settings, "segments": segments}
        )

    def todo(self, files: Sequence[Path]) -> list[Path]:
        """The recordings whose outputs are not all there; without a folder, all of them."""
        if self.folder is None or self.names is None:
            return list(files)
        folder, names, pictures = self.folder, self.names, self.pictures or {}
        return [
            file
            for file in files
            if not (folder / names[file]).is_file() or (file in pictures and not pictures[file].is_file())
        ]


def plan(
    files: Sequence[Path], roots: Sequence[Path], format: str, output: Path | None, plot: Path | None
) -> Outputs:
    """Where everything goes.

    An output, or plot, is a folder where it is one or has no suffix: then each recording has a file of its
    own there, as it lies below the root that named it. Otherwise all go to one file.

    Raises `ConfigError` where a format can't hold several recordings, or a picture would have to.
    """
    if format not in ("table", *WRITERS):
        raise ConfigError(one_of("format", format, ["table", *WRITERS]))
    pictures = None
    if plot is not None and (plot.is_dir() or not plot.suffix):
        check_picture(plot / "x.png")
        pictures = {file: plot / name for file, name in output_names(files, roots, ".png").items()}
    elif plot is not None:
        check_picture(plot)
        if len(files) > 1:
            raise ConfigError(
                f"'{plot}' is one picture, and there are {len(files)} recordings: name a folder"
            )
        pictures = dict.fromkeys(files, plot)
    if output is not None and (output.is_dir() or not output.suffix):
        if format == "table":
            raise ConfigError(f"a table can't go to the folder '{output}': add --format, e.g. json")
        names = output_names(files, roots, WRITERS[format].suffix)
        return Outputs(format, folder=output, names=names, pictures=pictures)
    if len(files) > 1 and format != "table" and not WRITERS[format].several:
        raise ConfigError(
            f"a {format} file holds one recording, and there are {len(files)}: name a folder with --output"
        )
    return Outputs(format, file=output, pictures=pictures)


def run(
    recognizer: Recognizer,
    files: Sequence[Path],
    outputs: Outputs,
    given: GivenSegments | None = None,
    jobs: int = 1,
) -> Iterator[Timeline]:
    """Judge the recordings in order, and write each as soon as it is done: its picture, and its file in a folder.

    One that failed has no file there, so that it is tried again, and a row in `failures.csv`.
    """
    failed: list[Timeline] = []
    traced = outputs.pictures is not None
    try:
        for row in timelines(files, recognizer, given=given, jobs=jobs, traced=traced):
            path = Path(row.path)
            if row.error is not None:
                failed.append(row)
            else:
                if outputs.pictures is not None:
                    plot_timeline(row, recognizer.emotions, outputs.pictures[path])
                if outputs.folder is not None and outputs.names is not None:
                    write([row], outputs.format, outputs.folder / outputs.names[path], recognizer.emotions)
            yield replace(row, trace=None)  # drawn, and of many recordings more than memory holds
    finally:  # after Ctrl-C too
        if outputs.folder is not None:
            _write_failures(outputs.folder / FAILURES, failed)


def finish(rows: Sequence[Timeline], outputs: Outputs, emotions: Sequence[str]) -> None:
    """Write all of them together, where they do not have a folder: to the file, or to standard output.

    Where none could be read, a file that was there stays, and formats that can't say why are not written.
    """
    if outputs.folder is not None:
        return
    if rows and all(row.error is not None for row in rows):
        if outputs.file is not None:
            say(f"'{outputs.file}' is not written: nothing was judged")
            return
        if outputs.format not in ("table", "json", "csv"):
            return
    if outputs.format == "table":
        if outputs.file is None:
            results().print(as_table(rows))
            return
        outputs.file.parent.mkdir(parents=True, exist_ok=True)
        with outputs.file.open("w", encoding="utf-8", errors=UNENCODABLE) as stream:
            results(stream).print(as_table(rows))
    elif outputs.file is not None:
        write(rows, outputs.format, outputs.file, emotions)
    else:
        sys.stdout.write(WRITERS[outputs.format].text(rows, emotions))


def _write_failures(path: Path, failed: Sequence[Timeline]) -> None:
    if not failed:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", errors=UNENCODABLE, newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", "error"])
        writer.writerows([row.path, row.error] for row in failed)


def as_table(rows: Iterable[Timeline]) -> Table:
    """For reading: a line for each segment, and one for how long each emotion was heard in the recording."""
    rows = list(rows)
    speakers = any(segment.speaker for row in rows for segment in row.segments)
    table = Table("file", "start", "end", *(["speaker"] if speakers else []), "emotion", "confidence", "note")
    for column in table.columns[1:3]:
        column.justify = "right"
    for row in rows:
        if not row.segments:
            note = row.error or (row.reason or "no speech").replace("_", " ")
            table.add_row(escape(row.path), "", "", *([""] if speakers else []), "–", "", escape(note))
        for segment in row.segments:
            shown = "" if segment.confidence is None else f"{segment.confidence:.2f}"
            who = [escape(segment.speaker or "")] if speakers else []
            times = [clock(segment.start_s), clock(segment.end_s)]
            note = "" if segment.emotion else "low confidence" if shown else "nothing to judge"
            table.add_row(escape(row.path), *times, *who, segment.emotion or UNSURE, shown, note)
        if row.segments and row.duration_s is not None:
            lasted = sorted(row.summary.items(), key=lambda item: -item[1])
            told = ", ".join(f"{emotion} {clock(seconds)}" for emotion, seconds in lasted if seconds)
            table.add_row(
                escape(row.path), "", clock(row.duration_s), *([""] if speakers else []), "in all", "", told or UNSURE,
                style="dim", end_section=True,
            )  # fmt: skip
    return table


def clock(time_s: float) -> str:
    """Minutes and seconds, and hours where there are any.

    >>> clock(83.25), clock(7283.0)
    ('1:23.2', '2:01:23.0')
    """
    tenths = round(10 * time_s)
    minutes, seconds = divmod(tenths, 600)
    hours = f"{minutes // 60}:{minutes % 60:02d}" if minutes >= 60 else f"{minutes}"
    return f"{hours}:{seconds // 10:02d}.{seconds % 10}"
