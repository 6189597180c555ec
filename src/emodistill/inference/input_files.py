"""The audio files that a command line names: files as they are, and folders with all audio below them."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from emodistill.audio.decoding import MEDIA_SUFFIXES, SUFFIXES
from emodistill.console import warn

MPEG_TS_SUFFIXES = (".ts", ".mts")  # of MPEG transport streams and of TypeScript
MPEG_TS_PACKET_BYTES, MPEG_TS_SYNC = 188, b"G"  # each packet of a transport stream begins with this byte


@dataclass(frozen=True)
class AudioFiles:
    """What `find_audio_files` found.

    Attributes:
        files: the named files, and the audio and video files below the named folders, in order.
        undecodable: those below folders that need the [media] extra, which is not installed.
        num_empty: the number of folders without any audio file.
    """

    files: list[Path]
    undecodable: frozenset[str]
    num_empty: int


def find_audio_files(paths: Sequence[Path]) -> AudioFiles:
    """Return the audio files that are named or lie below named folders; a folder's files are sorted.

    In a folder, every file with a suffix of audio or video counts, also where this install cannot decode it.
    A file that is named counts, whatever its suffix. A folder without audio gives a warning.
    """
    files: list[Path] = []
    undecodable: list[str] = []
    num_empty = 0
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        below = sorted(file for file in path.rglob("*") if _is_audio_file(file))
        if not below:
            warn(f"no audio files below '{path}' (looked for {', '.join((*SUFFIXES, *MEDIA_SUFFIXES))})")
            num_empty += 1
        files += below
        if find_spec("av") is None:
            undecodable += [str(file) for file in below if file.suffix.lower() not in SUFFIXES]
    return AudioFiles(files, frozenset(undecodable), num_empty)


def _is_audio_file(path: Path) -> bool:
    suffix = path.suffix.lower()
    # "._x.wav" is what macOS keeps about x.wav on foreign disks; it is no audio.
    if path.name.startswith("._") or not path.is_file():
        return False
    if suffix in MPEG_TS_SUFFIXES:
        return _is_transport_stream(path)
    return suffix in SUFFIXES or suffix in MEDIA_SUFFIXES


def _is_transport_stream(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(MPEG_TS_PACKET_BYTES + 5)
    except OSError:
        return False
    # .mts of a camera has four more bytes before each packet.
    return any(
        head[offset : offset + 1] == MPEG_TS_SYNC == head[offset + length : offset + length + 1]
        for offset, length in ((0, MPEG_TS_PACKET_BYTES), (4, MPEG_TS_PACKET_BYTES + 4))
    )
