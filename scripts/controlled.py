"""Make and score the controlled benchmark: lines of MELD, spoken by espeak-ng with a prosody that we draw.

    python scripts/controlled.py make MELD OUT [--setting words-and-prosody] [--share 1.0]
    python scripts/controlled.py further MELD OUT    # adds other lines of MELD, without labels
    python scripts/controlled.py probe MELD OUT      # adds the word probe
    python scripts/controlled.py score OUT GRID      # GRID: a folder of `emodistill ablate controlled`
    python scripts/controlled.py score OUT GRID --taught OTHER

With a word probe in OUT, `score` also predicts and scores it. `--taught` is a second grid, in which students
of the linguistic teacher start from another model. Its cells `linguistic-only` and `full` are scored.

`make` writes OUT/utterances.csv with transcripts and splits, OUT/audio/, OUT/words.csv with the time of each
word, and OUT/truth.csv. The last has the drawn prosody of each utterance and the probability of each emotion
given that prosody. Given the emotion, words and prosody are independent.

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

from __future__ import annotations

import argparse
import csv
import json
import random
import tomllib
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

import numpy as np
import soundfile
import soxr
from espeak import Spoken, speak_words
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from emodistill.corpora import read_corpus, read_manifest

if TYPE_CHECKING:
    from emodistill.evaluation.predictions import Predictions
    from emodistill.evaluation.run import Run

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


def key_of(text: str) -> str:
    """Return a line without case and signs. Equal lines have equal keys."""
    return "".join(c for c in text.lower() if c.isalnum() or c == " ")


def lines(
    meld: Path, settings: dict[str, Any], emotions: Collection[str] | None = ()
) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """Return (split, emotion) -> shuffled (dialogue, line). Every text is in one split alone, once.

    `emotions` are those of the settings, or any with None.
    """
    emotions = settings["emotions"] if emotions == () else emotions
    shortest, longest = settings["words"]
    by_place: dict[tuple[str, str], list[tuple[str, str]]] = {}
    seen: set[str] = set()
    for utterance in read_corpus("meld", meld):
        text = " ".join((utterance.transcript or "").split())
        key = key_of(text)
        if (
            (emotions is None or utterance.emotion in emotions)
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


@dataclass(frozen=True)
class Recorded:
    """A line that was spoken."""

    samples: np.ndarray  # (samples,), int16 at 16 kHz, without silence at the ends
    words: list[tuple[float, float, str]]  # (start_s, end_s, one or more words of the line, as in it)


@dataclass(frozen=True)
class Row:
    """An utterance of the corpus."""

    item: Planned
    dialogue: str  # of MELD
    text: str
    recorded: Recorded


def ssml_of(text: str, item: Planned, settings: dict[str, Any]) -> tuple[str, list[int]]:
    """Return a line as espeak-ng speaks it, with the first character of each of its words."""
    prosody, words = physical(item.z, settings), text.split()
    middle = random.Random(f"{settings['seed']}/{item.id}/pause").randrange(1, len(words))
    pause = f' <break time="{prosody["pause_ms"]}ms"/> ' if prosody["pause_ms"] else " "
    ssml = f'<speak><prosody range="{prosody["range_percent"]}%">'
    first_characters = []
    for index, word in enumerate(words):
        ssml += pause if index == middle else " " if index else ""
        first_characters.append(len(ssml))
        ssml += escape(word)
    return ssml + "</prosody></speak>", first_characters


def record(spoken: Spoken, text: str, item: Planned, settings: dict[str, Any]) -> Recorded:
    """Return the recording of what espeak-ng spoke. Raises RuntimeError where that is silent."""
    waveform = np.asarray(
        soxr.resample(np.frombuffer(spoken.samples, np.int16) / 32768, spoken.rate_hz, RATE_HZ)
    )
    level = np.abs(waveform)
    if not level.max(initial=0.0) > 0:
        raise RuntimeError(f"espeak-ng gave silence for {text!r}, voice {item.voice.voice!r}")
    (loud,) = np.nonzero(level > level.max() * 10 ** (settings["pause_db"] / 20))
    cut = waveform[loud[0] : loud[-1] + 1]
    slope_db = physical(item.z, settings)["slope_db"]
    cut = cut * 10 ** (slope_db * np.linspace(-0.5, 0.5, len(cut)) / 20)
    samples = np.asarray(np.round(cut * (PEAK * 32767 / np.abs(cut).max())), dtype=np.int16)
    starts = [(first, start_s - loud[0] / RATE_HZ, is_word) for first, start_s, is_word in spoken.word_starts]
    _, first_characters = ssml_of(text, item, settings)
    return Recorded(samples, word_times(text.split(), first_characters, starts, len(samples) / RATE_HZ))


def speak_all(
    chosen: list[tuple[Planned, str]], settings: dict[str, Any], jobs: int
) -> list[Recorded | None]:
    """Speak lines, `jobs` at a time. None: it is too long or too short."""
    arguments = []
    for item, text in chosen:
        prosody = physical(item.z, settings)
        ssml, _ = ssml_of(text, item, settings)
        arguments.append((ssml, item.voice.voice, prosody["rate_wpm"], prosody["pitch"]))
    with ThreadPoolExecutor(jobs) as pool:
        spoken = list(pool.map(lambda given: speak_words(*given), arguments))
    recordings = [
        record(item, text, planned, settings) for item, (planned, text) in zip(spoken, chosen, strict=True)
    ]
    shortest, longest = settings["duration_s"]
    return [item if shortest <= len(item.samples) / RATE_HZ <= longest else None for item in recordings]


def word_times(
    words: list[str], first_characters: list[int], starts: list[tuple[int, float, bool]], duration_s: float
) -> list[tuple[float, float, str]]:
    """Return (start_s, end_s, words) of all that espeak-ng spoke apart, within 0 and `duration_s`.

    `starts` are those of `Spoken.word_starts`. Words without a start of their own belong to the word before.
    """
    spans: list[tuple[int, float, float]] = []  # first word, start, end
    for (character, start_s, is_word), (_, end_s, _) in pairwise([*starts, (0, duration_s, False)]):
        word = bisect_right(first_characters, character) - 1
        if is_word and word >= 0 and (not spans or word > spans[-1][0]):
            spans.append((word, start_s, end_s))
    times = []
    for (word, start_s, end_s), (following, *_) in pairwise([*spans, (len(words), 0.0, 0.0)]):
        start_s, end_s = (min(max(value, 0.0), duration_s) for value in (start_s, end_s))
        if end_s > start_s:
            times.append((start_s, end_s, " ".join(words[word:following])))
    return times


def make(meld: Path, out: Path, setting: str, settings: dict[str, Any], share: float, jobs: int) -> None:
    """Write the corpus. Raises ValueError if MELD has too few lines for it."""
    available = lines(meld, settings)
    planned = plan(settings, settings["settings"][setting]["words_true"], share)
    rows: list[Row] = []
    waiting = planned
    while waiting:  # an utterance that is too long or too short is spoken again with another line
        chosen = [_next_line(available, item) for item in waiting]
        spoken = speak_all(
            [(item, text) for item, (_, text) in zip(waiting, chosen, strict=True)], settings, jobs
        )
        for item, (dialogue, text), recorded in zip(waiting, chosen, spoken, strict=True):
            if recorded is not None:
                rows.append(Row(item, dialogue, text, recorded))
        waiting = [item for item, recorded in zip(waiting, spoken, strict=True) if recorded is None]
    rows.sort(key=lambda row: row.item.id)
    write_corpus(rows, out, settings)
    print_oracles(rows, settings)
    stamp = {"setting": setting, "share": share, "settings": settings}
    (out / "settings.json").write_text(json.dumps(stamp, indent=1) + "\n", encoding="utf-8")


def further(meld: Path, out: Path, settings: dict[str, Any], share: float, jobs: int) -> None:
    """Write the other lines of MELD's train split as speech without labels, in the voices of train.

    `out` is the folder that `make` wrote. The lines have any of MELD's seven emotions. Their prosody is drawn
    for an emotion that is chosen at random, so it says nothing about the words. No line is equal to a line
    of dev or test, or to one that `make` spoke. Too short and too long ones are left out.
    """
    with (out / "utterances.csv").open(encoding="utf-8") as file:
        spoken_keys = {key_of(row["transcript"]) for row in csv.DictReader(file)}
    everything = lines(meld, settings, None)
    other_splits = {
        key_of(text) for (split, _), items in everything.items() if split != "train" for _, text in items
    }
    candidates = sorted(
        (dialogue, text)
        for (split, _), items in everything.items()
        for dialogue, text in items
        if split == "train" and key_of(text) not in spoken_keys | other_splits
    )
    random.Random(f"{settings['seed']}/further").shuffle(candidates)
    candidates = candidates[: round(share * len(candidates))]
    centres, train_voices = means(settings), voices(settings)["train"]
    chosen = []
    for number, (_, text) in enumerate(candidates):
        rng = random.Random(f"{settings['seed']}/further/{number}/prosody")
        voice, centre = train_voices[number % len(train_voices)], rng.choice(centres)
        z = tuple(float(o + m + rng.gauss(0, 1)) for o, m in zip(voice.offset, centre, strict=True))
        chosen.append((Planned(f"further-{number:04d}", "train", voice, "", "", z), text))
    spoken = speak_all(chosen, settings, jobs)
    rows = [
        Row(item, dialogue, text, recorded)
        for (item, text), (dialogue, _), recorded in zip(chosen, candidates, spoken, strict=True)
        if recorded is not None
    ]
    write_corpus(rows, out, settings, "further")
    print(f"{len(rows)} further lines; {len(chosen) - len(rows)} are too short or too long")


def probe(meld: Path, out: Path, settings: dict[str, Any], jobs: int) -> None:
    """Write the word probe: lines of MELD's test split whose words alone show the emotion, without prosody.

    Tf-idf of words and pairs of words with logistic regression is trained on the train split, with the same
    number of lines of each emotion. The probe has the test lines that it gets right with a probability of
    `least_probability`, as many of each emotion as the rarest has. Several voices of test speak each line,
    with a prosody that is drawn for neutral.
    """
    wanted = settings["probe"]
    available = lines(meld, settings)
    emotions = settings["emotions"]
    count = min(len(available["train", emotion]) for emotion in emotions)
    texts = [text for emotion in emotions for _, text in available["train", emotion][:count]]
    model = make_pipeline(
        TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2)),
        LogisticRegression(C=wanted["inverse_regularisation"], max_iter=3000),
    ).fit(texts, [emotion for emotion in emotions for _ in range(count)])
    certain: dict[str, list[tuple[float, str, str]]] = {}
    for emotion in emotions:
        items = available["test", emotion]
        p = model.predict_proba([text for _, text in items])[:, list(model.classes_).index(emotion)]
        certain[emotion] = sorted(
            ((-value, dialogue, text) for value, (dialogue, text) in zip(p, items, strict=True)
             if value >= wanted["least_probability"])
        )  # fmt: skip
    num_lines = min(map(len, certain.values()))
    neutral = means(settings)[emotions.index("neutral")]
    test_voices = voices(settings)["test"]
    chosen, dialogues = [], []
    for number in range(num_lines * len(emotions)):
        emotion = emotions[number % len(emotions)]
        _, dialogue, text = certain[emotion][number // len(emotions)]
        for time in range(wanted["voices_per_line"]):
            name = f"probe-{number:03d}-{time}"
            rng = random.Random(f"{settings['seed']}/{name}/prosody")
            voice = test_voices[(number * wanted["voices_per_line"] + time) % len(test_voices)]
            z = tuple(float(o + m + rng.gauss(0, 1)) for o, m in zip(voice.offset, neutral, strict=True))
            chosen.append((Planned(name, "test", voice, emotion, emotion, z), text))
            dialogues.append(dialogue)
    spoken = speak_all(chosen, settings, jobs)
    rows = [
        Row(item, dialogue, text, recorded)
        for (item, text), dialogue, recorded in zip(chosen, dialogues, spoken, strict=True)
        if recorded is not None
    ]
    write_corpus(rows, out, settings, "probe")
    print(f"{len(rows)} utterances of {num_lines * len(emotions)} lines")
    print({emotion: len(items) for emotion, items in certain.items()}, "lines are certain enough")


def _next_line(available: dict[tuple[str, str], list[tuple[str, str]]], item: Planned) -> tuple[str, str]:
    remaining = available.get((item.split, item.word_emotion))
    if not remaining:
        raise ValueError(f"MELD has too few {item.word_emotion} lines in {item.split}: lower [count]")
    return remaining.pop()


def write_corpus(rows: list[Row], out: Path, settings: dict[str, Any], name: str = "utterances") -> None:
    """Write OUT/audio, OUT/NAME.csv, and the words and the truth of its utterances beside it."""
    (out / "audio").mkdir(parents=True, exist_ok=True)
    others = "" if name == "utterances" else f"-{name}"
    for row in rows:
        soundfile.write(out / f"audio/{row.item.id}.flac", row.recorded.samples, RATE_HZ, subtype="PCM_16")
    columns = ["id", "path", "speaker", "session", "gender", "language", "emotion", "transcript", "split"]
    utterances = [
        [row.item.id, f"audio/{row.item.id}.flac", row.item.voice.id, row.dialogue, row.item.voice.gender,
         "en", row.item.emotion, row.text, row.item.split]
        for row in rows
    ]  # fmt: skip
    _write_csv(out / f"{name}.csv", columns, utterances)
    words = [
        [row.item.id, f"{start_s:.3f}", f"{end_s:.3f}", text]
        for row in rows
        for start_s, end_s, text in row.recorded.words
    ]
    _write_csv(out / f"words{others}.csv", ["id", "start_s", "end_s", "word"], words)
    emotions = settings["emotions"]
    posteriors = [f"{kind}_{e}" for kind in ("knows", "does_not") for e in emotions]
    knows, does_not = oracles(rows, settings)
    truth = [
        [row.item.id, row.item.emotion, row.item.word_emotion,
         *(f"{value:.6f}" for value in (*row.item.z, *knows[number], *does_not[number]))]
        for number, row in enumerate(rows)
    ]  # fmt: skip
    columns = ["id", "emotion", "word_emotion", *(f"z_{name}" for name in DIMENSIONS), *posteriors]
    _write_csv(out / f"truth{others}.csv", columns, truth)


def _write_csv(path: Path, columns: list[str], rows: list[list[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([columns, *rows])


def oracles(rows: list[Row], settings: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return p(emotion | prosody), (utterances, emotions), with and without knowledge of the voice."""
    z = np.array([row.item.z for row in rows])
    offsets = np.array([row.item.voice.offset for row in rows])
    speaker_sd = np.array([settings["prosody"][name]["speaker_sd"] for name in DIMENSIONS])
    knows = posterior(z - offsets, means(settings), np.ones(len(DIMENSIONS)))
    return knows, posterior(z, means(settings), 1 + speaker_sd**2)


def print_oracles(rows: list[Row], settings: dict[str, Any]) -> None:
    """Print the scores of both oracles on test."""
    emotions = settings["emotions"]
    is_test = np.array([row.item.split == "test" for row in rows])
    truth = np.array([emotions.index(row.item.emotion) for row in rows])
    for name, p in zip(("knows the voice", "does not know the voice"), oracles(rows, settings), strict=True):
        predicted = p.argmax(axis=1)
        recalls = [np.mean(predicted[is_test & (truth == e)] == e) for e in range(len(emotions))]
        ua = 100 * np.mean(recalls)
        print(f"oracle of prosody that {name}: UA {ua:.1f} % over {is_test.sum()} test utterances")


def score(out: Path, grid: Path, taught: Path | None = None) -> None:
    """Print and write the table and the plot of a grid with the oracles, compared to the plain student.

    Students with the linguistic teacher are those of the grid `taught`, where it is given. All is written
    into `grid`.
    """
    from emodistill.console import results
    from emodistill.evaluation.ablation_systems import (
        ORACLES,
        System,
        ensemble_predictions,
        teacher_systems,
    )
    from emodistill.evaluation.ablation_table import make_ablation_table, show_ablation_table
    from emodistill.evaluation.run import read_run

    names = {
        "no-distillation": "plain",
        "prosodic-only": "+ prosodic",
        "linguistic-only": "+ linguistic",
        "full": "+ both",
    }
    runs = {}
    for cell, label in names.items():
        source = grid if cell in ("no-distillation", "prosodic-only") else taught or grid
        cells = source / "cells"
        # In a grid of the prosodic teacher alone, the full method is this cell.
        folder = cells / (cell if (cells / cell).is_dir() or cell != "prosodic-only" else "full")
        runs[label] = [read_run(run) for run in sorted(folder.glob("seed-*"))]
    if empty := [label for label, members in runs.items() if not members]:
        raise SystemExit(
            f"no runs of {', '.join(empty)} in {grid} or {taught}: run `emodistill ablate` first"
        )
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
    if (out / "probe.csv").is_file():
        score_probe(runs, out / "probe.csv", grid)


def score_probe(runs: Mapping[str, Sequence[Run]], manifest: Path, grid: Path) -> None:
    """Print and write how students and the linguistic teacher do on the word probe, compared to plain."""
    from emodistill.console import results
    from emodistill.evaluation.ablation_systems import TEACHERS, System
    from emodistill.evaluation.ablation_table import make_ablation_table, show_ablation_table

    systems = [
        System(label, "students", label, [probe_predictions(run, manifest) for run in members])
        for label, members in runs.items()
    ]
    label = "linguistic teacher"
    teachers = [probe_predictions(run, manifest, "linguistic") for run in runs["+ both"]]
    systems.append(System(label, TEACHERS, label, teachers))
    probed = make_ablation_table(systems, "plain", "plain", distilled="+ both")
    probed.write(grid, "word-probe")
    show_ablation_table(probed, results())


def probe_predictions(run: Run, manifest: Path, model: str = "student") -> Predictions:
    """Return the predictions of a run's model on the word probe, and keep them in the run's folder."""
    from emodistill.evaluation.predictions import Predictions, read_predictions, write_predictions
    from emodistill.training.evaluated_models import CheckpointModel

    path = run.folder / f"word-probe-{model}.csv"
    if path.is_file():
        return read_predictions(path)
    evaluated = CheckpointModel(run.checkpoint_folder(model=model))
    utterances = read_manifest(manifest).utterances
    rows, probabilities = evaluated(utterances)
    used = [utterances[row] for row in rows]
    table = Predictions(
        evaluated.checkpoint.labels,
        tuple(item.id for item in used),
        ("word-probe",) * len(used),
        tuple(item.speaker for item in used),
        tuple(item.emotion or "" for item in used),
        probabilities,
    )
    write_predictions(table, path)
    return read_predictions(path)


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
    adding = verbs.add_parser("further", help="add the other lines of MELD's train split, without labels")
    probing = verbs.add_parser("probe", help="add the word probe: lines whose words alone show the emotion")
    for added in (adding, probing):
        added.add_argument("meld", type=Path, help="folder with the three CSV files of MELD")
        added.add_argument("out", type=Path, help="folder that `make` wrote")
        added.add_argument("--settings", type=Path, default=HERE / "controlled.toml", help="the settings")
        added.add_argument("--jobs", type=int, default=1, help="espeak-ng processes at a time")
    adding.add_argument("--share", type=float, default=1.0, help="add only this share of the lines")
    scoring = verbs.add_parser("score", help="score a grid beside the oracles")
    scoring.add_argument("out", type=Path, help="folder that `make` wrote")
    scoring.add_argument("grid", type=Path, help="folder of `emodistill ablate controlled`")
    scoring.add_argument(
        "--taught", type=Path, metavar="GRID", help="take students with the linguistic teacher from this grid"
    )
    given = parser.parse_args()
    if given.verb == "score":
        return score(given.out, given.grid, given.taught)
    settings = tomllib.loads(given.settings.read_text(encoding="utf-8"))
    if given.verb == "further":
        return further(given.meld, given.out, settings, given.share, given.jobs)
    if given.verb == "probe":
        return probe(given.meld, given.out, settings, given.jobs)
    if given.setting not in settings["settings"]:
        parser.error(f"bad setting '{given.setting}', expected one of {list(settings['settings'])}")
    return make(given.meld, given.out, given.setting, settings, given.share, given.jobs)


if __name__ == "__main__":
    main()
