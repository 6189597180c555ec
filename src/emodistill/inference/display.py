"""What pictures, pages and notebooks share: words and times for reading, escaped text, embedded sound."""

import base64
import html
from collections.abc import Iterator
from typing import BinaryIO

NO_ANSWER = "no answer"  # the name of a segment without an emotion, where there is room for words
UNSURE_COLOUR = "#6b7280"  # of a segment without an emotion
SOUND_KBIT_S = 32  # for one channel or two, so that 90 minutes stay under 35 MB
_BLOCK_BYTES = 3 * 2**14  # of sound; a multiple of 3, so that Base64 needs no padding in between


def escaped(text: str) -> str:
    """Return a text for HTML, in ASCII; a part of a file name that is no valid text becomes `?`."""
    valid = text.encode("utf-8", "replace").decode()
    return html.escape(valid).encode("ascii", "xmlcharrefreplace").decode()


def sound_attribute(sound: BinaryIO) -> Iterator[str]:
    """Yield the attribute `src` with an MP3 itself as its address; nothing for an empty file."""
    if sound.seek(0, 2):
        sound.seek(0)
        yield ' src="data:audio/mpeg;base64,'
        while block := sound.read(_BLOCK_BYTES):
            yield base64.b64encode(block).decode()
        yield '"'


def length_label(time_s: float) -> str:
    """A length of time for reading, such as `8.3 s` or, from a minute on, `12:05`."""
    return f"{time_s:.1f} s" if time_s < 60 else clock_label(time_s)


def clock_label(time_s: float) -> str:
    """A time in whole seconds for reading, as minutes:seconds, with hours if there are any.

    >>> clock_label(83.2), clock_label(3723.25)
    ('1:23', '1:02:03')
    """
    seconds = round(time_s)
    minutes = f"{seconds // 60}" if seconds < 3600 else f"{seconds // 3600}:{seconds // 60 % 60:02d}"
    return f"{minutes}:{seconds % 60:02d}"
