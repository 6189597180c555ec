"""Measures whether an answer stays when the pauses between utterances grow.

    python benchmarks/pauses.py CORPORA [--triples 300] [--max-pause 0.3]

CORPORA holds the folders ravdess, nemo and ased. A triple is three utterances of one dev speaker of the
protocol `bundled`, with one emotion, joined by pauses. The recogniser gets each triple with pauses of 0.2 s
and of 0.5 to 6 s, of digital silence and of the noise of a quiet room (60 dB below the peak). For each
pause the table has the share of triples with the same emotion as at 0.2 s, and the share with the true
emotion. --max-pause is what the recogniser keeps of a pause, in seconds.

The bundled model's classifier was fitted on dev speakers too, so compare rows with each other only.
"""

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from emodistill import Recognizer
from emodistill.audio.waveform import SAMPLE_RATE, Waveform, load, peak_normalise, remove_offset
from emodistill.config import load_recipe
from emodistill.corpora import Utterance, open_corpus
from emodistill.inference import speech_windows
from emodistill.protocol import FIXED_SPLITS

PAUSES_S = (0.2, 0.5, 1.0, 2.0, 4.0, 6.0)  # the first is what the others are compared with
ROOM_RMS = 10 ** (-60 / 20)


def choose_triples(corpora: Path, number: int) -> list[tuple[Utterance, ...]]:
    """Return triples of utterances of one dev speaker and emotion, taking the corpora in turn."""
    corpus = open_corpus(load_recipe("bundled", [f"corpus.root={corpora}"]).corpus, lambda _: None)
    groups: dict[tuple[str, str | None], list[Utterance]] = defaultdict(list)
    for utterance in corpus:
        if utterance.speaker in FIXED_SPLITS["five-corpora"]["dev"]:
            groups[utterance.speaker, utterance.emotion].append(utterance)
    by_corpus: dict[str, list[list[Utterance]]] = defaultdict(list)
    for (speaker, _), group in sorted(groups.items()):
        if len(group) >= 3:
            by_corpus[speaker.partition("/")[0]].append(group)
    rng = np.random.default_rng(0)
    names = sorted(by_corpus)
    triples = []
    for index in range(number):
        candidates = by_corpus[names[index % len(names)]]
        group = candidates[rng.integers(len(candidates))]
        triples.append(tuple(group[place] for place in rng.choice(len(group), 3, replace=False)))
    return triples


def join_utterances(sounds: list[Waveform], pause_s: float, rms: float) -> Waveform:
    """Return the utterances (samples,) with pauses of silence or of white noise between them."""
    noise = rms * np.random.default_rng(1).standard_normal(round(pause_s * SAMPLE_RATE))
    parts: list[Any] = [sounds[0]]
    for sound in sounds[1:]:
        parts += [noise, sound]
    return np.concatenate(parts).astype(np.float32)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpora", type=Path, help="folder with ravdess, nemo and ased")
    parser.add_argument("--triples", type=int, default=300, help="number of triples")
    parser.add_argument("--model", default="bundled", help="bundled, or the folder of an exported model")
    parser.add_argument(
        "--max-pause", type=float, default=speech_windows.MAX_PAUSE_S, help="seconds kept of a pause"
    )
    given = parser.parse_args()
    speech_windows.MAX_PAUSE_S = given.max_pause
    recognizer = Recognizer(given.model, threads=1)
    triples = choose_triples(given.corpora, given.triples)
    sounds = [
        [peak_normalise(remove_offset(load(item.path))) for item in triple if item.path is not None]
        for triple in triples
    ]
    print("| pauses | s | same emotion, % | true emotion, % |\n| --- | ---: | ---: | ---: |")
    for name, rms in (("digital silence", 0.0), ("a quiet room", ROOM_RMS)):
        reference: list[str | None] = []
        for pause_s in PAUSES_S:
            answers = [
                recognizer.predict(join_utterances(sound, pause_s, rms), SAMPLE_RATE).emotion
                for sound in sounds
            ]
            reference = reference or answers
            same = np.mean([one == other for one, other in zip(answers, reference, strict=True)])
            right = np.mean(
                [answer == triple[0].emotion for answer, triple in zip(answers, triples, strict=True)]
            )
            print(f"| {name} | {pause_s:g} | {100 * same:.1f} | {100 * right:.1f} |", flush=True)


if __name__ == "__main__":
    main()
