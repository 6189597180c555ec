"""JSON: an array with one object for each recording."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from emodistill.inference.formats.base import TimelineFormat

if TYPE_CHECKING:
    from emodistill.inference.timelines import Timeline


def to_json(rows: Sequence["Timeline"], emotions: Sequence[str]) -> str:
    """The fields of each timeline; a recording that could not be read has its `error`."""
    return json.dumps([row.as_dict() for row in rows], ensure_ascii=False, indent=1) + "\n"


FORMAT = TimelineFormat(
    name="json",
    title="JSON",
    suffix=".json",
    media_type="application/json",
    to_text=to_json,
    holds_several=True,
    holds_errors=True,
    in_static_page=True,
)
