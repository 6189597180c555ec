"""Texts that others wrote, read with limits: a file that is huge, deep or endless gives an error at once."""

import codecs
import errno
import json
import re
from pathlib import Path
from typing import Any

from emodistill.errors import EmodistillError

MAX_JSON_BYTES = 2**26
# A key of TOML with over 100 parts, bare or quoted.
_LONG_KEY = re.compile(
    r"""(?<![A-Za-z0-9_-])(?:(?:[A-Za-z0-9_-]++|"[^"\n]*"|'[^'\n]*')[ \t]*\.[ \t]*){100}"""
)


def decode_text(content: bytes) -> str:
    """Return text of UTF-8, or of UTF-16 with a byte order mark, as spreadsheet programs save it.

    Raises `UnicodeDecodeError` for other bytes.
    """
    return content.decode("utf-16" if is_utf16(content) else "utf-8-sig")


def is_utf16(content: bytes) -> bool:
    """Return whether bytes begin with a byte order mark of UTF-16."""
    return content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))


def read_bytes(path: Path, max_bytes: int) -> bytes:
    """Return the content of a file.

    Raises `OSError` for a file of over `max_bytes`. It raises one for a pipe or a device too, which may have
    no end, or wait for ever.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "is no regular file", str(path))
    with path.open("rb") as file:
        content = file.read(min(path.stat().st_size, max_bytes) + 1)
    if len(content) > max_bytes:
        raise OSError(errno.EINVAL, f"it has over {max_bytes} bytes", str(path))
    return content


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text. Raises `ValueError` for every text that has none."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def parse_toml(text: str) -> dict[str, Any]:
    """Return the table of a TOML text. Raises `ValueError` for every text that is none.

    An integer has 64 bits, as TOML says. A key has at most 100 parts, because tomllib needs memory for the
    square of their number.
    """
    import tomllib  # Not above: few commands read TOML.

    if _LONG_KEY.search(text):
        raise ValueError("a key has over 100 parts")
    try:
        table = tomllib.loads(text)
        _check_integers(table)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    return table


def _check_integers(value: Any) -> None:
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError("an integer has over 64 bits")
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check_integers(part)


def read_json(path: Path, error: type[EmodistillError], problem: str, remedy: str = "") -> dict[str, Any]:
    """Return the object of a JSON file.

    Raises `error` for a file that cannot be read, has over `MAX_JSON_BYTES`, or holds no JSON object. The
    message says that the file has the `problem`, e.g. "is damaged", and ends with the `remedy`.
    """
    try:
        return json_object(read_bytes(path, MAX_JSON_BYTES), error, f"'{path}' {problem}", remedy)
    except OSError as cause:
        raise error(f"'{path}' {problem}: {cause.strerror}{remedy}") from cause


def json_object(
    text: str | bytes, error: type[EmodistillError], problem: str, remedy: str = ""
) -> dict[str, Any]:
    """Return the object of a JSON text. Raises `error` for any other; the message begins with `problem`."""
    try:
        data = parse_json(text)
    except ValueError as cause:  # no JSON, or no UTF-8
        raise error(f"{problem}: {cause}{remedy}") from cause
    if not isinstance(data, dict):
        raise error(f"{problem}: expected an object, got {type(data).__name__}{remedy}")
    return data
