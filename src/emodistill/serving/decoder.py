"""A container that arrives in pieces, decoded as far as it has come."""

import threading
from queue import Queue
from typing import Any

import numpy as np
import numpy.typing as npt

from emodistill.audio.decoding import decode_media
from emodistill.audio.waveform import BOUNDED_RATES_HZ
from emodistill.errors import AudioError

MOST_S = 10  # of decoded audio that is handed over at once
_WAITING = object()  # the decoder has used all that it was given


class ArrivingMedia:
    """Bytes of a recording in, samples out, in step: FFmpeg runs in a thread of its own, and waits there for bytes.

    Neither side runs ahead: after `give`, call `take` until there is no more. Not thread-safe.
    """

    def __init__(self) -> None:
        self._bytes: Queue[bytes] = Queue()  # never more than one piece
        self._found: Queue[Any] = Queue(maxsize=50)  # (rate, samples), _WAITING, an error, or None at the end
        self._held = b""
        self._closed = self._ended = False
        self._started = self._done = False
        self._thread = threading.Thread(target=self._decode, name="emodistill-media", daemon=True)

    def give(self, data: bytes) -> None:
        """The next bytes; none of them, and the recording ends."""
        if self._done:
            return
        if not data and not self._started:  # nothing came, and so nothing is wrong with it
            self._done = True
            return
        self._bytes.put(data)
        if not self._started:
            self._started = True
            self._thread.start()

    def take(self) -> tuple[int, npt.NDArray[np.float32]] | None:
        """Rate in Hz and samples (n, channels) of what is decoded; None: give more. Waits for the decoder.

        Raises `AudioError` for what is no audio.
        """
        rate, parts, length = 0, [], 0
        while not self._done:
            found = self._found.get()
            if found is _WAITING:
                break
            if found is None:
                self._done = True
            elif isinstance(found, AudioError):
                self._done = True
                raise found
            else:
                rate = found[0]
                parts.append(found[1])
                length += len(found[1])
                if length >= MOST_S * rate:
                    return rate, np.concatenate(parts)
        if not parts:
            return None
        if not self._done:
            self._found.put(_WAITING)  # the decoder itself is silent until it has more
        return rate, np.concatenate(parts)

    def close(self) -> None:
        """Let go of the thread, wherever it is."""
        self._closed = True
        if not self._started:
            return
        self._bytes.put(b"")
        while not self._done:
            found = self._found.get()
            self._done = found is None or isinstance(found, AudioError)
        self._thread.join()

    def read(self, size: int) -> bytes:
        """For FFmpeg, in the thread: at least one byte; none at the end."""
        if not self._held and not self._ended:
            if self._bytes.empty():
                self._found.put(_WAITING)
            self._held = self._bytes.get()
            self._ended = not self._held
        given, self._held = self._held[:size], self._held[size:]
        return given

    def _decode(self) -> None:
        low, high = BOUNDED_RATES_HZ
        try:
            for rate, samples in decode_media(self):
                if self._closed:
                    break
                if not low <= rate <= high:
                    raise AudioError(f"expected a rate from {low} to {high} Hz, got {rate}")
                self._found.put((rate, samples))
            self._found.put(None)
        except AudioError as error:
            self._found.put(error)
