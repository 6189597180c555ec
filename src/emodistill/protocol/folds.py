"""Fold protocols, their file `protocol.json`, and the audit that refuses leakage."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from emodistill.config import ProtocolConfig
from emodistill.corpora import Corpus
from emodistill.errors import ConfigError, ModelError, one_of
from emodistill.files import atomic_write

SPLITS = ("train", "dev", "test")

# Published lists of test speakers, fold by fold.
FIXED_FOLDS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    # EmoBox (Ma et al. 2024, arXiv 2406.07162), RAVDESS: actors.
    "ravdess-emobox": {
        "1": ("1", "11", "20", "21"),
        "2": ("4", "10", "12", "14"),
        "3": ("8", "9", "19", "23"),
        "4": ("3", "5", "7", "24"),
        "5": ("2", "15", "16", "18"),
        "6": ("6", "13", "17", "22"),
    }
}

# Test and dev speakers of the corpora that are pooled; all others train.
# CREMA-D: 15 test and 15 dev actors, each 8 men and 7 women: the actors of a sex in the order of
# `stable_seed("crema-d split", actor)`, the first for test and the next for dev.
_HELD_OUT: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "ravdess": (
        (*FIXED_FOLDS["ravdess-emobox"]["1"], *FIXED_FOLDS["ravdess-emobox"]["4"]), FIXED_FOLDS["ravdess-emobox"]["2"],
    ),
    "nemo": (("WR0", "EB0"), ("TP0",)),
    "ased": (
        tuple(str(number) for number in range(53, 66)), tuple(str(number) for number in range(43, 53)),
    ),
    "crema-d": (
        ("1006", "1015", "1020", "1021", "1028", "1030", "1039", "1041", "1046", "1050", "1057", "1059", "1088",
         "1089", "1090"),
        ("1008", "1011", "1012", "1019", "1025", "1027", "1032", "1040", "1049", "1055", "1061", "1066", "1077",
         "1079", "1080"),
    ),
}  # fmt: skip


def _split_speakers(corpora: Sequence[str], unheard: str | None = None) -> Mapping[str, tuple[str, ...]]:
    """The test and dev speakers of pooled corpora; of the `unheard` corpus every speaker is a test speaker."""
    test: list[str] = []
    dev: list[str] = []
    for corpus in corpora:
        if corpus == unheard:
            test.append(f"{corpus}/*")
            continue
        test += [f"{corpus}/{speaker}" for speaker in _HELD_OUT[corpus][0]]
        dev += [f"{corpus}/{speaker}" for speaker in _HELD_OUT[corpus][1]]
    return {"test": tuple(test), "dev": tuple(dev)}


_BUNDLED = ("ravdess", "nemo", "ased")  # and URDU, all of which trains
_FIVE = (*_BUNDLED, "crema-d")

# Fixed splits of pooled corpora: test and dev speakers (`*` for all of a corpus); all others train.
FIXED_SPLITS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "bundled": _split_speakers(_BUNDLED),
    "bundled-unheard-ravdess": _split_speakers(_BUNDLED, "ravdess"),
    "five-corpora": _split_speakers(_FIVE),
    "five-corpora-unheard-ravdess": _split_speakers(_FIVE, "ravdess"),
    "five-corpora-unheard-nemo": _split_speakers(_FIVE, "nemo"),
    "five-corpora-unheard-crema-d": _split_speakers(_FIVE, "crema-d"),
    "crema-d": _split_speakers(("crema-d",)),
}


@dataclass(frozen=True)
class Fold:
    """One train/dev/test partition, as ids of utterances."""

    name: str
    train: tuple[str, ...]
    dev: tuple[str, ...]
    test: tuple[str, ...]

    def split(self, name: str) -> tuple[str, ...]:
        """The ids of a split by name."""
        return {"train": self.train, "dev": self.dev, "test": self.test}[name]


@dataclass(frozen=True)
class Protocol:
    """All folds over a corpus. Every score made under it carries its hash."""

    corpus: str
    description: str
    folds: tuple[Fold, ...]
    allowed: tuple[str, ...] = ()  # leaks of a published split, stamped on every score

    @property
    def hash(self) -> str:
        """Twelve hex digits over every id of every split (and the leaks allowed)."""
        content = json.dumps([[f.name, f.train, f.dev, f.test] for f in self.folds] + [self.allowed])
        return hashlib.sha256(content.encode()).hexdigest()[:12]

    @property
    def stamp(self) -> str:
        """What stands beside a score: the hash, and any leak that was allowed."""
        return self.hash + "".join(f" LEAKS {kind} BY DESIGN" for kind in self.allowed)

    def fold(self, name: str) -> Fold:
        """A fold by name; raises `ConfigError` for an unknown one."""
        for fold in self.folds:
            if fold.name == name:
                return fold
        raise ConfigError(one_of("fold", name, [fold.name for fold in self.folds]))

    def write(self, path: Path) -> None:
        """Write `protocol.json`, whole or not at all: a person can open and compare it."""
        data = {
            "corpus": self.corpus,
            "description": self.description,
            "hash": self.hash,
            "allowed": list(self.allowed),
            "folds": [
                {"name": f.name, **{split: list(f.split(split)) for split in SPLITS}} for f in self.folds
            ],
        }
        with atomic_write(path) as partial:
            partial.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_protocol(path: Path) -> Protocol:
    """Read `protocol.json`; raises `ModelError` where it is damaged or its hash does not fit its ids."""
    if not path.is_file():
        raise ModelError(f"no protocol '{path}': is this a run folder?")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        folds = tuple(Fold(item["name"], *(tuple(item[split]) for split in SPLITS)) for item in data["folds"])
        protocol = Protocol(data["corpus"], data["description"], folds, tuple(data["allowed"]))
        written = data["hash"]
    except KeyError as error:
        raise ModelError(f"'{path}' is no protocol: it has no {error}") from error
    except (ValueError, TypeError) as error:  # not JSON, not UTF-8, or a list where an object should be
        raise ModelError(f"'{path}' is no protocol: {error}") from error
    if protocol.hash != written:
        raise ModelError(f"'{path}' was changed: its ids hash to {protocol.hash}, it says {written}")
    return protocol


def build_protocol(corpus: Corpus, config: ProtocolConfig) -> Protocol:
    """Divide a corpus into folds.

    Dev speakers of fold k are the test speakers of fold k + 1, cyclic; or, where every session has
    exactly two speakers and one is left out (IEMOCAP), the other speaker of the session; or, where a corpus is
    left out, some speakers of every other corpus, the same whichever is left out.
    """
    if config.kind == "published":
        return _published(corpus, config)
    if config.kind == "leave-one-corpus-out":
        return _by_corpus(corpus, config)
    if config.kind == "fixed" and config.fixed in FIXED_SPLITS:
        return _fixed_split(corpus, config)
    groups = _test_speakers(corpus, config)
    if len(groups) < 3:
        raise ConfigError(
            f"{config.kind} on '{corpus.name}' gives {len(groups)} folds; train, dev and test need at least 3"
        )
    partner = _session_partners(corpus) if config.dev != "next-fold" else None
    same_session = config.kind == "leave-one-speaker-out" and partner is not None
    if config.dev == "same-session" and not same_session:
        raise ConfigError("dev = 'same-session' needs leave-one-speaker-out and two speakers in each session")
    folds: list[Fold] = []
    names = list(groups)
    for position, name in enumerate(names):
        test = set(groups[name])
        if same_session and partner is not None:
            dev = {partner[next(iter(test))]}
        else:
            dev = set(groups[names[(position + 1) % len(names)]])
        folds.append(
            Fold(
                name,
                tuple(u.id for u in corpus if u.speaker not in test | dev),
                tuple(u.id for u in corpus if u.speaker in dev),
                tuple(u.id for u in corpus if u.speaker in test),
            )
        )
    rule = "the session's other speaker" if same_session else "the next fold's test speakers"
    kind = f"fixed list {config.fixed}" if config.kind == "fixed" else config.kind
    return Protocol(corpus.name, f"{kind}; dev: {rule}", tuple(folds), tuple(config.allow))


def _test_speakers(corpus: Corpus, config: ProtocolConfig) -> dict[str, tuple[str, ...]]:
    speakers = corpus.speakers
    if config.kind == "leave-one-speaker-out":
        return {speaker: (speaker,) for speaker in speakers}
    if config.kind == "leave-one-session-out":
        sessions: dict[str, set[str]] = defaultdict(set)
        for utterance in corpus:
            if utterance.session is None:
                raise ConfigError(
                    f"'{utterance.id}' has no session; leave-one-session-out needs one for each"
                )
            sessions[utterance.session].add(utterance.speaker)
        return {session: tuple(sorted(sessions[session])) for session in sorted(sessions)}
    if config.kind == "k-fold":
        if config.folds > len(speakers):
            raise ConfigError(f"{config.folds} folds by speaker need as many speakers, got {len(speakers)}")
        order = _shuffled(speakers)
        return {str(k + 1): tuple(sorted(order[k :: config.folds])) for k in range(config.folds)}
    if config.fixed is None or config.fixed not in FIXED_FOLDS:
        raise ConfigError(one_of("fixed list", config.fixed, [*FIXED_FOLDS, *FIXED_SPLITS]))
    listed = FIXED_FOLDS[config.fixed]
    unknown = set(speakers) ^ {speaker for group in listed.values() for speaker in group}
    if unknown:
        raise ConfigError(
            f"the list '{config.fixed}' and corpus '{corpus.name}' differ in speakers {sorted(unknown)}"
        )
    return dict(listed)


def _shuffled(speakers: Iterable[str]) -> list[str]:
    """An order that depends on the names alone, and on nothing that they mean."""
    return sorted(speakers, key=lambda speaker: hashlib.sha256(speaker.encode()).hexdigest())


def _by_corpus(corpus: Corpus, config: ProtocolConfig) -> Protocol:
    """Each corpus in turn is test; of every other one in `config.folds` speakers is dev, the rest train."""
    speakers: dict[str, set[str]] = defaultdict(set)
    emotions: dict[str, set[str]] = defaultdict(set)
    for utterance in corpus:
        speakers[utterance.corpus or corpus.name].add(utterance.speaker)
        emotions[utterance.corpus or corpus.name].add(utterance.emotion or "")
    if len(speakers) < 2:
        raise ConfigError(
            f"leave-one-corpus-out needs two corpora or more, got {list(speakers)}: name them with "
            "--set 'corpus.pool=[…]', or in the manifest's column corpus"
        )
    shared = [name for name in corpus.labels if all(name in found for found in emotions.values())]
    for name, found in emotions.items():
        lacking = [emotion for emotion in corpus.labels if emotion not in found]
        if lacking:
            raise ConfigError(
                f"leave-one-corpus-out needs one label set that every corpus has: '{name}' lacks {lacking}. All "
                f"share {shared}: --set corpus.labels={','.join(shared)}; merge others with corpus.emotions"
            )
    dev = {
        speaker
        for names in speakers.values()
        if len(names) > 1
        for speaker in _shuffled(names)[:: config.folds]
    }
    folds = []
    for left_out in speakers:
        rest = [utterance for utterance in corpus if (utterance.corpus or corpus.name) != left_out]
        held = tuple(u.id for u in corpus if (u.corpus or corpus.name) == left_out)
        train = tuple(u.id for u in rest if u.speaker not in dev)
        chosen = tuple(u.id for u in rest if u.speaker in dev)
        if not chosen:
            raise ConfigError(f"without '{left_out}' no corpus has two speakers, so none can be dev")
        folds.append(Fold(left_out, train, chosen, held))
    rule = f"one in {config.folds} speakers of each training corpus"
    return Protocol(corpus.name, f"{config.kind}; dev: {rule}", tuple(folds), tuple(config.allow))


def _fixed_split(corpus: Corpus, config: ProtocolConfig) -> Protocol:
    assert config.fixed is not None
    listed = FIXED_SPLITS[config.fixed]
    ids: dict[str, list[str]] = {split: [] for split in SPLITS}
    absent = {(split, pattern) for split, patterns in listed.items() for pattern in patterns}
    for utterance in corpus:
        split = "train"
        for name, patterns in listed.items():
            for pattern in patterns:
                if fnmatchcase(utterance.speaker, pattern):
                    split = name
                    absent.discard((name, pattern))
        ids[split].append(utterance.id)
    if absent:
        raise ConfigError(
            f"the list '{config.fixed}' names speakers that corpus '{corpus.name}' lacks: {sorted(absent)}"
        )
    fold = Fold("1", *(tuple(ids[split]) for split in SPLITS))
    return Protocol(corpus.name, f"fixed list {config.fixed}", (fold,), tuple(config.allow))


def _session_partners(corpus: Corpus) -> dict[str, str] | None:
    sessions: dict[str | None, set[str]] = defaultdict(set)
    for utterance in corpus:
        sessions[utterance.session].add(utterance.speaker)
    if None in sessions or any(len(speakers) != 2 for speakers in sessions.values()):
        return None
    pairs = (sorted(speakers) for speakers in sessions.values())
    return {speaker: other for a, b in pairs for speaker, other in ((a, b), (b, a))}


def _published(corpus: Corpus, config: ProtocolConfig) -> Protocol:
    ids: dict[str, list[str]] = {split: [] for split in SPLITS}
    for utterance in corpus:
        if utterance.split not in ids:
            raise ConfigError(
                f"'{utterance.id}': "
                + one_of("split", utterance.split, SPLITS)
                + "; a published protocol needs it"
            )
        ids[utterance.split].append(utterance.id)
    empty = [split for split, members in ids.items() if not members]
    if empty:
        raise ConfigError(f"the published split of '{corpus.name}' has no utterances in {empty}")
    fold = Fold("published", *(tuple(ids[split]) for split in SPLITS))
    return Protocol(corpus.name, "published split", (fold,), tuple(config.allow))


# --- the audit ---------------------------------------------------------------------------------
