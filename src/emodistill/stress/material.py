"""Music and ambience of the suite: files of Debian packages under free licences, or folders of the user.

The files are read where the packages install them; none of them is a part of this project. Training uses none
of them: its music is synthesised (`features.music`), and its noise is random.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from emodistill.audio.decoding import MEDIA_SUFFIXES, SUFFIXES
from emodistill.audio.waveform import Waveform, load
from emodistill.errors import AudioError, ConfigError

Use = Literal["music", "ambience"]

MOST_S = 60.0  # of a file that is read
_SHARE = Path("/usr/share")  # where Debian packages install data


@dataclass(frozen=True)
class Piece:
    """One file of a Debian package, and who made it under which licence."""

    use: Use
    kind: str
    package: str
    file: str  # below /usr/share
    author: str
    licence: str
    title: str = ""

    @property
    def path(self) -> Path:
        """Where the package installs the file."""
        return _SHARE / self.file


def _of_package(
    package: str, folder: str, author: str, licence: str, *files: tuple[Use, str, str, str]
) -> Iterator[Piece]:
    """Yield the pieces of one author in a package; `files` are use, kind, file and title."""
    for use, kind, file, title in files:
        yield Piece(use, kind, package, f"{folder}/{file}", author, licence, title)


# Authors and licences are those of /usr/share/doc/PACKAGE/copyright, or of README.md beside the samples.
PIECES: tuple[Piece, ...] = (
    *_of_package(
        "asc-music", "games/asc/music", "Michael Kievernagel", "GPL-2+",
        ("music", "score of a strategy game", "frontiers.mp3", "Frontiers"),
        ("music", "score of a strategy game", "machine_wars.mp3", "Machine wars"),
    ),
    *_of_package(
        "amoebax-data", "games/amoebax/music", "Àlex Almarza", "Free Art License 1.2",
        ("music", "score of a puzzle game", "PenBackground.ogg", ""),
        ("music", "score of a puzzle game", "KerberosBackground.ogg", ""),
    ),
    *_of_package(
        "lugaru-data", "games/lugaru/Sounds", "Wolfire Games", "CC BY-SA 3.0",
        ("music", "score of a fighting game, calm", "Music1Grass.ogg", ""),
        ("music", "score of a fighting game, fast", "Music2.ogg", ""),
        ("ambience", "wind", "Wind.ogg", ""),
        ("ambience", "desert", "DesertAmbient.ogg", ""),
        ("ambience", "fire", "Fire.ogg", ""),
    ),
    *_of_package(
        "fretsonfire-songs-muldjord", "games/fretsonfire/data/songs/muldjord", "El Senator (Muldjord)",
        "CC BY-SA 3.0",
        ("music", "metal", "chaos_god/song.ogg", "Chaos God"),
        ("music", "metal", "armygeddon/song.ogg", "Armygeddon"),
    ),
    *_of_package(
        "tuxmath-data", "tuxmath/sounds", "Serberis", "CC BY-SA 3.0",
        ("music", "score of a learning game", "01_rush.ogg", "Rush"),
    ),
    *_of_package(
        "tuxmath-data", "tuxmath/sounds", "Emmett Plant", "public domain",
        ("music", "title music of a learning game", "tuxi.ogg", "Tuxi"),
    ),
    *_of_package(
        "sonic-pi-samples", "sonic-pi/samples", "lezaarth", "CC0",
        ("music", "tabla", "loop_tabla.flac", ""),
    ),
    *_of_package(
        "sonic-pi-samples", "sonic-pi/samples", "nemaavla", "CC0",
        ("music", "percussion", "loop_safari.flac", ""),
    ),
    *_of_package(
        "sonic-pi-samples", "sonic-pi/samples", "Sub-d", "CC0",
        ("music", "guitar", "guit_em9.flac", ""),
    ),
    *_of_package(
        "sonic-pi-samples", "sonic-pi/samples", "hullum", "CC0",
        ("ambience", "3D printer", "loop_3d_printer.flac", ""),
    ),
    *_of_package(
        "lincity-ng-data", "games/lincity-ng/sounds", "LinCity-NG contributors", "GPL-2+ or CC BY-SA 2.0",
        ("ambience", "traffic", "TraficHigh2.wav", ""),
        ("ambience", "market, many people", "MarketFull1.wav", ""),
        ("ambience", "stadium, many people", "SportsCroud1.wav", ""),
        ("ambience", "water", "Water5.wav", ""),
        ("ambience", "birds", "ParklandPlane1.wav", ""),
        ("ambience", "factory", "IndustryHigh1.wav", ""),
        ("ambience", "train", "RailTrain2.wav", ""),
    ),
)  # fmt: skip


def missing_packages(use: Use) -> list[str]:
    """Return the Debian packages of a use whose files are not all there, in the order of the table."""
    return list(
        dict.fromkeys(piece.package for piece in PIECES if piece.use == use and not piece.path.is_file())
    )


def read_background(use: Use, folder: Path | None = None) -> tuple[tuple[Waveform, ...], str | None]:
    """Return the waveforms of music or of ambience, and why there are none, if a package is missing.

    Each waveform has a minute at most. All packages must be there, so that results can be compared. With
    `folder`, the waveforms are those of the audio files in that folder instead. Raises `ConfigError` for a
    folder without audio, and `AudioError` for a file that cannot be decoded.
    """
    if folder is not None:
        return tuple(_read(path) for path in _audio_of(folder, use)), None
    packages = missing_packages(use)
    if packages:
        return (), (
            f"{use} needs the Debian packages {', '.join(packages)}: apt-get install --no-install-recommends "
            f"{' '.join(packages)}, or give a folder with audio files: --{use} DIR"
        )
    return tuple(_read(piece.path) for piece in PIECES if piece.use == use), None


def _audio_of(folder: Path, use: Use) -> list[Path]:
    if not folder.is_dir():
        raise ConfigError(f"--{use}: '{folder}' is not a folder; give a folder with audio files")
    suffixes = {*SUFFIXES, *MEDIA_SUFFIXES}
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes and path.is_file())
    if not paths:
        raise ConfigError(f"--{use}: '{folder}' holds no audio; expected files such as .ogg, .flac or .wav")
    return paths


def _read(path: Path) -> Waveform:
    waveform = load(path, 0.0, MOST_S)
    if not np.any(waveform):
        raise AudioError(f"{path}: is silent; expected music or ambience")
    return waveform


def licence_table() -> list[dict[str, str]]:
    """Return a row for each piece: use, kind, title, author, licence, package and path."""
    return [
        {
            "use": piece.use,
            "kind": piece.kind,
            "title": piece.title,
            "author": piece.author,
            "licence": piece.licence,
            "package": piece.package,
            "path": str(piece.path),
        }
        for piece in PIECES
    ]
