"""A processor for voice agents made with Pipecat: audio of the user in, emotions out, on this machine.

    Pipeline([transport.input(), EmotionProcessor(Recognizer()), stt, llm, tts, transport.output()])

It stands on the package `pipecat-ai`.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from emodistill.errors import MissingExtraError
from emodistill.inference.recognizer import Recognizer
from emodistill.inference.streaming import Event, StreamingRecognizer

try:
    from pipecat.frames.frames import (
        CancelFrame,
        EndFrame,
        Frame,
        InputAudioRawFrame,
        StartFrame,
        StopFrame,
        SystemFrame,
    )
    from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
except ImportError as error:
    raise MissingExtraError("pipecat-ai", "pipecat", "EmotionProcessor") from error

MAX_WAITING_CHUNKS = 1500  # 30 s of frames of 20 ms; then audio waits for the recogniser
_BYTES = 2  # of a sample: Pipecat's audio is 16-bit PCM


@dataclass
class EmotionFrame(SystemFrame):  # type: ignore[misc]
    """An event of the recogniser. It is a system frame, so an interruption of the agent does not drop it.

    Attributes:
        kind: "speech_started", "update", "segment" or "speech_ended".
        event: the event's `as_dict()`. Its times are seconds of the audio of this user, from the start of the
            pipeline.
        user_id: of the user who spoke, if the transport states it; else empty.
    """

    kind: str = ""
    event: dict[str, Any] = field(default_factory=dict)
    user_id: str = ""

    @property
    def emotion(self) -> str | None:
        """The emotion of a segment or an update; None: not sure, or an event without one."""
        emotion: str | None = self.event.get("emotion")
        return emotion


@dataclass
class _UserStream:
    """The open stream of one user. A change of rate or channels opens another one."""

    stream: StreamingRecognizer
    audio_format: tuple[int, int]  # the rate in Hz, and the number of channels
    start_s: float  # of the stream, in the audio of the user


class EmotionProcessor(FrameProcessor):  # type: ignore[misc]
    """Recognises the emotions of the user while the user speaks, and passes every frame on unchanged.

    It takes `InputAudioRawFrame` of any rate and number of channels, and emits an `EmotionFrame` for each
    event of `Recognizer.stream`. A frame goes on before it is recognised. The recogniser runs in a thread, in
    the order of the audio. With `UserAudioRawFrame`, each user has a stream of their own.

    A stream opens with the first audio after `StartFrame`. At `EndFrame` and `StopFrame` it closes, and its
    last events come before this frame. At `CancelFrame` what was not recognised is dropped. An
    `InterruptionFrame` changes nothing: the user interrupts by speaking, and this speech is to be recognised.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        *,
        updates: bool = True,
        stream: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        """Make a processor.

        Args:
            recognizer: a loaded model; several processors can share one.
            updates: whether to emit the early guesses of kind "update" too.
            stream: options of `Recognizer.stream`, such as `smooth_s`, `voice` or `adapt`.
            options: those of Pipecat's `FrameProcessor`, such as `name`.

        Raises the errors of `Recognizer.stream` for its options.
        """
        super().__init__(**options)
        self._recognizer, self._updates, self._options = recognizer, updates, stream or {}
        recognizer.stream(16_000, **self._options)  # Bad options should not wait for the first audio.
        self._users: dict[str, _UserStream] = {}
        self._waiting: asyncio.Queue[Any] = asyncio.Queue(MAX_WAITING_CHUNKS)
        self._worker: asyncio.Task[None] | None = None

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Pass a frame on, and queue its audio for the recogniser."""
        await super().process_frame(frame, direction)
        if isinstance(frame, (EndFrame, StopFrame)):
            await self._finish()
        elif isinstance(frame, CancelFrame):
            await self._stop()
        await self.push_frame(frame, direction)
        if isinstance(frame, StartFrame):
            await self._stop()
            self._worker = self.create_task(self._recognise(), "emotions")
        elif isinstance(frame, InputAudioRawFrame) and self._worker is not None:
            await self._waiting.put(frame)

    async def cleanup(self) -> None:
        """Stop the recogniser."""
        await self._stop()
        await super().cleanup()

    async def _recognise(self) -> None:
        """Recognise the audio that waits, in order."""
        while True:
            frame = await self._waiting.get()
            try:
                user_id = getattr(frame, "user_id", "")
                await self._emit(await asyncio.to_thread(self._push, self._users, frame, user_id), user_id)
            except Exception as error:  # Without this task, `_finish` would wait for ever.
                await self.push_error(f"the emotions of a chunk are unknown: {error}", error)
            finally:
                self._waiting.task_done()

    def _push(
        self, users: dict[str, _UserStream], frame: InputAudioRawFrame, user_id: str
    ) -> list[tuple[float, Event]]:
        """Return the new events of a chunk, each with the start of its stream.

        It runs in a thread, which may end after `_stop`. So it changes the `users` of its start.
        """
        audio_format = (frame.sample_rate, frame.num_channels)
        user = users.get(user_id)
        events: list[tuple[float, Event]] = []
        if user is None or user.audio_format != audio_format:
            start_s = 0.0
            if user is not None:
                start_s = user.start_s + user.stream.time_s
                events = [(user.start_s, event) for event in user.stream.finish()]
            user = _UserStream(
                self._recognizer.stream(frame.sample_rate, **self._options), audio_format, start_s
            )
            users[user_id] = user
        whole = len(frame.audio) - len(frame.audio) % (_BYTES * frame.num_channels)
        samples = np.frombuffer(frame.audio[:whole], "<i2").reshape(-1, frame.num_channels)
        return events + [(user.start_s, event) for event in user.stream.push(samples)]

    async def _finish(self) -> None:
        """Recognise what waits, close all streams, and emit their last events."""
        if self._worker is not None:
            await self._waiting.join()
            for user_id, user in list(self._users.items()):
                try:
                    last = await asyncio.to_thread(user.stream.finish)
                except Exception as error:  # The pipeline must end.
                    await self.push_error(f"the last emotions are unknown: {error}", error)
                else:
                    await self._emit([(user.start_s, event) for event in last], user_id)
        await self._stop()

    async def _stop(self) -> None:
        """End the task, and forget all audio."""
        worker, self._worker = self._worker, None
        if worker is not None:
            await self.cancel_task(worker)
        self._users, self._waiting = {}, asyncio.Queue(MAX_WAITING_CHUNKS)

    async def _emit(self, events: list[tuple[float, Event]], user_id: str) -> None:
        for start_s, event in events:
            if event.kind != "update" or self._updates:
                data = event.as_dict()
                data |= {
                    name: start_s + data[name] for name in ("time_s", "start_s", "end_s") if name in data
                }
                await self.push_frame(EmotionFrame(kind=event.kind, event=data, user_id=user_id))
