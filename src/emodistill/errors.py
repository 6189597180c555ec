"""Every error a user can cause. Each message says what came, what was expected and what to do."""

from collections.abc import Iterable
from difflib import get_close_matches


class EmodistillError(Exception):
    """Base of all errors that emodistill raises on purpose."""


class AudioError(EmodistillError):
    """Audio that is missing, cannot be decoded, is empty, holds NaN or Inf, or has a rate or shape out of range."""


class AudioTooLongError(AudioError):
    """Audio that goes on for longer than the caller takes."""


class CorpusError(EmodistillError):
    """A corpus folder or manifest that is missing, malformed or inconsistent."""


class ConfigError(EmodistillError):
    """An option or a recipe with an unknown name, a value out of range, or a contradiction."""


class LeakError(EmodistillError):
    """Something that must be in one split alone was found in two."""


class ModelError(EmodistillError):
    """A checkpoint, run folder or exported model that is incomplete, changed or unsuitable."""


class MissingExtraError(EmodistillError):
    """An optional dependency that this install does not have."""

    def __init__(self, package: str, extra: str, what: str = "this") -> None:
        super().__init__(
            f"{what} needs the package '{package}', which is not installed: pip install 'emodistill[{extra}]'"
        )


class ServerError(EmodistillError):
    """A server that refuses, with its HTTP `status`; or that does not answer, with 0."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def one_of(what: str, value: object, expected: Iterable[str]) -> str:
    """The message for a value outside a closed list, naming the nearest known one.

    >>> one_of("backbone", "hubrt", ["hubert", "whisper"])
    "bad backbone 'hubrt', expected one of ['hubert', 'whisper'] (did you mean 'hubert'?)"
    """
    known = list(expected)
    close = get_close_matches(str(value), known, n=1)
    hint = f" (did you mean '{close[0]}'?)" if close else ""
    return f"bad {what} '{value}', expected one of {known}{hint}"
