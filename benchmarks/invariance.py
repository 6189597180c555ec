"""Measures how much predictions change when codec, rate, gain, silence or background of a recording change.

    python benchmarks/invariance.py CORPORA [--clips 100] [--margins 0.05,0.2] [--only noise]

CORPORA holds the folders ravdess, nemo and ased. Clips are drawn from the dev speakers of the protocol
`bundled`, by emotion in turn. For each condition the table has four measures:

* the share of clips whose emotion stays the same;
* the largest change of a probability in each clip, as median and 95th percentile;
* UA;
* the mean negative log-probability of the true emotion.

Music and babble have an SNR of 10 dB. Training may use the same synthesiser of music; here it gets other
seeds. The second music is of a synthesiser that no training uses. Babble is a mix of other dev clips.

The bundled model's classifier was fitted on dev speakers too. So compare conditions with each other, and do
not compare them with scores on test speakers.

--margins tries other values for the audio that is kept around speech. --only selects conditions by a part of
their name.
"""

import argparse
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from sounds import tune

from emodistill import Recognizer
from emodistill.audio.waveform import SAMPLE_RATE, load, trim_silence
from emodistill.config import load_recipe, stable_seed
from emodistill.corpora.base import Utterance
from emodistill.corpora.load import open_corpus
from emodistill.evaluation.metrics import unweighted_accuracy
from emodistill.features.music import compose_music
from emodistill.inference import speech_windows
from emodistill.protocol import FIXED_SPLITS

Samples = np.ndarray[Any, np.dtype[np.float32]]
Change = Callable[[Samples, int], bytes]  # samples and rate in Hz -> an audio file
RNG = np.random.default_rng(0)
NUM_VOICES = 12  # clips that are only babble


def encode_as(format: str, subtype: str | None = None, new_rate_hz: int | None = None) -> Change:
    """Return a change that encodes the samples in a format of soundfile, maybe at another rate."""

    def encode(samples: Samples, rate_hz: int) -> bytes:
        file = io.BytesIO()
        to_hz = new_rate_hz or rate_hz
        resampled = samples if to_hz == rate_hz else soxr.resample(samples, rate_hz, to_hz)
        soundfile.write(file, resampled, to_hz, format=format, subtype=subtype)
        return file.getvalue()

    return encode


def as_wav(change: Callable[[Samples, int], Samples]) -> Change:
    """Return a change of the samples that writes a WAV of floats."""
    return lambda samples, rate_hz: encode_as("WAV", "FLOAT")(change(samples, rate_hz), rate_hz)


def silence_around(before_s: float, after_s: float) -> Change:
    """Return a change that adds digital silence before and after the utterance."""
    return as_wav(
        lambda samples, rate_hz: np.pad(samples, (round(before_s * rate_hz), round(after_s * rate_hz)))
    )


def in_noise(snr_db: float, around_s: float = 1.0) -> Change:
    """Return a change that adds white noise, also around the utterance.

    The SNR counts its trimmed part alone.
    """

    def change(samples: Samples, rate_hz: int) -> Samples:
        padded = np.pad(samples, round(around_s * rate_hz))
        rms = np.sqrt(np.mean(trim_silence(samples, 35.0) ** 2)) * 10 ** (-snr_db / 20)
        return (padded + rms * RNG.standard_normal(len(padded))).astype(np.float32)

    return as_wav(change)


def with_background(compose: Callable[[int], Samples], snr_db: float = 10.0) -> Change:
    """Return a change that adds a sound. `compose` returns it at 16 kHz for a number of samples.

    The SNR counts the trimmed part of the clip alone.
    """

    def change(samples: Samples, rate_hz: int) -> Samples:
        sound = compose(-(-len(samples) * SAMPLE_RATE // rate_hz))
        sound = np.resize(soxr.resample(sound, SAMPLE_RATE, rate_hz), len(samples))
        rms = np.sqrt(np.mean(trim_silence(samples, 35.0) ** 2)) * 10 ** (-snr_db / 20)
        return (samples + rms / np.sqrt(np.mean(sound**2)) * sound).astype(np.float32)

    return as_wav(change)


def backgrounds(voices: list[Utterance]) -> dict[str, Change]:
    """Return the conditions with music, and with babble of four of the given voices."""
    rng = np.random.default_rng(stable_seed("invariance"))  # training derives its seeds from other texts
    waveforms = [load(voice.path) for voice in voices if voice.path is not None]

    def babble(num_samples: int) -> Samples:
        chosen = [waveforms[place] for place in rng.choice(len(waveforms), 4, replace=False)]
        return np.sum([np.resize(voice / np.std(voice), num_samples) for voice in chosen], axis=0)

    return {
        "music, SNR 10 dB": with_background(lambda num_samples: compose_music(num_samples, rng)),
        "other music, SNR 10 dB": with_background(
            lambda num_samples: tune(rng, np.arange(num_samples) / SAMPLE_RATE)
        ),
        "babble, SNR 10 dB": with_background(babble),
    }


CONDITIONS: dict[str, Change] = {
    "flac": encode_as("FLAC"),
    "ogg vorbis": encode_as("OGG", "VORBIS"),
    "opus, 48 kHz": encode_as("OGG", "OPUS", 48_000),
    "mp3": encode_as("MP3"),
    "44.1 kHz": encode_as("WAV", "FLOAT", 44_100),
    "48 kHz": encode_as("WAV", "FLOAT", 48_000),
    "8 kHz mu-law": encode_as("WAV", "ULAW", 8_000),
    "stereo": as_wav(lambda samples, _: np.stack([samples, samples], axis=1)),
    "gain -20 dB": as_wav(lambda samples, _: 0.1 * samples),
    "gain +20 dB": as_wav(lambda samples, _: 10 * samples),
    "0.5 s of silence before": silence_around(0.5, 0),
    "5 s of silence after": silence_around(0, 5),
    "2 s of silence around": silence_around(2, 2),
    **{f"noise, SNR {snr_db} dB": in_noise(snr_db) for snr_db in (40, 30, 20, 10)},
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpora", type=Path, help="folder with ravdess, nemo and ased")
    parser.add_argument("--clips", type=int, default=100, help="number of clips")
    parser.add_argument("--model", default="bundled", help="bundled, or the folder of an exported model")
    parser.add_argument(
        "--margins",
        default=str(speech_windows.SPEECH_MARGIN_S),
        help="seconds kept around speech, e.g. 0.05,0.2",
    )
    parser.add_argument("--only", default="", help="part of the names of the conditions")
    given = parser.parse_args()
    loaded = Recognizer(given.model, threads=1)
    chosen = choose_clips(given.corpora, given.clips + NUM_VOICES)
    clips, voices = chosen[:-NUM_VOICES], chosen[-NUM_VOICES:]
    conditions = {**CONDITIONS, **backgrounds(voices)}
    truth = np.array([loaded.emotions.index(clip.emotion) for clip in clips])
    print("| margin | condition | same emotion, % | change, median | 95 % | UA | −log p |")
    print("| ---: | --- | ---: | ---: | ---: | ---: | ---: |")
    for margin in given.margins.split(","):
        speech_windows.SPEECH_MARGIN_S = float(margin)
        clean = probabilities(loaded, clips, encode_as("WAV", "FLOAT"))
        print_row(margin, "clean", clean, clean, truth)
        for name, change in conditions.items():
            if given.only in name:
                print_row(margin, name, probabilities(loaded, clips, change), clean, truth)


def choose_clips(corpora: Path, num: int) -> list[Utterance]:
    """Return utterances of dev speakers, taking corpora and emotions in turn."""
    corpus = open_corpus(load_recipe("bundled", [f"corpus.root={corpora}"]).corpus, lambda _: None)
    speakers = FIXED_SPLITS["five-corpora"]["dev"]
    groups: dict[tuple[str, str], list[Utterance]] = {}
    order = np.random.default_rng(0).permutation(len(corpus.utterances))
    for utterance in (corpus.utterances[place] for place in order):
        if utterance.speaker in speakers:
            groups.setdefault((utterance.speaker.partition("/")[0], utterance.emotion), []).append(utterance)
    clips: list[Utterance] = []
    while len(clips) < num and any(groups.values()):
        clips += [group.pop() for _, group in sorted(groups.items()) if group]
    return clips[:num]


def probabilities(loaded: Recognizer, clips: list[Utterance], change: Change) -> Samples:
    """Return the probabilities of each changed clip, (clips, emotions): uniform if there is no answer."""
    rows = []
    for clip in clips:
        samples, rate_hz = soundfile.read(clip.path, dtype="float32", always_2d=True)
        prediction = loaded.predict(change(samples[:, 0], rate_hz), SAMPLE_RATE)
        row = prediction.probabilities or dict.fromkeys(loaded.emotions, 1.0)
        rows.append(np.array(list(row.values())) / sum(row.values()))
    return np.array(rows)


def print_row(margin: str, name: str, changed: Samples, clean: Samples, truth: Any) -> None:
    """Print a row of the table, from the probabilities of changed and of clean clips."""
    change = np.abs(changed - clean).max(axis=1)
    same = 100 * np.mean(changed.argmax(1) == clean.argmax(1))
    ua = 100 * unweighted_accuracy(truth, changed.argmax(1))
    nll = -np.log(changed[np.arange(len(truth)), truth]).mean()
    cells = (
        margin, name, f"{same:.0f}", f"{np.median(change):.4f}", f"{np.quantile(change, 0.95):.3f}",
        f"{ua:.1f}", f"{nll:.3f}",
    )  # fmt: skip
    print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
