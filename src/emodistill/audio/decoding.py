"""Recordings in whatever container they come: by libsndfile, and what it refuses by PyAV, block by block."""

import io
import os
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import soundfile

from emodistill.audio.wav_header import read_wav_header
from emodistill.errors import AudioError

MAX_CHANNELS = 128
MAX_FRAMES = 2**48  # no recording is longer; what says so does not know
SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".au", ".caf", ".w64")
MEDIA_SUFFIXES = (".m4a", ".aac", ".mp4", ".webm")  # read with the [media] extra
_HEADER_BYTES = 2**14  # of a WAV, in which its data size is looked for
# Containers that hold their audio themselves. FFmpeg knows playlists too, and would open what they name: a file
# of this machine, or an address on its network.
_MEDIA_OPTIONS = {
    "format_whitelist": "aac,aiff,asf,au,avi,caf,flac,matroska,webm,mov,mp4,m4a,mp3,mpeg,mpegts,ogg,wav,w64",
    "protocol_whitelist": "file",
}


def check_file(source: str | Path | bytes | BinaryIO) -> None:
    """Raise `AudioError` for a path that is no file."""
    if not isinstance(source, (str, Path)):
        return
    path = Path(source)
    try:
        wrong = (
            None if path.is_file()
            else "is a folder, expected a file" if path.is_dir()
            else "is a pipe or a device, expected a file; in Python give it opened, in 'rb'" if path.exists()
            else "no such file"
        )  # fmt: skip
    except OSError as error:  # a name that is too long, or a folder above it that may not be entered
        raise AudioError(f"{source}: {error.strerror}") from error
    if wrong is not None:
        raise AudioError(f"{source}: {wrong}")


def open_recording(source: str | Path | bytes | BinaryIO) -> soundfile.SoundFile:
    """A recording that libsndfile reads; its `LibsndfileError`, or a `RuntimeError`, where it does not."""
    if isinstance(source, (str, Path)):
        try:
            size = Path(source).stat().st_size
        except OSError as error:  # gone since somebody looked
            raise RuntimeError(error.strerror) from error
        if size == 0:
            raise RuntimeError("it is empty: 0 bytes")
        if not os.access(source, os.R_OK):
            raise RuntimeError("no permission to read it")
    try:
        file = soundfile.SoundFile(io.BytesIO(source) if isinstance(source, bytes) else source)
    except TypeError as error:  # *.raw: it wants to be told what the samples are
        raise RuntimeError("raw samples do not say their rate") from error
    except UnicodeEncodeError as error:
        raise RuntimeError("its name is not in this system's encoding: rename it") from error
    if file.frames == 0 and file.format in ("WAV", "WAVEX"):
        file.close()
        file = soundfile.SoundFile(_UnfinishedWav(source))
    if file.frames > MAX_FRAMES:  # a FLAC out of a pipe: libsndfile can't read all of it, nor seek in it
        file.close()
        raise RuntimeError("it does not say how long it is")
    return file


class _UnfinishedWav(io.BufferedIOBase):
    """A WAV file whose recorder was cut off before it wrote the data size: reads as "until end of file".

    Any other file reads as it is.
    """

    def __init__(self, source: str | Path | bytes | BinaryIO) -> None:
        self._owns_file = isinstance(source, (str, Path, bytes))
        opened = io.BytesIO(source) if isinstance(source, bytes) else source
        self._file: Any = io.FileIO(opened) if isinstance(opened, (str, Path)) else opened
        self._file.seek(0)
        self._size_offset = _unset_size_offset(self._file.read(_HEADER_BYTES))
        self._file.seek(0)

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as a file does; the four bytes of an unset data size read as the largest size."""
        start = self._file.tell()
        data = bytearray(self._file.read(size))
        if self._size_offset is not None:
            for offset in range(max(start, self._size_offset), min(start + len(data), self._size_offset + 4)):
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


def is_longer_than(source: str | Path | bytes | BinaryIO, limit_s: float) -> bool:
    """Whether a recording is longer than so many seconds, found out without holding it; not if it can't be read."""
    try:
        check_file(source)
        with open_recording(source) as file:
            return file.frames > limit_s * file.samplerate
    except AudioError:
        return False  # whoever reads it says what is wrong with it
    except (soundfile.LibsndfileError, RuntimeError) as error:
        heard_s = 0.0
        try:
            length_s = _media_length_s(source)
            if length_s is not None:
                return length_s > limit_s
            for rate, frames in decode_media(_media_handle(source), "", error):
                heard_s += len(frames) / rate
                if heard_s > limit_s:
                    return True
        except (AudioError, OSError):
            return False
        return False


def _media_length_s(source: str | Path | bytes | BinaryIO) -> float | None:
    """The length that a container tells; None where it does not, or PyAV is not there."""
    try:
        import av
    except ImportError:
        return None
    try:
        with av.open(_media_handle(source), "r", options=dict(_MEDIA_OPTIONS)) as container:
            return None if container.duration is None else float(container.duration / av.time_base)
    except (av.FFmpegError, ValueError, IndexError) as error:
        raise AudioError(str(error)) from error


def _media_handle(source: str | Path | bytes | BinaryIO) -> Any:
    """What PyAV takes for a source: a path, or a file at its beginning."""
    if isinstance(source, bytes):
        return io.BytesIO(source)
    if isinstance(source, (str, Path)):
        return str(source)
    source.seek(0)
    return source


def decode_blocks(
    source: str | Path | bytes | BinaryIO, name: str
) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
    """A recording as it was made: its rate in Hz with samples (n, channels), about a second at a time."""
    check_file(source)
    try:
        file = open_recording(source)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        yield from decode_media(_media_handle(source), name, error)
        return
    with file:
        try:
            while len(frames := file.read(file.samplerate, dtype="float32", always_2d=True)):
                yield file.samplerate, frames
        except (soundfile.LibsndfileError, RuntimeError) as error:
            raise AudioError(
                f"{name}: cannot be decoded after {file.tell() / file.samplerate:.1f} s ({reason_of(error)}); "
                "repair or re-encode it"
            ) from error


def decode_whole_media(
    source: str | Path | bytes | BinaryIO, name: str, why: Exception
) -> tuple[int, npt.NDArray[np.float32]]:
    """What libsndfile refuses, by PyAV: its rate in Hz and samples (n, channels). `why` it refused."""
    decoded = list(decode_media(_media_handle(source), name, why))
    if not decoded:
        raise AudioError(f"{name}: holds no samples")
    return decoded[0][0], np.concatenate([frames for _, frames in decoded])


def decode_media(
    handle: Any, name: str = "<stream>", why: Exception | None = None
) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
    """A recording by PyAV: its rate in Hz with samples (n, channels), one decoded packet at a time.

    `handle` is a path as text, or anything with `read(size)`, which may wait and give less: a stream that is
    still arriving. `why` libsndfile refused it, if it was asked. Raises `AudioError` without PyAV, and for what is
    no audio.
    """
    try:
        import av
    except ImportError as error:
        raise AudioError(
            f"{name}: cannot be decoded as audio ({reason_of(why or error)}); expected wav, flac, ogg, opus or mp3, "
            "whole and undamaged, or, after pip install 'emodistill[media]', m4a, mp4 or webm"
        ) from error
    try:
        # Else PyAV would go by the handle's own mode, and write into a temporary file that may be written to.
        with av.open(handle, "r", options=dict(_MEDIA_OPTIONS)) as container:
            if not container.streams.audio:
                raise AudioError(f"{name}: holds no audio stream")
            stream = container.streams.audio[0]
            rate, channels = stream.rate, stream.channels
            if channels > MAX_CHANNELS:
                raise AudioError(f"{name}: expected at most {MAX_CHANNELS} channels, got {channels}")
            # Packed: of more than 8 planes PyAV reads beyond what it holds.
            resampler = av.AudioResampler(format="flt", rate=rate)
            for frame in chain(container.decode(stream), [None]):
                for part in resampler.resample(frame):
                    samples = part.to_ndarray().reshape(-1, part.layout.nb_channels)
                    yield rate, np.asarray(samples, dtype=np.float32)
    except (av.FFmpegError, ValueError, IndexError) as error:
        reasons = "; ".join(dict.fromkeys(reason_of(each) for each in (why, error) if each is not None))
        raise AudioError(
            f"{name}: cannot be decoded as audio ({reasons}); expected wav, flac, ogg, opus, mp3, m4a, mp4 or webm, "
            "whole and undamaged"
        ) from error


def reason_of(error: Exception) -> str:
    """What a decoder says, without its numbers and the file's name, which the message has anyway."""
    said = error.error_string if isinstance(error, soundfile.LibsndfileError) else None
    return str(said or getattr(error, "strerror", None) or error).rstrip(". ")
