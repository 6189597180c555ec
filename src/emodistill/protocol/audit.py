"""The audit that refuses leakage: speakers, utterances and recordings in two splits."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from emodistill.audio.waveform import FRAME_SAMPLES, Waveform, load, peak_normalise
from emodistill.console import progress
from emodistill.corpora import Corpus, Utterance
from emodistill.errors import AudioError, CorpusError, LeakError
from emodistill.protocol.folds import SPLITS, Fold, Protocol


@dataclass(frozen=True)
class Audit:
    """What the audit looked at; a leak does not get this far."""

    num_utterances: int
    duplicates: tuple[tuple[str, str], ...]  # identical recordings, inside one split in every fold
    shared_transcripts: Mapping[str, float]  # fold -> share of test transcripts also spoken in training


def audit_protocol(corpus: Corpus, protocol: Protocol, workers: int = 1) -> Audit:
    """Refuse a protocol that leaks: raises `LeakError` naming the first pairs.

    A leak is a speaker, an utterance or an identical recording (equal PCM after trimming silence and
    peak normalisation) in two splits of a fold, or a dev split that equals the test split.
    """
    by_id = {utterance.id: utterance for utterance in corpus}
    for fold in protocol.folds:
        _check_ids(fold, by_id)
        if "speaker" not in protocol.allowed:
            _check_speakers(fold, by_id)
    duplicates = identical_recordings(corpus, workers)
    for fold in protocol.folds:
        where = {name: split for split in SPLITS for name in fold.split(split)}
        crossing = [
            f"'{a}' ({where[a]}) = '{b}' ({where[b]})"
            for a, b in duplicates
            if a in where and b in where and where[a] != where[b]
        ]
        _refuse(crossing, f"fold {fold.name}: identical recordings in two splits")
    shared = {fold.name: _shared_transcripts(fold, by_id) for fold in protocol.folds}
    return Audit(len(corpus), tuple(duplicates), {k: v for k, v in shared.items() if v is not None})


def audit_teacher(training_ids: Iterable[str], held_out_ids: Iterable[str], teacher: str) -> None:
    """Refuse a teacher that was trained on an utterance held out from the student."""
    seen = sorted(set(training_ids) & set(held_out_ids))
    _refuse([f"'{name}'" for name in seen], f"the {teacher} teacher was trained on held-out utterances")


def _refuse(pairs: Sequence[str], what: str) -> None:
    if pairs:
        more = f", and {len(pairs) - 5} more" if len(pairs) > 5 else ""
        raise LeakError(f"{what}: {', '.join(pairs[:5])}{more}")


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
        _refuse([f"'{name}'" for name in both], f"fold {fold.name}: utterances in both {one} and {two}")


def _check_speakers(fold: Fold, by_id: Mapping[str, Utterance]) -> None:
    for one, two in combinations(SPLITS, 2):
        first = {by_id[name].speaker: name for name in fold.split(one)}
        second = {by_id[name].speaker: name for name in fold.split(two)}
        both = [f"speaker '{s}' ('{first[s]}', '{second[s]}')" for s in sorted(first.keys() & second.keys())]
        _refuse(both, f"fold {fold.name}: speakers in both {one} and {two}")


def _shared_transcripts(fold: Fold, by_id: Mapping[str, Utterance]) -> float | None:
    def words(split: str) -> list[str]:
        texts = (by_id[name].transcript for name in fold.split(split))
        return [" ".join(text.lower().split()) for text in texts if text]

    test, train = words("test"), set(words("train"))
    return sum(text in train for text in test) / len(test) if test else None


_SEGMENTS = 32  # a recording's envelope, in as many parts


_TRIM_DB = (35.0, 30.0, 25.0)  # below the peak


_SAME = 1e-3  # of the peak: more than 16-bit rounding makes of a recording at a tenth of full scale


def identical_recordings(corpus: Corpus, workers: int = 1) -> list[tuple[str, str]]:
    """Pairs of utterances with equal PCM after trimming silence and peak normalisation.

    Silence is what lies before the first and after the last sample within 35 dB of the peak, so a copy is
    found wherever it was cut. Candidates have equal length and envelope; each is then compared sample by
    sample to within the rounding of 16-bit PCM, so a copy at another gain is found as well. Rounding may
    also move the first or last sample across the threshold: it is tried at 30 and 25 dB too. Audio that
    cannot be read is left to the stages that need it.
    """
    from concurrent.futures import ThreadPoolExecutor

    spoken = [utterance for utterance in corpus if utterance.path is not None]
    bar, task = progress("audit of recordings", len(spoken))
    prints = []
    with bar, ThreadPoolExecutor(workers) as pool:
        for of_levels in pool.map(_fingerprints, spoken):
            prints.append(of_levels)
            bar.advance(task)
    found: set[tuple[int, int]] = set()
    for level, top_db in enumerate(_TRIM_DB):
        by_length: dict[int, list[tuple[int, np.ndarray]]] = defaultdict(list)
        for index, of_levels in enumerate(prints):
            if level < len(of_levels):
                length, envelope = of_levels[level]
                by_length[length].append((index, envelope))
        for members in by_length.values():
            for (a, one), (b, two) in combinations(members, 2):
                if (a, b) in found or np.abs(one - two).max() > _SAME:
                    continue
                if np.abs(_bare(spoken[a], top_db) - _bare(spoken[b], top_db)).max() < _SAME:
                    found.add((a, b))
    return [(spoken[a].id, spoken[b].id) for a, b in sorted(found)]


def _bare(utterance: Utterance, top_db: float) -> Waveform:
    assert utterance.path is not None
    return _trim(peak_normalise(load(utterance.path, utterance.start_s, utterance.end_s)), top_db)


def _trim(waveform: Waveform, top_db: float) -> Waveform:
    """Cut what lies before the first and after the last sample within `top_db` of a peak of 1."""
    loud = np.flatnonzero(np.abs(waveform) >= 10 ** (-top_db / 20))
    return waveform[loud[0] : loud[-1] + 1] if loud.size else waveform[:0]


def _fingerprints(utterance: Utterance) -> list[tuple[int, np.ndarray]]:
    """Length and envelope at each of the thresholds that leave 10 ms; none of what cannot be read."""
    try:
        waveform = _bare(utterance, _TRIM_DB[0])
    except AudioError:
        return []
    prints: list[tuple[int, np.ndarray]] = []
    for top_db in _TRIM_DB:
        loud = np.abs(_trim(waveform, top_db))
        if len(loud) < FRAME_SAMPLES:
            break
        bounds = np.linspace(0, len(loud), _SEGMENTS + 1).astype(int)[:-1]
        prints.append((len(loud), np.add.reduceat(loud, bounds) / (len(loud) / _SEGMENTS)))
    return prints
