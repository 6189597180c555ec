"""The description of a timeline format, and helpers that several writers use.

This module and the writers import nothing heavy: the command line reads the registry before it knows the
command.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emodistill.inference.model_card import Card
    from emodistill.inference.segmentation import Segment
    from emodistill.inference.timelines import Timeline

UNSURE = "?"  # the label of a segment without an emotion


@dataclass(frozen=True)
class WriterContext:
    """What a writer may need besides the timelines.

    Attributes:
        card: of the model that made the timelines; None: not known.
        audio: whether a file may hold the sound of the recording.
        trend_s: the step of a trend in seconds. Most formats then hold the trend in place of the segments.
            None: no trend was asked for.
    """

    card: "Card | None" = None
    audio: bool = True
    trend_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class TimelineFormat:
    """A file format for timelines: all facts that command line, server, pages and documentation need.

    Attributes:
        name: the value of `--format`, in lower-case letters.
        title: the text of the page's download button.
        suffix: the end of a file name, with its dot.
        media_type: the value of the HTTP headers Accept and Content-Type.
        to_text: the writer. It gets timelines and the model's emotions, and returns the content of one file.
        to_bytes: the writer of a binary format, in place of `to_text`. The server and the pages, which send
            text, do not offer the format.
        check: raises `MissingExtraError` if the writer needs a package that is missing; None: it needs none.
        holds_several: one file can hold several recordings. Otherwise the writer gets exactly one timeline.
        holds_errors: a file can say why a recording could not be read. Otherwise the writer ignores `error`.
        needs_source: the writer opens the recording at `Timeline.path`. The server and the pages have no such
            file, so they do not offer the format.
        in_static_page: `assets/web/writers.js` has the same writer, so the static page offers the format.
        chosen_by_suffix: `--output FILE` with this suffix chooses the format. False where the suffix
            is too common.
        to_parts: the same writer as `to_text` for a format that also needs a `WriterContext`, or whose files
            are large. It yields the content part by part.
    """

    name: str
    title: str
    suffix: str
    media_type: str
    to_text: Callable[[Sequence["Timeline"], Sequence[str]], str] | None = None
    to_bytes: Callable[[Sequence["Timeline"], Sequence[str]], bytes] | None = None
    check: Callable[[], None] | None = None
    holds_several: bool
    holds_errors: bool = False
    needs_source: bool = False
    in_static_page: bool = False
    chosen_by_suffix: bool = True
    to_parts: Callable[[Sequence["Timeline"], Sequence[str], WriterContext], Iterator[str]] | None = None


def all_segments(rows: Sequence["Timeline"]) -> Iterator["Segment"]:
    """The segments of all timelines, one timeline after the other."""
    for row in rows:
        yield from row.segments


def one_line(text: str, blank: str = " ") -> str:
    """A text with every run of white space, line breaks included, replaced by `blank`."""
    return blank.join(text.split())


def label(segment: "Segment", between: str = ": ", blank: str = " ") -> str:
    """`emotion`, or `speaker: emotion`, on one line; `?` stands for a missing emotion."""
    emotion = segment.emotion or UNSURE
    return emotion if segment.speaker is None else f"{one_line(segment.speaker, blank)}{between}{emotion}"


def percent(segment: "Segment") -> str:
    """The confidence as ` 83 %`, with a space before it; empty where there is none."""
    return "" if segment.confidence is None else f" {100 * segment.confidence:.0f} %"


def words(segment: "Segment") -> str:
    """The words of a segment as one line with its line break; empty where there are none.

    `-->` becomes `->`, because readers of subtitles take it for the times of a block.
    """
    text = one_line(segment.text or "").replace("-->", "->")
    return f"{text}\n" if text else ""


def clock(time_s: float, decimal_mark: str) -> str:
    """A time as hours:minutes:seconds with three decimals.

    >>> clock(3723.25, ",")
    '01:02:03,250'
    """
    seconds, ms = divmod(round(1000 * time_s), 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{decimal_mark}{ms:03d}"


def tiers(segments: Sequence["Segment"]) -> list[tuple[str, list["Segment"]]]:
    """Named tiers for annotation programs: one for each speaker, without overlaps inside a tier.

    A tier has the speaker's name, or "emotion" where there are no speakers. Segments of one speaker that
    overlap go to further tiers: "anna 2", "anna 3". No two tiers have the same name. Without segments there
    is one empty tier.
    """
    groups: list[tuple[str | None, list[Segment]]] = []
    for segment in segments:
        free = (
            group
            for speaker, group in groups
            if speaker == segment.speaker and group[-1].end_s <= segment.start_s
        )
        group = next(free, None)
        if group is None:
            groups.append((segment.speaker, [segment]))
        else:
            group.append(segment)
    named: dict[str, list[Segment]] = {}
    for speaker, group in groups:
        name = first = speaker or "emotion"
        number = 1
        while name in named:
            number += 1
            name = f"{first} {number}"
        named[name] = group
    return list(named.items()) or [("emotion", [])]
