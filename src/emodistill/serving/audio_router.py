"""`/v1/audio`: a recording as a file that every browser plays, for what a page cannot play itself."""

from collections.abc import Iterator
from typing import Any, BinaryIO

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse

from emodistill.audio.encoding import PlayableFormat
from emodistill.serving.forms import (
    ERROR_STATUSES,
    Files,
    check_fields,
    connection_check,
    form_route,
    named_files,
)
from emodistill.serving.problems import documented_problems
from emodistill.serving.responses import best_media_type
from emodistill.serving.service import Service

PLAYABLE: dict[str, PlayableFormat] = {"audio/wav": "WAV", "audio/mpeg": "MP3"}
_BLOCK_BYTES = 2**16


def create_audio_router(service: Service) -> APIRouter:
    """The route for `/v1/audio`."""
    router = APIRouter(tags=["files"], route_class=form_route(1))
    content: dict[str, Any] = {name: {"schema": {"type": "string", "format": "binary"}} for name in PLAYABLE}
    answers: dict[int | str, dict[str, Any]] = {200: {"description": "The recording.", "content": content}}

    @router.post(
        "/v1/audio", summary="Decode one file for playing", response_class=StreamingResponse,
        responses=answers | documented_problems(*ERROR_STATUSES),
    )  # fmt: skip
    async def audio(request: Request, files: Files) -> StreamingResponse:
        """The recording at 16 kHz: one or two channels as they are, more channels averaged to one.

        `Accept: audio/wav` (16 bit, the default) or `audio/mpeg` (32 kbit/s for each channel).
        """
        await check_fields(request)
        media_type = best_media_type(request.headers.get("accept"), list(PLAYABLE))
        ((_, file),) = named_files(files)
        playable, num_bytes = await service.playable(file, PLAYABLE[media_type], connection_check(request))
        headers = {"Content-Length": str(num_bytes)}
        return StreamingResponse(_blocks(playable), media_type=media_type, headers=headers)

    return router


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while block := file.read(_BLOCK_BYTES):
            yield block
