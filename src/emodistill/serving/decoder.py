"""Decodes a container, such as WebM, piece by piece while it arrives."""

import threading
from queue import Queue
from typing import Any

import numpy as np
import numpy.typing as npt

from emodistill.audio.decoding import decode_media
from emodistill.audio.waveform import UNTRUSTED_RATES_HZ
from emodistill.errors import AudioError

MAX_PIECE_S = 10  # of decoded audio that `take` returns at once
_NEEDS_BYTES = object()  # the decoder has used all the bytes that it has


class StreamingDecoder:
    """Takes the bytes of a recording and returns its samples.

    FFmpeg runs in a thread and waits there for bytes. After each `feed`, call `take` until it returns None.
    Then neither side runs ahead of the other. Not thread-safe.
    """

    def __init__(self) -> None:
        self._bytes: Queue[bytes] = Queue()  # holds one piece at most
        # (rate, samples), _NEEDS_BYTES, an error, or None at the end.
        self._results: Queue[Any] = Queue(maxsize=50)
        self._unread = b""  # the rest of the piece that FFmpeg reads
        self._closed = self._input_ended = False
        self._started = self._done = False
        self._thread = threading.Thread(target=self._decode, name="emodistill-decoder", daemon=True)

    def feed(self, data: bytes) -> None:
        """Add the next bytes. Empty `data` ends the recording."""
        if self._done:
            return
        if not data and not self._started:  # an empty recording is not an error
            self._done = True
            return
        self._bytes.put(data)
        if not self._started:
            self._started = True
            self._thread.start()

    def take(self) -> tuple[int, npt.NDArray[np.float32]] | None:
        """Wait for the decoder, and return the rate in Hz and samples (n, channels).

        Returns None where the decoder needs more bytes, and after the end. Raises `AudioError` for bytes that
        cannot be decoded as audio.
        """
        rate, parts, length = 0, [], 0
        while not self._done:
            result = self._results.get()
            if result is _NEEDS_BYTES:
                break
            if result is None:
                self._done = True
            elif isinstance(result, Exception):
                self._done = True
                raise result
            else:
                rate = result[0]
                parts.append(result[1])
                length += len(result[1])
                if length >= MAX_PIECE_S * rate:
                    return rate, np.concatenate(parts)
        if not parts:
            return None
        if not self._done:
            # The next call must return None. The decoder says only once that it needs bytes.
            self._results.put(_NEEDS_BYTES)
        return rate, np.concatenate(parts)

    def close(self) -> None:
        """End the thread, also in the middle of a recording."""
        self._closed = True
        if not self._started:
            return
        self._bytes.put(b"")
        while not self._done:
            result = self._results.get()
            self._done = result is None or isinstance(result, Exception)
        self._thread.join()

    def read(self, size: int) -> bytes:
        """Return 1 to `size` bytes, or none at the end. FFmpeg calls it in the thread."""
        if not self._unread and not self._input_ended:
            if self._bytes.empty():
                self._results.put(_NEEDS_BYTES)
            self._unread = self._bytes.get()
            self._input_ended = not self._unread
        data, self._unread = self._unread[:size], self._unread[size:]
        return data

    def _decode(self) -> None:
        low, high = UNTRUSTED_RATES_HZ
        try:
            for rate, samples in decode_media(self):
                if self._closed:
                    break
                if not low <= rate <= high:
                    raise AudioError(f"expected a rate from {low} to {high} Hz, got {rate}")
                self._results.put((rate, samples))
            self._results.put(None)
        except Exception as error:  # `take` raises it; without a result, it would wait for ever.
            self._results.put(error)
