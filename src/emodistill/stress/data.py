"""The utterances that the suite changes, drawn by emotion and speaker, and the speech for babble."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

import numpy as np

from emodistill.audio.waveform import SAMPLE_RATE, Waveform, load
from emodistill.config import stable_seed
from emodistill.console import say, warn
from emodistill.corpora import Corpus, Utterance, drop_bad_audio
from emodistill.corpora.load import CorpusSource, read_own_table, report_left_out
from emodistill.corpora.tables import TABLE_SUFFIXES, read_table
from emodistill.errors import AudioError, ConfigError, one_of
from emodistill.protocol import FIXED_SPLITS
from emodistill.stress.base import Change
from emodistill.stress.material import PIECES, Use, read_background
from emodistill.stress.pitch import MIN_UTTERANCES
from emodistill.training.evaluated_models import WaveformModel
from emodistill.training.evaluation_folder import SeenRule
from emodistill.training.evaluation_run import unseen_utterances

MAX_BABBLE_SPEAKERS = 24  # over all corpora
MAX_BABBLE_UTTERANCES = 3  # of one speaker
CACHED_SAMPLES = 50 * 60 * SAMPLE_RATE  # of a corpus stay in memory: 200 MB


@dataclass(frozen=True)
class Drawn:
    """The utterances of one corpus that are changed."""

    corpus: str
    utterances: tuple[Utterance, ...]
    num_speakers: int  # of the corpus, as far as its utterances may be used
    num_utterances: int
    seen: bool  # whether some are of speakers that the model was trained or chosen on
    # More of the same speakers, so that each has as many as the measurement of pitch needs.
    for_pitch: tuple[Utterance, ...] = ()


def read_corpora(
    sources: Sequence[CorpusSource], labels: str | None = None, protocol: str | None = None
) -> list[Corpus]:
    """Read the corpora; of each, the utterances that may be used and whose audio can be read.

    `protocol` is a list of `FIXED_SPLITS`, whose test speakers are kept. Without it, a manifest with a column
    `split` keeps its rows of the split test. `labels` is a label map, as in `CorpusSource.read`.

    Raises `ConfigError` for two corpora of one name, and for a protocol that does not know a corpus.
    """
    check_protocol(protocol)
    corpora: list[Corpus] = []
    for source in sources:
        corpus = _read(source, labels)
        if corpus.name in [other.name for other in corpora]:
            raise ConfigError(f"two corpora have the name '{corpus.name}': expected each corpus once")
        kept = _test_speakers(corpus, protocol) if protocol else _test_rows(corpus)
        corpus, problems = drop_bad_audio(replace(corpus, utterances=kept))
        report_left_out(corpus, problems, say)
        with_audio = tuple(item for item in corpus if item.path is not None)
        if not with_audio:
            raise ConfigError(f"corpus '{corpus.name}' has text alone, and the suite changes recordings")
        corpora.append(replace(corpus, utterances=with_audio))
    return corpora


def _read(source: CorpusSource, labels: str | None) -> Corpus:
    """The utterances of a known corpus or a manifest; a manifest may lack emotions."""
    if Path(source.corpus).suffix not in TABLE_SUFFIXES:
        return source.read(labels, say)
    table = read_table(Path(source.corpus))
    has_labels = "emotion" in source.columns or {"emotion", "votes"} & {
        name.lower() for name in table.columns
    }
    if not has_labels:
        say(
            f"'{source.corpus}' has no column emotion, so only the answers that stay are counted; name the "
            "column with --columns emotion=…"
        )
        table = replace(table, columns=(*table.columns, "emotion"))

    def report(message: str) -> None:
        if source.columns or not message.startswith("columns:"):  # Nobody needs the list of our own columns.
            say(message)

    return read_own_table(table, source.columns, source.emotions, labels or "all", source.folder, report)


def check_protocol(protocol: str | None) -> None:
    """Raise `ConfigError` for a list of speakers that is not in `FIXED_SPLITS`."""
    if protocol is not None and protocol not in FIXED_SPLITS:
        raise ConfigError("--protocol: " + one_of("list of speakers", protocol, FIXED_SPLITS))


def _test_speakers(corpus: Corpus, protocol: str) -> tuple[Utterance, ...]:
    test = set(FIXED_SPLITS[protocol]["test"])
    kept = tuple(
        item for item in corpus if {f"{corpus.name}/*", f"{corpus.name}/{item.speaker}", item.speaker} & test
    )
    if not kept:
        others = [
            name
            for name, split in FIXED_SPLITS.items()
            if any(speaker.startswith(f"{corpus.name}/") for speaker in split["test"])
        ]
        raise ConfigError(
            f"--protocol {protocol} has no test speakers of '{corpus.name}'; lists that have some: "
            f"{', '.join(others) or 'none, so leave --protocol out'}"
        )
    return kept


def _test_rows(corpus: Corpus) -> tuple[Utterance, ...]:
    test = tuple(item for item in corpus if item.split == "test")
    if test and len(test) < len(corpus):
        say(
            f"corpus '{corpus.name}': the {len(test)} utterances of the split test are used, of {len(corpus)}"
        )
    return test or corpus.utterances


def draw(corpus: Corpus, model: WaveformModel, number: int, seed: int, seen: SeenRule) -> Drawn:
    """Draw at most `number` utterances of a corpus; 0 takes all.

    They are drawn from each emotion of each speaker in turn, so that all of these are about equally frequent.
    The order of the corpus has no influence. Raises `LeakError` as `unseen_utterances` does.
    """
    usable, num_seen, is_marked = unseen_utterances(list(corpus), model, corpus.name, seen)
    if not usable:
        raise ConfigError(
            f"no utterance of '{corpus.name}' is left: all {num_seen} are of speakers that the model was "
            "trained or chosen on; name another corpus, or see --seen"
        )
    groups: dict[tuple[str, str], list[Utterance]] = defaultdict(list)
    for item in sorted(usable, key=lambda item: item.id):
        groups[item.emotion or "", item.speaker].append(item)
    rng = np.random.default_rng(stable_seed("stress draw", seed, corpus.name))
    shuffled = [
        [group[place] for place in rng.permutation(len(group))] for _, group in sorted(groups.items())
    ]
    order = rng.permutation(len(shuffled))
    rounds = range(max(map(len, shuffled)))
    in_turn = [shuffled[place][turn] for turn in rounds for place in order if turn < len(shuffled[place])]
    chosen, rest = in_turn[: number or None], in_turn[number or len(in_turn) :]
    return Drawn(
        corpus.name, tuple(sorted(chosen, key=lambda item: item.id)),
        len({item.speaker for item in usable}), len(usable), is_marked, tuple(_for_pitch(chosen, rest)),
    )  # fmt: skip


def _for_pitch(chosen: Sequence[Utterance], rest: Sequence[Utterance]) -> list[Utterance]:
    """The first of the rest that make `MIN_UTTERANCES` of each speaker, together with the chosen ones."""
    counts = Counter(item.speaker for item in chosen)
    more = []
    for item in rest:
        if 0 < counts[item.speaker] < MIN_UTTERANCES:
            counts[item.speaker] += 1
            more.append(item)
    return more


def speaker_of(drawn: Drawn, utterance: Utterance) -> str:
    """The speaker of an utterance, with the name of the corpus, since two corpora may use one number."""
    return f"{drawn.corpus}/{utterance.speaker}"


def load_utterance(utterance: Utterance) -> Waveform:
    """Return the waveform (samples,) of an utterance. Raises `AudioError` where it cannot be read."""
    if utterance.path is None:
        raise AudioError(f"'{utterance.id}' has no audio")
    return load(utterance.path, utterance.start_s, utterance.end_s)


def load_or_none(utterance: Utterance) -> Waveform | None:
    """Return the waveform (samples,) of an utterance, read-only; None where it cannot be read."""
    try:
        waveform = load_utterance(utterance)
    except AudioError:
        return None
    waveform.setflags(write=False)  # a change must not change it for the others
    return waveform


class Waveforms:
    """Loads the waveforms of utterances; the first ones stay in memory. Several threads may use it."""

    def __init__(self, max_samples: int = CACHED_SAMPLES) -> None:
        self._kept: dict[str, Waveform] = {}
        self._samples_left = max_samples

    def load(self, utterance: Utterance) -> Waveform:
        """Return the waveform (samples,) of an utterance."""
        if (waveform := self._kept.get(utterance.id)) is None:
            waveform = load_utterance(utterance)
            waveform.setflags(write=False)  # a change must not change it for the others
            if len(waveform) <= self._samples_left:
                self._samples_left -= len(waveform)
                self._kept[utterance.id] = waveform
        return waveform


@dataclass(frozen=True)
class Background:
    """Music and ambience to mix in, and why there is none: {"music": reason}."""

    music: Sequence[Waveform] = ()
    ambience: Sequence[Waveform] = ()
    missing: Mapping[str, str] = field(default_factory=dict)

    def sha256(self, use: str | None) -> str | None:
        """The SHA-256 of the waveforms of `use`; None for what is no background."""
        if use not in ("music", "ambience"):
            return None
        digest = sha256()
        for waveform in getattr(self, use):
            digest.update(waveform.tobytes())
        return digest.hexdigest()


def read_backgrounds(
    changes: Sequence[Change], music: Path | None = None, ambience: Path | None = None
) -> Background:
    """Read the music and the ambience that changes mix in: that of folders, or that of Debian packages.

    The errors are those of `read_background`.
    """
    found: dict[str, Sequence[Waveform]] = {}
    missing: dict[str, str] = {}
    for use, folder in _uses(changes, music, ambience):
        found[use], reason = read_background(use, folder)
        if reason is not None:
            missing[use] = reason
            warn(f"left out: changes with {use}: {reason}")
    return Background(found.get("music", ()), found.get("ambience", ()), missing)


def licences(
    changes: Sequence[Change], music: Path | None = None, ambience: Path | None = None
) -> list[tuple[str, str, str]]:
    """Return what changes mix in, where it comes from, and its licence; the arguments as above."""
    rows: list[tuple[str, str, str]] = []
    for use, folder in _uses(changes, music, ambience):
        if folder is not None:
            rows.append((use, f"the folder {folder.name}", "as you know it"))
            continue
        for piece in PIECES:
            if piece.use == use:
                title = f"{piece.use}: {piece.kind}" + (f", {piece.title}" if piece.title else "")
                rows.append((title, f"{piece.author}, Debian package {piece.package}", piece.licence))
    return rows


def _uses(
    changes: Sequence[Change], music: Path | None, ambience: Path | None
) -> list[tuple[Use, Path | None]]:
    """The kinds of background that changes need, with the folder that the user named."""
    needed = {change.needs for change in changes}
    folders: tuple[tuple[Use, Path | None], ...] = (("music", music), ("ambience", ambience))
    return [(use, folder) for use, folder in folders if use in needed]


def babble_speech(drawn: Sequence[Drawn], seed: int) -> dict[str, list[Waveform]]:
    """Return speech of some speakers of all corpora, by speaker, for babble and for another voice.

    Speakers are drawn from the corpora in turn. A change leaves the speaker of its recording out.
    """
    by_speaker: dict[str, list[Utterance]] = defaultdict(list)
    for item in drawn:
        for utterance in item.utterances:
            by_speaker[speaker_of(item, utterance)].append(utterance)
    rng = np.random.default_rng(stable_seed("stress babble", seed))
    corpora: dict[str, list[str]] = defaultdict(list)
    for speaker in rng.permutation(sorted(by_speaker)).tolist():
        corpora[speaker.partition("/")[0]].append(speaker)
    speech: dict[str, list[Waveform]] = {}
    while len(speech) < MAX_BABBLE_SPEAKERS and any(corpora.values()):
        for _, speakers in sorted(corpora.items()):
            if speakers and len(speech) < MAX_BABBLE_SPEAKERS:
                speaker = speakers.pop()
                places = rng.permutation(len(by_speaker[speaker]))[:MAX_BABBLE_UTTERANCES]
                loaded = [load_or_none(by_speaker[speaker][place]) for place in places]
                if found := [waveform for waveform in loaded if waveform is not None]:
                    speech[speaker] = found
    return speech
