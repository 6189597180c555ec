"""Parts and channels of recordings as FLAC files of their own, and names of files that every system takes."""

import re
from collections.abc import Iterable
from pathlib import Path

import soundfile

from emodistill.audio.decoding import decode_whole_media, open_recording
from emodistill.errors import AudioError

FLAC = ".flac"
MAX_NAME_BYTES = 200  # of a file's name without its suffix; file systems allow 255
_UNSAFE = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]')
_EXACT_AS_16_BITS = ("PCM_16", "PCM_S8", "PCM_U8", "ULAW", "ALAW")


def write_part(
    source: Path, target: Path, start_s: float | None, end_s: float | None, channel: int | None = None
) -> None:
    """Write a part of a recording as FLAC, at the rate of the recording and with all of its channels.

    Args:
        source: the recording.
        target: the FLAC file to write.
        start_s: start in seconds; None: that of the recording.
        end_s: end in seconds; None: that of the recording.
        channel: the only channel to write, counted from 0; None: all.

    Raises:
        AudioError: the recording cannot be decoded, or has no such channel or no samples there.
    """
    try:
        with open_recording(source) as file:
            rate_hz, bits = file.samplerate, 16 if file.subtype in _EXACT_AS_16_BITS else 24
            start = round((start_s or 0.0) * rate_hz)
            stop = file.frames if end_s is None else min(round(end_s * rate_hz), file.frames)
            file.seek(min(start, file.frames))
            dtype = "int16" if bits == 16 else "int32"
            frames = file.read(max(stop - start, 0), dtype=dtype, always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        rate_hz, decoded = decode_whole_media(source, str(source), error, end_s)
        stop = len(decoded) if end_s is None else round(end_s * rate_hz)
        frames, bits = decoded[round((start_s or 0.0) * rate_hz) : stop], 16
    if channel is not None and channel >= frames.shape[1]:
        raise AudioError(
            f"{source}: has {frames.shape[1]} channels, counted from 0, but no channel {channel}"
        )
    if not len(frames):
        raise AudioError(f"{source}: no samples from {start_s or 0.0} s to {end_s} s")
    chosen = frames if channel is None else frames[:, channel]
    soundfile.write(target, chosen, rate_hz, format="FLAC", subtype=f"PCM_{bits}")


def file_stems(ids: Iterable[str]) -> dict[str, str]:
    """Return a name without a suffix for the file of each id; names differ even if capitals are ignored.

    Letters of all languages and spaces stay. Characters that a file system refuses become "_".
    """
    stems: dict[str, str] = {}
    taken: set[str] = set()
    for name in ids:
        stem = file_stem(name)
        number, unique = 1, stem
        while unique.casefold() in taken:
            number += 1
            unique = f"{stem}-{number}"
        taken.add(unique.casefold())
        stems[name] = unique
    return stems


def file_stem(name: str) -> str:
    """Return a name without a suffix for a file; characters that a file system refuses become "_"."""
    stem = _UNSAFE.sub("_", name).strip(" .") or "_"
    return stem.encode()[:MAX_NAME_BYTES].decode(errors="ignore")


def recording_ids(paths: Iterable[Path]) -> dict[Path, str]:
    """Return an id without spaces for each recording: its name, with a number where names repeat."""
    ids: dict[Path, str] = {}
    taken: set[str] = set()
    for path in dict.fromkeys(paths):
        stem = "_".join(path.stem.split()) or "_"
        number, unique = 1, stem
        while unique in taken:
            number += 1
            unique = f"{stem}-{number}"
        taken.add(unique)
        ids[path] = unique
    return ids
