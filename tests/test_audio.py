"""Decoding to 16 kHz mono from any rate, channels and format, and errors for data that is not audio."""

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import factories as make
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from emodistill.audio import waveform as waveform_module
from emodistill.audio.decoding import RatedArray, decode_media, is_longer_than, on_decoded
from emodistill.audio.waveform import (
    FRAME_SAMPLES,
    SAMPLE_RATE,
    MonoStream,
    content_hash,
    from_samples,
    load,
    load_blocks,
    load_bounded,
    peak_normalise,
    sounding_channels,
    trim_silence,
)
from emodistill.corpora.base import Utterance, audio_duration_s
from emodistill.errors import AudioError, AudioTooLongError


def tone(rate_hz: int, length_s: float = 0.5, hz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(round(length_s * rate_hz)) / rate_hz)).astype(np.float32)


def loudest_hz(waveform: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform))))
    return float(spectrum.argmax() * SAMPLE_RATE / len(waveform))


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000])
def test_every_rate_becomes_16_khz(rate_hz: int, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(rate_hz), rate_hz, subtype="FLOAT")
    waveform = load(path)
    assert (waveform.dtype, waveform.ndim) == (np.float32, 1)
    assert abs(len(waveform) - SAMPLE_RATE // 2) <= 1
    assert loudest_hz(waveform) == pytest.approx(440, abs=3)
    assert np.abs(waveform).max() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
def test_files_of_every_format_are_decoded(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    soundfile.write(path, tone(SAMPLE_RATE), SAMPLE_RATE)
    waveform = load(path)
    assert abs(len(waveform) - SAMPLE_RATE // 2) < 2500
    assert loudest_hz(waveform) == pytest.approx(440, abs=3)


def test_an_opus_file_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "a.opus"
    soundfile.write(path, tone(48_000), 48_000, format="OGG", subtype="OPUS")
    assert loudest_hz(load(path)) == pytest.approx(440, abs=3)


def test_channels_are_averaged_and_dead_ones_left_out() -> None:
    left, right = tone(SAMPLE_RATE), tone(SAMPLE_RATE, hz=600)
    dead = np.zeros_like(left)
    np.testing.assert_allclose(
        from_samples(np.stack([left, right], axis=1), SAMPLE_RATE), (left + right) / 2, atol=1e-7
    )
    for channels in ([left, dead], [dead, left, dead]):
        np.testing.assert_array_equal(from_samples(np.stack(channels, axis=1), SAMPLE_RATE), left)
    silent = from_samples(np.stack([dead, dead], axis=1), SAMPLE_RATE)
    np.testing.assert_array_equal(silent, dead)


def test_a_channel_that_begins_late_counts_from_the_beginning(tmp_path: Path) -> None:
    """So the mix does not fall by 6 dB there, and it is the same in one piece, in blocks and in a stream."""
    first = tone(SAMPLE_RATE, 4)
    late = np.concatenate([np.zeros(3 * SAMPLE_RATE, np.float32), tone(SAMPLE_RATE, 1, hz=600)])
    dead = np.zeros_like(first)
    for channels in ([first, late], [late, first], [dead, first, late, dead], [first, dead], [dead, dead]):
        frames = np.stack(channels, axis=1)
        sounding = [channel for channel in channels if channel.any()] or [dead]
        expected = np.mean(sounding, axis=0)
        path = tmp_path / "late.wav"
        soundfile.write(path, frames, SAMPLE_RATE, subtype="FLOAT")
        for source in (path, path.read_bytes(), io.BytesIO(path.read_bytes())):
            np.testing.assert_allclose(np.concatenate(list(load_blocks(source))), expected, atol=1e-6)
        np.testing.assert_allclose(load(path), expected, atol=1e-6)
        np.testing.assert_allclose(load_bounded(path, 10), expected, atol=1e-6)
        stream = MonoStream(SAMPLE_RATE)
        pieces = np.concatenate([stream.push(part) for part in np.array_split(frames, 7)])
        np.testing.assert_allclose(pieces, frames.mean(axis=1), atol=1e-6)
    position = io.BytesIO(path.read_bytes())
    assert sounding_channels(position) is None  # all are dead
    assert position.tell() == 0
    assert sounding_channels(RatedArray(np.stack([dead, first, late], axis=1), SAMPLE_RATE)).tolist() == [
        1,
        2,
    ]  # type: ignore[union-attr]


def test_only_a_dead_or_late_channel_needs_a_second_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds: list[float] = []
    on_decoded.set(seconds.append)
    path = tmp_path / "a.wav"
    for channels, num_blocks in (([1], 6), ([1, 1], 6), ([1, 0], 10)):
        soundfile.write(path, tone(SAMPLE_RATE, 5)[:, None] * channels, SAMPLE_RATE)
        decoded: list[int] = []
        real = waveform_module.decode_blocks

        def counted(*source: Any, real: Any = real, decoded: list[int] = decoded) -> Iterator[Any]:
            for block in real(*source):
                decoded.append(1)
                yield block

        with monkeypatch.context() as patch:
            patch.setattr(waveform_module, "decode_blocks", counted)
            list(load_blocks(path))
        assert len(decoded) == num_blocks
        assert sum(seconds) == pytest.approx(5), "the first pass reports no progress"
        seconds.clear()
    on_decoded.set(None)


@pytest.mark.parametrize("dtype", [np.int16, np.int32])
def test_integer_pcm_is_scaled(dtype: type) -> None:
    full = np.iinfo(dtype).max
    samples = (tone(SAMPLE_RATE).astype(np.float64) * full).astype(dtype)
    np.testing.assert_allclose(from_samples(samples, SAMPLE_RATE), tone(SAMPLE_RATE), atol=1e-4)
    extreme = np.array([np.iinfo(dtype).min, full], dtype=dtype)
    assert np.abs(from_samples(extreme, SAMPLE_RATE)).max() <= 1


def test_beyond_full_scale_nothing_is_clipped() -> None:
    sound = tone(SAMPLE_RATE)
    whole = from_samples(30 * sound, SAMPLE_RATE)
    np.testing.assert_allclose(whole, sound / np.abs(sound).max(), atol=1e-6)
    np.testing.assert_allclose(MonoStream(SAMPLE_RATE).push(30 * sound), 30 * sound, rtol=1e-6)


@pytest.mark.parametrize("samples", [32767 * tone(SAMPLE_RATE), np.full(1600, 1e30)])
def test_floats_far_beyond_full_scale_are_refused(samples: np.ndarray) -> None:
    message = r"expected float samples from -1 to 1, got some of .*; are these values of 16 bits\? Cast them"
    with pytest.raises(AudioError, match=message):
        from_samples(samples, SAMPLE_RATE)
    with pytest.raises(AudioError, match=message):
        MonoStream(SAMPLE_RATE).push(samples)


def test_integers_of_unknown_full_scale_are_refused() -> None:
    with pytest.raises(AudioError, match=r"at most 32 bits, got int64; cast .* samples\.astype\('int16'\)"):
        from_samples(np.array([0, 1000, -1000], dtype=np.int64), SAMPLE_RATE)


@pytest.mark.parametrize("rate_hz", [0, -1, 16, 1999, float("nan"), float("inf"), None, "16000"])
def test_a_rate_below_2_khz_or_not_a_number_is_refused(rate_hz: Any) -> None:
    with pytest.raises(AudioError, match=rf"expected a rate in Hz, at least 2000, got {rate_hz!r}"):
        from_samples(tone(SAMPLE_RATE), rate_hz)
    with pytest.raises(AudioError, match=rf"at least 2000, got {rate_hz!r}"):
        MonoStream(rate_hz)


def test_telephone_recordings_of_gsm_are_read(tmp_path: Path) -> None:
    path = tmp_path / "call.wav"
    soundfile.write(path, tone(8000, 1.0), 8000, subtype="GSM610")
    assert loudest_hz(load(path)) == pytest.approx(440, abs=10)
    assert len(np.concatenate(list(load_blocks(path)))) == pytest.approx(SAMPLE_RATE, rel=0.05)


def test_path_bytes_and_open_file_give_the_same_waveform(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, make.speech(0.4), SAMPLE_RATE)
    expected = load(path)
    np.testing.assert_array_equal(load(str(path)), expected)
    np.testing.assert_array_equal(load(path.read_bytes()), expected)
    np.testing.assert_array_equal(load(io.BytesIO(path.read_bytes())), expected)


def test_segments_are_cut_before_resampling(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    sound = np.concatenate([tone(44_100, 1.0, 300), tone(44_100, 1.0, 900)])
    soundfile.write(path, sound, 44_100, subtype="FLOAT")
    for start_s, end_s, hz, length_s in (
        (0, 1, 300, 1),
        (1.0, 2.0, 900, 1),
        (1.5, None, 900, 0.5),
        (None, 0.25, 300, 0.25),
    ):
        part = load(path, start_s, end_s)
        assert abs(len(part) - length_s * SAMPLE_RATE) <= 1
        assert loudest_hz(part) == pytest.approx(hz, abs=6)
    assert len(load(path, 1.9, 99.0)) == pytest.approx(1600, abs=1)
    for start_s, end_s in ((5.0, 6.0), (1.0, 0.5)):
        with pytest.raises(AudioError, match=rf"a\.wav between {start_s} s and {end_s} s: holds no samples"):
            load(path, start_s, end_s)


def test_a_source_that_is_not_audio_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"no\.wav: no such file"):
        load(tmp_path / "no.wav")
    with pytest.raises(AudioError, match="is a folder, expected a file"):
        load(tmp_path)
    with pytest.raises(AudioError, match="File name too long"):
        load("a" * 5000)
    if os.name == "posix":
        os.mkfifo(tmp_path / "pipe.wav")
        for read in (load, lambda path: list(load_blocks(path))):
            with pytest.raises(
                AudioError, match=r"pipe\.wav: is a pipe or a device, expected a file; in Python"
            ):
                read(tmp_path / "pipe.wav")
    text = tmp_path / "text.wav"
    text.write_text("Dear reader, this is a letter.")
    with pytest.raises(AudioError, match=r"text\.wav: cannot be decoded as audio \(.*\); expected wav, flac"):
        load(text)
    (tmp_path / "nothing.wav").touch()
    with pytest.raises(AudioError, match=r"nothing\.wav: cannot be decoded as audio \(it is empty: 0 bytes"):
        load(tmp_path / "nothing.wav")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0, np.float32), SAMPLE_RATE)
    with pytest.raises(AudioError, match=r"empty\.wav: holds no samples"):
        load(tmp_path / "empty.wav")
    with pytest.raises(AudioError, match=r"the audio: cannot be decoded"):
        load(b"RIFF and so on")
    for value in (np.nan, np.inf, -np.inf):
        sound = tone(SAMPLE_RATE)
        sound[100] = value
        soundfile.write(tmp_path / "bad.wav", sound, SAMPLE_RATE, subtype="FLOAT")
        with pytest.raises(AudioError, match=r"bad\.wav: holds NaN or Inf samples; repair or re-encode it"):
            load(tmp_path / "bad.wav")
        with pytest.raises(AudioError, match=r"the audio: holds NaN or Inf"):
            from_samples(sound, SAMPLE_RATE)
    with pytest.raises(
        AudioError, match=r"expected samples \(n,\) or \(n, channels\), got shape \(2, 2, 2\)"
    ):
        from_samples(np.zeros((2, 2, 2)), SAMPLE_RATE)
    with pytest.raises(AudioError, match="the audio: too short to hold a sample at 16000 Hz"):
        from_samples(np.ones(1, np.float32), 192_000)


def wav_bytes(samples: np.ndarray, subtype: str = "PCM_16", container: str = "WAV") -> bytearray:
    written = io.BytesIO()
    soundfile.write(written, samples, SAMPLE_RATE, format=container, subtype=subtype)
    return bytearray(written.getvalue())


@pytest.mark.parametrize("container", ["WAV", "WAVEX"])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT", "ULAW"])
@pytest.mark.parametrize("channels", [1, 2, 16])
def test_a_wav_that_was_never_finished_is_read_to_its_end(
    container: str, subtype: str, channels: int, tmp_path: Path
) -> None:
    """A recorder that was cut off leaves the size of the samples unset."""
    samples = np.stack([make.speech(1.0, 120, seed=seed) for seed in range(channels)], axis=1)
    finished = wav_bytes(samples, subtype, container)
    expected = load(bytes(finished))
    at = finished.index(b"data")
    for whole in (0, 0xFFFFFFFF, at):
        data = bytearray(finished)
        data[4:8], data[at + 4 : at + 8] = whole.to_bytes(4, "little"), bytes(4)
        path = tmp_path / "cut.wav"
        path.write_bytes(data)
        for source in (bytes(data), path, str(path), io.BytesIO(data)):
            np.testing.assert_array_equal(load(source), expected)
            assert is_longer_than(source, 0.9)
            assert not is_longer_than(source, 1.1)
        pieces = np.concatenate(list(load_blocks(path)))
        np.testing.assert_allclose(pieces, expected, atol=1e-6)
        with pytest.raises(AudioTooLongError):
            load_bounded(path, 0.5)
        utterance = Utterance(id="cut", path=path, speaker="one", emotion="happy")
        assert audio_duration_s(utterance) == 1.0


def test_chunks_after_a_finished_wav_without_samples_are_not_audio() -> None:
    data = wav_bytes(np.zeros(0, np.float32))
    notes = b"LIST" + (400).to_bytes(4, "little") + b"INFO" + bytes(range(198)) * 2
    data[4:8] = (len(data) + len(notes) - 8).to_bytes(4, "little")
    with pytest.raises(AudioError, match="holds no samples"):
        load(bytes(data) + notes)


@pytest.mark.parametrize("channels", [1, 2, 6, 9, 16, 64])
def test_pyav_decodes_the_channels_that_were_recorded(channels: int, tmp_path: Path) -> None:
    samples = np.stack([0.1 * (1 + index) * tone(16_000, 0.3) / channels for index in range(channels)], 1)
    path = tmp_path / "many.wav"
    soundfile.write(path, samples, SAMPLE_RATE, subtype="FLOAT")
    decoded = list(decode_media(str(path)))
    assert {rate for rate, _ in decoded} == {SAMPLE_RATE}
    np.testing.assert_array_equal(np.concatenate([part for _, part in decoded]), samples.astype(np.float32))


def test_too_many_channels_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    path = tmp_path / "many.wav"
    soundfile.write(path, np.zeros((10, 129), np.float32), SAMPLE_RATE)
    with pytest.raises(AudioError, match="at most 128 channels, got 129"):
        list(decode_media(str(path), str(path)))


# --- trimming, gain ------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 60), st.integers(0, 60), st.floats(0.001, 2.0), st.integers(0, 1000))
def test_trimming_cuts_the_same_samples_at_any_gain(before: int, after: int, gain: float, seed: int) -> None:
    speech = make.speech(0.3, 150, seed=seed)
    room = 1e-4 * np.random.default_rng(seed).standard_normal((before + after + 30) * FRAME_SAMPLES)
    sound = room.astype(np.float32)
    sound[before * FRAME_SAMPLES :][: len(speech)] += speech
    trimmed = trim_silence(sound, 35.0)
    assert len(trim_silence(np.float32(gain) * sound, 35.0)) == len(trimmed)
    assert 0 < len(trimmed) <= len(speech) + 2 * FRAME_SAMPLES
    assert len(trimmed) % FRAME_SAMPLES == 0
    assert np.abs(trimmed).max() == np.abs(sound).max()


def test_trimming_keeps_inner_pauses_and_does_not_cut_silence() -> None:
    speech, pause = make.speech(0.3), np.zeros(SAMPLE_RATE, np.float32)
    whole = np.concatenate([pause, speech, pause, speech, pause])
    assert len(trim_silence(whole, 35.0)) == pytest.approx(len(speech) * 2 + len(pause), abs=400)
    np.testing.assert_array_equal(trim_silence(pause, 35.0), pause)
    short = make.speech(0.02)
    np.testing.assert_array_equal(trim_silence(short, 35.0), short)


def test_peaks_are_normalised_and_silence_stays() -> None:
    assert np.abs(peak_normalise(0.01 * make.speech(0.1))).max() == 1.0
    silence = np.zeros(10, np.float32)
    np.testing.assert_array_equal(peak_normalise(silence), silence)


def test_a_content_hash_depends_on_bytes_and_segment_alone(tmp_path: Path) -> None:
    one, two = tmp_path / "a.wav", tmp_path / "elsewhere.wav"
    soundfile.write(one, make.speech(0.2), SAMPLE_RATE)
    two.write_bytes(one.read_bytes())
    assert content_hash(one) == content_hash(two)
    assert len({content_hash(one), content_hash(one, 0.0, 0.1), content_hash(one, 0.1, None)}) == 3
    soundfile.write(two, 0.9 * make.speech(0.2), SAMPLE_RATE)
    assert content_hash(one) != content_hash(two)


def test_a_file_is_hashed_again_only_if_it_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(b"one")
    first = content_hash(path)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", lambda self: pytest.fail(f"{self} was read again"))
        assert content_hash(path) == first
        assert len({first, content_hash(path, 0.0, 1.0), content_hash(path, 1.0, 2.0)}) == 3
    path.write_bytes(b"two")
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1_000_000_000))
    assert content_hash(path) != first


@pytest.mark.parametrize(("suffix", "codec"), [(".m4a", "aac"), (".mp4", "aac"), (".webm", "libopus")])
@pytest.mark.parametrize("kind", ["path", "bytes", "file"])
def test_media_containers_are_read(tmp_path: Path, suffix: str, codec: str, kind: str) -> None:
    av = pytest.importorskip("av")
    path = tmp_path / f"tone{suffix}"
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(48000) / 48000).astype(np.float32)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=48000, layout="mono")
        resampler = av.AudioResampler(format=stream.format, layout="mono", rate=48000)
        frame = av.AudioFrame.from_ndarray(tone[None], format="fltp", layout="mono")
        frame.sample_rate = 48000
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    if kind == "file":
        with path.open("rb") as file:
            waveform = load(file)
    else:
        waveform = load(path if kind == "path" else path.read_bytes())
    assert abs(len(waveform) - SAMPLE_RATE) < 0.1 * SAMPLE_RATE
    middle = waveform[4000:12000]
    peak_hz = np.abs(np.fft.rfft(middle)).argmax() * SAMPLE_RATE / len(middle)
    assert peak_hz == pytest.approx(440, abs=5)
    half = load(path, 0.25, 0.75)
    assert abs(len(half) - SAMPLE_RATE // 2) < 0.06 * SAMPLE_RATE


def test_a_flac_without_its_length_is_read_to_its_end(tmp_path: Path) -> None:
    pytest.importorskip("av")
    path = tmp_path / "pipe.flac"
    soundfile.write(path, tone(SAMPLE_RATE), SAMPLE_RATE)
    whole = load(path)
    coded = bytearray(path.read_bytes())
    assert coded[:4] == b"fLaC"
    coded[21] &= 0xF0  # the number of samples, as a writer leaves it that cannot seek
    coded[22:26] = bytes(4)
    path.write_bytes(coded)
    np.testing.assert_allclose(load(path), whole, atol=1e-6)
    np.testing.assert_allclose(np.concatenate(list(load_blocks(bytes(coded)))), whole, atol=1e-6)


def test_a_raw_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "samples.raw"
    path.write_bytes(bytes(32_000))
    for read in (load, lambda source: list(load_blocks(source))):
        with pytest.raises(AudioError, match=r"samples\.raw: "):
            read(path)


def test_a_file_that_is_not_audio_is_an_error_of_every_decoder(tmp_path: Path) -> None:
    path = tmp_path / "note.m4a"
    path.write_text("not audio")
    with pytest.raises(AudioError, match="cannot be decoded as audio"):
        load(path)
