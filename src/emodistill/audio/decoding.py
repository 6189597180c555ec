"""Decode recordings block by block: with libsndfile, and with PyAV what libsndfile cannot read."""

import io
import os
import re
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import soundfile

from emodistill.audio.wav_header import UnfinishedWav
from emodistill.errors import AudioError

MAX_CHANNELS = 128
BLOCK_VALUES = 2**23  # of a block at most, whatever rate and number of channels a header states: 32 MB
MAX_FRAMES = 2**48  # a larger frame count means that the header's length is invalid
# Read with libsndfile.
SUFFIXES = (
    ".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mp2", ".aiff", ".aif", ".aifc", ".au",
    ".snd", ".caf", ".w64", ".rf64", ".voc", ".sph", ".nist",
)  # fmt: skip
# Read with the [media] extra. `.ts` and `.mts` are also suffixes of TypeScript.
MEDIA_SUFFIXES = (
    ".m4a", ".m4b", ".m4r", ".aac", ".mp4", ".m4v", ".webm", ".weba", ".mkv", ".mka", ".mov", ".qt", ".avi",
    ".wma", ".wmv", ".asf", ".3gp", ".3gpp", ".3g2", ".amr", ".awb", ".gsm", ".mpg", ".mpeg", ".mpa", ".m2ts",
    ".ts", ".mts", ".vob", ".flv", ".f4v", ".ogv", ".ogx", ".spx", ".ac3", ".eac3", ".dts", ".ape", ".tta",
    ".wv", ".mpc", ".rm", ".ra", ".g722",
)  # fmt: skip
# A function that gets the seconds of each block after it was used, for a progress bar. Threads of
# `map_in_order` have it too.
on_decoded: ContextVar[Callable[[float], None] | None] = ContextVar("on_decoded", default=None)
THE_AUDIO = "the audio"  # what messages call a source without a name
# A URL, also as `pathlib` writes it, with one slash. A drive of Windows has one letter.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/{1,3}(.+)", re.DOTALL)
_MP3_FRAME_BYTES = 2**11  # at least one frame of MP3
# PyAV computes the duration of these from the size of the file and the bitrate of a part.
_FORMATS_WITHOUT_LENGTH = frozenset(("aac", "ac3", "amr", "dts", "eac3", "g722", "gsm", "mp3"))
# Only containers that hold their audio themselves. FFmpeg also knows playlists, which would make it open any
# file of this machine or any address on its network.
_MEDIA_OPTIONS = {
    "format_whitelist": "aac,ac3,aiff,amr,ape,asf,au,avi,caf,dts,eac3,flac,flv,g722,gsm,matroska,webm,mov,"
    "mp4,m4a,mp3,mpc,mpc8,mpeg,mpegts,ogg,rm,tta,voc,wav,w64,wv",
    "protocol_whitelist": "file",
}


class RatedArray(NamedTuple):
    """Samples (n,) or (n, channels) in memory, and their rate in Hz."""

    samples: npt.NDArray[Any]
    rate_hz: int


DecodableSource = str | Path | bytes | BinaryIO
BlockSource = DecodableSource | RatedArray
RatedSamples = tuple[int, npt.NDArray[np.float32]]  # a rate in Hz, samples (n, channels)


def name_in_messages(source: Any) -> str:
    """Return what messages call a source: its path or file name, "standard input", or "the audio"."""
    if isinstance(source, (str, Path)):
        return str(source)
    name = getattr(source, "name", None)
    if name == "<stdin>":
        return "standard input"
    return name if isinstance(name, str) and name else THE_AUDIO


def refuse_url(source: str | Path) -> None:
    """Raise `AudioError` for a URL that was given as a path."""
    if url := _URL.match(str(source)):
        raise AudioError(
            f"{url[1]}://{url[2]}: is a URL, expected a file on this machine; download it first and give its "
            "path"
        )


def check_file(source: DecodableSource) -> None:
    """Raise `AudioError` for a path that is not a file; any other source passes."""
    if not isinstance(source, (str, Path)):
        return
    path = Path(source)
    try:
        if path.is_file():
            return
        if path.is_dir():
            problem = "is a folder, expected a file"
        elif path.exists():
            problem = (
                "is a pipe or a device, expected a file; in Python, open it with 'rb' and pass the open file"
            )
        else:
            refuse_url(source)
            problem = "no such file"
    except OSError as error:  # The name is too long, or a folder above the file is not readable.
        raise AudioError(f"{source}: {error.strerror}") from error
    raise AudioError(f"{source}: {problem}")


def open_recording(source: DecodableSource) -> soundfile.SoundFile:
    """Return a recording opened with libsndfile.

    Raises `soundfile.LibsndfileError` or `RuntimeError` if libsndfile cannot read it; callers then try PyAV.
    """
    if isinstance(source, (str, Path)):
        try:
            size = Path(source).stat().st_size
        except OSError as error:  # The file was deleted after `check_file`.
            raise RuntimeError(error.strerror) from error
        if size and not os.access(source, os.R_OK):
            raise RuntimeError("no permission to read it")
    else:
        size = len(source) if isinstance(source, bytes) else source.seek(0, os.SEEK_END)
        _rewind(source)
    if size == 0:
        raise RuntimeError("it is empty: 0 bytes")
    try:
        file = soundfile.SoundFile(io.BytesIO(source) if isinstance(source, bytes) else source)
    except TypeError as error:  # soundfile needs the rate and the sample type of a *.raw file.
        raise RuntimeError("raw samples have no header with their rate") from error
    except UnicodeEncodeError as error:
        raise RuntimeError("its name cannot be encoded on this system: rename it") from error
    if file.frames == 0 and file.format in ("WAV", "WAVEX"):
        file.close()
        file = soundfile.SoundFile(UnfinishedWav(source))
    if file.frames > MAX_FRAMES:  # A FLAC that was written to a pipe: libsndfile cannot read it to its end.
        file.close()
        raise RuntimeError("its header does not state its length")
    return file


def read_samples(
    file: soundfile.SoundFile, num_frames: int, kind: Literal["float32", "int16", "int32"]
) -> npt.NDArray[Any]:
    """Return the next samples (n, channels) of an open recording, fewer at its end.

    Raises `RuntimeError` where the length that its header states is impossible.
    """
    try:
        return np.asarray(file.read(num_frames, dtype=kind, always_2d=True))
    except (ValueError, MemoryError) as error:  # a negative number of samples, or more than any memory holds
        raise RuntimeError("its header states a length that is impossible") from error


@dataclass(frozen=True)
class AudioHeader:
    """What a recording states before its samples.

    Attributes:
        rate_hz: of the samples.
        channels: their number.
        duration_s: in seconds; None if it is not known without decoding.
        is_estimated: whether the decoder computed the duration from the size of the file.
    """

    rate_hz: int
    channels: int
    duration_s: float | None
    is_estimated: bool = False


def read_header(source: DecodableSource) -> AudioHeader | None:
    """Return the header of a recording; None for one that cannot be read. An open file is rewound."""
    try:
        check_file(source)
        try:
            with open_recording(source) as file:
                estimated = file.format == "MP3" and not _mp3_states_length(source)
                duration_s = file.frames / file.samplerate
                return AudioHeader(file.samplerate, file.channels, duration_s, estimated)
        except (soundfile.LibsndfileError, RuntimeError):
            return _media_header(source)
    except (AudioError, OSError):
        return None
    finally:
        _rewind(source)


def is_longer_than(source: DecodableSource, limit_s: float) -> bool:
    """Return whether a recording is longer than a limit in seconds, without holding it in memory.

    A recording that cannot be read is not longer: the code that reads it raises the error.
    """
    header = read_header(source)
    if header is not None and header.duration_s is not None:
        return header.duration_s > limit_s
    try:
        return duration_up_to(limit_s, source) > limit_s
    except (AudioError, OSError):
        return False


def duration_up_to(limit_s: float, source: DecodableSource) -> float:
    """Return the duration in seconds of a decoded recording; decoding stops after `limit_s`.

    Raises `AudioError` for a recording that cannot be decoded. An open file is rewound.
    """
    decoded_s = 0.0
    with closing(_decode_blocks(source, "")) as blocks:
        for rate_hz, frames in blocks:
            decoded_s += len(frames) / rate_hz
            if decoded_s > limit_s:
                break
    _rewind(source)
    return decoded_s


def num_channels(source: DecodableSource) -> int:
    """Return how many channels a recording has, from its header. Raises `AudioError` if it cannot be read."""
    check_file(source)
    name = name_in_messages(source)
    try:
        with open_recording(source) as file:
            return int(file.channels)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        for _, frames in decode_media(_media_handle(source), name, error):
            return int(frames.shape[1])
    raise AudioError(f"{name}: holds no samples")


def _mp3_states_length(source: DecodableSource) -> bool:
    """Return whether an MP3 has a first frame with the number of its frames; else its length is a guess."""
    with _opened(source) as file:
        head = file.read(10)
        if head[:3] == b"ID3":  # A tag, for example with a picture. Its size has seven bits in each byte.
            size = sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=False))
            file.seek(10 + size)
        frame = head + file.read(_MP3_FRAME_BYTES)
    return any(tag in frame for tag in (b"Xing", b"Info", b"VBRI"))


def _media_header(source: DecodableSource) -> AudioHeader | None:
    """Return the header of a container; None if PyAV cannot read it, or is not installed."""
    try:
        import av
    except ImportError:
        return None
    try:
        with av.open(_media_handle(source), "r", options=dict(_MEDIA_OPTIONS)) as container:
            stream = _audio_stream(container)
            if stream is None:
                return None
            duration_s = None if container.duration is None else float(container.duration / av.time_base)
            estimated = container.format.name in _FORMATS_WITHOUT_LENGTH
            return AudioHeader(stream.rate, stream.channels, duration_s, estimated)
    except (av.FFmpegError, ValueError, IndexError):
        return None


def _audio_stream(container: Any) -> Any:
    """Return the first audio stream of a container; None without one, and if FFmpeg has no decoder for it."""
    stream = next(iter(container.streams.audio), None)
    return None if stream is None or stream.codec_context is None else stream


@contextmanager
def _opened(source: DecodableSource) -> Iterator[BinaryIO]:
    """Give a binary file at its beginning; a file that the caller opened stays open."""
    if isinstance(source, (str, Path)):
        with Path(source).open("rb") as file:
            yield file
        return
    opened = io.BytesIO(source) if isinstance(source, bytes) else source
    opened.seek(0)
    yield opened


def _rewind(source: DecodableSource) -> None:
    if not isinstance(source, (str, Path, bytes)):
        source.seek(0)


def _media_handle(source: DecodableSource) -> Any:
    """Return a source as PyAV takes it: a path, or a file at its beginning."""
    if isinstance(source, bytes):
        return io.BytesIO(source)
    if isinstance(source, (str, Path)):
        return str(source)
    source.seek(0)
    return source


def decode_blocks(source: BlockSource, name: str) -> Iterator[RatedSamples]:
    """Yield a recording at most about a second at a time: its own rate in Hz, and samples (n, channels).

    `name` is what messages call the recording. Raises `AudioError` if it is missing or cannot be decoded.
    """
    report = on_decoded.get()
    for rate_hz, frames in _decode_blocks(source, name):
        yield rate_hz, frames
        if report is not None:
            report(len(frames) / rate_hz)


def _decode_blocks(source: BlockSource, name: str) -> Generator[RatedSamples, None, None]:
    if isinstance(source, RatedArray):
        columns = source.samples[:, None] if source.samples.ndim == 1 else source.samples
        for start in range(0, len(columns), max(1, int(source.rate_hz))):
            yield source.rate_hz, columns[start : start + int(source.rate_hz)]
        return
    check_file(source)
    try:
        file = open_recording(source)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        yield from decode_media(_media_handle(source), name, error)
        return
    with file:
        num_frames = max(1, min(file.samplerate, BLOCK_VALUES // file.channels))
        try:
            while len(frames := read_samples(file, num_frames, "float32")):
                yield file.samplerate, frames
        except (soundfile.LibsndfileError, RuntimeError) as error:
            decoded_s = file.tell() / file.samplerate
            raise AudioError(
                f"{name}: cannot be decoded after {decoded_s:.1f} s ({_decoder_message(error)}); "
                "repair or re-encode it"
            ) from error


def frame_range(start_s: float | None, end_s: float | None, rate_hz: int, num_frames: int) -> tuple[int, int]:
    """Return the first frame of a part of a recording, and the one after its last, each at most `num_frames`.

    The start None is that of the recording, and the end None its end.
    """
    start = 0 if start_s is None else round(min(start_s * rate_hz, num_frames))
    return start, num_frames if end_s is None else round(min(end_s * rate_hz, num_frames))


def decode_whole_media(
    source: DecodableSource, name: str, sndfile_error: Exception, end_s: float | None = None
) -> RatedSamples:
    """Return a recording decoded with PyAV up to `end_s`: its rate in Hz, and samples (n, channels).

    `sndfile_error` is why libsndfile could not read it. Raises `AudioError` as `decode_media` does, and for
    a recording without samples.
    """
    decoded: list[RatedSamples] = []
    decoded_s = 0.0
    for rate_hz, frames in decode_media(_media_handle(source), name, sndfile_error):
        decoded.append((rate_hz, frames))
        decoded_s += len(frames) / rate_hz
        if end_s is not None and decoded_s > end_s:
            break
    if not decoded:
        raise AudioError(f"{name}: holds no samples")
    return decoded[0][0], np.concatenate([frames for _, frames in decoded])


def decode_media(
    handle: Any, name: str = THE_AUDIO, sndfile_error: Exception | None = None
) -> Iterator[RatedSamples]:
    """Yield a recording decoded with PyAV, one packet at a time: its rate in Hz, and samples (n, channels).

    Args:
        handle: a path as text, or an object with `read(size)`. It may wait and return fewer bytes, as a
            stream does that is still arriving.
        name: what messages call the recording.
        sndfile_error: why libsndfile could not read it, if it was tried first.

    Raises:
        AudioError: PyAV is not installed, or the data is not audio that it can decode.
    """
    try:
        import av
    except ImportError as error:
        if name.lower().endswith(MEDIA_SUFFIXES):
            raise AudioError(
                f"{name}: needs the package 'av' to be decoded: pip install 'emodistill[media]'"
            ) from error
        raise AudioError(
            f"{name}: cannot be decoded as audio ({_decoder_message(sndfile_error or error)}); expected "
            "wav, flac, ogg, opus or mp3, whole and undamaged; "
            "for m4a, mp4 or webm: pip install 'emodistill[media]'"
        ) from error
    try:
        # Without "r", PyAV would use the mode of the handle, and write to a temporary file that is open for
        # writing.
        with av.open(handle, "r", options=dict(_MEDIA_OPTIONS)) as container:
            stream = _audio_stream(container)
            if stream is None:
                raise AudioError(f"{name}: holds no audio stream that can be decoded")
            rate_hz, channels = stream.rate, stream.channels
            if channels > MAX_CHANNELS:
                raise AudioError(f"{name}: expected at most {MAX_CHANNELS} channels, got {channels}")
            # Packed samples, because PyAV reads beyond its buffers in frames of more than 8 planes.
            resampler = av.AudioResampler(format="flt", rate=rate_hz)
            for frame in chain(container.decode(stream), [None]):
                for part in resampler.resample(frame):
                    samples = part.to_ndarray().reshape(-1, part.layout.nb_channels)
                    yield rate_hz, np.asarray(samples, dtype=np.float32)
    except (av.FFmpegError, ValueError, IndexError) as error:
        errors = [each for each in (sndfile_error, error) if each is not None]
        messages = "; ".join(dict.fromkeys(map(_decoder_message, errors)))
        raise AudioError(
            f"{name}: cannot be decoded as audio ({messages}); expected wav, flac, ogg, opus, mp3, m4a, mp4 "
            "or webm, whole and undamaged"
        ) from error


def _decoder_message(error: Exception) -> str:
    """Return the text of a decoder's error, without its number and without the file's name."""
    text = error.error_string if isinstance(error, soundfile.LibsndfileError) else None
    return str(text or getattr(error, "strerror", None) or error).rstrip(". ")
