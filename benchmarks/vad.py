"""Measures the packaged speech detector, compared to silero-vad: frame error, false alarms, speed.

    pip install --no-deps --target SILERO silero-vad==6.2.3
    PYTHONPATH=SILERO python benchmarks/vad.py --data CORPORA [--split test] [--write]

CORPORA holds the folders ravdess, nemo and ased. The recordings are utterances with pauses between them.
Their speakers are those of `assets/vad.json`, on which the detector was not trained. The reference is
silero-vad on the clean recording, and no speech in the pauses. --write puts the figures into `vad.json`.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import silero_vad
from silero_vad.sequence_vad import SileroVADSequence
from sounds import tone, tune

from emodistill.audio.speech_activity import (
    ASSETS,
    NO_SPEECH,
    SPEECH_FRAME_SAMPLES,
    SPEECH_ON,
    SpeechDetector,
    find_speech,
)
from emodistill.audio.waveform import SAMPLE_RATE, Waveform, load
from emodistill.corpora import read_corpus

CORPORA = ("ravdess", "nemo", "ased")
RECORDING_S = 30
SILERO = Path(silero_vad.__file__).parent / "data"
SILERO_SAMPLES = 512  # for each probability of silero-vad


class Ours:
    """The packaged detector."""

    name, threshold = "ours", SPEECH_ON

    def __init__(self) -> None:
        self.probabilities = SpeechDetector().probabilities


class Silero:
    """silero-vad, with its probabilities at our frames."""

    name, threshold = "silero-vad", 0.5

    def __init__(self) -> None:
        self.model = SileroVADSequence(str(SILERO / "silero_vad_16k_sequence.onnx"))

    def probabilities(self, waveform: Waveform) -> np.ndarray:
        """Return probabilities (ceil(samples / 320),), interpolated between the middles of its windows."""
        values = self.model.audio_forward(waveform)
        middles = (np.arange(-(-len(waveform) // SPEECH_FRAME_SAMPLES)) + 0.5) * SPEECH_FRAME_SAMPLES
        return np.interp(middles, (np.arange(len(values)) + 0.5) * SILERO_SAMPLES, values)


# --- audio ---------------------------------------------------------------------------------------


def held_out(data: Path, split: str) -> dict[str, list[Waveform]]:
    """Return the utterances of the split's speakers, by corpus."""
    speakers = json.loads((ASSETS / "vad.json").read_text(encoding="utf-8"))[f"{split}_speakers"]
    return {
        corpus: [
            load(utterance.path)
            for utterance in read_corpus(corpus, data / corpus).utterances
            if utterance.path is not None and utterance.speaker in speakers[corpus]
        ]
        for corpus in CORPORA
    }


def recording(clips: list[Waveform], rng: np.random.Generator) -> tuple[Waveform, np.ndarray]:
    """Return 30 s of utterances and pauses (samples,), and the frames with an utterance (frames,)."""
    out = np.zeros(RECORDING_S * SAMPLE_RATE, dtype=np.float32)
    in_utterance = np.zeros(len(out) // SPEECH_FRAME_SAMPLES, dtype=bool)
    position = round(rng.uniform(0, 2) * SAMPLE_RATE)
    while position < len(out):
        clip = clips[rng.integers(len(clips))]
        clip = clip[: len(out) - position] * (0.5 / max(np.abs(clip).max(), 1e-4))
        out[position : position + len(clip)] = clip
        first, last = position // SPEECH_FRAME_SAMPLES, (position + len(clip)) // SPEECH_FRAME_SAMPLES
        in_utterance[first : last + 2] = True
        position += len(clip) + round(rng.uniform(0.2, 3) * SAMPLE_RATE)
    return out, in_utterance


def coloured(rng: np.random.Generator, samples: int, slope: float) -> np.ndarray:
    """Return noise with a power spectrum of f^-slope: 0 is white, 1 pink, 2 brown."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    spectrum *= np.maximum(np.arange(len(spectrum)), 10.0) ** (-slope / 2)
    return np.fft.irfft(spectrum, samples)


def noisy(clean: Waveform, speech: np.ndarray, snr_db: float, noise: np.ndarray) -> Waveform:
    """Return a recording with noise added. The SNR counts only the power of the speech frames."""
    noise = noise / np.sqrt(np.mean(noise**2))
    power = np.mean(clean[: len(speech) * SPEECH_FRAME_SAMPLES].reshape(len(speech), -1)[speech] ** 2)
    mixed = clean + noise * np.sqrt(power / 10 ** (snr_db / 10))
    return (mixed / max(1.0, np.abs(mixed).max())).astype(np.float32)


def babble(clips: list[Waveform], rng: np.random.Generator, samples: int) -> np.ndarray:
    """Return eight voices at once."""
    out = np.zeros(samples)
    for _ in range(8):
        line = np.concatenate([clips[i] / np.abs(clips[i]).max() for i in rng.integers(0, len(clips), 20)])
        out += np.roll(np.resize(line, samples), rng.integers(samples))
    return out


def no_speech(rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    """Yield sounds that are not speech: their kind, and 12 s with a peak of 1."""
    time_s = np.arange(12 * SAMPLE_RATE) / SAMPLE_RATE
    for slope, name in ((0.0, "white noise"), (1.0, "pink noise"), (2.0, "brown noise")):
        yield name, coloured(rng, len(time_s), slope)
    for hz in (50, 60):
        yield "hum", np.sum([rng.uniform(0.2, 1) / k * tone(k * hz, time_s) for k in range(1, 12)], axis=0)
    yield "tone", tone(rng.uniform(100, 4000), time_s)
    yield "tone", tone(rng.uniform(100, 1000), time_s) * (time_s % 1 < 0.5)
    yield "sweep", tone(1, 200 * time_s + rng.uniform(20, 150) * time_s**2)
    impulses = np.zeros(len(time_s))
    impulses[rng.integers(0, len(time_s), 40)] = rng.uniform(-1, 1, 40)
    yield "clicks", np.convolve(impulses, np.exp(-np.arange(400) / 60), "same")
    yield "music", tune(rng, time_s)


# --- measures ------------------------------------------------------------------------------------


def roc(values: np.ndarray, speech: np.ndarray) -> tuple[float, float, float]:
    """Return the area under the ROC curve, the equal error rate, and its threshold."""
    order = np.argsort(-values, kind="stable")
    hits = np.concatenate([[0], np.cumsum(speech[order])]) / speech.sum()
    alarms = np.concatenate([[0], np.cumsum(~speech[order])]) / (~speech).sum()
    at = int(np.argmin(np.abs(alarms - (1 - hits))))
    threshold = float(values[order[min(at, len(values) - 1)]])
    return float(np.trapezoid(hits, alarms)), float((alarms[at] + 1 - hits[at]) / 2), threshold


def frame_errors(
    clips: dict[str, list[Waveform]], number: int, detectors: Sequence[Ours | Silero]
) -> dict[str, object]:
    """Print one row for each condition and detector, over all corpora, and return our figures."""
    rng = np.random.default_rng(0)
    reference = Silero()
    corpora, recordings, masks = [], [], []
    for corpus, utterances in clips.items():
        for _ in range(number):
            clean, in_utterance = recording(utterances, rng)
            corpora += [corpus] * len(in_utterance)
            recordings.append(clean)
            masks.append(in_utterance & (reference.probabilities(clean) > reference.threshold))
    speech = np.concatenate(masks)
    all_clips = [clip for utterances in clips.values() for clip in utterances]
    noises: dict[str, Callable[[int], np.ndarray]] = {
        "white": lambda samples: coloured(rng, samples, 0.0),
        "pink": lambda samples: coloured(rng, samples, 1.0),
        "music": lambda samples: tune(rng, np.arange(samples) / SAMPLE_RATE),
        "babble": lambda samples: babble(all_clips, rng, samples),
    }
    figures: dict[str, object] = {}
    steps = np.arange(0.2, 0.85, 0.1).round(2).tolist()
    grid: dict[tuple[float, float], list[float]] = {
        (on, off): [] for on in steps for off in steps if off <= on
    }
    print(
        f"\n{len(recordings)} recordings of {RECORDING_S} s, {speech.mean():.0%} of their frames are speech"
    )
    print("| noise | detector | AUC | equal error, at | frame error | missed | false alarms | by corpus |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for noise, snr_db in [("none", 99.0), *((noise, snr) for noise in noises for snr in (10.0, 0.0))]:
        mixes = [
            clean if noise == "none" else noisy(clean, mask, snr_db, noises[noise](len(clean)))
            for clean, mask in zip(recordings, masks, strict=True)
        ]
        condition = noise if noise == "none" else f"{noise} {snr_db:.0f} dB"
        for detector in detectors:
            values = np.concatenate([detector.probabilities(waveform) for waveform in mixes])
            if detector.name == "ours" and noise != "babble" and snr_db >= 10:
                for on, off in grid:
                    inside = np.zeros(len(values), dtype=bool)
                    for start, end in find_speech(values, on, off, 0.0, 0.0):
                        inside[start // SPEECH_FRAME_SAMPLES : end // SPEECH_FRAME_SAMPLES] = True
                    grid[on, off].append(float((inside != speech).mean()))
            wrong = (values > detector.threshold) != speech
            auc, equal_error, threshold = roc(values, speech)
            by_corpus = {corpus: wrong[np.array(corpora) == corpus].mean() for corpus in clips}
            if detector.name == "ours":
                figures[condition] = {"auc": round(auc, 4), "frame_error": round(float(wrong.mean()), 4)}
            row = [
                condition,
                detector.name,
                f"{auc:.4f}",
                f"{equal_error:.2%}, {threshold:.2f}",
                f"{wrong.mean():.2%}",
                f"{wrong[speech].mean():.2%}",
                f"{wrong[~speech].mean():.2%}",
                ", ".join(f"{corpus} {value:.2%}" for corpus, value in by_corpus.items()),
            ]
            print(f"| {' | '.join(row)} |", flush=True)
    print("\nframe error with hysteresis, smallest first")
    print("mean over no noise, and white noise, pink noise and music at 10 dB")
    for (on, off), errors in sorted(grid.items(), key=lambda item: statistics.mean(item[1]))[:12]:
        print(f"on {on:.2f}, off {off:.2f}: {statistics.mean(errors):.2%}")
    return figures


def whole_clips(clips: dict[str, list[Waveform]], detectors: Sequence[Ours | Silero]) -> None:
    """Print how many clips of speech get the reason `no_speech`, and the lowest maximum of a clip."""
    print(f"\nclips without a frame above {NO_SPEECH} (false no_speech); the lowest maximum of a clip")
    print("| corpus | clips | noise | " + " | ".join(detector.name for detector in detectors) + " |")
    print("| --- | --- | --- |" + " --- |" * len(detectors))
    for corpus, utterances in clips.items():
        rng = np.random.default_rng(1)
        for noise, slope in (("none", None), ("white 10 dB", 0.0), ("pink 10 dB", 1.0)):
            mixes = [
                clip
                if slope is None
                else noisy(clip, loud_frames(clip), 10.0, coloured(rng, len(clip), slope))
                for clip in utterances
            ]
            cells = []
            for detector in detectors:
                highest = np.array([detector.probabilities(clip).max() for clip in mixes])
                cells.append(f"{(highest <= NO_SPEECH).sum()}; {highest.min():.3f}")
            print(f"| {corpus} | {len(utterances)} | {noise} | {' | '.join(cells)} |", flush=True)


def loud_frames(clip: Waveform) -> np.ndarray:
    """Return the frames within 20 dB of the loudest frame, (frames,), which are mostly speech."""
    num_frames = len(clip) // SPEECH_FRAME_SAMPLES
    frames = clip[: num_frames * SPEECH_FRAME_SAMPLES].reshape(num_frames, SPEECH_FRAME_SAMPLES)
    energy = np.mean(frames**2, axis=1)
    return np.asarray(energy >= energy.max() / 100)


def false_alarms(rounds: int, detectors: Sequence[Ours | Silero]) -> None:
    """Print how often a detector finds speech in other sounds, at peaks of 0 to -40 dB."""
    print("\nsounds that are not speech")
    print(f"share with a frame above {NO_SPEECH}; share of frames above the threshold")
    print("| sound | number | " + " | ".join(detector.name for detector in detectors) + " |")
    print("| --- | --- |" + " --- |" * len(detectors))
    rng = np.random.default_rng(2)
    sounds: dict[str, list[Waveform]] = {}
    for _ in range(rounds):
        for kind, sound in no_speech(rng):
            scaled = sound / np.abs(sound).max() * 10 ** (-rng.uniform(0, 40) / 20)
            sounds.setdefault(kind, []).append(scaled.astype(np.float32))
    for kind, waveforms in sounds.items():
        cells = []
        for detector in detectors:
            values = np.stack([detector.probabilities(waveform) for waveform in waveforms])
            alarms = (values.max(axis=1) > NO_SPEECH).mean()
            cells.append(f"{alarms:.0%}; {(values > detector.threshold).mean():.1%}")
        print(f"| {kind} | {len(waveforms)} | {' | '.join(cells)} |", flush=True)


def speed(clips: list[Waveform], rounds: int) -> None:
    """Print the milliseconds for a second of audio on one thread. The three detectors take turns."""
    waveform = np.resize(np.concatenate(clips[:40]), 60 * SAMPLE_RATE).astype(np.float32)
    detector, sequence = SpeechDetector(), Silero().model
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    stock = onnxruntime.InferenceSession(
        SILERO / "silero_vad.onnx", options, providers=["CPUExecutionProvider"]
    )

    def live() -> None:
        state, context = np.zeros((2, 1, 128), dtype=np.float32), np.zeros((1, 64), dtype=np.float32)
        rate = np.array(SAMPLE_RATE, dtype=np.int64)
        for start in range(0, len(waveform) - SILERO_SAMPLES + 1, SILERO_SAMPLES):
            block = np.concatenate([context, waveform[None, start : start + SILERO_SAMPLES]], axis=1)
            _, state = stock.run(None, {"input": block, "state": state, "sr": rate})
            context = block[:, -64:]

    runs = {
        "ours": lambda: detector.probabilities(waveform),
        "silero-vad, 512 samples at a time": live,
        "silero-vad, sequence model for whole files": lambda: sequence.audio_forward(waveform),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            times[name].append((time.perf_counter() - started) * 1000 / 60)
    print(f"\nms for a second of audio on one thread, over 60 s: median (smallest) of {rounds} rounds")
    print("and the median of the paired ratios to ours")
    for name, values in times.items():
        ratio = statistics.median(value / ours for value, ours in zip(values, times["ours"], strict=True))
        print(f"{name}: {statistics.median(values):.3f} ({min(values):.3f}); {ratio:.2f} ×")


def main() -> None:
    """Print all tables, and write the figures if --write is given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with ravdess, nemo and ased")
    parser.add_argument("--split", choices=("dev", "test"), default="test", help="the speakers")
    parser.add_argument("--recordings", type=int, default=20, help="recordings of each corpus")
    parser.add_argument("--sounds", type=int, default=30, help="rounds of sounds that are not speech")
    parser.add_argument("--rounds", type=int, default=9, help="rounds of the timing")
    parser.add_argument("--write", action="store_true", help="put the frame errors into vad.json")
    given = parser.parse_args()
    size = len((ASSETS / "vad.onnx").read_bytes())
    print(f"asset: {size / 1000:.0f} kB; {given.split} speakers")
    clips = held_out(given.data, given.split)
    detectors = (Ours(), Silero())
    speed(clips["ravdess"], given.rounds)
    figures = frame_errors(clips, given.recordings, detectors)
    if given.write:
        path = Path(str(ASSETS / "vad.json"))
        card = json.loads(path.read_text(encoding="utf-8"))
        card["figures"] = {"against": "silero-vad on the clean recording", "split": given.split, **figures}
        path.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    whole_clips(clips, detectors)
    false_alarms(given.sounds, detectors)


if __name__ == "__main__":
    main()
