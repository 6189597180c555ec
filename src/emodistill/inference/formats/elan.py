"""EAF, the annotation format of ELAN: XML with a tier for each speaker and times in milliseconds.

Format: https://www.mpi.nl/tools/elan/EAF_Annotation_Format_3.0_and_ELAN.pdf
"""

import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING
from urllib.parse import quote
from xml.etree import ElementTree as ET

from emodistill.inference.formats.base import UNSURE, TimelineFormat, tiers

if TYPE_CHECKING:
    from emodistill.inference.timelines import Timeline

SCHEMA_LOCATION = "{http://www.w3.org/2001/XMLSchema-instance}noNamespaceSchemaLocation"
NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, section 2.2
TIER_TYPE = "emotion"  # the linguistic type of all tiers


def to_eaf(rows: Sequence["Timeline"], emotions: Sequence[str]) -> str:
    """One annotation document; the value of an annotation is its emotion, or `?`."""
    (row,) = rows
    document = ET.Element(
        "ANNOTATION_DOCUMENT",
        {
            "AUTHOR": "emodistill",
            "DATE": "1970-01-01T00:00:00Z",  # required; the time of writing would make equal timelines differ
            "FORMAT": "3.0",
            "VERSION": "3.0",
            SCHEMA_LOCATION: "http://www.mpi.nl/tools/elan/EAFv3.0.xsd",
        },
    )
    header = ET.SubElement(document, "HEADER", MEDIA_FILE="", TIME_UNITS="milliseconds")
    if row.path:
        ET.SubElement(header, "MEDIA_DESCRIPTOR", _media(row.path))
    time_order = ET.SubElement(document, "TIME_ORDER")
    slots: list[tuple[int, str]] = []  # (milliseconds, id)
    number = 0
    for name, segments in tiers(row.segments):
        tier = ET.SubElement(document, "TIER", TIER_ID=_clean(name), LINGUISTIC_TYPE_REF=TIER_TYPE)
        if segments and segments[0].speaker is not None:
            tier.set("PARTICIPANT", _clean(segments[0].speaker))
        for segment in segments:
            number += 1
            start, end = f"ts{2 * number - 1}", f"ts{2 * number}"
            slots += [(round(1000 * segment.start_s), start), (round(1000 * segment.end_s), end)]
            annotation = ET.SubElement(
                ET.SubElement(tier, "ANNOTATION"),
                "ALIGNABLE_ANNOTATION",
                ANNOTATION_ID=f"a{number}",
                TIME_SLOT_REF1=start,
                TIME_SLOT_REF2=end,
            )
            ET.SubElement(annotation, "ANNOTATION_VALUE").text = segment.emotion or UNSURE
    for time_ms, slot in sorted(slots, key=lambda item: item[0]):
        ET.SubElement(time_order, "TIME_SLOT", TIME_SLOT_ID=slot, TIME_VALUE=str(time_ms))
    ET.SubElement(
        document,
        "LINGUISTIC_TYPE",
        LINGUISTIC_TYPE_ID=TIER_TYPE,
        TIME_ALIGNABLE="true",
        GRAPHIC_REFERENCES="false",
    )
    ET.indent(document)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(document, encoding="unicode")}\n'


def _media(path: str) -> dict[str, str]:
    """The link to the recording: as it was named, and beside the .eaf file."""
    recording = PurePath(path)
    name = quote(recording.name, errors="surrogateescape")
    url = recording.as_uri() if recording.is_absolute() else quote(path, errors="surrogateescape")
    return {
        "MEDIA_URL": url,
        "RELATIVE_MEDIA_URL": f"./{name}",
        "MIME_TYPE": "audio/x-wav" if recording.suffix.lower() == ".wav" else "unknown",
    }


def _clean(text: str) -> str:
    """A text without the characters that XML cannot hold."""
    return NOT_XML.sub("\ufffd", text)


FORMAT = TimelineFormat(
    name="elan",
    title="ELAN",
    suffix=".eaf",
    media_type="text/x-eaf+xml",
    to_text=to_eaf,
    holds_several=False,
)
