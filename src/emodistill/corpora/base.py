"""Utterance, Corpus, and the manifest `utterances.csv` that every later stage reads."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import soundfile

from emodistill.audio.decoding import SUFFIXES, open_recording
from emodistill.errors import CorpusError, one_of
from emodistill.labels import EMOTIONS, LabelMap, LabelSet


@dataclass(frozen=True)
class Utterance:
    """One labelled speech segment. `path` is None where a corpus has text alone."""

    id: str
    speaker: str
    emotion: str | None  # None: the annotators did not agree, or nobody labelled it
    path: Path | None = None
    start_s: float | None = None  # a segment of a longer recording; None: all of it
    end_s: float | None = None
    duration_s: float | None = None  # of the audio; None: not measured
    session: str | None = None  # recording session or dialogue
    gender: str | None = None  # "female" or "male"
    language: str | None = None  # ISO 639-1
    transcript: str | None = None
    transcript_source: str | None = None  # "gold", or the name of the recogniser that wrote it
    split: str | None = None  # "train", "dev" or "test" where the corpus publishes one
    arousal: float | None = None
    valence: float | None = None
    dominance: float | None = None
    votes: str | None = None  # listeners' votes as JSON, {emotion: count}
    corpus: str | None = None

    def vote_counts(self) -> dict[str, int]:
        """The listeners' votes by emotion; empty where the corpus has none."""
        return dict(json.loads(self.votes)) if self.votes else {}


@dataclass(frozen=True)
class Corpus:
    """A named collection of utterances, with a count of everything that was left out and why."""

    name: str
    utterances: tuple[Utterance, ...]
    dropped: Mapping[str, int] = field(default_factory=dict)  # reason -> count
    merged: Mapping[str, int] = field(default_factory=dict)  # "excited -> happy" -> count

    def __post_init__(self) -> None:
        if not self.utterances:
            raise CorpusError(f"corpus '{self.name}': no utterances left (dropped: {dict(self.dropped)})")
        counts = Counter(utterance.id for utterance in self.utterances)
        twice = [name for name, count in counts.items() if count > 1]
        if twice:
            raise CorpusError(f"corpus '{self.name}': duplicate id '{twice[0]}' ({len(twice)} such ids)")
        for utterance in self.utterances:
            if utterance.emotion is not None and utterance.emotion not in EMOTIONS:
                raise CorpusError(
                    f"corpus '{self.name}', '{utterance.id}': "
                    + one_of("emotion", utterance.emotion, EMOTIONS)
                )

    def __len__(self) -> int:
        return len(self.utterances)

    def __iter__(self) -> Iterator[Utterance]:
        return iter(self.utterances)

    @property
    def labels(self) -> LabelSet:
        """The emotions that occur, in canonical order."""
        return LabelSet.of(utterance.emotion for utterance in self if utterance.emotion is not None)

    @property
    def speakers(self) -> tuple[str, ...]:
        """The speakers, sorted, numbers by value."""
        return tuple(sorted({utterance.speaker for utterance in self}, key=natural_sort_key))

    def relabel(self, label_map: LabelMap) -> "Corpus":
        """Merge and drop emotions by a label map; both are counted in the result.

        Listeners' votes are merged likewise, and none is dropped: one for an emotion that is left out was no vote for the label.
        """
        kept: list[Utterance] = []
        dropped, merged = Counter(self.dropped), Counter(self.merged)
        for utterance in self:
            emotion = label_map.apply(utterance.emotion)
            if emotion is None:
                dropped[f"emotion {utterance.emotion or 'not agreed'}"] += 1
                continue
            if emotion != utterance.emotion:
                merged[f"{utterance.emotion} -> {emotion}"] += 1
            votes: Counter[str] = Counter()
            for name, count in utterance.vote_counts().items():
                votes[label_map.merges.get(name, name)] += count
            kept.append(replace(utterance, emotion=emotion, votes=json.dumps(votes) if votes else None))
        return Corpus(self.name, tuple(kept), dict(dropped), dict(merged))


def natural_sort_key(name: str) -> list[tuple[int, str]]:
    """A sorting key that takes the numbers in a name by value: s2 before s10."""
    return [(int(part or 0), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def check_root(root: Path, name: str, expected: str, *patterns: str) -> Path:
    """The corpus folder, after making sure that it exists and holds what a reader needs.

    `patterns` are globs relative to `root`; each must match something. `expected` describes the
    layout in the error message.
    """
    root = Path(root)
    if not root.is_dir():
        raise CorpusError(f"{name}: no folder '{root}'; expected {expected}")
    for pattern in patterns:
        if next(root.glob(pattern), None) is None:
            raise CorpusError(f"{name}: '{root}' holds no '{pattern}'; expected {expected}")
    return root


def audio_files(root: Path, pattern: str = "**/*") -> dict[str, Path]:
    """Audio files below `root` that match a glob, by stem, sorted; any of the known suffixes.

    Raises `CorpusError` where two files have one stem, since ids are made of stems.
    """
    found: dict[str, Path] = {}
    for path in sorted(root.glob(pattern)):
        if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
            continue
        if path.stem in found:
            raise CorpusError(f"two audio files named '{path.stem}': '{found[path.stem]}' and '{path}'")
        found[path.stem] = path
    return found


def drop_bad_audio(corpus: Corpus) -> tuple[Corpus, list[str]]:
    """Leave out utterances whose audio is missing, unreadable or empty; count and describe each.

    Reads headers alone. Returns the corpus that remains and one message a row left out.
    """
    kept: list[Utterance] = []
    problems: list[str] = []
    dropped = Counter(corpus.dropped)
    for row, utterance in enumerate(corpus, start=1):
        reason = None if utterance.path is None else _audio_problem(utterance)
        if reason is None:
            kept.append(utterance)
        else:
            dropped[reason.split(":")[0]] += 1
            problems.append(f"row {row}, '{utterance.id}': {reason} ({utterance.path})")
    return Corpus(corpus.name, tuple(kept), dict(dropped), corpus.merged), problems


def audio_duration_s(utterance: Utterance) -> float:
    """The length of an utterance's audio by its header, in seconds; 0 where it has none.

    Raises `CorpusError` where the audio is missing or broken.
    """
    if utterance.path is None:
        return 0.0
    if not utterance.path.is_file():
        raise CorpusError(f"'{utterance.id}': audio missing at '{utterance.path}'")
    try:
        with open_recording(utterance.path) as file:
            whole = file.frames / file.samplerate
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise CorpusError(f"'{utterance.id}': audio broken at '{utterance.path}': {error}") from error
    return min(utterance.end_s or whole, whole) - (utterance.start_s or 0.0)


def _audio_problem(utterance: Utterance) -> str | None:
    path = utterance.path
    if path is None or not path.is_file():
        return "audio missing"
    try:
        with open_recording(path) as file:
            length_s = file.frames / file.samplerate
    except (soundfile.LibsndfileError, RuntimeError) as error:
        return f"audio broken: {error}"
    if not length_s:
        return "audio zero-length"
    start_s = utterance.start_s or 0.0
    if not 0.0 <= start_s < length_s:
        return f"segment outside audio: starts at {start_s} s of {length_s:.2f} s"
    if utterance.end_s is not None and utterance.end_s <= start_s:
        return f"segment empty: starts at {start_s} s, ends at {utterance.end_s} s"
    return None


# --- manifests ---------------------------------------------------------------------------------
