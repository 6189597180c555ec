"""Make and score the controlled benchmark: lines of MELD, spoken by espeak-ng with a prosody that we draw.

    python scripts/controlled.py make MELD OUT [--setting words-and-prosody] [--share 1.0]
    python scripts/controlled.py score OUT GRID      # GRID: a folder of `emodistill ablate controlled`

`make` writes three things: OUT/utterances.csv with transcripts and splits, OUT/audio/, and OUT/truth.csv. The
last has the drawn prosody of each utterance and the probability of each emotion given that prosody. Given the
emotion, words and prosody are independent.

MELD's own splits are kept, so no dialogue is in two splits. A line is spoken at most once, and no voice is in
two splits. The settings are in scripts/controlled.toml. The same settings and the same espeak-ng give the
same samples.

In each dimension of prosody, in standard deviations, a drawn value is z = speaker + mean(emotion) + N(0, 1).
So Bayes' rule over normal densities gives the probability of each emotion exactly. There are two oracles:

    knows the voice             p(e | z − speaker)  ∝  N(z − speaker; mean(e), 1)
    does not know the voice     p(e | z)            ∝  N(z; mean(e), 1 + speaker_sd²)

No model can be better than its oracle by prosody alone. A model has the audio instead of z: limits, rounding
and espeak-ng lose some of the information.
"""

import argparse
import csv
import io
import json
import random
import subprocess
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import soundfile
import soxr

from emodistill.corpora import read_corpus
from emodistill.demo.generate import find_espeak

HERE = Path(__file__).parent
RATE_HZ = 16_000
PEAK = 0.7
DIMENSIONS = ("rate_wpm", "pitch", "range_percent", "slope_db", "pause_ms")
SPLITS = ("train", "dev", "test")
ACCENTS = ("en-us", "en", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-us-nyc", "en-029")
WOMEN = (
    "Alicia", "Andrea", "Annie", "anika", "aunty", "belinda", "f1", "f2", "f3", "f4", "f5", "grandma",
    "linda", "shelby", "steph",
)  # fmt: skip
MEN = (
    "Alex", "Andy", "Denis", "Diogo", "Gene", "Henrique", "Hugo", "Jacky", "Lee", "Marco", "Mario", "Michael",
    "Mike", "Nguyen", "adam", "antonio", "benjamin", "boris", "caleb", "david", "ed", "edward", "grandpa",
    "gustave", "iven", "john", "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "marcelo", "max", "michel",
    "miguel", "norbert", "pablo", "paul", "pedro", "quincy", "rob", "robert", "sandro", "travis", "victor",
    "zac",
)  # fmt: skip


@dataclass(frozen=True)
class Voice:
    """One speaker."""

    id: str
    voice: str  # accent and variant of espeak-ng
    gender: str
    offset: tuple[float, ...]  # of its prosody, in standard deviations, (dimensions,)


@dataclass(frozen=True)
class Planned:
    """An utterance that is not spoken yet."""

    id: str
    split: str
    voice: Voice
    emotion: str
    word_emotion: str  # the emotion that MELD gives the line
    z: tuple[float, ...]  # drawn prosody, in standard deviations from the centre, (dimensions,)


def means(settings: dict[str, Any]) -> np.ndarray:
    """Return the mean prosody of each emotion, (emotions, dimensions), as far apart as the settings say."""
    centres = np.array(
        [[settings["prosody"][name]["means"][e] for name in DIMENSIONS] for e in settings["emotions"]]
    )
    distances = [np.linalg.norm(a - b) for i, a in enumerate(centres) for b in centres[i + 1 :]]
    return np.asarray(centres * settings["prosody"]["separation"] / np.mean(distances))


def posterior(z: np.ndarray, centres: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Return p(emotion | z), (utterances, emotions), for z (utterances, dimensions).

    All emotions are equally frequent.
    """
    log = -0.5 * (((z[:, None] - centres[None]) ** 2) / variance).sum(axis=2)
    p = np.exp(log - log.max(axis=1, keepdims=True))
    return np.asarray(p / p.sum(axis=1, keepdims=True))


def voices(settings: dict[str, Any]) -> dict[str, list[Voice]]:
    """Return the voices of each split. espeak-ng has few women: every split gets the same share of them."""
    rng = random.Random(f"{settings['seed']}/voices")
    women, men = rng.sample(WOMEN, len(WOMEN)), rng.sample(MEN, len(MEN))
    by_split: dict[str, list[Voice]] = {}
    for split in SPLITS:
        count = settings["voices"][split]
        share = round(count * len(WOMEN) / sum(settings["voices"].values()))
        chosen = [(women.pop(), "female") for _ in range(min(share, len(women)))]
        chosen += [(men.pop(), "male") for _ in range(count - len(chosen))]
        by_split[split] = [
            Voice(
                f"{split}-{variant}", f"{rng.choice(ACCENTS)}+{variant}", gender,
                tuple(rng.gauss(0, settings["prosody"][name]["speaker_sd"]) for name in DIMENSIONS),
            )
            for variant, gender in chosen
        ]  # fmt: skip
    return by_split


def plan(settings: dict[str, Any], words_true: float, share: float = 1.0) -> list[Planned]:
    """Return all utterances, before their lines are chosen. Prosody does not depend on the words."""
    centres, speakers = means(settings), voices(settings)
    emotions = settings["emotions"]
    planned = []
    for split in SPLITS:
        count = max(len(emotions), round(share * settings["count"][split]))
        for index, emotion in enumerate(emotions):
            word_emotions = emotions_of_words(emotion, emotions, count, words_true)
            random.Random(f"{settings['seed']}/{split}/{emotion}/words").shuffle(word_emotions)
            for number, word_emotion in enumerate(word_emotions):
                rng = random.Random(f"{settings['seed']}/{split}/{emotion}/{number}/prosody")
                # In turn, so that every voice speaks every emotion equally often.
                voice = speakers[split][number % len(speakers[split])]
                z = tuple(o + m + rng.gauss(0, 1) for o, m in zip(voice.offset, centres[index], strict=True))
                name = f"{split}-{number * len(emotions) + index:04d}"
                planned.append(Planned(name, split, voice, emotion, word_emotion, z))
    return sorted(planned, key=lambda item: item.id)


def emotions_of_words(emotion: str, emotions: list[str], count: int, words_true: float) -> list[str]:
    """Return the emotions of the lines for `count` utterances of one emotion.

    A share of `words_true` is the emotion itself. The other emotions are equally frequent in the rest.
    """
    others = [other for other in emotions if other != emotion]
    num_others = round(count * (1 - words_true))
    return [emotion] * (count - num_others) + [others[i % len(others)] for i in range(num_others)]


def lines(meld: Path, settings: dict[str, Any]) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """Return (split, emotion) -> shuffled (dialogue, line). Every text is in one split alone, once."""
    shortest, longest = settings["words"]
    by_place: dict[tuple[str, str], list[tuple[str, str]]] = {}
    seen: set[str] = set()
    for utterance in read_corpus("meld", meld):
        text = " ".join((utterance.transcript or "").split())
        key = "".join(c for c in text.lower() if c.isalnum() or c == " ")
        if (
            utterance.emotion in settings["emotions"]
            and shortest <= len(key.split()) <= longest
            and key not in seen
        ):
            seen.add(key)
            place = (utterance.split or "", utterance.emotion or "")
            by_place.setdefault(place, []).append((utterance.session or "", text))
    for place, items in by_place.items():
        random.Random(f"{settings['seed']}/{place}/lines").shuffle(items)
    return by_place


def physical(z: tuple[float, ...], settings: dict[str, Any]) -> dict[str, int]:
    """Return the drawn prosody in the units of espeak-ng, rounded and within the limits."""
    values = {}
    for value, name in zip(z, DIMENSIONS, strict=True):
        dimension = settings["prosody"][name]
        low, high = dimension["limits"]
        values[name] = round(min(max(dimension["centre"] + dimension["sd"] * value, low), high))
    return values


def speak(program: str, text: str, item: Planned, settings: dict[str, Any]) -> np.ndarray:
    """Return the samples (samples,) of a line, int16 at 16 kHz, without silence at the ends.

    Raises RuntimeError if espeak-ng fails or its output is silent.
    """
    prosody, words = physical(item.z, settings), text.split()
    middle = random.Random(f"{settings['seed']}/{item.id}/pause").randrange(1, len(words))
    pause = f' <break time="{prosody["pause_ms"]}ms"/> ' if prosody["pause_ms"] else " "
    halves = pause.join(escape(" ".join(part)) for part in (words[:middle], words[middle:]))
    ssml = f'<speak><prosody range="{prosody["range_percent"]}%">{halves}</prosody></speak>'
    speed, pitch = str(prosody["rate_wpm"]), str(prosody["pitch"])
    command = [program, "-m", "-v", item.voice.voice, "-s", speed, "-p", pitch, "-a", "70", "--stdout", ssml]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode != 0 or not done.stdout:
        raise RuntimeError(
            f"espeak-ng failed on {text!r}, voice {item.voice.voice!r}: {done.stderr.decode()}"
        )
    spoken, rate_hz = soundfile.read(io.BytesIO(done.stdout), dtype="float64")
    waveform = np.asarray(soxr.resample(spoken, rate_hz, RATE_HZ))
    level = np.abs(waveform)
    if not level.max(initial=0.0) > 0:
        raise RuntimeError(f"espeak-ng gave silence for {text!r}, voice {item.voice.voice!r}")
    (loud,) = np.nonzero(level > level.max() * 10 ** (settings["pause_db"] / 20))
    cut = waveform[loud[0] : loud[-1] + 1]
    cut = cut * 10 ** (prosody["slope_db"] * np.linspace(-0.5, 0.5, len(cut)) / 20)
    return np.asarray(np.round(cut * (PEAK * 32767 / np.abs(cut).max())), dtype=np.int16)


def make(meld: Path, out: Path, setting: str, settings: dict[str, Any], share: float, jobs: int) -> None:
    """Write the corpus. Raises ValueError if MELD has too few lines for it."""
    program, available = find_espeak(), lines(meld, settings)
    planned = plan(settings, settings["settings"][setting]["words_true"], share)
    (out / "audio").mkdir(parents=True, exist_ok=True)
    shortest, longest = settings["duration_s"]

    def speak_if_length_fits(item: Planned, text: str) -> np.ndarray | None:
        samples = speak(program, text, item, settings)
        return samples if shortest <= len(samples) / RATE_HZ <= longest else None

    rows = []
    waiting = planned
    with ThreadPoolExecutor(jobs) as pool:
        while waiting:  # an utterance that is too long or too short is spoken again with another line
            chosen = [_next_line(available, item) for item in waiting]
            spoken = list(pool.map(speak_if_length_fits, waiting, [text for _, text in chosen]))
            for item, (dialogue, text), samples in zip(waiting, chosen, spoken, strict=True):
                if samples is not None:
                    soundfile.write(out / f"audio/{item.id}.flac", samples, RATE_HZ, subtype="PCM_16")
                    rows.append((item, dialogue, text))
            waiting = [item for item, samples in zip(waiting, spoken, strict=True) if samples is None]
    rows.sort(key=lambda row: row[0].id)
    _write_tables(rows, out, settings)
    stamp = {"setting": setting, "share": share, "settings": settings}
    (out / "settings.json").write_text(json.dumps(stamp, indent=1) + "\n", encoding="utf-8")


def _next_line(available: dict[tuple[str, str], list[tuple[str, str]]], item: Planned) -> tuple[str, str]:
    remaining = available.get((item.split, item.word_emotion))
    if not remaining:
        raise ValueError(f"MELD has too few {item.word_emotion} lines in {item.split}: lower [count]")
    return remaining.pop()


def _write_tables(rows: list[tuple[Planned, str, str]], out: Path, settings: dict[str, Any]) -> None:
    with (out / "utterances.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        columns = ("id", "path", "speaker", "session", "gender", "language", "emotion", "transcript", "split")
        writer.writerow(columns)
        for item, dialogue, text in rows:
            values = (item.voice.id, dialogue, item.voice.gender, "en", item.emotion, text, item.split)
            writer.writerow([item.id, f"audio/{item.id}.flac", *values])
    z = np.array([item.z for item, _, _ in rows])
    offsets = np.array([item.voice.offset for item, _, _ in rows])
    speaker_sd = np.array([settings["prosody"][name]["speaker_sd"] for name in DIMENSIONS])
    knows = posterior(z - offsets, means(settings), np.ones(len(DIMENSIONS)))
    does_not = posterior(z, means(settings), 1 + speaker_sd**2)
    with (out / "truth.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        emotions = settings["emotions"]
        posteriors = [f"{kind}_{e}" for kind in ("knows", "does_not") for e in emotions]
        writer.writerow(["id", "emotion", "word_emotion", *(f"z_{name}" for name in DIMENSIONS), *posteriors])
        for row, (item, _, _) in enumerate(rows):
            figures = [f"{value:.6f}" for value in (*item.z, *knows[row], *does_not[row])]
            writer.writerow([item.id, item.emotion, item.word_emotion, *figures])
    is_test = np.array([item.split == "test" for item, _, _ in rows])
    truth = np.array([settings["emotions"].index(item.emotion) for item, _, _ in rows])
    for name, probabilities in (("knows the voice", knows), ("does not know the voice", does_not)):
        predicted = probabilities.argmax(axis=1)
        recalls = [np.mean(predicted[is_test & (truth == e)] == e) for e in range(len(settings["emotions"]))]
        ua = 100 * np.mean(recalls)
        print(f"oracle of prosody that {name}: UA {ua:.1f} % over {is_test.sum()} test utterances")


def score(out: Path, grid: Path) -> None:
    """Print and write the table and the plot of a grid with the oracles, compared to the plain student."""
    from emodistill.console import results
    from emodistill.evaluation.ablation_table import (
        ORACLES,
        System,
        ensemble_predictions,
        make_ablation_table,
        show_ablation_table,
        teacher_systems,
    )
    from emodistill.evaluation.run import read_run

    names = {
        "no-distillation": "plain",
        "prosodic-only": "+ prosodic",
        "linguistic-only": "+ linguistic",
        "full": "+ both",
    }
    runs = {
        label: [read_run(folder) for folder in sorted((grid / "cells" / cell).glob("seed-*"))]
        for cell, label in names.items()
    }
    systems = [
        System(label, "students", label, [run.table() for run in members]) for label, members in runs.items()
    ]
    systems += teacher_systems(runs["+ both"])
    tables = systems[0].tables
    with (out / "truth.csv").open(encoding="utf-8") as file:
        truth = {row["id"]: row for row in csv.DictReader(file)}
    oracles = {}
    for kind, label in (("knows", "prosody's oracle, knows the voice"), ("does_not", "prosody's oracle")):
        p = np.array(
            [[float(truth[u][f"{kind}_{e}"]) for e in tables[0].labels] for u in tables[0].utterances]
        )
        oracles[label] = replace(tables[0], probabilities=p / p.sum(axis=1, keepdims=True))
        systems.append(System(label, ORACLES, label, [oracles[label]] * len(tables)))
    words = [run.table("linguistic") for run in runs["+ both"]]
    label = "oracle and linguistic teacher together"
    best = oracles["prosody's oracle, knows the voice"]
    systems.append(
        System(label, ORACLES, label, [ensemble_predictions(best, [best, table]) for table in words])
    )
    ablation = make_ablation_table(systems, "plain", "plain", distilled="+ both")
    ablation.write(grid, "controlled")
    show_ablation_table(ablation, results())


def main() -> None:
    """Make the corpus, or score a grid."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    making = verbs.add_parser("make", help="make the corpus")
    making.add_argument("meld", type=Path, help="folder with the three CSV files of MELD")
    making.add_argument("out", type=Path, help="folder to write to")
    making.add_argument("--setting", default="words-and-prosody", help="a [settings.NAME] of the settings")
    making.add_argument("--settings", type=Path, default=HERE / "controlled.toml", help="the settings")
    making.add_argument("--share", type=float, default=1.0, help="make only this share of the utterances")
    making.add_argument("--jobs", type=int, default=1, help="espeak-ng processes at a time")
    scoring = verbs.add_parser("score", help="score a grid beside the oracles")
    scoring.add_argument("out", type=Path, help="folder that `make` wrote")
    scoring.add_argument("grid", type=Path, help="folder of `emodistill ablate controlled`")
    given = parser.parse_args()
    if given.verb == "score":
        return score(given.out, given.grid)
    settings = tomllib.loads(given.settings.read_text(encoding="utf-8"))
    if given.setting not in settings["settings"]:
        parser.error(f"bad setting '{given.setting}', expected one of {list(settings['settings'])}")
    return make(given.meld, given.out, given.setting, settings, given.share, given.jobs)


if __name__ == "__main__":
    main()
