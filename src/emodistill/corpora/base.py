"""`Utterance`, `Corpus` and `Reader`, and what all readers share: checks of folders and of audio headers."""

import inspect
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import soundfile

from emodistill.audio.decoding import MEDIA_SUFFIXES, SUFFIXES, decode_blocks, open_recording, read_header
from emodistill.citations import Citation
from emodistill.console import with_progress
from emodistill.errors import AudioError, CorpusError, one_of
from emodistill.labels import DIMENSIONS, EMOTIONS, LEFT_OUT, LabelMap, LabelSet, Scale, scale_text

NO_EMOTION = "no emotion"  # why an utterance was dropped, in `Corpus.dropped`


@dataclass(frozen=True)
class Word:
    """A word of an utterance, or several that are spoken as one."""

    start_s: float  # from the start of the utterance
    end_s: float
    text: str


@dataclass(frozen=True)
class Utterance:
    """One labelled speech segment: one row of a manifest."""

    id: str
    speaker: str
    emotion: str | None  # None: the annotators did not agree, or nobody labelled the utterance
    path: Path | None = None  # None: the corpus has text alone
    start_s: float | None = (
        None  # start and end of a segment of a longer recording; None: the whole recording
    )
    end_s: float | None = None
    duration_s: float | None = None  # length of the audio; None: not measured
    session: str | None = None  # recording session or dialogue
    gender: str | None = None  # "female" or "male"
    age: float | None = None  # of the speaker, in years
    language: str | None = None  # ISO 639-1
    transcript: str | None = None
    transcript_source: str | None = None  # "gold", or the name of the speech recogniser that wrote it
    split: str | None = None  # "train", "dev" or "test" where the corpus publishes a split
    arousal: float | None = None  # dimensions in the units of the corpus
    valence: float | None = None
    dominance: float | None = None
    votes: str | None = None  # listeners' votes as JSON, {emotion: count}
    corpus: str | None = None
    intensity: float | None = None  # how strongly the actor was asked to show the emotion, as the dimensions
    scale: Scale | None = None  # lowest and highest possible value of all its dimensions
    words: tuple[Word, ...] = ()  # with their times; a manifest does not have them

    def vote_counts(self) -> dict[str, float]:
        """Return the listeners' votes by emotion; an empty dict where the corpus has none.

        Counts may be fractions. They may sum to more than the number of listeners, who may each have chosen
        several emotions.
        """
        return dict(json.loads(self.votes)) if self.votes else {}

    def dimensions(self) -> dict[str, float]:
        """Return the dimensions that the utterance has, by name, in the units of the corpus."""
        given = {name: getattr(self, name) for name in DIMENSIONS}
        return {name: float(value) for name, value in given.items() if value is not None}

    def unit_dimensions(self) -> dict[str, float]:
        """Return the dimensions that the utterance has, by name, on a scale from 0 to 1.

        Raises `CorpusError` where `scale` is missing, is not a range, or does not hold a value.
        """
        values = self.dimensions()
        if not values:
            return {}
        if self.scale is None:
            given = ", ".join(f"{name} {value:g}" for name, value in values.items())
            raise CorpusError(
                f"'{self.id}' has {given}, but no scale; declare the lowest and the highest possible value: "
                "--scale 1..5, in a recipe corpus.scale = [1, 5], or in the manifest a column scale with 1..5"
            )
        low, high = self.scale
        if not low < high:
            raise CorpusError(
                f"'{self.id}': scale {scale_text(self.scale)} is not a range, expected low < high"
            )
        for name, value in values.items():
            if not low <= value <= high:
                raise CorpusError(
                    f"'{self.id}': {name} is {value:g}, which is outside of its scale "
                    f"{scale_text(self.scale)}; correct the value or the scale"
                )
        return {name: (value - low) / (high - low) for name, value in values.items()}


@dataclass(frozen=True)
class Corpus:
    """A named collection of utterances, with counts of the utterances that were left out and the reasons.

    Raises `CorpusError` for no utterances, for an id that occurs twice, and for an unknown emotion.
    """

    name: str
    utterances: tuple[Utterance, ...]
    dropped: Mapping[str, int] = field(default_factory=dict)  # reason -> number of utterances
    merged: Mapping[str, int] = field(default_factory=dict)  # "excited -> happy" -> number of utterances
    # Rows of the table that the corpus was read from, by id: a number, or a text such as "'text', line 3".
    # Empty for a corpus without a table.
    rows: Mapping[str, int | str] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if not self.utterances:
            raise CorpusError(f"corpus '{self.name}': no utterances left (dropped: {dict(self.dropped)})")
        counts = Counter(utterance.id for utterance in self.utterances)
        repeated = [name for name, count in counts.items() if count > 1]
        if repeated:
            raise CorpusError(
                f"corpus '{self.name}': duplicate id '{repeated[0]}' ({len(repeated)} such ids)"
            )
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
        return LabelSet.from_emotions(
            utterance.emotion for utterance in self if utterance.emotion is not None
        )

    @property
    def speakers(self) -> tuple[str, ...]:
        """The speakers, sorted; numbers in their names are sorted by value."""
        return tuple(sorted({utterance.speaker for utterance in self}, key=natural_sort_key))

    def relabel(
        self, label_map: LabelMap, *, keep_unlabelled: bool = False, keep_voted: bool = False
    ) -> "Corpus":
        """Return the corpus with emotions merged and dropped by a label map; the result counts both.

        Utterances without an emotion are dropped, unless `keep_unlabelled`, or `keep_voted` and they have
        votes. Listeners' votes are merged in the same way. Votes for a dropped emotion stay, because
        listeners gave them.
        """
        kept: list[Utterance] = []
        dropped, merged = Counter(self.dropped), Counter(self.merged)
        for utterance in self:
            emotion = label_map.apply(utterance.emotion)
            stays = keep_unlabelled or (keep_voted and utterance.votes is not None)
            if emotion is None and not (utterance.emotion is None and stays):
                dropped[f"emotion {utterance.emotion}" if utterance.emotion else NO_EMOTION] += 1
                continue
            if emotion != utterance.emotion:
                merged[f"{utterance.emotion} -> {emotion}"] += 1
            votes: defaultdict[str, float] = defaultdict(int)
            for name, count in utterance.vote_counts().items():
                merge = label_map.merges.get(name, name)
                votes[name if merge == LEFT_OUT else merge] += count
            kept.append(replace(utterance, emotion=emotion, votes=json.dumps(votes) if votes else None))
        return replace(self, utterances=tuple(kept), dropped=dict(dropped), merged=dict(merged))


@dataclass(frozen=True)
class Reader:
    """One corpus that can be read from its folder, with all facts about it.

    Each module of `emodistill.corpora.readers` defines one or more. The first paragraph of the module's
    docstring names the corpus; paragraphs that begin with `Layout:` and `Quirks:` follow. `docs/corpora.md`
    is written from these facts and from the docstring.
    """

    name: str  # in recipes and on the command line, such as "ravdess"
    read: Callable[[Path], Corpus]  # from the folder as the authors distribute it, without opening audio
    languages: Mapping[str, str]  # ISO 639-1 code -> English name; the codes that `read` writes
    licence: str  # as the authors state it
    url: str | None  # where the authors offer the corpus; None: the corpus comes with this package
    citation: Citation | str  # a text that says so where there is no publication
    utterances: str  # this and the next two: counts, as the table of docs/corpora.md shows them
    speakers: str
    emotions: str
    tested_on: str  # "real corpus", or the fake folder that the reader was tested with
    default_labels: str = "own"  # name of the label map that `read_corpus` applies
    packaged: Path | None = None  # the corpus's folder, if it comes with this package
    dimensions: tuple[str, ...] = ()  # the dimensions that `read` fills, in the order of `DIMENSIONS`
    scale: Scale | None = None  # of these dimensions

    @property
    def description(self) -> str:
        """The docstring of the reader's module, without indentation."""
        return inspect.getdoc(inspect.getmodule(self.read)) or ""


def most_frequent(votes: Mapping[str, float]) -> str | None:
    """Return the emotion with most votes; None for a tie, and without votes."""
    winners = [emotion for emotion, count in votes.items() if count == max(votes.values())]
    return winners[0] if len(winners) == 1 else None


def vote_distribution(votes: Mapping[str, float], labels: LabelSet) -> list[float] | None:
    """Return the share of each emotion of a label set in the votes; None where no vote is for one of them.

    Votes for other emotions are left out, and the shares of the rest sum to 1.
    """
    counts = [float(votes.get(name, 0)) for name in labels]
    total = sum(counts)
    return [count / total for count in counts] if total else None


MAX_DIGITS = 4300  # of a number in a name


def natural_sort_key(name: str) -> list[tuple[int, str]]:
    """Return a sorting key that takes the numbers in a name by value: s2 sorts before s10.

    Python converts no number of over `MAX_DIGITS`: it is text.
    """
    return [
        (int(part), "") if part.isdecimal() and len(part) <= MAX_DIGITS else (-1, part)
        for part in re.split(r"(\d+)", name)
    ]


def check_root(root: Path, name: str, expected: str, *patterns: str) -> Path:
    """Return the corpus folder after checking that it exists and holds the files that a reader needs.

    `patterns` are globs relative to `root`, and each must match something. `expected` describes the layout in
    the error message. Raises `CorpusError`.
    """
    root = Path(root)
    if not root.is_dir():
        raise CorpusError(f"{name}: no folder '{root}'; expected {expected}")
    for pattern in patterns:
        if next(root.glob(pattern), None) is None:
            raise CorpusError(f"{name}: '{root}' holds no '{pattern}'; expected {expected}")
    return root


def audio_files(root: Path, pattern: str = "**/*") -> dict[str, Path]:
    """Return the audio files below `root` that match a glob, by stem, sorted; all known suffixes count.

    Raises `CorpusError` where two files have the same stem, because readers make ids from stems. Where stems
    repeat by design, call this for each folder.
    """
    paths: dict[str, Path] = {}
    for path in sorted(root.glob(pattern)):
        if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
            continue
        if path.stem in paths:
            raise CorpusError(
                f"two audio files named '{path.stem}': '{paths[path.stem]}' and '{path}'; expected one, so "
                "remove the copy"
            )
        paths[path.stem] = path
    return paths


def drop_bad_audio(corpus: Corpus, *, measure: bool = False) -> tuple[Corpus, list[str]]:
    """Leave out utterances whose audio is missing, broken or empty, and fill `duration_s` of the others.

    Only headers are read. An utterance with a duration has been measured: its file must exist, and is opened
    only with `measure`. Returns the remaining corpus, which counts the dropped utterances by reason, and one
    message for each of them. Raises `CorpusError` where no utterance remains.
    """
    kept: list[Utterance] = []
    problems: list[str] = []
    dropped = Counter(corpus.dropped)
    for utterance in with_progress(corpus, "read audio headers", len(corpus)):
        try:
            kept.append(
                utterance if utterance.path is None else _measured(utterance, utterance.path, measure)
            )
        except AudioError as error:
            dropped[str(error).split(":")[0]] += 1
            row = corpus.rows.get(utterance.id)
            place = f"row {row}" if isinstance(row, int) else row
            where = f"'{utterance.id}'" if place is None else f"{place}, '{utterance.id}'"
            problems.append(f"{where}: {error} ({utterance.path})")
    if not kept:
        hint = ""
        if any(isinstance(row, int) for row in corpus.rows.values()):
            hint = "; 'emodistill corpus prepare csv TABLE --root FOLDER' reads paths that start elsewhere"
        raise CorpusError(
            f"corpus '{corpus.name}': no utterance has audio that can be read; the first is "
            f"{problems[0]}{hint}"
        )
    return replace(corpus, utterances=tuple(kept), dropped=dict(dropped)), problems


def audio_duration_s(utterance: Utterance) -> float:
    """Return the length of an utterance's audio in seconds; 0 without audio.

    It is `duration_s`, else it is read from the file's header. Raises `CorpusError` where the audio is
    missing or broken.
    """
    if utterance.path is None:
        return 0.0
    if utterance.duration_s is not None:
        return utterance.duration_s
    if not utterance.path.is_file():
        raise CorpusError(f"'{utterance.id}': audio missing at '{utterance.path}'")
    try:
        length_s = _file_length_s(utterance.path)
    except AudioError as error:
        raise CorpusError(f"'{utterance.id}': audio broken at '{utterance.path}': {error}") from error
    return min(utterance.end_s or length_s, length_s) - (utterance.start_s or 0.0)


def _measured(utterance: Utterance, path: Path, measure: bool) -> Utterance:
    """Return the utterance with the length of its audio; raises `AudioError` where it is unusable."""
    if not path.is_file():
        raise AudioError("audio missing")
    if utterance.duration_s and not measure and path.stat().st_size:
        return utterance
    try:
        length_s = _file_length_s(path)
    except AudioError as error:
        raise AudioError(f"audio broken: {error}") from error
    if not length_s:
        raise AudioError("audio zero-length")
    start_s, end_s = utterance.start_s or 0.0, utterance.end_s
    if not 0.0 <= start_s < length_s:
        raise AudioError(f"segment outside audio: starts at {start_s} s of {length_s:.2f} s")
    if end_s is not None and end_s <= start_s:
        raise AudioError(f"segment empty: starts at {start_s} s, ends at {end_s} s")
    return replace(utterance, duration_s=min(end_s or length_s, length_s) - start_s)


def _file_length_s(path: Path) -> float:
    """Return the length of a recording from its header; a recording without one is decoded."""
    try:
        with open_recording(path) as file:
            return float(file.frames / file.samplerate)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        header = read_header(path)
        length_s = None if header is None else header.duration_s
        if header is not None and length_s is None:
            length_s = sum(len(frames) / rate_hz for rate_hz, frames in decode_blocks(path, path.name))
        if not length_s:
            is_media = header is None and path.suffix.lower() in MEDIA_SUFFIXES
            hint = f"; for {path.suffix}: pip install 'emodistill[media]'" if is_media else ""
            raise AudioError(f"{error}{hint}") from error
        return length_s
