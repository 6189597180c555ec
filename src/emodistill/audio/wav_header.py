"""The header of a WAV, for audio that libsndfile cannot read: pipes, and files that were cut off."""

import io
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from emodistill.errors import AudioError

PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE  # format tags of the `fmt ` chunk
HEADER_BYTES = 2**14  # the part of a file in which its data size is looked for
UNKNOWN_SIZE = 0xFFFFFFFF  # what FFmpeg writes as a size when it cannot seek back


@dataclass(frozen=True)
class WavHeader:
    """What a WAV file states before its samples. Sizes are in bytes, and may be wrong or not set."""

    format_tag: int  # PCM, FLOAT or another; 0 without a `fmt ` chunk
    channels: int
    rate_hz: int
    bits: int  # of one sample
    riff_size: int  # of the file, without the first eight bytes
    data_size: int  # of the samples
    data_size_offset: int  # where `data_size` is in the file

    @property
    def is_unfinished(self) -> bool:
        """Whether the recorder stopped before it wrote the sizes.

        A finished file without samples has a data size of 0 too. Its RIFF size covers the chunks after the
        header, while the first header that a recorder writes covers no more than itself.
        """
        header_size = self.data_size_offset + 4
        return self.data_size == 0 and (
            self.riff_size in (0, UNKNOWN_SIZE) or self.riff_size + 8 <= header_size
        )


def read_wav_header(read: Callable[[int], bytes], name: str) -> WavHeader:
    """Read a WAV file up to its samples, and return what its header states.

    Args:
        read: returns the next n bytes, fewer only at the end; it begins after the four bytes `RIFF`.
        name: what messages call the audio.

    Raises `AudioError` for another kind of RIFF file, and for a file that ends before its samples.
    """
    start = read(8)
    if start[4:] != b"WAVE":
        raise AudioError(f"{name}: expected a WAV, got another RIFF file; decode it first, e.g. with ffmpeg")
    (riff_size,) = struct.unpack("<I", start[:4])
    format_tag = channels = rate_hz = bits = 0
    offset = 12
    while len(head := read(8)) == 8:
        chunk, size = head[:4], int(struct.unpack("<I", head[4:])[0])
        if chunk == b"data":
            return WavHeader(format_tag, channels, rate_hz, bits, riff_size, size, offset + 4)
        padded = size + size % 2  # Chunks begin at even offsets.
        body = read(padded)
        offset += 8 + padded
        if chunk == b"fmt " and len(body) >= 16:
            format_tag, channels, rate_hz, _, _, bits = struct.unpack("<HHIIHH", body[:16])
            if format_tag == EXTENSIBLE and len(body) >= 26:
                (format_tag,) = struct.unpack("<H", body[24:26])
    raise AudioError(f"{name}: the WAV header is cut off, so there are no samples")


class UnfinishedWav(io.BufferedIOBase):
    """A WAV file that treats an unset data size as "until end of file"; any other file reads as it is.

    A recorder that was cut off leaves the data size unset.
    """

    def __init__(self, source: str | Path | bytes | BinaryIO) -> None:
        self._owns_file = isinstance(source, (str, Path, bytes))
        opened = io.BytesIO(source) if isinstance(source, bytes) else source
        self._file: Any = io.FileIO(opened) if isinstance(opened, (str, Path)) else opened
        self._file.seek(0)
        self._size_offset = _unset_size_offset(self._file.read(HEADER_BYTES))
        self._file.seek(0)

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as a file does; the four bytes of an unset data size read as the largest size."""
        start = self._file.tell()
        data = bytearray(self._file.read(size))
        if self._size_offset is not None:
            end = min(start + len(data), self._size_offset + 4)
            for offset in range(max(start, self._size_offset), end):
                data[offset - start] = 0xFF
        return bytes(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Seek as a file does."""
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        """Return the position as a file does."""
        return int(self._file.tell())

    def close(self) -> None:
        """Close the file, unless the caller opened it."""
        if self._owns_file:
            self._file.close()
        super().close()


def _unset_size_offset(head: bytes) -> int | None:
    """Return the offset of a WAV's data size that was never written; None if it was, or is not in `head`."""
    if not head.startswith(b"RIFF"):
        return None
    try:
        header = read_wav_header(io.BytesIO(head[4:]).read, "")
    except AudioError:
        return None
    return header.data_size_offset if header.is_unfinished else None
