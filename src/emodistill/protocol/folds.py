"""Folds: how speakers are divided into train, dev and test, and the file `protocol.json`."""

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
from emodistill.protocol.fixed_lists import FIXED_FOLDS, FIXED_SPLITS
from emodistill.protocol.fold_lists import read_emobox_folds, read_fold_list
from emodistill.reading import parse_json

SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class Fold:
    """One train/dev/test partition, as ids of utterances."""

    name: str
    train: tuple[str, ...]
    dev: tuple[str, ...]
    test: tuple[str, ...]

    def split(self, name: str) -> tuple[str, ...]:
        """Return the ids of a split: train, dev or test."""
        return {"train": self.train, "dev": self.dev, "test": self.test}[name]


@dataclass(frozen=True)
class Protocol:
    """All folds over a corpus. Every score that uses them is written with their hash."""

    corpus: str
    description: str
    folds: tuple[Fold, ...]
    allowed: tuple[str, ...] = ()  # leaks that a published split has by design

    @property
    def hash(self) -> str:
        """Twelve hex digits of SHA-256 over every id of every split, and the leaks that are allowed."""
        content = json.dumps([[f.name, f.train, f.dev, f.test] for f in self.folds] + [self.allowed])
        return hashlib.sha256(content.encode()).hexdigest()[:12]

    @property
    def stamp(self) -> str:
        """The text that is written with each score: the hash, and any leak that is allowed."""
        return self.hash + "".join(f" LEAKS {kind} BY DESIGN" for kind in self.allowed)

    @property
    def leaks(self) -> str:
        """The result of an audit that raised nothing, in words: no leak, or only those that are allowed."""
        if not self.allowed:
            return "no leak"
        return f"no leak except in {' and '.join(self.allowed)}, which the recipe allows"

    @property
    def dev_is_test_elsewhere(self) -> bool:
        """Whether an utterance is dev in one fold and test in another: a choice on dev has then seen it."""
        dev, test = ({item for fold in self.folds for item in fold.split(name)} for name in ("dev", "test"))
        return bool(dev & test)

    def fold(self, name: str) -> Fold:
        """Return a fold by name. Raises `ConfigError` for an unknown one."""
        for fold in self.folds:
            if fold.name == name:
                return fold
        raise ConfigError(one_of("fold", name, [fold.name for fold in self.folds]))

    def write(self, path: Path) -> None:
        """Write `protocol.json`, which people can read and compare. It appears complete or not at all."""
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
    """Read `protocol.json`. Raises `ModelError` where it is damaged, or where its hash does not fit its
    ids."""
    if not path.is_file():
        raise ModelError(f"no protocol '{path}': is this a run folder?")
    try:
        data = parse_json(path.read_bytes())
        folds = tuple(Fold(item["name"], *(tuple(item[split]) for split in SPLITS)) for item in data["folds"])
        protocol = Protocol(data["corpus"], data["description"], folds, tuple(data["allowed"]))
        recorded_hash = data["hash"]
    except KeyError as error:
        raise ModelError(f"'{path}' is no protocol: it has no {error}") from error
    except (ValueError, TypeError) as error:  # not JSON, not UTF-8, or a list where an object should be
        raise ModelError(f"'{path}' is no protocol: {error}") from error
    if protocol.hash != recorded_hash:
        raise ModelError(
            f"'{path}' was changed: the hash of its ids is {protocol.hash}, but the file has {recorded_hash}"
        )
    return protocol


def build_protocol(corpus: Corpus, config: ProtocolConfig) -> Protocol:
    """Divide a corpus into folds.

    The dev speakers of a fold are, by kind of protocol:

    - the other speaker of the session, where one speaker is left out and every session has two (IEMOCAP);
    - some speakers of every training corpus, where one corpus is left out;
    - those of the list, for a fixed split; those of the corpus, for a published one;
    - for lists from files see `_listed`;
    - else the test speakers of the next fold, and of the first fold for the last.

    Raises `ConfigError` where the corpus does not fit the settings.
    """
    if config.kind == "published":
        return _published(corpus, config)
    if config.kind == "leave-one-corpus-out":
        return _leave_one_corpus_out(corpus, config)
    if config.kind == "fixed" and config.fixed is not None and config.fixed in FIXED_SPLITS:
        return _fixed_split(corpus, config.fixed, config.allow)
    if config.kind in ("list", "emobox"):
        return _listed(corpus, config)
    utterance_groups = _test_utterances(corpus, config) if "speaker" in config.allow else None
    if utterance_groups is not None:
        return _folds_over_utterances(corpus, config, utterance_groups)
    groups = _test_speakers(corpus, config)
    _check_num_folds(len({tuple(speakers) for speakers in groups.values()}), corpus, config)
    partners = _session_partners(corpus) if config.dev != "next-fold" else None
    same_session = config.kind == "leave-one-speaker-out" and partners is not None
    if config.dev == "same-session" and not same_session:
        raise ConfigError("dev = 'same-session' needs leave-one-speaker-out and two speakers in each session")
    folds: list[Fold] = []
    names = list(groups)
    for position, name in enumerate(names):
        test = set(groups[name])
        if same_session and partners is not None:
            dev = {partners[next(iter(test))]}
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


def _check_num_folds(num_folds: int, corpus: Corpus, config: ProtocolConfig) -> None:
    """Raise `ConfigError` for fewer than three folds, with what a corpus of few speakers can use."""
    if num_folds < 3:
        folds = "1 fold" if num_folds == 1 else f"{num_folds} folds"
        raise ConfigError(
            f"{config.kind} on '{corpus.name}' gives {folds}; train, dev and test need at least 3"
            + _advice_for_few_speakers(corpus)
        )


def _advice_for_few_speakers(corpus: Corpus) -> str:
    """Return the protocols that a corpus of one or two speakers can use, as the end of a message."""
    number = len(corpus.speakers)
    if number > 2:
        return ""
    allow = "--set 'protocol.allow=[\"speaker\"]'"
    sessions = {utterance.session for utterance in corpus}
    by_session = " (or leave-one-session-out)" if None not in sessions and len(sessions) > 2 else ""
    return (
        f". The corpus has {number} speaker{'s' if number > 1 else ''}, so its utterances must be divided: "
        f"--set protocol.kind=k-fold{by_session} {allow}. Each score is then marked LEAKS speaker BY DESIGN. "
        f"Or list your own folds: --set protocol.kind=list --set protocol.folds_from=folds.csv {allow}"
    )


def _test_speakers(corpus: Corpus, config: ProtocolConfig) -> dict[str, tuple[str, ...]]:
    """Return the test speakers of each fold, by name of the fold."""
    speakers = corpus.speakers
    if config.kind == "leave-one-speaker-out":
        return {speaker: (speaker,) for speaker in speakers}
    if config.kind == "leave-one-session-out":
        sessions: dict[str, set[str]] = defaultdict(set)
        for utterance in corpus:
            if utterance.session is None:
                raise ConfigError(
                    f"'{utterance.id}' has no session; leave-one-session-out needs one for each utterance"
                )
            sessions[utterance.session].add(utterance.speaker)
        return {session: tuple(sorted(sessions[session])) for session in sorted(sessions)}
    if config.kind == "k-fold":
        if config.folds > len(speakers):
            raise ConfigError(
                f"{config.folds} folds by speaker need as many speakers, got {len(speakers)}"
                + _advice_for_few_speakers(corpus)
            )
        order = _hash_order(speakers)
        return {str(k + 1): tuple(sorted(order[k :: config.folds])) for k in range(config.folds)}
    if config.fixed is None or config.fixed not in FIXED_FOLDS:
        raise ConfigError(one_of("fixed list", config.fixed, [*FIXED_FOLDS, *FIXED_SPLITS]))
    listed = FIXED_FOLDS[config.fixed]
    different = set(speakers) ^ {speaker for group in listed.values() for speaker in group}
    if different:
        raise ConfigError(
            f"the list '{config.fixed}' and corpus '{corpus.name}' differ in speakers {sorted(different)}"
        )
    return dict(listed)


def _hash_order(names: Iterable[str]) -> list[str]:
    """Return names sorted by their SHA-256, an order that no property of a speaker or utterance decides."""
    return sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())


# --- folds over utterances, where a speaker may be in two splits -----------------------------------


def _test_utterances(corpus: Corpus, config: ProtocolConfig) -> dict[str, set[str]] | None:
    """Return the test utterances of each fold by name of the fold; None where speakers are divided.

    k-fold: of one or two speakers, with as equal a number of each emotion as possible in each fold.
    leave-one-session-out: those of each session.
    """
    groups: dict[str, set[str]] = defaultdict(set)
    if config.kind == "leave-one-session-out":
        for utterance in corpus:
            groups[utterance.session or ""].add(utterance.id)
        return {name: groups[name] for name in sorted(groups)} if "" not in groups else None
    if config.kind != "k-fold" or len(corpus.speakers) > 2:
        return None
    by_emotion: dict[str, list[str]] = defaultdict(list)
    for utterance in corpus:
        by_emotion[utterance.emotion or ""].append(utterance.id)
    order = [name for emotion in sorted(by_emotion) for name in _hash_order(by_emotion[emotion])]
    return {str(k + 1): set(order[k :: config.folds]) for k in range(min(config.folds, len(order)))}


def _folds_over_utterances(
    corpus: Corpus, config: ProtocolConfig, groups: Mapping[str, set[str]]
) -> Protocol:
    _check_num_folds(len(groups), corpus, config)
    if config.dev == "same-session":
        raise ConfigError("dev = 'same-session' needs leave-one-speaker-out and two speakers in each session")
    names = list(groups)
    folds = []
    for position, name in enumerate(names):
        test, dev = groups[name], groups[names[(position + 1) % len(names)]]
        train = {utterance.id for utterance in corpus} - test - dev
        folds.append(_fold_in_order(corpus, name, {"train": train, "dev": dev, "test": test}))
    unit = "utterances, balanced by emotion" if config.kind == "k-fold" else "utterances by session"
    description = f"{config.kind} over {unit}; dev: the next fold's test utterances"
    return Protocol(corpus.name, description, tuple(folds), tuple(config.allow))


# --- folds from files ------------------------------------------------------------------------------


def _listed(corpus: Corpus, config: ProtocolConfig) -> Protocol:
    """Return the folds of a file, or of EmoBox's folder of a corpus.

    A list without training splits trains on everything that the fold does not test. Without a dev split, dev
    is what the next fold tests, as far as it is in training. Without `allow`, all other training utterances
    of these speakers are dev too. Where this leaves no dev or no training, see `_draw_dev`.
    """
    assert config.folds_from is not None
    path = Path(config.folds_from)
    if config.dev == "same-session":
        raise ConfigError("dev = 'same-session' needs leave-one-speaker-out and two speakers in each session")
    lists = (read_fold_list if config.kind == "list" else read_emobox_folds)(path, corpus)
    speaker_of = {utterance.id: utterance.speaker for utterance in corpus}
    everything = {name for splits in lists.folds.values() for ids in splits.values() for name in ids}
    names, folds, rules = list(lists.folds), [], []
    for position, name in enumerate(names):
        splits = lists.folds[name]
        test, dev = set(splits["test"]), set(splits.get("dev", ()))
        train = set(splits.get("train", everything - test - dev))
        rule = "that of the list"
        if not dev:
            rule = "the next fold's test utterances"
            dev = train & set(lists.folds[names[(position + 1) % len(names)]]["test"])
            if "speaker" not in config.allow:
                speakers = {speaker_of[item] for item in dev}
                dev = {item for item in train if speaker_of[item] in speakers}
            if not dev or dev == train:
                dev, rule = _draw_dev(train, speaker_of, config)
            train -= dev
        rules.append(rule)
        folds.append(_fold_in_order(corpus, name, {"train": train, "dev": dev, "test": test}))
    source = f"list {path.name}" if config.kind == "list" else f"EmoBox's folds of {path.resolve().name}"
    parts = [f"{source}; dev: {', '.join(dict.fromkeys(rules))}", *lists.notes]
    return Protocol(corpus.name, "; ".join(parts), tuple(folds), tuple(config.allow))


def _draw_dev(train: set[str], speaker_of: Mapping[str, str], config: ProtocolConfig) -> tuple[set[str], str]:
    """Return dev utterances out of the training ones, and their rule in words.

    They are those of one in `config.folds` speakers. Of a single speaker they are one in `config.folds`
    utterances, which needs `allow = ["speaker"]`.
    """
    speakers = _hash_order({speaker_of[name] for name in train})
    if len(speakers) > 1:
        drawn = set(speakers[:: config.folds])
        dev = {name for name in train if speaker_of[name] in drawn}
        return dev, f"one in {config.folds} training speakers"
    if "speaker" not in config.allow:
        raise ConfigError(
            f"only speaker '{speakers[0]}' trains, and the list has no dev split: give it one, or allow the "
            "speaker in both: --set 'protocol.allow=[\"speaker\"]'"
        )
    return set(_hash_order(train)[:: config.folds]), f"one in {config.folds} training utterances"


def _fold_in_order(corpus: Corpus, name: str, splits: Mapping[str, set[str]]) -> Fold:
    """Return a fold whose ids are in the order of the corpus."""
    return _fold(name, {split: [u.id for u in corpus if u.id in splits[split]] for split in SPLITS})


def _leave_one_corpus_out(corpus: Corpus, config: ProtocolConfig) -> Protocol:
    """Return one fold for each corpus, which is its test split.

    Of every other corpus one in `config.folds` speakers is dev, the same ones in each fold. The rest trains.
    """
    speakers: dict[str, set[str]] = defaultdict(set)
    for utterance in corpus:
        speakers[utterance.corpus or corpus.name].add(utterance.speaker)
    if len(speakers) < 2:
        raise ConfigError(
            f"leave-one-corpus-out needs two corpora or more, got {list(speakers)}: name them with "
            "--set 'corpus.pool=[…]', or in the manifest's column corpus"
        )
    _check_same_emotions(corpus)
    dev_speakers = {
        speaker
        for names in speakers.values()
        if len(names) > 1
        for speaker in _hash_order(names)[:: config.folds]
    }
    folds = []
    for left_out in speakers:
        others = [utterance for utterance in corpus if (utterance.corpus or corpus.name) != left_out]
        train = tuple(u.id for u in others if u.speaker not in dev_speakers)
        dev = tuple(u.id for u in others if u.speaker in dev_speakers)
        test = tuple(u.id for u in corpus if (u.corpus or corpus.name) == left_out)
        if not dev:
            raise ConfigError(f"without '{left_out}' no corpus has two speakers, so none can be dev")
        folds.append(Fold(left_out, train, dev, test))
    rule = f"one in {config.folds} speakers of each training corpus"
    return Protocol(corpus.name, f"{config.kind}; dev: {rule}", tuple(folds), tuple(config.allow))


def _check_same_emotions(corpus: Corpus) -> None:
    """Raise `ConfigError` where pooled corpora have different emotions: then folds cannot be averaged."""
    emotions: dict[str, set[str]] = defaultdict(set)
    for utterance in corpus:
        emotions[utterance.corpus or corpus.name].add(utterance.emotion or "")
    shared = [name for name in corpus.labels if all(name in present for present in emotions.values())]
    for name, present in emotions.items():
        missing = [emotion for emotion in corpus.labels if emotion not in present]
        if missing:
            raise ConfigError(
                f"leave-one-corpus-out needs one label set that every corpus has: '{name}' lacks {missing}. "
                f"All share {shared}: --set corpus.labels={','.join(shared)}; merge others with "
                "corpus.emotions"
            )


def _fixed_split(corpus: Corpus, list_name: str, allowed: Sequence[str]) -> Protocol:
    """Return the one fold of a list of test and dev speakers; all other speakers train."""
    listed = FIXED_SPLITS[list_name]
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
            f"the list '{list_name}' names speakers that corpus '{corpus.name}' lacks: {sorted(absent)}"
        )
    return Protocol(corpus.name, f"fixed list {list_name}", (_fold("1", ids),), tuple(allowed))


def _session_partners(corpus: Corpus) -> dict[str, str] | None:
    """Return the other speaker of each speaker's session; None where a session has not exactly two."""
    sessions: dict[str | None, set[str]] = defaultdict(set)
    for utterance in corpus:
        sessions[utterance.session].add(utterance.speaker)
    if None in sessions or any(len(speakers) != 2 for speakers in sessions.values()):
        return None
    pairs = (sorted(speakers) for speakers in sessions.values())
    return {speaker: other for a, b in pairs for speaker, other in ((a, b), (b, a))}


def _published(corpus: Corpus, config: ProtocolConfig) -> Protocol:
    """Return the one fold that the corpus publishes."""
    ids: dict[str, list[str]] = {split: [] for split in SPLITS}
    for utterance in corpus:
        if utterance.split not in ids:
            raise ConfigError(
                f"'{utterance.id}': "
                + one_of("split", utterance.split, SPLITS)
                + "; a published protocol needs one of these for each utterance"
            )
        ids[utterance.split].append(utterance.id)
    empty = [split for split, members in ids.items() if not members]
    if empty:
        raise ConfigError(f"the published split of '{corpus.name}' has no utterances in {empty}")
    return Protocol(corpus.name, "published split", (_fold("published", ids),), tuple(config.allow))


def _fold(name: str, ids: Mapping[str, Sequence[str]]) -> Fold:
    return Fold(name, *(tuple(ids[split]) for split in SPLITS))
