"""What `/v1/timeline` and `/v1/jobs` share: the options of a form, and the rows of its files."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO, Literal

from fastapi import Request

from emodistill.inference.adapted_windows import Adapt
from emodistill.inference.recognizer import Recognizer
from emodistill.inference.timelines import Timeline
from emodistill.inference.voices import Voice
from emodistill.serving.forms import TimelineFields, select_recognizer
from emodistill.serving.responses import TIMELINE_RESPONSES, write_response
from emodistill.serving.service import IsConnected, Service
from emodistill.serving.voices import check_return_voice, learned_voice, read_voice, rows_with_voices


@dataclass(frozen=True)
class TimelineRequest:
    """The checked options of a form."""

    recognizer: Recognizer
    voice: Voice | None
    adapt: Adapt
    return_voice: bool

    @classmethod
    async def read(
        cls, service: Service, request: Request, fields: TimelineFields, media_type: str
    ) -> "TimelineRequest":
        """Check the fields of a form whose answer has a media type.

        Raises what `select_recognizer`, `read_voice` and `check_return_voice` raise.
        """
        recognizer = await select_recognizer(service, request, fields)
        voice = await read_voice(fields.voice, fields.adapt, recognizer)
        return_voice = fields.return_voice == "true"
        if return_voice:
            check_return_voice(media_type, recognizer)
        return cls(recognizer, voice, fields.adapt, return_voice)

    async def answer(
        self, service: Service, files: Sequence[tuple[str, BinaryIO]], media_type: str,
        is_connected: IsConnected | None = None, endpoint: Literal["timeline", "jobs"] = "timeline",
    ) -> str:  # fmt: skip
        """The text of the answer: one row for each file.

        Raises `AudioTooLongError`, `RequestRefused` and `ClientDisconnectedError`.
        """
        rows: list[Timeline] = []
        learned: list[Voice | None] = []
        for name, file in files:
            row = await service.timeline(
                self.recognizer, name, file, is_connected, endpoint=endpoint, voice=self.voice,
                adapt=self.adapt,
            )  # fmt: skip
            rows.append(row)
            if self.return_voice:
                statistics = await service.statistics_of_timeline(
                    self.recognizer, row, file, is_connected, endpoint=endpoint
                )
                learned.append(learned_voice(statistics, self.recognizer))
        if self.return_voice:
            return rows_with_voices(rows, learned)
        return write_response(rows, media_type, TIMELINE_RESPONSES, self.recognizer.emotions)
