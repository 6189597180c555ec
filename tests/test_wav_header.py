"""The header of a WAV: what it states, in any order of chunks, and files that end before their samples."""

import io
import struct

import numpy as np
import pytest
import soundfile

from emodistill.audio.wav_header import FLOAT, PCM, WavHeader, read_wav_header
from emodistill.errors import AudioError

SAMPLES = np.zeros((100, 2), np.float32)


def wav(subtype: str = "PCM_16", container: str = "WAV", samples: np.ndarray = SAMPLES) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, 22_050, format=container, subtype=subtype)
    return file.getvalue()


def header_of(data: bytes) -> WavHeader:
    assert data[:4] == b"RIFF"
    return read_wav_header(io.BytesIO(data[4:]).read, "a.wav")


@pytest.mark.parametrize("container", ["WAV", "WAVEX"])
@pytest.mark.parametrize(("subtype", "format_tag", "bits"), [("PCM_16", PCM, 16), ("FLOAT", FLOAT, 32)])
def test_the_header_states_format_rate_and_sizes(
    container: str, subtype: str, format_tag: int, bits: int
) -> None:
    data = wav(subtype, container)
    header = header_of(data)
    assert (header.format_tag, header.bits) == (format_tag, bits)
    assert (header.channels, header.rate_hz) == (2, 22_050)
    assert header.data_size == 100 * 2 * bits // 8
    assert header.riff_size == len(data) - 8
    assert data[header.data_size_offset :][:4] == struct.pack("<I", header.data_size)
    assert not header.is_unfinished


def test_chunks_of_odd_size_before_the_samples_are_skipped() -> None:
    data = wav()
    note = b"note" + struct.pack("<I", 3) + b"abc\0"
    header = header_of(data[:12] + note + data[12:])
    assert (header.rate_hz, header.data_size) == (22_050, 400)
    assert header.data_size_offset == header_of(data).data_size_offset + len(note)


@pytest.mark.parametrize("riff_size", [0, 0xFFFFFFFF, 36])
def test_a_header_whose_sizes_were_never_written_is_unfinished(riff_size: int) -> None:
    data = bytearray(wav())
    data[4:8] = struct.pack("<I", riff_size)
    at = header_of(bytes(data)).data_size_offset
    data[at : at + 4] = bytes(4)
    assert header_of(bytes(data)).is_unfinished


def test_a_file_with_chunks_after_no_samples_is_finished() -> None:
    note = b"LIST" + struct.pack("<I", 4) + b"INFO"
    data = bytearray(wav(samples=SAMPLES[:0]) + note)
    data[4:8] = struct.pack("<I", len(data) - 8)
    assert header_of(bytes(data)).data_size == 0
    assert not header_of(bytes(data)).is_unfinished


@pytest.mark.parametrize("end", [6, 11])
def test_a_file_that_ends_before_the_word_wave_is_refused(end: int) -> None:
    with pytest.raises(AudioError, match=r"a\.wav: expected a WAV, got another RIFF file"):
        header_of(wav()[:end])


@pytest.mark.parametrize("end", [12, 15, 30, 40])
def test_a_header_that_is_cut_off_is_refused(end: int) -> None:
    with pytest.raises(AudioError, match=r"a\.wav: the WAV header is cut off, so there are no samples"):
        header_of(wav()[:end])
