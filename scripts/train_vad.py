"""Train the packaged speech detector, src/emodistill/assets/vad.onnx, from corpora of emotional speech.

    pip install --no-deps --target SILERO silero-vad==6.2.3        # MIT; it brings its weights
    PYTHONPATH=SILERO python scripts/train_vad.py --data CORPORA   # folders ravdess, nemo, ased, urdu

A small network (log-mel, one convolution, a GRU) learns the frame probabilities of silero-vad. silero-vad
gets a clean mix of utterances and known silences. The student gets the same mix with noise, music, rooms,
codecs and any gain. Speakers of the dev and test lists below are left out.

The script is seeded and uses one thread. It writes vad.onnx and vad.json.
"""

import argparse
import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from scipy.signal import butter, sosfilt
from silero_vad.sequence_vad import SileroVADSequence
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.audio_utils import mel_filter_bank

import emodistill.audio.speech_activity as vad
from emodistill.audio.waveform import SAMPLE_RATE, Waveform, load
from emodistill.corpora import read_corpus
from emodistill.features.augment import add_noise, band_limit, change_speed, reverberate, transcode

DEV = {
    "ravdess": ("4", "10", "12", "14"),
    "nemo": ("TP0",),
    "ased": tuple(f"{number}" for number in range(43, 53)),
}
TEST = {
    "ravdess": ("1", "3", "5", "7", "11", "20", "21", "24"),
    "nemo": ("WR0", "EB0"),
    "ased": tuple(f"{number}" for number in range(53, 66)),
}
# How often a mix draws from a corpus. Large corpora get less than their share, and spontaneous speech gets
# more.
SHARES = {"ravdess": 0.32, "nemo": 0.3, "ased": 0.28, "urdu": 0.1}
MIX_S = 10.0
MIX_SAMPLES = round(MIX_S * SAMPLE_RATE)
MIX_FRAMES = MIX_SAMPLES // vad.SPEECH_FRAME_SAMPLES
SILERO_SAMPLES = 512  # for each probability of silero-vad


# --- sounds that are not speech ------------------------------------------------------------------


def colour(rng: np.random.Generator, samples: int) -> np.ndarray:
    """Return noise with a power spectrum of f^-a, a from -0.5 (blue) to 2 (brown), or one band of it."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    spectrum *= np.maximum(np.arange(len(spectrum)), 20.0) ** (-rng.uniform(-0.5, 2) / 2)
    out = np.fft.irfft(spectrum, samples)
    if rng.random() < 0.3:
        low = np.exp(rng.uniform(np.log(60), np.log(3000)))
        high = min(low * rng.uniform(1.5, 6), 7800)
        out = sosfilt(butter(2, (low, high), "bandpass", fs=SAMPLE_RATE, output="sos"), out)
    return out


def gusts(rng: np.random.Generator, samples: int) -> np.ndarray:
    """Return coloured noise that swells: wind, sea, passing cars, breath."""
    knots = rng.uniform(0, 1, max(3, round(samples / SAMPLE_RATE * np.exp(rng.uniform(-1, 2.0)))))
    level = np.interp(np.linspace(0, len(knots) - 1, samples), np.arange(len(knots)), knots)
    return colour(rng, samples) * 10 ** (rng.uniform(0.5, 2) * (level - 1))


def hum(rng: np.random.Generator, samples: int) -> np.ndarray:
    """Return mains hum or an engine: a steady low note, its harmonics, a little noise."""
    base_hz = rng.choice([50.0, 60.0, 100.0, 120.0, rng.uniform(25, 400)])
    time_s = np.arange(samples) / SAMPLE_RATE
    slope = rng.uniform(0.2, 2)
    drift = base_hz * (time_s + rng.uniform(0, 0.02) * np.sin(rng.uniform(0.1, 2) * time_s))
    out = np.zeros(samples)
    for k in range(1, max(2, min(25, int(7000 / base_hz)))):
        out += rng.uniform(0, 1) * k**-slope * np.sin(2 * np.pi * (k * drift + rng.random()))
    return out + rng.uniform(0, 0.05) * colour(rng, samples)


def note(rng: np.random.Generator, samples: int, hz: float, harmonics: int, slope: float) -> np.ndarray:
    """Return a plucked, struck, blown or bowed note with the partials of an instrument."""
    time_s = np.arange(samples) / SAMPLE_RATE
    vibrato = rng.choice([0.0, 0.0, rng.uniform(0, 0.01)]) / 5 * np.sin(2 * np.pi * 5 * time_s)
    phase = 2 * np.pi * hz * (time_s + vibrato)
    out = np.zeros(samples)
    for k in range(1, harmonics + 1):
        if k * hz < 7800:
            out += k**-slope * rng.uniform(0.3, 1) * np.sin(k * phase + rng.uniform(0, 6))
    attack_s, decay_s = rng.choice([0.003, 0.03, 0.1]), rng.choice([0.15, 0.5, 2.0, 20.0])
    return out * np.minimum(time_s / attack_s, 1) * np.exp(-time_s / decay_s)


def music(rng: np.random.Generator, samples: int) -> np.ndarray:
    """Return some of chords, a melody and a drum loop, in one key and metre."""
    beat = round(60 / rng.uniform(60, 180) * SAMPLE_RATE)
    scale = np.array(rng.choice([[0, 2, 4, 5, 7, 9, 11], [0, 2, 3, 5, 7, 8, 10]]))
    tonic_hz = rng.uniform(60, 250)
    harmonics, slope = int(rng.integers(1, 16)), rng.uniform(0.5, 2)
    out = np.zeros(samples + 4 * beat)
    parts = rng.random(3) < (0.7, 0.6, 0.4)
    for number, start in enumerate(range(0, samples, beat)):
        if parts[0] and number % 4 == 0:
            root = rng.integers(7)
            for step in (0, 2, 4):
                pitch = scale[(root + step) % 7] + 12 * ((root + step) // 7)
                chord = note(rng, 4 * beat, tonic_hz * 2 ** (pitch / 12), harmonics, slope)
                out[start : start + 4 * beat] += 0.5 * chord
        if (parts[1] or not parts.any()) and rng.random() < 0.8:
            length = round(beat * rng.choice([0.5, 1, 1, 2]))
            pitch = scale[rng.integers(7)] + 12 * rng.integers(0, 3)
            out[start : start + length] += note(rng, length, tonic_hz * 2 ** (pitch / 12), harmonics, slope)
        if parts[2]:
            out[start : start + beat] += rng.uniform(0.3, 1) * strike(rng, beat)
    return out[:samples]


def strike(rng: np.random.Generator, samples: int) -> np.ndarray:
    """Return one blow that dies away: the falling tone of a drum, or a burst of noise."""
    time_s = np.arange(samples) / SAMPLE_RATE
    decay_s = np.exp(rng.uniform(np.log(0.002), np.log(0.15)))
    if rng.random() < 0.4:
        body = np.sin(2 * np.pi * rng.uniform(50, 300) * (time_s + 0.02 * np.exp(-time_s / 0.03)))
    else:
        body = colour(rng, samples)
        body /= np.abs(body).max() + 1e-9
    return body * np.exp(-time_s / decay_s)


def clicks(rng: np.random.Generator, samples: int) -> np.ndarray:
    """Return blows at irregular times: keys, steps, knocks, crackle."""
    out = np.zeros(samples + SAMPLE_RATE)
    for start in rng.integers(
        0, samples, max(1, round(samples / SAMPLE_RATE * np.exp(rng.uniform(-0.7, 3))))
    ):
        length = round(SAMPLE_RATE * rng.uniform(0.01, 0.5))
        out[start : start + length] += rng.uniform(0.1, 1) * strike(rng, length)
    return out[:samples]


def beeps(rng: np.random.Generator, samples: int) -> np.ndarray:
    """Return steady tones, dialling, ringing, sirens or sweeps."""
    time_s = np.arange(samples) / SAMPLE_RATE
    tones = int(rng.integers(1, 4))
    hertz = np.exp(rng.uniform(np.log(100), np.log(5000), tones))
    depth, rate = rng.choice([0.0, 0.0, rng.uniform(0, 0.5)]), rng.uniform(0.1, 6)
    phase = time_s - depth / (2 * np.pi * rate) * np.cos(2 * np.pi * rate * time_s)
    out = np.zeros(samples)
    for hz in hertz:
        out += np.sin(2 * np.pi * hz * phase + rng.uniform(0, 6))
    if rng.random() < 0.6:
        period_s, duty = rng.uniform(0.1, 2), rng.uniform(0.2, 0.8)
        gate = ((time_s / period_s + rng.random()) % 1 < duty).astype(float)
        out = out * np.convolve(gate, np.ones(80) / 80, "same")
    return out


Sound = Callable[[np.random.Generator, int], np.ndarray]
STEADY: tuple[Sound, ...] = (colour, colour, hum, gusts)
SOUNDS: tuple[Sound, ...] = (*STEADY, music, music, clicks, beeps)


def sound(rng: np.random.Generator, samples: int, kinds: Sequence[Sound] = SOUNDS) -> np.ndarray:
    """Return one sound of these kinds, or two together, with a power of 1."""
    out = np.zeros(samples)
    for _ in range(1 if rng.random() < 0.8 else 2):
        part = kinds[int(rng.integers(len(kinds)))](rng, samples)
        out += part / (np.sqrt(np.mean(part**2)) + 1e-9)
    return out / (np.sqrt(np.mean(out**2)) + 1e-9)


# --- mixes ---------------------------------------------------------------------------------------


def whispered(waveform: Waveform, rng: np.random.Generator) -> Waveform:
    """Return a whisper of the same words: noise with the short-time spectral envelope, with less bass."""
    size, hop = 400, 100
    window = np.hanning(size)
    padded = np.pad(waveform, (size, size))
    frames = np.stack([padded[i : i + size] * window for i in range(0, len(padded) - size, hop)])
    envelope = np.fft.irfft(np.log(np.abs(np.fft.rfft(frames)) + 1e-5))
    envelope[:, 24:-23] = 0  # cepstral smoothing removes the harmonics
    envelope = np.exp(np.fft.rfft(envelope).real)
    noise = np.fft.rfft(rng.standard_normal(frames.shape) * window)
    tilt = np.minimum(np.arange(envelope.shape[1]) / 20, 1)  # below 800 Hz a whisper is weak
    frames = np.fft.irfft(noise * envelope * tilt) * window
    out = np.zeros(len(padded))
    for number, frame in enumerate(frames):
        out[number * hop : number * hop + size] += frame
    out = out[size : size + len(waveform)]
    return (out * np.abs(waveform).max() / (np.abs(out).max() + 1e-9)).astype(np.float32)


class Mixer:
    """Makes 10 s of speech and silence with the probabilities of silero-vad, then adds noise and the rest."""

    def __init__(self, clips: dict[str, list[Waveform]], silero: SileroVADSequence) -> None:
        self.clips, self.silero = clips, silero
        shares = np.array([SHARES[corpus] for corpus in clips])
        self.corpora, self.shares = list(clips), shares / shares.sum()

    def clip(self, rng: np.random.Generator) -> Waveform:
        """Return a random utterance with a peak of 1."""
        clips = self.clips[self.corpora[rng.choice(len(self.corpora), p=self.shares)]]
        waveform = clips[rng.integers(len(clips))]
        return waveform / max(np.abs(waveform).max(), 1e-4)

    def clean(self, rng: np.random.Generator) -> tuple[Waveform, np.ndarray]:
        """Return a mix and its targets (frames,): silero-vad's probabilities, and 0 between utterances."""
        mix = np.zeros(MIX_SAMPLES, dtype=np.float32)
        spans: list[tuple[int, int]] = []
        level = rng.uniform(0.3, 0.8)
        position = round(rng.choice([0.0, rng.uniform(0, 3)]) * SAMPLE_RATE)
        while position < MIX_SAMPLES:
            clip = self.clip(rng)
            if rng.random() < 0.2:
                clip = change_speed(clip, rng.uniform(0.88, 1.15))
            clip = clip[: MIX_SAMPLES - position] * level * 10 ** (rng.uniform(-9, 0) / 20)
            mix[position : position + len(clip)] = clip
            spans.append((position, position + len(clip)))
            position += len(clip) + round(
                rng.choice([0.0, rng.exponential(0.8), rng.uniform(0, 5)]) * SAMPLE_RATE
            )
        targets = at_frames(self.silero.audio_forward(mix))
        in_utterance = np.zeros(MIX_FRAMES, dtype=bool)
        for start, stop in spans:
            first, last = start // vad.SPEECH_FRAME_SAMPLES, -(-stop // vad.SPEECH_FRAME_SAMPLES)
            in_utterance[first : last + 2] = True
            part = targets[first:last]
            # silero-vad may miss crying and laughing, but every utterance has speech somewhere.
            if len(part) >= 25 and part.max() < 0.9:
                frames = mix[first * 320 : (first + len(part)) * 320].reshape(len(part), -1)
                energy = np.mean(frames**2, axis=1)
                part[:] = np.maximum(part, 0.95 * (energy > energy.max() / 100))
        return mix, np.where(in_utterance, targets, 0.0).astype(np.float32)

    def __call__(self, rng: np.random.Generator) -> tuple[Waveform, np.ndarray]:
        """Return the input of the student, with a peak below 1, and its targets (frames,)."""
        if rng.random() < 0.12:
            mix = sound(rng, MIX_SAMPLES) * 0.1
            if rng.random() < 0.5:
                mix += sound(rng, MIX_SAMPLES) * 0.1 * rng.random()
            targets = np.zeros(MIX_FRAMES, dtype=np.float32)
        else:
            clean, targets = self.clean(rng)
            power = (
                np.mean(clean.reshape(MIX_FRAMES, -1)[targets > 0.5] ** 2) if (targets > 0.5).any() else 0.01
            )
            speech = whispered(clean, rng) if rng.random() < 0.05 else clean
            speech = reverberate(speech, rng) if rng.random() < 0.25 else speech
            mix = self._noisy(speech.astype(np.float64), math.sqrt(power), rng)
        out: Waveform = (mix / max(1.0, np.abs(mix).max())).astype(np.float32)
        if rng.random() < 0.12:
            out = band_limit(out, rng.uniform(80, 400), rng.uniform(2800, 5000))
        if rng.random() < 0.15:
            out = transcode(
                out, *(("OGG", "OPUS"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III"))[rng.integers(3)]
            )
        if rng.random() < 0.06:
            out = np.clip(out * 10 ** rng.uniform(0.3, 1.3), -1, 1)
        if rng.random() < 0.3:  # recordings may start or stop inside speech
            cut = rng.integers(MIX_SAMPLES)
            if rng.random() < 0.5:
                out[cut:], targets[cut // vad.SPEECH_FRAME_SAMPLES :] = 0, 0
            else:
                out[:cut], targets[: cut // vad.SPEECH_FRAME_SAMPLES] = 0, 0
        return out, targets

    def _noisy(self, out: np.ndarray, loud: float, rng: np.random.Generator) -> np.ndarray:
        """Return the mix with a background everywhere and with short events.

        `loud` is the RMS of the speech.
        """
        kind = rng.random()
        if kind < 0.25:  # a quiet room
            out = out + sound(rng, MIX_SAMPLES, STEADY) * loud * 10 ** (-rng.uniform(30, 60) / 20)
        elif kind < 0.6:
            out = out + sound(rng, MIX_SAMPLES, STEADY) * loud * 10 ** (-rng.uniform(-5, 30) / 20)
        elif kind < 0.75:
            out = out + sound(rng, MIX_SAMPLES) * loud * 10 ** (-rng.uniform(-2, 30) / 20)
        elif kind < 0.83:  # distant voices are background
            babble = np.zeros(MIX_SAMPLES)
            for _ in range(rng.integers(4, 9)):
                tiled = np.resize(self.clip(rng), MIX_SAMPLES)
                babble += np.roll(tiled, rng.integers(MIX_SAMPLES))
            out = out + babble / np.sqrt(np.mean(babble**2)) * loud * 10 ** (-rng.uniform(5, 25) / 20)
        elif kind < 0.9:
            out = add_noise(out.astype(np.float32), rng.uniform(-3, 25), rng).astype(np.float64)
        for _ in range(rng.integers(1, 4) if rng.random() < 0.45 else 0):
            length = round(rng.uniform(0.1, 3) * SAMPLE_RATE)
            start = rng.integers(MIX_SAMPLES - length)
            fade = np.minimum(1, np.minimum(np.arange(length), np.arange(length)[::-1]) / 400)
            event = sound(rng, length) * fade * loud * 10 ** (-rng.uniform(-6, 25) / 20)
            out[start : start + length] += event
        return out


def at_frames(probabilities: np.ndarray) -> np.ndarray:
    """Interpolate probabilities of silero-vad, one for each 512 samples, at the middles of our frames."""
    middles = (np.arange(MIX_FRAMES) + 0.5) * vad.SPEECH_FRAME_SAMPLES
    return np.interp(middles, (np.arange(len(probabilities)) + 0.5) * SILERO_SAMPLES, probabilities)


# --- the network ---------------------------------------------------------------------------------

HOP = vad.SPEECH_FRAME_SAMPLES // 2  # samples; a frame has two spectra, a window has two hops
FLOOR = 1e-8  # power added to every mel band, far below any recording: digital silence needs a logarithm too


class Detector(nn.Module):
    """The network: waveform (1, context + block) and state -> probabilities (1, frames) and next state.

    The phase of the spectrum is relative to the middle of the window. So the spectrum splits into an even
    part (cosines) and an odd part (sines). This halves the multiplications and does not change magnitudes.
    The graph computes the tables of sines and cosines from two small vectors, once per session.
    """

    def __init__(self, num_mels: int = 32, width: int = 64, hidden: int = 72) -> None:
        super().__init__()
        filters = mel_filter_bank(
            HOP + 1, num_mels, 60.0, 7800.0, SAMPLE_RATE, norm="slaney", mel_scale="slaney"
        )
        self.filters: Tensor
        self.odd: Tensor
        self.bins: Tensor
        self.register_buffer("odd", 2 * torch.arange(HOP)[:, None] + 1)
        self.register_buffer("bins", torch.arange(HOP + 1)[None])
        self.register_buffer("filters", torch.tensor(filters, dtype=torch.float32))
        self.conv = nn.Conv1d(2 * num_mels, width, 3)
        self.gru = nn.GRU(width, hidden, batch_first=True)
        self.out = nn.Linear(hidden, 1)

    def mel(self, waveform: Tensor) -> Tensor:
        """Return the mel power (windows, mels) of samples (samples,): whole hops, the first is context."""
        turn = torch.remainder(self.odd * self.bins, 4 * HOP).float() * (math.pi / (2 * HOP))
        window = 0.5 + 0.5 * torch.cos(self.odd.float() * (math.pi / (2 * HOP)))
        hops = waveform.reshape(-1, HOP)
        left, right = hops[:-1].flip(1), hops[1:]
        real = (left + right) @ (torch.cos(turn) * window)
        imaginary = (left - right) @ (torch.sin(turn) * window)
        return (real**2 + imaginary**2) @ self.filters.float()

    def classify(self, mel: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (batch, frames) and next state for mel power (batch, windows, mels).

        The first two frames of the mel power are context.
        """
        x = ((mel + FLOOR).log() + 8.0) / 5.0
        x = x.reshape(x.shape[0], -1, 2 * x.shape[2]).transpose(1, 2)
        x, state = self.gru(F.relu(self.conv(x)).transpose(1, 2), state)
        return self.out(x)[:, :, 0], state

    def forward(self, waveform: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return probabilities and next state, as the exported graph does."""
        logits, state = self.classify(self.mel(waveform[0])[None], state)
        return logits.sigmoid(), state


@torch.no_grad()
def spectra(model: Detector, waveform: Waveform) -> np.ndarray:
    """Return logarithms of mel power (windows, mels), float16. Gain and equaliser are added in training."""
    padded = F.pad(torch.from_numpy(waveform), (HOP, 0))
    return np.asarray(model.mel(padded).clamp(min=1e-12).log().half().numpy())


def train(model: Detector, mels: np.ndarray, targets: np.ndarray, epochs: int, seed: int) -> None:
    """Train `model` in place: binary cross entropy against soft targets, `LOOKAHEAD_FRAMES` earlier."""
    batch, late = 32, vad.LOOKAHEAD_FRAMES
    rng = np.random.default_rng(seed)
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=1e-3)
    steps = epochs * (len(mels) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps, pct_start=0.15)
    started, state = time.time(), torch.zeros(1, batch, model.gru.hidden_size)
    for epoch in range(epochs):
        order, losses = rng.permutation(len(mels)), []
        for first in range(0, len(mels) - batch + 1, batch):
            chosen = order[first : first + batch]
            log = torch.from_numpy(mels[chosen]).float() + equaliser(rng, batch, mels.shape[2])
            # Two frames of digital silence before the mix, and `late` frames after it.
            mel = F.pad(log.exp(), (0, 0, 4, 2 * late))
            # Half of the mixes start from the state that another mix left, as inside a long recording.
            keep = torch.from_numpy(rng.random(batch) < 0.5)[None, :, None]
            logits, state = model.classify(mel, torch.where(keep, state, 0.0))
            state = state.detach()
            loss = F.binary_cross_entropy_with_logits(logits[:, late:], torch.from_numpy(targets[chosen]))
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            losses.append(loss.item())
        print(f"epoch {epoch + 1}: loss {np.mean(losses):.4f}, {time.time() - started:.0f} s", flush=True)


def equaliser(rng: np.random.Generator, batch: int, num_mels: int) -> Tensor:
    """Return random equalisers as log power (batch, 1, mels): a gain of -42 to 6 dB and a curve of ± 8 dB."""
    gain_db = rng.uniform(-42, 6, (batch, 1))
    knots = rng.uniform(-8, 8, (batch, 5)) * (rng.random((batch, 1)) < 0.5)
    curve = np.stack([np.interp(np.linspace(0, 4, num_mels), np.arange(5), row) for row in knots])
    return torch.from_numpy((gain_db + curve) * (math.log(10) / 10)).float()[:, None]


def write_onnx(model: Detector, path: Path) -> None:
    """Write the graph for blocks of one size, and compare it with torch.

    Notes of the exporter are removed.
    """
    model.filters = model.filters.half()  # mostly zeros, so half precision is enough
    waveform = torch.linspace(-1, 1, vad.CONTEXT_SAMPLES + vad.BLOCK_SAMPLES)[None]
    state = torch.zeros(1, 1, model.gru.hidden_size)
    program = torch.onnx.export(
        model.eval(),
        (waveform, state),
        input_names=["waveform", "state"],
        output_names=["probabilities", "next_state"],
        dynamo=True,
        verbose=False,
        optimize=False,  # True would store the tables of the spectrum in the file
    )
    assert program is not None
    graph = program.model_proto
    for item in (
        *graph.graph.node,
        *graph.graph.value_info,
        *graph.graph.input,
        *graph.graph.output,
        graph.graph,
    ):
        del item.metadata_props[:]
        item.doc_string = ""
    del graph.metadata_props[:], graph.graph.value_info[:], graph.functions[:]
    onnx.checker.check_model(graph)
    path.write_bytes(graph.SerializeToString(deterministic=True))
    feed = {"waveform": waveform.numpy(), "state": state.numpy()}
    outputs = onnxruntime.InferenceSession(path).run(None, feed)
    expected = [value.detach().numpy() for value in model(waveform, state)]
    worst = max(np.abs(a - b).max() for a, b in zip(outputs, expected, strict=True))
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB, differs from torch by {worst:.1e}")
    assert worst < 1e-5


def training_clips(data: Path) -> dict[str, list[Waveform]]:
    """Return, by corpus, the waveforms of all speakers that are neither in DEV nor in TEST."""
    return {
        corpus: [
            load(utterance.path)
            for utterance in read_corpus(corpus, data / corpus).utterances
            if utterance.path and utterance.speaker not in (*DEV.get(corpus, ()), *TEST.get(corpus, ()))
        ]
        for corpus in SHARES
    }


def main() -> None:
    """Make the mixes, train, export, and write the card."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with ravdess, nemo, ased and urdu")
    parser.add_argument("--mixes", type=int, default=2400, help="number of mixes of 10 s")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(str(vad.ASSETS)), help="folder to write to")
    parser.add_argument("--cache", type=Path, help="an .npz file that stores the mixes for the next run")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(given.seed)
    model = Detector()
    if given.cache and given.cache.is_file():
        stored = np.load(given.cache)
        mels, targets = stored["mels"], stored["targets"]
    else:
        import silero_vad

        weights = Path(silero_vad.__file__).parent / "data/silero_vad_16k_sequence.onnx"
        mixer = Mixer(training_clips(given.data), SileroVADSequence(str(weights)))
        started, mixes = time.time(), []
        for number in range(given.mixes):
            waveform, target = mixer(np.random.default_rng([given.seed, number]))
            mixes.append((spectra(model, waveform), target))
            if number % 200 == 199:
                print(f"{number + 1} mixes, {time.time() - started:.0f} s", flush=True)
        mels, targets = np.stack([mel for mel, _ in mixes]), np.stack([target for _, target in mixes])
        if given.cache:
            np.savez(given.cache, mels=mels, targets=targets)
    train(model, mels, targets, given.epochs, given.seed)
    given.out.mkdir(parents=True, exist_ok=True)
    write_onnx(model, given.out / "vad.onnx")
    card = {
        "what": "Speech activity: waveform blocks and a state in, one probability for each 20 ms out.",
        "made_by": "scripts/train_vad.py",
        "sha256": hashlib.sha256((given.out / "vad.onnx").read_bytes()).hexdigest(),
        "num_parameters": sum(value.numel() for value in model.parameters()),
        "teacher": "silero-vad 6.2.3 (MIT), its probabilities on clean mixes",
        "data": {
            "ravdess": "CC BY-NC-SA 4.0",
            "nemo": "CC BY-NC-SA 4.0",
            "ased": "no licence stated; research, cite the paper",
            "urdu": "research only",
            "noise, music, clicks, tones": "synthetic, by the script",
        },
        "hours": round(len(mels) * MIX_S / 3600, 2),
        "epochs": given.epochs,
        "seed": given.seed,
        "dev_speakers": DEV,
        "test_speakers": TEST,
        "versions": {name: version(name) for name in ("numpy", "torch", "onnx", "onnxruntime")},
    }
    (given.out / "vad.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
