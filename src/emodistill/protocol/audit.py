"""The audit of folds. It refuses a speaker, an utterance or an identical recording in two splits."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from emodistill.audio.waveform import FRAME_SAMPLES, Waveform, load, peak_normalise
from emodistill.console import progress
from emodistill.corpora import Corpus, Utterance
from emodistill.errors import AudioError, CorpusError, LeakError
from emodistill.protocol.folds import SPLITS, Fold, Protocol

_NUM_PARTS = 32  # parts of a recording whose mean levels make its envelope
_TRIM_DB = (35.0, 30.0, 25.0)  # below the peak; see `identical_recordings`
# Largest difference of identical recordings, relative to the peak. 16-bit rounding of a recording at a tenth
# of full scale stays below it.
_TOLERANCE = 1e-3
_NUM_LISTED = 5  # leaks that a message names


@dataclass(frozen=True)
class Audit:
    """The result of an audit that found no leak."""

    num_utterances: int
    duplicates: tuple[tuple[str, str], ...]  # identical recordings, inside one split in every fold
    shared_transcripts: Mapping[str, float]  # fold -> share of test transcripts that are also in training


def audit_protocol(corpus: Corpus, protocol: Protocol, workers: int = 1) -> Audit:
    """Check the folds of a protocol for leaks, with `workers` threads.

    A leak is a speaker, an utterance or an identical recording in two splits of a fold. A dev split that
    equals the test split is a leak too. Raises `LeakError`, which names the first leaks, and `CorpusError`
    for an id that the corpus lacks.
    """
    by_id = {utterance.id: utterance for utterance in corpus}
    for fold in protocol.folds:
        _check_ids(fold, by_id)
        if "speaker" not in protocol.allowed:
            _check_speakers(fold, by_id)
    duplicates = identical_recordings(corpus, workers)
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
    return Audit(len(corpus), tuple(duplicates), known)


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


def _shared_transcripts(fold: Fold, by_id: Mapping[str, Utterance]) -> float | None:
    """Return the share of test transcripts that are also in training; None without test transcripts."""

    def normalised_transcripts(split: str) -> list[str]:
        transcripts = (by_id[name].transcript for name in fold.split(split))
        return [" ".join(transcript.lower().split()) for transcript in transcripts if transcript]

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
    spoken = [utterance for utterance in corpus if utterance.path is not None]
    bar, task = progress("audit of recordings", len(spoken))
    fingerprints = []
    with bar, ThreadPoolExecutor(workers) as pool:
        for by_threshold in pool.map(_fingerprints, spoken):
            fingerprints.append(by_threshold)
            bar.advance(task)
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


def _fingerprints(utterance: Utterance) -> list[tuple[int, np.ndarray]]:
    """Return length in samples and envelope (32,) at each threshold of `_TRIM_DB` that leaves 10 ms.

    The list is empty where the audio cannot be read.
    """
    try:
        waveform = _load_trimmed(utterance, _TRIM_DB[0])
    except AudioError:
        return []
    fingerprints: list[tuple[int, np.ndarray]] = []
    for trim_db in _TRIM_DB:
        level = np.abs(_trim(waveform, trim_db))
        if len(level) < FRAME_SAMPLES:
            break
        bounds = np.linspace(0, len(level), _NUM_PARTS + 1).astype(int)[:-1]
        fingerprints.append((len(level), np.add.reduceat(level, bounds) / (len(level) / _NUM_PARTS)))
    return fingerprints
