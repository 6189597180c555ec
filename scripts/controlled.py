"""The controlled benchmark: real lines, spoken by espeak-ng with drawn prosody, so that the truth is known.

    python scripts/controlled.py make MELD OUT [--setting words-and-prosody] [--share 1.0]
    python scripts/controlled.py score OUT GRID      # GRID: a folder of `emodistill ablate controlled`

`make` writes OUT/utterances.csv (with transcripts and splits), audio/, and truth.csv: every drawn prosody and what it
tells of the emotion. Given the emotion, words and prosody are independent. MELD's own splits are kept, so no line's
dialogue is in two of them, and every line is spoken once at most; no voice is in two splits either. The settings are
scripts/controlled.toml; the same settings and espeak-ng give the same samples.

What prosody tells is known exactly. A drawn value is, in standard deviations, z = speaker + mean(emotion) + N(0, 1)
in each dimension, so the posterior of the emotion is Bayes' rule over normal densities:

    oracle, knows the voice     p(e | z − speaker)  ∝  N(z − speaker; mean(e), 1)
    oracle, does not            p(e | z)            ∝  N(z; mean(e), 1 + speaker_sd²)

Both are bounds: clipping at the limits, rounding and espeak-ng itself lose some of it, and no listener is told z.
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
    "Alicia", "Andrea", "Annie", "anika", "aunty", "belinda", "f1", "f2", "f3", "f4", "f5", "grandma", "linda",
    "shelby", "steph",
)  # fmt: skip
MEN = (
    "Alex", "Andy", "Denis", "Diogo", "Gene", "Henrique", "Hugo", "Jacky", "Lee", "Marco", "Mario", "Michael", "Mike",
    "Nguyen", "adam", "antonio", "benjamin", "boris", "caleb", "david", "ed", "edward", "grandpa", "gustave", "iven",
    "john", "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "marcelo", "max", "michel", "miguel", "norbert", "pablo",
    "paul", "pedro", "quincy", "rob", "robert", "sandro", "travis", "victor", "zac",
)  # fmt: skip


@dataclass(frozen=True)
class Voice:
    """One speaker: an espeak-ng accent and variant, and where its prosody lies, in standard deviations."""

    id: str
    voice: str
    gender: str
    offset: tuple[float, ...]  # (dimensions,)


@dataclass(frozen=True)
class Planned:
    """An utterance before it is spoken."""

    id: str
    split: str
    voice: Voice
    emotion: str
    word_emotion: str
    z: tuple[float, ...]  # drawn prosody, in standard deviations from the centre, (dimensions,)


def means(settings: dict[str, Any]) -> np.ndarray:
    """Where each emotion lies, (emotions, dimensions), scaled to the mean distance asked for."""
    found = np.array(
        [[settings["prosody"][name]["means"][e] for name in DIMENSIONS] for e in settings["emotions"]]
    )
    pairs = [np.linalg.norm(a - b) for i, a in enumerate(found) for b in found[i + 1 :]]
    return np.asarray(found * settings["prosody"]["separation"] / np.mean(pairs))


def posterior(z: np.ndarray, centres: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """p(emotion | z), (utterances, emotions), of z (utterances, dimensions); emotions are equally frequent."""
    log = -0.5 * (((z[:, None] - centres[None]) ** 2) / variance).sum(axis=2)
    p = np.exp(log - log.max(axis=1, keepdims=True))
    return np.asarray(p / p.sum(axis=1, keepdims=True))


def voices(settings: dict[str, Any]) -> dict[str, list[Voice]]:
    """The voices of each split; women and men alike often as far as there are."""
    rng = random.Random(f"{settings['seed']}/voices")
    women, men = rng.sample(WOMEN, len(WOMEN)), rng.sample(MEN, len(MEN))
    found: dict[str, list[Voice]] = {}
    for split in SPLITS:
        count = settings["voices"][split]
        share = round(count * len(WOMEN) / sum(settings["voices"].values()))
        chosen = [(women.pop(), "female") for _ in range(min(share, len(women)))]
        chosen += [(men.pop(), "male") for _ in range(count - len(chosen))]
        found[split] = [
            Voice(
                f"{split}-{variant}", f"{rng.choice(ACCENTS)}+{variant}", gender,
                tuple(rng.gauss(0, settings["prosody"][name]["speaker_sd"]) for name in DIMENSIONS),
            )
            for variant, gender in chosen
        ]  # fmt: skip
    return found


def plan(settings: dict[str, Any], words_true: float, share: float = 1.0) -> list[Planned]:
    """All utterances, before words are chosen. Prosody does not depend on what the words tell."""
    centres, spoken = means(settings), voices(settings)
    emotions = settings["emotions"]
    found = []
    for split in SPLITS:
        count = max(len(emotions), round(share * settings["count"][split]))
        for index, emotion in enumerate(emotions):
            told = random.Random(f"{settings['seed']}/{split}/{emotion}/words")
            word_emotions = allotted(emotion, emotions, count, words_true)
            told.shuffle(word_emotions)
            for number, word_emotion in enumerate(word_emotions):
                rng = random.Random(f"{settings['seed']}/{split}/{emotion}/{number}/prosody")
                voice = spoken[split][number % len(spoken[split])]  # so each speaks every emotion alike often
                z = tuple(o + m + rng.gauss(0, 1) for o, m in zip(voice.offset, centres[index], strict=True))
                name = f"{split}-{number * len(emotions) + index:04d}"
                found.append(Planned(name, split, voice, emotion, word_emotion, z))
    return sorted(found, key=lambda item: item.id)


def allotted(emotion: str, emotions: list[str], count: int, words_true: float) -> list[str]:
    """Whose words the utterances of an emotion get: exactly the share asked for, the others all alike."""
    others = [other for other in emotions if other != emotion]
    foreign = round(count * (1 - words_true))
    return [emotion] * (count - foreign) + [others[i % len(others)] for i in range(foreign)]


def lines(meld: Path, settings: dict[str, Any]) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """(split, emotion) -> shuffled (dialogue, line), every text once over all splits."""
    shortest, longest = settings["words"]
    found: dict[tuple[str, str], list[tuple[str, str]]] = {}
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
            place = (utterance.split or "", utterance.emotion)
            found.setdefault(place, []).append((utterance.session or "", text))
    for place, items in found.items():
        random.Random(f"{settings['seed']}/{place}/lines").shuffle(items)
    return found


def physical(z: tuple[float, ...], settings: dict[str, Any]) -> dict[str, int]:
    """What espeak-ng is asked for, rounded and within the limits."""
    made = {}
    for value, name in zip(z, DIMENSIONS, strict=True):
        found = settings["prosody"][name]
        low, high = found["limits"]
        made[name] = round(min(max(found["centre"] + found["sd"] * value, low), high))
    return made


def speak(program: str, text: str, item: Planned, settings: dict[str, Any]) -> np.ndarray:
    """The samples (samples,) of a line, int16 at 16 kHz, silence cut; raises RuntimeError where there are none."""
    asked, words = physical(item.z, settings), text.split()
    middle = random.Random(f"{settings['seed']}/{item.id}/pause").randrange(1, len(words))
    pause = f' <break time="{asked["pause_ms"]}ms"/> ' if asked["pause_ms"] else " "
    halves = pause.join(escape(" ".join(part)) for part in (words[:middle], words[middle:]))
    ssml = f'<speak><prosody range="{asked["range_percent"]}%">{halves}</prosody></speak>'
    command = [program, "-m", "-v", item.voice.voice, "-s", str(asked["rate_wpm"]), "-p", str(asked["pitch"])]
    done = subprocess.run([*command, "-a", "70", "--stdout", ssml], capture_output=True, check=False)
    if done.returncode != 0 or not done.stdout:
        raise RuntimeError(
            f"espeak-ng failed on {text!r}, voice {item.voice.voice!r}: {done.stderr.decode()}"
        )
    spoken, rate_hz = soundfile.read(io.BytesIO(done.stdout), dtype="float64")
    waveform = np.asarray(soxr.resample(spoken, rate_hz, RATE_HZ))
    level = np.abs(waveform)
    if not level.max(initial=0.0) > 0:
        raise RuntimeError(f"espeak-ng said nothing of {text!r}, voice {item.voice.voice!r}")
    (loud,) = np.nonzero(level > level.max() * 10 ** (settings["pause_db"] / 20))
    cut = waveform[loud[0] : loud[-1] + 1]
    cut = cut * 10 ** (asked["slope_db"] * np.linspace(-0.5, 0.5, len(cut)) / 20)
    return np.asarray(np.round(cut * (PEAK * 32767 / np.abs(cut).max())), dtype=np.int16)


def make(meld: Path, out: Path, setting: str, settings: dict[str, Any], share: float, jobs: int) -> None:
    """Write the corpus; raises ValueError where MELD has too few lines."""
    program, available = find_espeak(), lines(meld, settings)
    planned = plan(settings, settings["settings"][setting]["words_true"], share)
    (out / "audio").mkdir(parents=True, exist_ok=True)
    shortest, longest = settings["duration_s"]

    def spoken(item: Planned, text: str) -> np.ndarray | None:
        samples = speak(program, text, item, settings)
        return samples if shortest <= len(samples) / RATE_HZ <= longest else None

    rows = []
    waiting = planned
    with ThreadPoolExecutor(jobs) as pool:
        while waiting:  # what did not fit is spoken again with other words
            chosen = [_next_line(available, item) for item in waiting]
            made = list(pool.map(spoken, waiting, [text for _, text in chosen]))
            for item, (dialogue, text), samples in zip(waiting, chosen, made, strict=True):
                if samples is not None:
                    soundfile.write(out / f"audio/{item.id}.flac", samples, RATE_HZ, subtype="PCM_16")
                    rows.append((item, dialogue, text))
            waiting = [item for item, samples in zip(waiting, made, strict=True) if samples is None]
    rows.sort(key=lambda row: row[0].id)
    _write_tables(rows, out, settings)
    stamp = {"setting": setting, "share": share, "settings": settings}
    (out / "settings.json").write_text(json.dumps(stamp, indent=1) + "\n", encoding="utf-8")


def _next_line(available: dict[tuple[str, str], list[tuple[str, str]]], item: Planned) -> tuple[str, str]:
    left = available.get((item.split, item.word_emotion))
    if not left:
        raise ValueError(f"MELD has too few {item.word_emotion} lines in {item.split}: lower [count]")
    return left.pop()


def _write_tables(rows: list[tuple[Planned, str, str]], out: Path, settings: dict[str, Any]) -> None:
    with (out / "utterances.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        columns = ("id", "path", "speaker", "session", "gender", "language", "emotion", "transcript", "split")
        writer.writerow(columns)
        for item, dialogue, text in rows:
            about = (item.voice.id, dialogue, item.voice.gender, "en", item.emotion, text, item.split)
            writer.writerow([item.id, f"audio/{item.id}.flac", *about])
    z = np.array([item.z for item, _, _ in rows])
    offsets = np.array([item.voice.offset for item, _, _ in rows])
    spread = np.array([settings["prosody"][name]["speaker_sd"] for name in DIMENSIONS])
    knows = posterior(z - offsets, means(settings), np.ones(len(DIMENSIONS)))
    does_not = posterior(z, means(settings), 1 + spread**2)
    with (out / "truth.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        emotions = settings["emotions"]
        posteriors = [f"{kind}_{e}" for kind in ("knows", "does_not") for e in emotions]
        writer.writerow(["id", "emotion", "word_emotion", *(f"z_{name}" for name in DIMENSIONS), *posteriors])
        for row, (item, _, _) in enumerate(rows):
            values = [*item.z, *knows[row], *does_not[row]]
            writer.writerow([item.id, item.emotion, item.word_emotion, *(f"{value:.6f}" for value in values)])
    held = np.array([item.split == "test" for item, _, _ in rows])
    truth = np.array([settings["emotions"].index(item.emotion) for item, _, _ in rows])
    for name, said in (("knows the voice", knows), ("does not", does_not)):
        recalls = [
            np.mean(said[held & (truth == e)].argmax(axis=1) == e) for e in range(len(settings["emotions"]))
        ]
        print(
            f"prosody's oracle that {name}: UA {100 * np.mean(recalls):.1f} % over {held.sum()} test utterances"
        )


def score(out: Path, grid: Path) -> None:
    """The table of a grid with the oracles in it, every difference to the plain student, and its plot."""
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
    found = [System(label, "students", label, [run.table() for run in of]) for label, of in runs.items()]
    found += teacher_systems(runs["+ both"])
    tables = found[0].tables
    with (out / "truth.csv").open(encoding="utf-8") as file:
        truth = {row["id"]: row for row in csv.DictReader(file)}
    oracles = {}
    for kind, label in (("knows", "prosody's oracle, knows the voice"), ("does_not", "prosody's oracle")):
        p = np.array(
            [[float(truth[u][f"{kind}_{e}"]) for e in tables[0].labels] for u in tables[0].utterances]
        )
        oracles[label] = replace(tables[0], probabilities=p / p.sum(axis=1, keepdims=True))
        found.append(System(label, ORACLES, label, [oracles[label]] * len(tables)))
    words = [run.table("linguistic") for run in runs["+ both"]]
    label = "oracle and linguistic teacher together"
    best = oracles["prosody's oracle, knows the voice"]
    found.append(
        System(label, ORACLES, label, [ensemble_predictions(best, [best, table]) for table in words])
    )
    ablation = make_ablation_table(found, "plain", "plain", distilled="+ both")
    ablation.write(grid, "controlled")
    show_ablation_table(ablation, results())


def main() -> None:
    """Make the corpus, or score a grid."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    making = verbs.add_parser("make", help="speak the corpus")
    making.add_argument("meld", type=Path)
    making.add_argument("out", type=Path)
    making.add_argument("--setting", default="words-and-prosody")
    making.add_argument("--settings", type=Path, default=HERE / "controlled.toml")
    making.add_argument("--share", type=float, default=1.0, help="of the utterances, for a trial")
    making.add_argument("--jobs", type=int, default=1)
    scoring = verbs.add_parser("score", help="the table of a grid, with the oracles")
    scoring.add_argument("out", type=Path)
    scoring.add_argument("grid", type=Path)
    given = parser.parse_args()
    if given.verb == "score":
        return score(given.out, given.grid)
    settings = tomllib.loads(given.settings.read_text(encoding="utf-8"))
    if given.setting not in settings["settings"]:
        parser.error(f"no setting '{given.setting}', expected one of {list(settings['settings'])}")
    return make(given.meld, given.out, given.setting, settings, given.share, given.jobs)


if __name__ == "__main__":
    main()
