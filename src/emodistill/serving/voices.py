"""Voices in requests and answers. The server uses a voice for one request or one stream, and keeps none."""

import json
from collections.abc import Sequence

from fastapi import UploadFile

from emodistill.errors import AudioError, ConfigError
from emodistill.inference.prediction import Prediction
from emodistill.inference.recognizer import Recognizer
from emodistill.inference.timelines import Timeline
from emodistill.inference.voices import (
    MAX_VOICE_BYTES,
    SpeechStatistics,
    Voice,
    check_voice,
    enrol,
    ensure_voices,
)
from emodistill.serving.problems import RequestRefused


async def read_voice(upload: UploadFile | None, adapt: str, recognizer: Recognizer) -> Voice | None:
    """The voice of a form; None without one. The other errors are those of `parse_voice`.

    Raises `RequestRefused` (413) for a voice that is too large.
    """
    content = None if upload is None else await upload.read(MAX_VOICE_BYTES + 1)
    return parse_voice(content, adapt, recognizer)


async def read_voices(
    uploads: Sequence[UploadFile], names: Sequence[str] | None, adapt: str, recognizer: Recognizer
) -> Voice | dict[str, Voice] | None:
    """The voice of a form, None without one; with `names`, the voice of each of these speakers.

    Raises `ConfigError` if there are not as many voices as names, or a name comes twice. The other errors are
    those of `read_voice`.
    """
    if names is None and len(uploads) > 1:
        raise ConfigError(
            f"got {len(uploads)} voices without voice_name, expected one: give the speaker of each voice as "
            "voice_name"
        )
    if names is None:
        return await read_voice(uploads[0] if uploads else None, adapt, recognizer)
    if len(names) != len(uploads):
        raise ConfigError(
            f"got {len(uploads)} files in voice and {len(names)} speakers in voice_name, expected as many of "
            "each"
        )
    if len(set(names)) < len(names):
        raise ConfigError(f"expected another voice_name for each voice, got {', '.join(names)}")
    voices = {}
    for name, upload in zip(names, uploads, strict=True):
        voice = await read_voice(upload, adapt, recognizer)
        assert voice is not None
        voices[name] = voice
    return voices


def parse_voice(content: bytes | None, adapt: str, recognizer: Recognizer) -> Voice | None:
    """The voice in the text of a voice file; None without a text. Checks the option `adapt` too.

    Raises:
        ConfigError: a voice together with `adapt`.
        ModelError: the voice is malformed, edited or of another model, or the model has no voices.
        RequestRefused: (413) the text is too long.
    """
    if adapt != "none":
        if content is not None:
            raise ConfigError(
                f"got a voice and adapt={adapt}, expected one of them: adapt learns a voice from this audio"
            )
        ensure_voices(recognizer.card)
    if content is None:
        return None
    if len(content) > MAX_VOICE_BYTES:
        detail = f"the voice has more than {MAX_VOICE_BYTES // 1024} KiB, the limit: send a voice file"
        raise RequestRefused(413, "too-large", detail)
    voice = Voice.from_json(content)
    check_voice(voice, recognizer.card)
    return voice


def learned_voice(statistics: SpeechStatistics, recognizer: Recognizer) -> Voice | None:
    """The voice of one recording; None if it has no speech or cannot be read."""
    try:
        voice, _ = enrol([statistics], recognizer.card.sha256)
    except AudioError:
        return None
    return voice


def rows_with_voices(rows: Sequence[Prediction | Timeline], voices: Sequence[Voice | None]) -> str:
    """The JSON of an answer, where each row has its `voice`, or null."""
    objects = [
        {**row.as_dict(), "voice": None if voice is None else voice.as_dict()}
        for row, voice in zip(rows, voices, strict=True)
    ]
    return json.dumps(objects, ensure_ascii=False, indent=1) + "\n"


def check_return_voice(media_type: str, recognizer: Recognizer) -> None:
    """Raise `ModelError` for a model without voices, `RequestRefused` (406) for a format without a place."""
    ensure_voices(recognizer.card)
    if media_type != "application/json":
        detail = f"bad Accept for return_voice, expected application/json, got {media_type}"
        raise RequestRefused(406, "not-acceptable", detail)
