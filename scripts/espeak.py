"""Speak a line with the library of espeak-ng, which reports when each word starts.

The program espeak-ng gives the samples alone. A voice keeps a state from line to line, so `speak_words`
starts this file as a new process for each line. Then the samples are equal to those of the program.
"""

import ctypes
import ctypes.util
import json
import subprocess
import sys
from typing import Any, NamedTuple

# Values of speak_lib.h, the library's header.
RETRIEVAL, DONT_EXIT = 1, 0x8000
UTF8, SSML, END_PAUSE = 1, 0x10, 0x1000
RATE, VOLUME, PITCH = 1, 2, 3
LIST_TERMINATED, WORD = 0, 1


class _Event(ctypes.Structure):
    """espeak_EVENT of speak_lib.h."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),  # in characters, from 1
        ("length", ctypes.c_int),  # in characters
        ("audio_position", ctypes.c_int),  # in milliseconds
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    )


class Spoken(NamedTuple):
    """A line as espeak-ng speaks it."""

    rate_hz: int
    samples: bytes  # int16
    # Of each word: its first character in the text, from 0, its start in seconds, and True. espeak-ng speaks
    # some words as one. Where a clause ends, there is an entry with False.
    word_starts: list[tuple[int, float, bool]]


def speak_words(ssml: str, voice: str, rate_wpm: int, pitch: int, volume: int = 70) -> Spoken:
    """Speak SSML with a voice such as "en-us+f1", in a new process.

    The settings are those of the options -v, -s, -p and -a of the program espeak-ng. Raises RuntimeError
    where espeak-ng fails.
    """
    command = [sys.executable, __file__, voice, str(rate_wpm), str(pitch), str(volume)]
    done = subprocess.run(command, input=ssml.encode(), capture_output=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"espeak-ng failed on {ssml!r}, voice {voice!r}: {done.stderr.decode().strip()}")
    header, _, samples = done.stdout.partition(b"\n")
    rate_hz, word_starts = json.loads(header)
    return Spoken(rate_hz, samples, [tuple(item) for item in word_starts])


def _speak(ssml: bytes, voice: str, rate_wpm: int, pitch: int, volume: int) -> Spoken:
    """Speak SSML in this process. Raises RuntimeError where espeak-ng is missing or refuses something."""
    name = ctypes.util.find_library("espeak-ng") or "libespeak-ng.so.1"
    try:
        library = ctypes.CDLL(name)
    except OSError as error:
        raise RuntimeError(f"the library of espeak-ng is missing ({error}): install espeak-ng") from error
    rate_hz = library.espeak_Initialize(RETRIEVAL, 0, None, DONT_EXIT)
    if rate_hz <= 0:
        raise RuntimeError("espeak-ng has no data files")
    parts: list[bytes] = []
    starts: list[tuple[int, float, bool]] = []

    def receive(wave: Any, count: int, events: Any) -> int:
        if wave and count:
            parts.append(ctypes.string_at(wave, 2 * count))
        index = 0
        while events[index].type != LIST_TERMINATED:
            event = events[index]
            if event.type == WORD:
                starts.append((event.text_position - 1, event.audio_position / 1000, event.length > 0))
            index += 1
        return 0

    signature = (ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))
    callback = ctypes.CFUNCTYPE(ctypes.c_int, *signature)(receive)
    library.espeak_SetSynthCallback(callback)
    if library.espeak_SetVoiceByName(voice.encode()) != 0:
        raise RuntimeError("espeak-ng has no such voice")
    for parameter, value in ((RATE, rate_wpm), (PITCH, pitch), (VOLUME, volume)):
        library.espeak_SetParameter(parameter, value, 0)
    text = ssml + b"\0"
    status = library.espeak_Synth(text, len(text), 0, 0, 0, UTF8 | SSML | END_PAUSE, None, None)
    if status != 0 or library.espeak_Synchronize() != 0:
        raise RuntimeError(f"status {status}")
    return Spoken(rate_hz, b"".join(parts), starts)


def main() -> None:
    """Speak the SSML of standard input: a line of JSON, [rate_hz, word_starts], and the samples."""
    voice, *numbers = sys.argv[1:]
    try:
        spoken = _speak(sys.stdin.buffer.read(), voice, *map(int, numbers))
    except RuntimeError as error:
        sys.exit(str(error))
    sys.stdout.buffer.write(
        json.dumps([spoken.rate_hz, spoken.word_starts]).encode() + b"\n" + spoken.samples
    )


if __name__ == "__main__":
    main()
