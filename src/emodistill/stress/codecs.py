"""Codecs that PyAV has and libsndfile lacks, or cannot run at a low rate: there and back, without delay."""

import io
from typing import Any, cast

import numpy as np
import soxr

from emodistill.audio.waveform import SAMPLE_RATE, Waveform
from emodistill.errors import AudioError, MissingExtraError

_FULL_SCALE = 32767  # of 16-bit samples


def code(
    waveform: Waveform,
    codec: str,
    container: str,
    kbit_s: float,
    rate_hz: int = SAMPLE_RATE,
    delay_samples: int = 0,
) -> Waveform:
    """Return the waveform (samples,) after an encoder and its decoder. The length does not change.

    Args:
        waveform: at 16 kHz; samples beyond full scale are clipped.
        codec: of PyAV, such as "libopus".
        container: of PyAV, such as "ogg". Its header tells the decoder how much of the delay to cut.
        kbit_s: the bit rate.
        rate_hz: the sample rate that is encoded.
        delay_samples: what remains of the codec's delay, at `rate_hz`, and is cut.

    Raises:
        MissingExtraError: the extra "stress" is not installed.
        AudioError: this PyAV lacks the codec.
    """
    try:
        import av  # an extra
    except ImportError as error:
        raise MissingExtraError("av", "stress", f"the codec {codec}") from error
    samples = waveform if rate_hz == SAMPLE_RATE else soxr.resample(waveform, SAMPLE_RATE, rate_hz)
    pcm = np.round(np.clip(samples, -1, 1) * _FULL_SCALE).astype(np.int16)
    # Silence after the end pushes the last samples out of the encoder.
    pcm = np.concatenate([pcm, np.zeros(rate_hz // 10 + delay_samples, np.int16)])
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        try:
            stream = cast(Any, output.add_stream(codec, rate=rate_hz, layout="mono"))
        except ValueError as error:
            raise AudioError(
                f"this PyAV lacks the codec {codec}: install the package av from its wheel"
            ) from error
        stream.bit_rate = round(kbit_s * 1000)
        frame = av.AudioFrame.from_ndarray(pcm[None], format="s16", layout="mono")
        frame.sample_rate = rate_hz
        for packet in (*stream.encode(frame), *stream.encode(None)):
            output.mux(packet)
    file.seek(0)
    resampler = av.AudioResampler("flt", "mono", rate_hz)
    with av.open(file, "r") as coded:
        frames = [part for frame in coded.decode(audio=0) for part in resampler.resample(frame)]
    frames += resampler.resample(None)
    decoded = np.concatenate([frame.to_ndarray()[0] for frame in frames])[delay_samples:]
    if rate_hz != SAMPLE_RATE:
        decoded = soxr.resample(decoded, rate_hz, SAMPLE_RATE)
    out = np.zeros(len(waveform), np.float32)
    out[: len(decoded)] = decoded[: len(out)]
    return out
