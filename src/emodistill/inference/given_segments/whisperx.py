"""JSON of whisperX and Whisper: `{"segments": [{"start", "end", "text", "speaker", "words"}]}`.

`words` stand in for what a segment itself lacks: its times, its text, and its speaker, who says most of them.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from emodistill.inference.given_segments.base import GivenRow, SegmentsFormat, text_or_none
from emodistill.inference.given_segments.json_lists import has_list, items_of


def recognises(text: str) -> bool:
    """Return whether a text is JSON with a list `segments`."""
    return has_list(text, "segments")


def rows(text: str, name: str) -> Iterator[GivenRow]:
    """Yield the segments."""
    for where, item in items_of(text, "segments", name):
        listed = item.get("words")
        words = [word for word in listed if isinstance(word, dict)] if isinstance(listed, list) else []
        speakers = Counter(str(word["speaker"]) for word in words if word.get("speaker"))
        most = speakers.most_common(1)[0][0] if speakers else None
        spoken = " ".join(str(word.get("word", "")).strip() for word in words)
        yield GivenRow(
            where,
            _first(item.get("start"), [word.get("start") for word in words]),
            _first(item.get("end"), [word.get("end") for word in reversed(words)]),
            text_or_none(item.get("speaker")) or text_or_none(most),
            text=text_or_none(item.get("text")) or text_or_none(spoken),
            channel=item.get("channel"),
        )


def _first(value: Any, others: list[Any]) -> Any:
    """Return a value, or for None the first of the others that is not None."""
    return next((each for each in (value, *others) if each is not None), None)


FORMAT = SegmentsFormat("JSON of whisperX", recognises, rows)
