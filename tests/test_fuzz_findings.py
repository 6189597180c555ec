"""Inputs that a fuzzer found, as small as they get: each reader now reads or refuses them."""

import hashlib
import json
import struct
import subprocess
import sys
import threading
from pathlib import Path

import fuzz_targets
import numpy as np
import pytest
import soundfile

from emodistill.audio.decoding import read_samples
from emodistill.corpora.base import natural_sort_key
from emodistill.errors import AudioError, EmodistillError, ModelError
from emodistill.reading import json_object, read_json
from emodistill.serving.decoder import StreamingDecoder

FILE = fuzz_targets.FILE
# A WAV whose format tag no decoder knows: FFmpeg has an audio stream, and no decoder for it.
UNKNOWN_CODEC = (
    b"RIFFH\x05\0\0WAVEfmt \x14\0\0\0\xd7\0\x01\0\x80>\0\0\xb2\x0c\0\0A"
    b"\0\0\0\x02\0@\x01fact\x04\0\0\0\0\x19\0\0data\x03i\x9d\x1e"
)
FOUND: dict[str, tuple[bytes, ...]] = {
    "audio-bytes": (UNKNOWN_CODEC,),
    "audio-whole": (UNKNOWN_CODEC,),
    "audio-file": (UNKNOWN_CODEC,),
    "audio-stream": (UNKNOWN_CODEC,),
    "audiofolder-jsonl": (b"\x90",
                          b'{"label": "angry", "speaker_id": "s", "file_name": "' + b"a" * 300 + b'"}'),
    "array": (b"\x93NUMPY\x01\0v\0{'descr': '<f2', 'fortran_order': False, 'shape': (2, 3"
              + b" " * 60, b"PK\x03\x04"),
    "checkpoint": (b"", b"\x9b", b"[]", b"{}", b'{"format": 1}',
                   b'{"format": 1, "emotions": ["sad"], "training_ids": []}',
                   b'{"format":1,"kind":"student","emotions":[],"training_ids":[],"config":{},'
                   b'"teachers":{},"backbone":{}}',
                   b"[" * 100_000),
    "corpus-emobox": (b"8", b"\xff", b'{"key":"cafe-01-c-1","dataset":"","emo":"c","wav":1}',
                      b'{"key":"a","dataset":"","emo":"angry","speaker":"s","wav":"../../x.wav"}',
                      b'{"key":"a","dataset":"","emo":"angry","speaker":"s","wav":"x.wav","start_time":"soon"}'),
    "corpus-emorynlp": (b"Utterance,Speaker,Emotion,Scene_ID,Utterance_ID,Season,Episode\n,,Joyful,,,a,1\n",),
    "corpus-shemo": (b"", b"\xff", b"[]", b'{"F01A01": 1}'),
    "description": (b"", b"{", b'"', b"\xb2", b'{"emotions": 1}', b'{"training_ids": [{}]}'),
    "fit-result": (b"", b"\xb9", b'""', b'{"epochs": 1}'),
    "fold-list": ("id,fold\na,³\nb,v\nc,0\nd,-".encode(),),
    "input-list": (b"\0",),
    "kaldi": (b"call \0" + FILE + b"a call 0 2\nb call 2 -1 0\n" + FILE, b"a " + b"a" * 300,
              b"a " + b"a\\" * 150),
    "known": (b"utterance,fold,corpus,speaker,truth,predicted,known,used,draw,variant\n,,,,angry,"
              b"angry,0,0,8,drawn",
              b"utterance,fold,corpus,speaker,truth,predicted,,used,draw,variant,,known,\n"
              b",,,,angry,angry,,,,drawn",
              b"utterance,fold,corpus,speaker,truth,predicted,known,,draw,variant,,used,\n"
              b",,,,angry,angry,0,,,drawn",
              b"utterance,fold,corpus,speaker,truth,predicted,known,used,draw,variant\n,,,,angry,angry,0,"
              + b"9" * 30 + b",0,drawn"),
    "segments": (b"\rw", b"\r", b'{"segments": [' + b"[" * 100_000),
    "targets": (b"", b"\x02\0\0\0\0\0\0\0{}", b"\x11\0\0\0\0\0\0\0" + b'{"__metadata__":{}'),
    "card": (b"[" * 100_000, b"{}", b"\xff"),
    "voice": (b"[" * 100_000,),
    "recipe": (b"a = " + b"[" * 100_000, b"\xff"),
    "defaults": (b"a = " + b"[" * 100_000,),
}  # fmt: skip


@pytest.mark.parametrize("name", FOUND)
def test_an_input_that_a_fuzzer_found_is_read_or_refused(name: str, tmp_path: Path) -> None:
    target = fuzz_targets.TARGETS[name]
    for data in FOUND[name]:
        target.try_input(data, tmp_path)


def test_audio_without_a_decoder_is_an_error_of_the_stream_and_never_stops_it() -> None:
    decoder = StreamingDecoder()
    caught: list[Exception] = []

    def decode() -> None:
        try:
            for data in (UNKNOWN_CODEC, b""):
                decoder.feed(data)
                decoder.take()
        except AudioError as error:
            caught.append(error)
        decoder.close()

    thread = threading.Thread(target=decode, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), "the stream waits for a decoder that has stopped"
    assert "no audio stream that can be decoded" in str(caught[0]) or "cannot be decoded" in str(caught[0])


def test_an_unexpected_error_of_the_decoder_reaches_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(handle: object) -> None:
        raise AttributeError("of a codec")

    monkeypatch.setattr("emodistill.serving.decoder.decode_media", fails)
    decoder = StreamingDecoder()
    decoder.feed(b"x")
    with pytest.raises(AttributeError, match="of a codec"):
        decoder.take()
    decoder.close()


def test_a_header_with_an_impossible_length_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "long.flac"
    soundfile.write(path, np.zeros(1600, dtype=np.float32), 16_000)
    data = bytearray(path.read_bytes())
    # The number of samples in STREAMINFO has 36 bits.
    data[21] |= 0x0F
    data[22:26] = struct.pack(">I", 2**32 - 1)
    path.write_bytes(data)
    fuzz_targets.TARGETS["audio-file"].try_input(bytes(data), tmp_path)

    class Impossible:
        def read(self, *given: object, **options: object) -> None:
            raise ValueError("negative dimensions are not allowed")

    with pytest.raises(RuntimeError, match="length that is impossible"):
        read_samples(Impossible(), 1, "float32")  # type: ignore[arg-type]


def test_a_rate_of_a_gigahertz_takes_little_memory(tmp_path: Path) -> None:
    pytest.importorskip("resource", reason="Windows has no limits of memory")
    path = tmp_path / "gsm.wav"
    with soundfile.SoundFile(path, "w", 1_056_980_608, 1, "GSM610", format="WAV") as file:
        file.write(np.zeros(3200, dtype=np.float32))
    with soundfile.SoundFile(path) as file:
        assert not file.seekable(), "libsndfile then makes room for all samples that are asked for"
    code = """
import resource, sys
from emodistill.audio.decoding import duration_up_to
resource.setrlimit(resource.RLIMIT_AS, (2 * 10**9, 2 * 10**9))
print(duration_up_to(20.0, sys.argv[1]) < 1e-4)
"""
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, timeout=60)
    assert done.stdout == "True\n", done.stderr


def test_names_with_signs_that_look_like_digits_are_sorted() -> None:
    assert sorted(["s10", "s³", "s2"], key=natural_sort_key)[:2] == ["s2", "s10"]


@pytest.mark.parametrize("text", [b"", b"\xff", b"[]", b"1", b"{", b"[" * 100_000])
def test_a_text_that_is_no_json_object_is_refused_with_the_file(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(text)
    with pytest.raises(ModelError, match=r"x\.json' is damaged.*; delete it"):
        read_json(tmp_path / "x.json", ModelError, "is damaged", "; delete it")
    with pytest.raises(EmodistillError):
        json_object(text, ModelError, "it")


def test_a_damaged_graph_with_its_hash_is_refused(tmp_path: Path) -> None:
    card = json.loads(next(iter(fuzz_targets.TARGETS["card"].seeds())))
    for data in (b"", b"\x3a", b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x38\x01", b"x"):
        card["sha256"] = hashlib.sha256(data).hexdigest()
        fuzz_targets.TARGETS["graph"].try_input(data, tmp_path)
