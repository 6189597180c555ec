"""The client's side of `/v1/stream`: it sends samples, and reads the events of the server."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from emodistill.errors import AudioError, ServerError
from emodistill.inference.segmentation import Segment, WindowUpdate
from emodistill.inference.streaming import Event, SpeechEnded, SpeechStarted
from emodistill.serving.uploads import voice_text, with_field_names

_EVENT_CLASSES: dict[str, type[Event]] = {
    event.kind: event for event in (SpeechStarted, WindowUpdate, Segment, SpeechEnded)
}


def send_and_receive(
    socket: Any, chunks: Iterator[npt.NDArray[Any]], rate_hz: int, options: dict[str, Any]
) -> Iterator[Event]:
    """Send the chunks over an open socket, and yield the events. Raises `ServerError` and `AudioError`."""
    from websockets.exceptions import ConnectionClosed

    first = next(chunks, np.zeros(0, dtype=np.int16))
    integers = first.dtype.kind != "f"
    if integers and first.dtype != np.int16:
        raise AudioError(f"expected int16 or float samples, got {first.dtype}")
    start = {
        "encoding": "pcm16" if integers else "float32", "rate": rate_hz,
        "channels": 1 if first.ndim == 1 else first.shape[1], **with_field_names(options),
    }  # fmt: skip
    if start.get("voice") is not None:
        start["voice"] = json.loads(voice_text(start["voice"]))
    kind = "<i2" if integers else "<f4"
    try:
        socket.send(json.dumps(start))
        socket.send(np.ascontiguousarray(first, dtype=kind).tobytes())
        for chunk in chunks:
            socket.send(np.ascontiguousarray(chunk, dtype=kind).tobytes())
            yield from _receive_events(socket, until_end=False)
        socket.send('{"type": "end"}')
    except ConnectionClosed:
        pass  # the server sent the reason before it closed; _receive_events raises it
    yield from _receive_events(socket, until_end=True)


def _receive_events(socket: Any, until_end: bool) -> Iterator[Event]:
    """The events that have arrived, or all up to the end of the stream. Raises `ServerError`."""
    while True:
        try:
            message = json.loads(socket.recv(timeout=None if until_end else 0))
        except TimeoutError:
            return
        kind = message.pop("event")
        if kind == "error":
            raise ServerError(message["status"], message["detail"])
        if kind == "summary":
            return
        if kind in _EVENT_CLASSES:
            yield _EVENT_CLASSES[kind](**message)
