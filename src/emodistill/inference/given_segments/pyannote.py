"""JSON of pyannote: `{"diarization": [{"start", "end", "speaker"}]}`."""

from collections.abc import Iterator

from emodistill.inference.given_segments.base import GivenRow, SegmentsFormat, text_or_none
from emodistill.inference.given_segments.json_lists import has_list, items_of


def recognises(text: str) -> bool:
    """Return whether a text is JSON with a list `diarization`."""
    return has_list(text, "diarization")


def rows(text: str, name: str) -> Iterator[GivenRow]:
    """Yield the turns of the speakers."""
    for where, item in items_of(text, "diarization", name):
        yield GivenRow(where, item.get("start"), item.get("end"), text_or_none(item.get("speaker")))


FORMAT = SegmentsFormat("JSON of pyannote", recognises, rows)
