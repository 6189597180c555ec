"""Every error that a user can cause. Its message says what came, what was expected and what to do.

The command line prints the message and exits with code 2. The server answers with a problem document. Where
many recordings are processed, an `AudioError` becomes the `error` of its row, and the others are processed.
"""

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any


class EmodistillError(Exception):
    """The base class: catch it to catch every error that emodistill raises on purpose."""


class AudioError(EmodistillError):
    """Audio is missing, cannot be decoded, is empty, holds NaN or Inf, or has a rate or shape out of range.

    Every function that reads audio raises it, e.g. `Recognizer.predict` and `timeline`.
    """


class AudioTooLongError(AudioError):
    """Audio is longer than the limit in seconds that the caller gave.

    The decoder raises it as soon as the limit is passed, e.g. in the server.
    """


class CorpusError(EmodistillError):
    """A corpus folder or a manifest is missing, malformed or inconsistent.

    The corpus readers and all code that reads utterances of a manifest raise it.
    """


class ConfigError(EmodistillError):
    """An option or a recipe has an unknown name, a value out of range, or a contradiction.

    It is raised before the work starts, by the code that reads the option.
    """


class LeakError(EmodistillError):
    """A speaker, an utterance or a recording would be in training and in test, or a split is unusable.

    The audit of the folds raises it before training, and an evaluation raises it for a model that has seen
    its data.
    """


class ModelError(EmodistillError):
    """A checkpoint, a run folder or an exported model is missing, incomplete, changed or unsuitable.

    All code that loads one of them raises it, and so does an export that fails its checks.
    """


class MissingExtraError(EmodistillError):
    """A feature needs an optional package that is not installed; the message names the extra to install.

    Args:
        package: the package that is missing.
        extra: the extra of emodistill that installs it, e.g. "plot".
        what: the feature, as the subject of the message.
    """

    def __init__(self, package: str, extra: str, what: str = "this") -> None:
        super().__init__(
            f"{what} needs the package '{package}', which is not installed: pip install 'emodistill[{extra}]'"
        )


class ServerError(EmodistillError):
    """A server refused a request of `Client`, or did not answer.

    `status` is the HTTP status of the answer, or 0 without an answer.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


MAX_SHOWN = 200  # characters of a bad value in a message


def one_of(what: str, value: object, expected: Iterable[str]) -> str:
    """The message for a value that is not in a list of names, with the most similar name.

    >>> one_of("backbone", "hubrt", ["hubert", "whisper"])
    "bad backbone 'hubrt', expected one of ['hubert', 'whisper'] (did you mean 'hubert'?)"
    """
    names = list(expected)
    if len(str(value)) > MAX_SHOWN:
        value = f"{str(value)[:MAX_SHOWN]}…"
    similar = get_close_matches(str(value), names, n=1)
    hint = f" (did you mean '{similar[0]}'?)" if similar else ""
    return f"bad {what} '{value}', expected one of {names}{hint}"


def field_messages(errors: Iterable[Mapping[str, Any]]) -> list[str]:
    """The messages of pydantic's `ValidationError.errors()`, each with the name of its field.

    >>> field_messages([{"loc": ("rate",), "msg": "Value error, too low"}])
    ['rate: too low']
    """
    return [
        ": ".join(filter(None, (".".join(map(str, error["loc"])), plain_message(error)))) for error in errors
    ]


_EXPECTED = {  # the type of a pydantic error -> what a value should be
    "missing": "a value, got none",
    "literal_error": "{expected}",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "float_parsing": "a number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "string_type": "a text",
    "dict_type": "an object",
    "list_type": "a list",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "greater_than_equal": "at least {ge}",
    "greater_than": "more than {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "less than {lt}",
    "string_too_long": "at most {max_length} characters",
    "string_too_short": "at least {min_length} characters",
    "too_long": "at most {max_length} items, got {actual_length}",
    "too_short": "at least {min_length} items, got {actual_length}",
}
_SHOWN_CHARACTERS = 40  # of a value, in a message


def plain_message(error: Mapping[str, Any]) -> str:
    """The message of one of pydantic's `ValidationError.errors()`, without the name of its field.

    >>> plain_message({"type": "less_than_equal", "ctx": {"le": 60}, "input": "61", "msg": "Input should …"})
    "bad value '61', expected at most 60"
    """
    kind, value = error.get("type", ""), error.get("input")
    if kind == "extra_forbidden":
        return "unknown, expected to be left out"
    if kind not in _EXPECTED:
        return str(error["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    expected = _EXPECTED[kind].format_map(error.get("ctx", {}))
    is_short = isinstance(value, (str, int, float)) and len(repr(value)) <= _SHOWN_CHARACTERS
    shown = f"bad value {value!r}, " if is_short and kind not in ("missing", "string_too_long") else ""
    return f"{shown}expected {expected}"


# Of a terminal: all but line feed and tabulator.
CONTROL = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f]")


def without_control(text: str) -> str:
    """Return a text with `?` for each control character that is no line break or tabulator.

    >>> without_control("an\\x1b[31mna"), without_control("one\\r\\ntwo")
    ('an?[31mna', 'one\\ntwo')
    """
    return CONTROL.sub("?", text.replace("\r\n", "\n"))
