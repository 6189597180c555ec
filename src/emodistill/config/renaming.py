"""The notation that renames columns and emotions: `ours=theirs` for columns, `theirs=ours` for emotions.

Command line options, `--set` and the tables of a recipe use it. A name with a comma stands in quotes:
`--columns 'path=wav,"transcript=words, cleaned"'`.
"""

import csv
from collections.abc import Iterable

from emodistill.errors import ConfigError, one_of
from emodistill.labels import EMOTIONS, LEFT_OUT

COLUMNS_EXAMPLE = "id=file,path=wav"
EMOTIONS_EXAMPLE = "anger=angry,oth=-"


def read_columns(texts: Iterable[str], option: str) -> dict[str, str]:
    """Return {our column: column of the file} of texts such as `id=file,path=wav`.

    `option` is the name of the option in messages. Raises `ConfigError` for text of another form, and for a
    column that is named twice.
    """
    columns: dict[str, str] = {}
    for pair in _pairs(texts):
        ours, sign, theirs = (part.strip() for part in pair.partition("="))
        if not (ours and sign and theirs):
            raise ConfigError(
                f"bad {option} '{pair}', expected OURS=THEIRS, as in {COLUMNS_EXAMPLE}; a name with a comma "
                "stands in quotes with its pair, as in 'path=wav,\"transcript=words, cleaned\"'"
            )
        if columns.setdefault(ours, theirs) != theirs:
            raise ConfigError(f"{option} gives two columns for '{ours}', expected one")
    return columns


def read_emotions(texts: Iterable[str], option: str) -> dict[str, str]:
    """Return {emotion of the data: our emotion} of texts such as `anger=angry,oth=-`; "-" leaves it out.

    `option` is the name of the option in messages. Raises `ConfigError` for text of another form, for an
    emotion that is not ours, and for a name that is given twice.
    """
    emotions: dict[str, str] = {}
    for pair in _pairs(texts):
        theirs, sign, ours = (part.strip() for part in pair.rpartition("="))
        if not (theirs and sign and ours):
            raise ConfigError(f"bad {option} '{pair}', expected name=emotion, as in {EMOTIONS_EXAMPLE}")
        if ours != LEFT_OUT and ours not in EMOTIONS:
            swapped = f"; did you mean {ours}={theirs}? Our emotion comes last" if theirs in EMOTIONS else ""
            raise ConfigError(f"{option} {theirs}={ours}: {one_of('emotion', ours, EMOTIONS)}, or -{swapped}")
        if theirs in emotions:
            raise ConfigError(f"{option} gives two emotions for '{theirs}', expected one")
        emotions[theirs] = ours
    return emotions


def quoted(pair: str) -> str:
    """Return a pair as a list of pairs has it: in quotes where it holds a comma or a quote."""
    return '"' + pair.replace('"', '""') + '"' if set(pair) & set(',"') else pair


def _pairs(texts: Iterable[str]) -> list[str]:
    """Return the parts between commas; empty ones are left out."""
    rows = csv.reader(texts, skipinitialspace=True)
    return [pair for row in rows for pair in (cell.strip() for cell in row) if pair]
