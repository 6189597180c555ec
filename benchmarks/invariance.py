"""Does an answer stay where only the carrier changes? Codecs, rates, gain, silence and noise around dev utterances.

    python benchmarks/invariance.py CORPORA [--clips 100] [--model bundled] [--margins 0.05,0.2] [--only noise]

CORPORA holds the folders ravdess, nemo and ased; clips are drawn from the dev speakers of the protocol `bundled`, by emotion
in turn. For each condition: how many emotions stay, how far the probabilities move (median, 95th percentile of the largest
difference), UA, and the mean negative log-probability of the truth. Dev speakers have fixed the bundled model's classifier:
compare conditions with each other, and nothing with a score on test speakers. --margins tries other values of what is
kept around speech, --only the conditions with this in their name.
"""

import argparse
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from emodistill import Recognizer
from emodistill.audio.waveform import trim_silence
from emodistill.config import load_recipe
from emodistill.corpora.base import Utterance
from emodistill.corpora.load import open_corpus
from emodistill.evaluation.metrics import unweighted_accuracy
from emodistill.inference import recognizer
from emodistill.protocol import FIXED_SPLITS

Samples = np.ndarray[Any, np.dtype[np.float32]]
RNG = np.random.default_rng(0)


def coded(format: str, subtype: str | None = None, rate_hz: int | None = None) -> Callable[..., bytes]:
    """The same sound in another file."""

    def make(sound: Samples, at_hz: int) -> bytes:
        file = io.BytesIO()
        to_hz = rate_hz or at_hz
        resampled = sound if to_hz == at_hz else soxr.resample(sound, at_hz, to_hz)
        soundfile.write(file, resampled, to_hz, format=format, subtype=subtype)
        return file.getvalue()

    return make


def as_wav(change: Callable[[Samples, int], Samples]) -> Callable[..., bytes]:
    """Another sound in a WAV of floats."""
    return lambda sound, at_hz: coded("WAV", "FLOAT")(change(sound, at_hz), at_hz)


def silence_around(before_s: float, after_s: float) -> Callable[..., bytes]:
    """Digital silence before and after."""
    return as_wav(lambda sound, at_hz: np.pad(sound, (round(before_s * at_hz), round(after_s * at_hz))))


def in_noise(snr_db: float, around_s: float = 1.0) -> Callable[..., bytes]:
    """White noise under the utterance and around it; the ratio is to its trimmed part."""

    def change(sound: Samples, at_hz: int) -> Samples:
        padded = np.pad(sound, round(around_s * at_hz))
        rms = np.sqrt(np.mean(trim_silence(sound, 35.0) ** 2)) * 10 ** (-snr_db / 20)
        return (padded + rms * RNG.standard_normal(len(padded))).astype(np.float32)

    return as_wav(change)


CONDITIONS: dict[str, Callable[..., bytes]] = {
    "flac": coded("FLAC"),
    "ogg vorbis": coded("OGG", "VORBIS"),
    "opus, 48 kHz": coded("OGG", "OPUS", 48_000),
    "mp3": coded("MP3"),
    "44.1 kHz": coded("WAV", "FLOAT", 44_100),
    "48 kHz": coded("WAV", "FLOAT", 48_000),
    "8 kHz mu-law": coded("WAV", "ULAW", 8_000),
    "stereo": as_wav(lambda sound, _: np.stack([sound, sound], axis=1)),
    "gain -20 dB": as_wav(lambda sound, _: 0.1 * sound),
    "gain +20 dB": as_wav(lambda sound, _: 10 * sound),
    "0.5 s of silence before": silence_around(0.5, 0),
    "5 s of silence after": silence_around(0, 5),
    "2 s of silence around": silence_around(2, 2),
    **{f"noise, SNR {snr_db} dB": in_noise(snr_db) for snr_db in (40, 30, 20, 10)},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpora", type=Path)
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--margins", default=str(recognizer.SPEECH_MARGIN_S))
    parser.add_argument("--only", default="")
    chosen = parser.parse_args()
    loaded = Recognizer(chosen.model, threads=1)
    clips = drawn(chosen.corpora, chosen.clips)
    truth = np.array([loaded.emotions.index(clip.emotion) for clip in clips])
    print("| margin | condition | same emotion, % | change, median | 95 % | UA | −log p |")
    print("| ---: | --- | ---: | ---: | ---: | ---: | ---: |")
    for margin in chosen.margins.split(","):
        recognizer.SPEECH_MARGIN_S = float(margin)
        clean = probabilities(loaded, clips, coded("WAV", "FLOAT"))
        tell(margin, "clean", clean, clean, truth)
        for name, change in CONDITIONS.items():
            if chosen.only in name:
                tell(margin, name, probabilities(loaded, clips, change), clean, truth)


def drawn(corpora: Path, num: int) -> list[Utterance]:
    """Utterances of dev speakers, corpus by corpus and emotion by emotion in turn."""
    corpus = open_corpus(load_recipe("bundled", [f"corpus.root={corpora}"]).corpus, lambda _: None)
    speakers = FIXED_SPLITS["bundled"]["dev"]
    groups: dict[tuple[str, str], list[Utterance]] = {}
    order = np.random.default_rng(0).permutation(len(corpus.utterances))
    for utterance in (corpus.utterances[place] for place in order):
        if utterance.speaker in speakers:
            groups.setdefault((utterance.speaker.partition("/")[0], utterance.emotion), []).append(utterance)
    clips: list[Utterance] = []
    while len(clips) < num and any(groups.values()):
        clips += [group.pop() for _, group in sorted(groups.items()) if group]
    return clips[:num]


def probabilities(loaded: Recognizer, clips: list[Utterance], change: Callable[..., bytes]) -> Samples:
    """Of each clip (clips, emotions); even ones where the recogniser abstains."""
    found = []
    for clip in clips:
        sound, at_hz = soundfile.read(clip.path, dtype="float32", always_2d=True)
        said = loaded.predict(change(sound[:, 0], at_hz)).probabilities or dict.fromkeys(loaded.emotions, 1.0)
        found.append(np.array(list(said.values())) / sum(said.values()))
    return np.array(found)


def tell(margin: str, name: str, found: Samples, clean: Samples, truth: Any) -> None:
    """A row of the table."""
    moved = np.abs(found - clean).max(axis=1)
    same = 100 * np.mean(found.argmax(1) == clean.argmax(1))
    ua = 100 * unweighted_accuracy(truth, found.argmax(1))
    likely = -np.log(found[np.arange(len(truth)), truth]).mean()
    print(
        f"| {margin} | {name} | {same:.0f} | {np.median(moved):.4f} | {np.quantile(moved, 0.95):.3f} | {ua:.1f} | "
        f"{likely:.3f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
