"""What `/v1/timeline` and `/v1/jobs` share: the options of a form, and the rows of its files."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

from anyio import to_thread
from fastapi import Request, UploadFile

from emodistill.audio.channels import Channels, check_channels
from emodistill.inference.given_segments import GivenSegments, parse_segments
from emodistill.inference.recognizer import Recognizer
from emodistill.inference.segmentation_options import WINDOW_S, SegmentationOptions
from emodistill.inference.timelines import Timeline, TimelineOptions, check_options
from emodistill.inference.voices import Voice
from emodistill.serving.forms import TimelineFields, select_recognizer
from emodistill.serving.problems import RequestRefused
from emodistill.serving.responses import TIMELINE_RESPONSES, write_response
from emodistill.serving.service import IsConnected, Service
from emodistill.serving.voices import check_return_voice, learned_voice, read_voices, rows_with_voices

MAX_SEGMENTS_BYTES = 16_000_000  # of the file with the segments; whisperX writes 1 or 2 MB for an hour
# Given segments may overlap, and each is recognised for itself, so their sum is limited.
MAX_GIVEN_SHARE = 4  # times the longest recording


@dataclass(frozen=True)
class TimelineRequest:
    """The checked options of a form."""

    recognizer: Recognizer
    options: TimelineOptions
    given: GivenSegments | None
    return_voice: bool

    @classmethod
    async def read(
        cls, service: Service, request: Request, fields: TimelineFields, media_type: str, num_files: int
    ) -> "TimelineRequest":
        """Check the fields of a form with `num_files` files, whose answer has a media type.

        Raises `ConfigError`, and what `select_recognizer`, `read_voices` and `check_return_voice` raise.
        Raises `RequestRefused` (413) for too many segments.
        """
        recognizer = await select_recognizer(service, request, fields)
        voice = await read_voices(fields.voice or (), fields.voice_name, fields.adapt, recognizer)
        options = _options(fields, voice)
        check_options(recognizer, fields.segments is not None, **options)
        return_voice = fields.return_voice == "true"
        if return_voice:
            check_return_voice(media_type, recognizer)
        given = await _read_segments(fields.segments, num_files, service.settings.max_seconds)
        return cls(recognizer, options, given, return_voice)

    @property
    def passes(self) -> list[float]:
        """The share of each pass over a file in the time. Channels that are split are measured first."""
        times = [0.1] if self.options["channels"] == "split" else []
        times += [0.9, 0.5] if self.return_voice else [0.9]
        return [each / sum(times) for each in times]

    async def answer(
        self, service: Service, files: Sequence[tuple[str, BinaryIO]], media_type: str,
        is_connected: IsConnected | None = None, endpoint: Literal["timeline", "jobs"] = "timeline",
    ) -> str:  # fmt: skip
        """The text of the answer: one row for each file.

        Raises `AudioTooLongError`, `RequestRefused` and `ClientDisconnectedError`.
        """
        rows: list[Timeline] = []
        learned: list[Voice | None] = []
        channels = self.options["channels"]
        for name, file in files:
            row = await service.timeline(
                self.recognizer, name, file, is_connected, endpoint=endpoint, given=self.given,
                **self.options,
            )  # fmt: skip
            rows.append(row)
            if self.return_voice:
                statistics = await service.statistics_of_timeline(
                    self.recognizer, row, file, is_connected, endpoint=endpoint,
                    channel=None if isinstance(channels, str) else channels,
                )  # fmt: skip
                learned.append(learned_voice(statistics, self.recognizer))
        if self.return_voice:
            return rows_with_voices(rows, learned)
        return write_response(rows, media_type, TIMELINE_RESPONSES, self.recognizer.emotions)


def _options(fields: TimelineFields, voice: Voice | dict[str, Voice] | None) -> TimelineOptions:
    """The options of `timeline` in a form. Raises `ConfigError` for bad channels, hop or window."""
    SegmentationOptions(fields.hop, fields.window, fields.smooth, fields.min_duration)
    channels: Any = fields.channels
    if re.fullmatch("[0-9]{1,3}", fields.channels):
        channels = int(fields.channels)
    check_channels(channels)
    read: Channels = channels
    names = None if fields.names is None else [name.strip() for name in fields.names.split(",")]
    return TimelineOptions(
        voice=voice, adapt=fields.adapt, channels=read, names=names, hop_s=fields.hop,
        window_s=fields.window, smooth_s=fields.smooth, min_duration_s=fields.min_duration,
    )  # fmt: skip


async def _read_segments(
    upload: UploadFile | None, num_files: int, max_seconds: float
) -> GivenSegments | None:
    """The segments of a form; None without a file. Raises `ConfigError`, and `RequestRefused` (413)."""
    if upload is None:
        return None
    content = await upload.read(MAX_SEGMENTS_BYTES + 1)
    if len(content) > MAX_SEGMENTS_BYTES:
        detail = f"the segments have more than {MAX_SEGMENTS_BYTES // 1_000_000} MB, the limit"
        raise RequestRefused(413, "too-large", detail)
    given = await to_thread.run_sync(parse_segments, content, "the file with the segments", num_files)
    for segments in given.by_name.values():
        # Each segment costs a window at least.
        given_s = sum(max(WINDOW_S, min(part.end_s - part.start_s, max_seconds)) for part in segments)
        if given_s > MAX_GIVEN_SHARE * max_seconds:
            detail = (
                f"the segments of one recording have {given_s:.0f} s together, expected at most "
                f"{MAX_GIVEN_SHARE * max_seconds:g} s: {MAX_GIVEN_SHARE} times the longest recording"
            )
            raise RequestRefused(413, "too-long", detail)
    return given
