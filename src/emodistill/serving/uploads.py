"""The forms that `Client` sends: sources of audio as files, and options as fields."""

import csv
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile

from emodistill.audio.decoding import THE_AUDIO, check_file
from emodistill.audio.recording import AudioSource, decodable_source
from emodistill.audio.waveform import as_columns, check_rate
from emodistill.errors import AudioError, ConfigError
from emodistill.inference.given_segments import GivenSegment
from emodistill.inference.sources import source_name
from emodistill.inference.voices import Voice

_FIELD_NAMES = {
    "smooth_s": "smooth", "min_duration_s": "min_duration", "hop_s": "hop", "window_s": "window",
    "given": "segments",
}  # fmt: skip
_REPEATED = ("voice_name",)  # a field for each value
Form = dict[str, Any]  # the arguments `files` and `data` of a request
_EXPECTED = "a path, bytes, a file opened in binary mode or a NumPy array"


def form(
    sources: Sequence[AudioSource], rate_hz: int | None, options: Mapping[str, Any], opened: ExitStack
) -> Form:
    """The form for sources and options; options that are None are left out.

    `opened` closes the files that this opens. Raises `AudioError` for a source that cannot be read, and
    `ConfigError` for a voice that is none.
    """
    options = with_field_names(options)
    files: list[tuple[str, tuple[str, Any]]] = [
        ("files", _file(source, rate_hz, opened)) for source in sources
    ]
    data = {name: value for name, value in options.items() if value is not None}
    voice = data.pop("voice", None)
    if isinstance(voice, Mapping):
        files += [("voice", ("voice.json", voice_text(each))) for each in voice.values()]
        if voice:
            data["voice_name"] = [*map(str, voice)]
    elif voice is not None:
        files.append(("voice", ("voice.json", voice_text(voice))))
    if (segments := data.pop("segments", None)) is not None:
        files.append(("segments", ("segments.csv", segments_content(segments))))
    fields = {name: value if name in _REPEATED else _text(value) for name, value in data.items()}
    return {"files": files, "data": fields}


def with_field_names(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with the server's names in place of those of Python, e.g. `smooth` for `smooth_s`."""
    return {_FIELD_NAMES.get(name, name): value for name, value in options.items()}


def segments_content(segments: Any) -> str | bytes:
    """The content of a file with segments: of a path, or CSV of `GivenSegment`s.

    Raises `ConfigError` for a file that cannot be read, and for what is no segment.
    """
    if isinstance(segments, (str, Path)):
        try:
            return Path(segments).read_bytes()
        except OSError as error:
            raise ConfigError(f"cannot read the segments '{segments}': {error.strerror}") from error
    table = StringIO()
    writer = csv.writer(table)
    writer.writerow(["start", "end", "speaker", "channel", "text"])
    for segment in segments:
        if not isinstance(segment, GivenSegment):
            raise ConfigError(f"expected a path or a list of GivenSegment, got {segment!r}")
        row = (segment.start_s, segment.end_s, segment.speaker, segment.channel, segment.text)
        writer.writerow(["" if value is None else value for value in row])
    return table.getvalue()


def voice_text(voice: Any) -> str:
    """The text of a voice file. Raises `ConfigError` for what is not a `Voice`."""
    if not isinstance(voice, Voice):
        raise ConfigError(
            f"expected a Voice, got {type(voice).__name__}: load a voice file with Voice.load, or make a "
            "voice with enrol"
        )
    return voice.to_json()


def _file(source: Any, rate_hz: int | None, opened: ExitStack) -> tuple[str, BinaryIO]:
    """The name and the content of a source. httpx2 rewinds a file before it sends it, also once more."""
    if isinstance(source, np.ndarray) or hasattr(source, "__array__"):
        return "samples.wav", _wav(np.asarray(source), rate_hz)
    source = decodable_source(source, _EXPECTED)
    if isinstance(source, bytes):
        return "bytes", BytesIO(source)
    if isinstance(source, (str, Path)):
        check_file(source)
        try:
            return Path(source).name, opened.enter_context(Path(source).open("rb"))
        except OSError as error:
            raise AudioError(f"{source_name(source)}: {error.strerror}") from error
    return Path(str(getattr(source, "name", "file"))).name, source


def _wav(samples: Any, rate_hz: int | None) -> BinaryIO:
    """Samples as a WAV file of 32-bit floats, which keeps them as the recogniser would read them."""
    rate_hz = check_rate(rate_hz)
    if not float(rate_hz).is_integer():
        raise AudioError(f"expected a whole number of Hz as rate_hz, got {rate_hz}")
    file = BytesIO()
    soundfile.write(file, as_columns(samples, THE_AUDIO), int(rate_hz), subtype="FLOAT", format="WAV")
    return file


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return str(value)
