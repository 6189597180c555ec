"""Parts and channels of recordings as FLAC files of their own, and names of files that every system takes."""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

import soundfile

from emodistill.audio.decoding import decode_whole_media, frame_range, open_recording, read_samples
from emodistill.corpora.tables import Row
from emodistill.errors import AudioError, ConfigError

FLAC = ".flac"
MAX_NAME_BYTES = 200  # of a file's name without its suffix; file systems allow 255
_UNSAFE = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]')
# Names of devices in Windows, which no file can have.
_DEVICES = frozenset(
    ("CON", "PRN", "AUX", "NUL", *(f"{name}{number}" for name in ("COM", "LPT") for number in range(10)))
)
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
            start, stop = frame_range(start_s, end_s, rate_hz, file.frames)
            file.seek(start)
            frames = read_samples(file, max(stop - start, 0), "int16" if bits == 16 else "int32")
    except (soundfile.LibsndfileError, RuntimeError) as error:
        rate_hz, decoded = decode_whole_media(source, str(source), error, end_s)
        start, stop = frame_range(start_s, end_s, rate_hz, len(decoded))
        frames, bits = decoded[start:stop], 16
    if channel is not None and channel >= frames.shape[1]:
        raise AudioError(
            f"{source}: has {frames.shape[1]} channels, counted from 0, but no channel {channel}"
        )
    if not len(frames):
        raise AudioError(f"{source}: no samples from {start_s or 0.0} s to {end_s} s")
    chosen = frames if channel is None else frames[:, channel]
    soundfile.write(target, chosen, rate_hz, format="FLAC", subtype=f"PCM_{bits}")


def channel_files(
    rows: Mapping[int, Row], channels: Mapping[int, int], places: Mapping[int, str], audio_out: Path | None
) -> dict[str, Callable[[Path], None]]:
    """Let rows of single channels name files in `audio_out`, and return what writes each file.

    Args:
        rows: all rows by number; those of `channels` get another path, and lose their start and end.
        channels: number of a row -> its channel, counted from 0.
        places: where the user finds a row, for messages.
        audio_out: the folder for the files.

    Raises:
        ConfigError: there is no folder, or a file would replace a recording of the rows.
    """
    unwritten: dict[str, Callable[[Path], None]] = {}
    stems = file_stems(str(rows[number].get("id")) for number in channels)
    recordings = {Path(row["path"]).resolve() for row in rows.values()} if channels else set()
    for number, channel in channels.items():
        row = rows[number]
        if audio_out is None:
            raise ConfigError(
                f"{places[number]}: is channel {channel} of its recording, which becomes a file of its own: "
                "name a folder for it, --audio-out DIR"
            )
        target = (audio_out / f"{stems[str(row.get('id'))]}{FLAC}").absolute()
        if target.resolve() in recordings:
            raise ConfigError(
                f"{places[number]}: its file '{target}' would replace a recording of the corpus: name "
                "another folder, --audio-out DIR"
            )
        start_s, end_s = (
            None if time is None else float(time) for time in (row.get("start_s"), row.get("end_s"))
        )
        source = Path(row["path"])
        unwritten[str(target)] = partial(write_part, source, start_s=start_s, end_s=end_s, channel=channel)
        row |= {"path": str(target), "start_s": None, "end_s": None}
    return unwritten


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
    if stem.split(".")[0].rstrip().upper() in _DEVICES:
        stem = f"_{stem}"
    return stem.encode(errors="replace")[:MAX_NAME_BYTES].decode(errors="ignore").rstrip(" .")


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
