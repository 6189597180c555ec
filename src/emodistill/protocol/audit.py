"""The audit of folds. It refuses a speaker, an utterance or an identical recording in two splits."""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from emodistill.audio.waveform import FRAME_SAMPLES, Waveform, from_samples, load, load_frames, peak_normalise
from emodistill.config import ProtocolConfig
from emodistill.console import progress, warn
from emodistill.corpora import Corpus, Utterance
from emodistill.errors import AudioError, CorpusError, LeakError
from emodistill.labels import LabelSet
from emodistill.protocol.dimensions import Dimensions, check_dimensions
from emodistill.protocol.fixed_lists import LIST_NOTES
from emodistill.protocol.folds import SPLITS, Fold, Protocol
from emodistill.protocol.levels import Level, measure_level

_NUM_PARTS = 32  # parts of a recording whose mean levels make its envelope
_TRIM_DB = (35.0, 30.0, 25.0)  # below the peak; see `identical_recordings`
# Largest difference of identical recordings, relative to the peak. 16-bit rounding of a recording at a tenth
# of full scale stays below it.
_TOLERANCE = 1e-3
_NUM_LISTED = 5  # leaks or folds that a message names
RARE = 10  # utterances of an emotion; below this the audit warns


@dataclass(frozen=True)
class Audit:
    """The result of an audit that found no leak."""

    num_utterances: int
    duplicates: tuple[tuple[str, str], ...]  # identical recordings, inside one split in every fold
    shared_transcripts: Mapping[str, float]  # fold -> share of test transcripts that are also in training
    levels: Mapping[str, Level]  # utterance -> level of its audio, where it could be read
    dimensions: Dimensions  # of each split of each fold; without entries where the recipe asks for none


def audit_protocol(
    corpus: Corpus,
    protocol: Protocol,
    workers: int = 1,
    further: Sequence[Utterance] = (),
    dimensions: Sequence[str] = (),
) -> Audit:
    """Check the folds of a protocol for leaks, and measure the recordings, with `workers` threads.

    A leak is a speaker, an utterance or an identical recording in two splits of a fold. A dev split that
    equals the test split is a leak too. So is a held-out recording in `further` under the name of another
    speaker and with other words. `further` has the further speech of a recipe and the utterances with votes
    alone.

    Raises `LeakError`, which names the first leaks, and `CorpusError` for an id that the corpus lacks. Also
    `ConfigError` where no training utterance of a fold has one of the `dimensions`.
    """
    by_id = {utterance.id: utterance for utterance in corpus}
    for fold in protocol.folds:
        _check_ids(fold, by_id)
        if "speaker" not in protocol.allowed:
            _check_speakers(fold, by_id)
    counts = check_dimensions(corpus, protocol, dimensions)
    recordings = _read_recordings((*corpus, *further), workers)
    pairs = _identical(recordings)
    _check_further(pairs, {utterance.id: utterance for utterance in further}, by_id, protocol)
    duplicates = [pair for pair in pairs if pair[0] in by_id and pair[1] in by_id]
    for fold in protocol.folds:
        split_of = {name: split for split in SPLITS for name in fold.split(split)}
        crossing = [
            f"'{a}' ({split_of[a]}) = '{b}' ({split_of[b]})"
            for a, b in duplicates
            if a in split_of and b in split_of and split_of[a] != split_of[b]
        ]
        _raise_if_any(crossing, f"fold {fold.name}: identical recordings in two splits")
    shared = {fold.name: _shared_transcripts(fold, by_id) for fold in protocol.folds}
    known = {name: share for name, share in shared.items() if share is not None}
    levels = {item.utterance.id: item.level for item in recordings if item.level is not None}
    return Audit(len(corpus), tuple(duplicates), known, levels, counts)


ClassCounts = Mapping[str, Mapping[str, Counter[str]]]  # fold -> split -> emotion -> number of utterances


def count_classes(utterances: Iterable[Utterance], protocol: Protocol) -> ClassCounts:
    """Return the number of utterances of each emotion in each split of each fold."""
    emotion_of = {utterance.id: utterance.emotion or "none" for utterance in utterances}
    return {
        fold.name: {split: Counter(emotion_of[name] for name in fold.split(split)) for split in SPLITS}
        for fold in protocol.folds
    }


def absent_from_training(utterances: Iterable[Utterance], protocol: Protocol) -> dict[str, tuple[str, ...]]:
    """Return the emotions that occur in a fold's dev or test split but not in its training split, by fold.

    Folds without such an emotion are left out.
    """
    absent = {
        fold: tuple(sorted((splits["dev"].keys() | splits["test"].keys()) - splits["train"].keys()))
        for fold, splits in count_classes(utterances, protocol).items()
    }
    return {fold: emotions for fold, emotions in absent.items() if emotions}


def class_warnings(utterances: Collection[Utterance], protocol: Protocol) -> tuple[str, ...]:
    """Return a warning for each emotion that is absent from a split, or rare in one.

    Rare means fewer than `RARE` utterances in the training split of a fold, or in all test splits together.
    An emotion that no split has is not counted: the corpus has it only in utterances that no fold uses.
    """
    counts = count_classes(utterances, protocol)
    emotions = LabelSet.from_emotions(u.emotion for u in utterances if u.emotion is not None)
    used = [name for name in emotions if any(s[name] for splits in counts.values() for s in splits.values())]
    consequences = {
        "train": "a model that trains without it gives it a recall of about 0",
        "dev": "the epoch is chosen without it",
        "test": "UA of such a fold is the mean over the other emotions",
    }
    warnings = []
    for emotion in used:
        for split, consequence in consequences.items():
            absent = [fold for fold, splits in counts.items() if not splits[split][emotion]]
            if absent:
                warnings.append(f"no '{emotion}' in {split} of {_named_folds(absent, counts)}: {consequence}")
        rare = {fold: n for fold, splits in counts.items() if 0 < (n := splits["train"][emotion]) < RARE}
        if rare:
            fewest, most = min(rare.values()), max(rare.values())
            warnings.append(
                f"fewer than {RARE} training utterances of '{emotion}' in {_named_folds(rare, counts)}: "
                + (f"{fewest}" if fewest == most else f"{fewest} to {most}")
            )
        tested = sum(splits["test"][emotion] for splits in counts.values())
        if 0 < tested < RARE:
            warnings.append(
                f"fewer than {RARE} test utterances of '{emotion}' in all folds together: {tested}; "
                f"one of them moves its recall by {100 / tested:.0f} points"
            )
    return tuple(warnings)


def notes_for_scores(
    utterances: Iterable[Utterance], protocol: Protocol, config: ProtocolConfig
) -> tuple[str, ...]:
    """Return what a reader of a run's scores must know about its folds.

    These are the emotions that a fold tests without any training utterance, the utterances that several folds
    or no fold tests, and the note on a fixed list. With `config.refit` the final model also trains on dev.
    """
    trained = ("train", "dev") if config.refit else ("train",)
    counts = count_classes(utterances, protocol)
    folds_without: dict[str, list[str]] = defaultdict(list)
    for fold, splits in counts.items():
        for emotion in sorted(splits["test"]):
            if not any(splits[split][emotion] for split in trained):
                folds_without[emotion].append(fold)
    notes = [
        f"'{emotion}' is in test but not in training of {_named_folds(folds, counts)}. The model cannot know "
        "it there: its recall is about 0, which UA includes."
        for emotion, folds in folds_without.items()
    ]
    return (*notes, *uneven_tests(protocol), *list_notes(config))


def uneven_tests(protocol: Protocol) -> list[str]:
    """Return notes on utterances that several folds test, or no fold, and on folds that leave some out."""
    tested = Counter(name for fold in protocol.folds for name in fold.test)
    everything = {name for fold in protocol.folds for split in SPLITS for name in fold.split(split)}
    notes = []
    if repeated := sum(count > 1 for count in tested.values()):
        notes.append(
            f"{repeated} utterances are tested in more than one fold, and pooled scores count each of them "
            "once for each fold"
        )
    if len(protocol.folds) > 1 and (untested := len(everything - tested.keys())):
        notes.append(f"{untested} of {len(everything)} utterances are tested in no fold")
    sizes = [sum(len(fold.split(split)) for split in SPLITS) for fold in protocol.folds]
    if min(sizes) < max(sizes):
        notes.append(f"the folds use {min(sizes)} to {max(sizes)} of {len(everything)} utterances")
    return notes


def list_notes(config: ProtocolConfig) -> tuple[str, ...]:
    """Return the note on the fixed list of a protocol, if it has one."""
    listed = config.fixed if config.kind == "fixed" else None
    return (LIST_NOTES[listed],) if listed is not None and listed in LIST_NOTES else ()


def _named_folds(folds: Collection[str], of: Collection[str]) -> str:
    """Return folds in words: the first ones by name, and how many of all they are."""
    names = list(folds)
    if len(of) == 1:
        return f"fold {names[0]}"
    if len(names) == len(of):
        return f"all {len(of)} folds"
    more = ", …" if len(names) > _NUM_LISTED else ""
    return f"{len(names)} of {len(of)} folds ({', '.join(names[:_NUM_LISTED])}{more})"


def ids_of(utterance: Utterance, corpus: str) -> set[str]:
    """Return the ids under which a model may know an utterance.

    Pooled corpora put the name of the corpus before an id, so an id counts with and without it. `corpus` is
    the name of the whole corpus.
    """
    ids = {utterance.id}
    for name in {utterance.corpus or corpus, corpus}:
        ids |= {f"{name}/{utterance.id}", utterance.id.removeprefix(f"{name}/")}
    return ids


def warn_of_equal_ids(training_ids: Iterable[str], utterances: Iterable[Utterance], model: str) -> None:
    """Warn where a model learned from ids that differ from those of a corpus in the corpus's name alone."""
    known = {name.rpartition("/")[2]: name for name in sorted(training_ids)}
    equal = [(item.id, known[bare]) for item in utterances if (bare := item.id.rpartition("/")[2]) in known]
    if equal:
        own, other = equal[0]
        warn(
            f"{len(equal)} utterances have ids that {model} was trained or chosen on in another corpus, such "
            f"as '{own}' here and '{other}' there. If they are the same recordings, the scores are not those "
            "of unseen speakers: name the corpus in the column 'corpus'"
        )


def audit_teacher(training_ids: Iterable[str], held_out_ids: Iterable[str], teacher: str) -> None:
    """Raise `LeakError` where a teacher was trained on an utterance that the student is tested on."""
    both = sorted(set(training_ids) & set(held_out_ids))
    _raise_if_any([f"'{name}'" for name in both], f"the {teacher} teacher was trained on held-out utterances")


def _raise_if_any(leaks: Sequence[str], kind: str) -> None:
    if leaks:
        more = f", and {len(leaks) - _NUM_LISTED} more" if len(leaks) > _NUM_LISTED else ""
        raise LeakError(f"{kind}: {', '.join(leaks[:_NUM_LISTED])}{more}")


def _check_ids(fold: Fold, by_id: Mapping[str, Utterance]) -> None:
    for split in SPLITS:
        if not fold.split(split):
            raise LeakError(f"fold {fold.name}: the {split} split is empty")
        unknown = [name for name in fold.split(split) if name not in by_id]
        if unknown:
            raise CorpusError(f"fold {fold.name}, {split}: the corpus has no utterance '{unknown[0]}'")
    if set(fold.dev) == set(fold.test):
        raise LeakError(f"fold {fold.name}: dev and test are the same utterances")
    for one, two in combinations(SPLITS, 2):
        both = sorted(set(fold.split(one)) & set(fold.split(two)))
        _raise_if_any([f"'{name}'" for name in both], f"fold {fold.name}: utterances in both {one} and {two}")


def _check_speakers(fold: Fold, by_id: Mapping[str, Utterance]) -> None:
    for one, two in combinations(SPLITS, 2):
        first = {by_id[name].speaker: name for name in fold.split(one)}
        second = {by_id[name].speaker: name for name in fold.split(two)}
        both = [
            f"speaker '{speaker}' ('{first[speaker]}', '{second[speaker]}')"
            for speaker in sorted(first.keys() & second.keys())
        ]
        _raise_if_any(both, f"fold {fold.name}: speakers in both {one} and {two}")


def _check_further(
    pairs: Iterable[tuple[str, str]],
    further: Mapping[str, Utterance],
    by_id: Mapping[str, Utterance],
    protocol: Protocol,
) -> None:
    """Raise where further speech, or a tie, has a held-out recording that no rule of training leaves out.

    Training leaves out both of held-out speakers, and further speech with the words of held-out utterances.
    """
    held_out = {name for fold in protocol.folds for name in (*fold.dev, *fold.test)}
    leaks = []
    for pair in pairs:
        # The corpus comes first in what is compared, so the further one of a mixed pair is the second.
        own, other = by_id.get(pair[0]), further.get(pair[1])
        if own is None or other is None or own.id not in held_out:
            continue
        words = [sentence_key(item.transcript or "") for item in (own, other)]
        # Utterances with votes alone are left out by their speaker, not by their words.
        has_other_words = other.votes is not None or words[0] != words[1]
        if own.speaker != other.speaker and has_other_words:
            leaks.append(f"'{other.id}' = '{own.id}'")
    _raise_if_any(
        leaks,
        "corpus.further or utterances with votes alone have recordings of dev or test utterances under other "
        "names",
    )


def sentence_key(transcript: str) -> str:
    """Return a transcript without case, punctuation and repeated spaces. Equal sentences have equal keys."""
    spoken = (sign for sign in transcript.lower() if not unicodedata.category(sign).startswith("P"))
    return " ".join("".join(spoken).split())


def _shared_transcripts(fold: Fold, by_id: Mapping[str, Utterance]) -> float | None:
    """Return the share of test transcripts that are also in training; None without test transcripts."""

    def normalised_transcripts(split: str) -> list[str]:
        transcripts = (by_id[name].transcript for name in fold.split(split))
        return [sentence_key(transcript) for transcript in transcripts if transcript]

    test, train = normalised_transcripts("test"), set(normalised_transcripts("train"))
    return sum(transcript in train for transcript in test) / len(test) if test else None


def identical_recordings(corpus: Corpus, workers: int = 1) -> list[tuple[str, str]]:
    """Return pairs of ids of utterances with equal PCM after trimming silence and peak normalisation.

    Silence is the part before the first and after the last sample within 35 dB of the peak. So a copy is
    found wherever it was cut, and at any gain. Pairs of equal length and equal envelope are compared sample
    by sample, with a tolerance for 16-bit rounding. Rounding may also move the first or last sample across
    the threshold, so 30 and 25 dB are tried too. Audio that cannot be read is skipped: later stages report
    it.
    """
    return _identical(_read_recordings(corpus.utterances, workers))


@dataclass(frozen=True)
class _Recording:
    """What the audit keeps of an utterance's audio. Without audio that can be read it is empty."""

    utterance: Utterance
    # Length in samples and envelope (32,) at each threshold of `_TRIM_DB` that leaves 10 ms.
    fingerprints: tuple[tuple[int, np.ndarray], ...] = ()
    level: Level | None = None


def _read_recordings(utterances: Sequence[Utterance], workers: int) -> list[_Recording]:
    """Read the audio of utterances once, with a progress bar, in `workers` threads."""
    spoken = [utterance for utterance in utterances if utterance.path is not None]
    bar, task = progress("audit of recordings", len(spoken))
    recordings = []
    with bar, ThreadPoolExecutor(workers) as pool:
        for recording in pool.map(_read_recording, spoken):
            recordings.append(recording)
            bar.advance(task)
    return recordings


def _identical(recordings: Sequence[_Recording]) -> list[tuple[str, str]]:
    spoken = [item.utterance for item in recordings]
    fingerprints = [item.fingerprints for item in recordings]
    pairs: set[tuple[int, int]] = set()
    for level, trim_db in enumerate(_TRIM_DB):
        by_length: dict[int, list[tuple[int, np.ndarray]]] = defaultdict(list)
        for index, by_threshold in enumerate(fingerprints):
            if level < len(by_threshold):
                length, envelope = by_threshold[level]
                by_length[length].append((index, envelope))
        for candidates in by_length.values():
            for (a, one), (b, two) in combinations(candidates, 2):
                if (a, b) in pairs or np.abs(one - two).max() > _TOLERANCE:
                    continue
                difference = _load_trimmed(spoken[a], trim_db) - _load_trimmed(spoken[b], trim_db)
                if np.abs(difference).max() < _TOLERANCE:
                    pairs.add((a, b))
    return [(spoken[a].id, spoken[b].id) for a, b in sorted(pairs)]


def _load_trimmed(utterance: Utterance, trim_db: float) -> Waveform:
    assert utterance.path is not None
    return _trim(peak_normalise(load(utterance.path, utterance.start_s, utterance.end_s)), trim_db)


def _trim(waveform: Waveform, trim_db: float) -> Waveform:
    """Cut a waveform with a peak of 1 before the first and after the last sample within `trim_db` of it."""
    loud = np.flatnonzero(np.abs(waveform) >= 10 ** (-trim_db / 20))
    return waveform[loud[0] : loud[-1] + 1] if loud.size else waveform[:0]


def _read_recording(utterance: Utterance) -> _Recording:
    assert utterance.path is not None
    try:
        rate_hz, frames = load_frames(utterance.path, utterance.start_s, utterance.end_s)
        waveform = from_samples(frames, rate_hz)
    except AudioError:
        return _Recording(utterance)
    normalised = peak_normalise(waveform)
    fingerprints: list[tuple[int, np.ndarray]] = []
    for trim_db in _TRIM_DB:
        trimmed = np.abs(_trim(normalised, trim_db))
        if len(trimmed) < FRAME_SAMPLES:
            break
        bounds = np.linspace(0, len(trimmed), _NUM_PARTS + 1).astype(int)[:-1]
        fingerprints.append((len(trimmed), np.add.reduceat(trimmed, bounds) / (len(trimmed) / _NUM_PARTS)))
    return _Recording(utterance, tuple(fingerprints), measure_level(waveform, frames))
