"""Folds of each kind, the protocol file, and all leaks that the audit must refuse."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import factories as make
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from emodistill.config import ProtocolConfig, stable_seed
from emodistill.corpora import Corpus, Utterance, read_corpus
from emodistill.errors import ConfigError, CorpusError, LeakError, ModelError
from emodistill.protocol import (
    FIXED_FOLDS,
    FIXED_SPLITS,
    RARE,
    SPLITS,
    Fold,
    Protocol,
    absent_from_training,
    audit_protocol,
    audit_teacher,
    build_protocol,
    class_warnings,
    count_classes,
    identical_recordings,
    ids_of,
    notes_for_scores,
    read_protocol,
    warn_of_equal_ids,
)


def fake_corpus(speakers: Sequence[str], each: int = 2, per_session: int = 2) -> Corpus:
    """A corpus without audio; neighbouring speakers share a session."""
    return Corpus(
        "fake",
        tuple(
            Utterance(
                f"{speaker}-{take}", speaker, "angry" if take % 2 else "sad",
                session=f"S{index // per_session}",
            )
            for index, speaker in enumerate(speakers)
            for take in range(each)
        ),
    )  # fmt: skip


TEN = tuple(f"s{number}" for number in range(10))


def speakers_of(corpus: Corpus, ids: Sequence[str]) -> set[str]:
    by_id = {utterance.id: utterance.speaker for utterance in corpus}
    return {by_id[name] for name in ids}


def check_partition(corpus: Corpus, protocol: Protocol) -> None:
    """Check that each fold holds every utterance once, as do all test splits together, and no speaker
    twice."""
    ids = sorted(utterance.id for utterance in corpus)
    assert sorted(name for fold in protocol.folds for name in fold.test) == ids
    for fold in protocol.folds:
        assert sorted([*fold.train, *fold.dev, *fold.test]) == ids
        speakers = [speakers_of(corpus, fold.split(split)) for split in SPLITS]
        assert all(speakers)
        assert sum(map(len, speakers)) == len(set.union(*speakers))
    audit_protocol(corpus, protocol)


# --- kinds of folds ------------------------------------------------------------------------------


def test_leave_one_speaker_out_with_the_other_of_the_session_as_dev() -> None:
    corpus = fake_corpus(TEN)
    protocol = build_protocol(corpus, ProtocolConfig(kind="leave-one-speaker-out"))
    check_partition(corpus, protocol)
    assert [fold.name for fold in protocol.folds] == list(TEN)
    for index, fold in enumerate(protocol.folds):
        assert speakers_of(corpus, fold.test) == {TEN[index]}
        assert speakers_of(corpus, fold.dev) == {TEN[index ^ 1]}
    assert "the session's other speaker" in protocol.description
    assert (
        build_protocol(corpus, ProtocolConfig(kind="leave-one-speaker-out", dev="same-session")) == protocol
    )


def test_leave_one_speaker_out_with_the_next_fold_as_dev() -> None:
    for corpus in (fake_corpus(TEN, per_session=5), fake_corpus(TEN)):
        config = ProtocolConfig(kind="leave-one-speaker-out", dev="next-fold")
        protocol = build_protocol(corpus, config)
        check_partition(corpus, protocol)
        for index, fold in enumerate(protocol.folds):
            assert speakers_of(corpus, fold.dev) == {TEN[(index + 1) % 10]}


def test_leave_one_session_out() -> None:
    corpus = fake_corpus(TEN)
    protocol = build_protocol(corpus, ProtocolConfig(kind="leave-one-session-out"))
    check_partition(corpus, protocol)
    assert [fold.name for fold in protocol.folds] == ["S0", "S1", "S2", "S3", "S4"]
    assert speakers_of(corpus, protocol.folds[4].dev) == {"s0", "s1"}


@settings(max_examples=40, deadline=None)
@given(st.sets(st.text("abcxyz01", min_size=1, max_size=3), min_size=3, max_size=20), st.data())
def test_k_fold_divides_any_speakers(names: set[str], data: st.DataObject) -> None:
    folds = data.draw(st.integers(3, len(names)))
    corpus = fake_corpus(sorted(names), per_session=1)
    protocol = build_protocol(corpus, ProtocolConfig(kind="k-fold", folds=folds))
    check_partition(corpus, protocol)
    sizes = [len(speakers_of(corpus, fold.test)) for fold in protocol.folds]
    assert max(sizes) - min(sizes) <= 1
    shuffled = replace(corpus, utterances=tuple(reversed(corpus.utterances)))
    again = build_protocol(shuffled, ProtocolConfig(kind="k-fold", folds=folds))
    for one, two in zip(protocol.folds, again.folds, strict=True):
        assert set(one.test) == set(two.test), "folds do not depend on the order of rows"


def test_fixed_folds_of_ravdess() -> None:
    speakers = [speaker for group in FIXED_FOLDS["ravdess-emobox"].values() for speaker in group]
    assert sorted(map(int, speakers)) == list(range(1, 25))
    corpus = fake_corpus(speakers)
    protocol = build_protocol(corpus, ProtocolConfig(kind="fixed", fixed="ravdess-emobox"))
    check_partition(corpus, protocol)
    assert speakers_of(corpus, protocol.fold("2").test) == {"4", "10", "12", "14"}
    assert speakers_of(corpus, protocol.fold("6").dev) == {"1", "11", "20", "21"}


def test_held_out_actors_of_crema_d_are_a_seeded_draw_balanced_by_sex() -> None:
    table = make.DATA / "corpora/crema_d/VideoDemographics.csv"
    if not table.is_file():
        pytest.skip("CREMA-D is not here")
    drawn: dict[str, set[str]] = {"test": set(), "dev": set()}
    for sex, number in (("Male", 8), ("Female", 7)):
        actors = [row["ActorID"] for row in make.read_rows(table) if row["Sex"] == sex]
        ordered = sorted(actors, key=lambda actor: stable_seed("crema-d split", actor))
        drawn["test"].update(ordered[:number])
        drawn["dev"].update(ordered[number : 2 * number])
    for split, actors in drawn.items():
        assert set(FIXED_SPLITS["crema-d"][split]) == {f"crema-d/{actor}" for actor in actors}


def test_fixed_splits_of_pooled_corpora() -> None:
    groups = {
        "ravdess": range(1, 25),
        "ased": range(1, 66),
        "nemo": ["WR0", "EB0", "TP0", "KL0"],
        "urdu": ["a"],
    }
    corpus = fake_corpus([f"{name}/{speaker}" for name, speakers in groups.items() for speaker in speakers])
    protocol = build_protocol(corpus, ProtocolConfig(kind="fixed", fixed="bundled"))
    (fold,) = protocol.folds
    actors = {f"ravdess/{actor}" for actor in (1, 11, 20, 21, 3, 5, 7, 24)}
    late = {f"ased/{number}" for number in range(53, 66)}
    assert speakers_of(corpus, fold.test) == actors | late | {"nemo/WR0", "nemo/EB0"}
    dev = {f"ravdess/{actor}" for actor in (4, 10, 12, 14)} | {f"ased/{number}" for number in range(43, 53)}
    assert speakers_of(corpus, fold.dev) == dev | {"nemo/TP0"}
    (unheard,) = build_protocol(corpus, ProtocolConfig(kind="fixed", fixed="bundled-unheard-ravdess")).folds
    assert not any(name.startswith("ravdess/") for name in (*unheard.train, *unheard.dev))
    assert sum(name.startswith("ravdess/") for name in unheard.test) == sum(u.id[:3] == "rav" for u in corpus)
    with pytest.raises(ConfigError, match=r"names speakers that corpus 'fake' lacks: \[\('dev', 'ased/43'\)"):
        build_protocol(fake_corpus(["ravdess/1", "urdu/a"]), ProtocolConfig(kind="fixed", fixed="bundled"))


def published(corpus: Corpus, split: Callable[[Utterance], str | None]) -> Corpus:
    return replace(corpus, utterances=tuple(replace(u, split=split(u)) for u in corpus))


def test_published_splits() -> None:
    names = {"s0": "train", "s1": "dev", "s2": "test"}
    corpus = published(fake_corpus(["s0", "s1", "s2"]), lambda u: names[u.speaker])
    (fold,) = build_protocol(corpus, ProtocolConfig(kind="published")).folds
    assert [speakers_of(corpus, fold.split(split)) for split in SPLITS] == [{"s0"}, {"s1"}, {"s2"}]
    with pytest.raises(ConfigError, match=r"'s0-0': bad split 'None', expected one of \['train'"):
        build_protocol(published(corpus, lambda u: None), ProtocolConfig(kind="published"))
    with pytest.raises(ConfigError, match=r"has no utterances in \['dev'\]"):
        build_protocol(
            published(corpus, lambda u: "test" if u.speaker == "s2" else "train"),
            ProtocolConfig(kind="published"),
        )


@pytest.mark.parametrize(
    ("config", "corpus", "message"),
    [
        ({"kind": "k-fold", "folds": 5}, fake_corpus(["a", "b", "c"]),
         "5 folds by speaker need as many speakers, got 3"),
        ({"kind": "k-fold", "folds": 2}, fake_corpus(TEN), "2 folds; train, dev and test need at least 3"),
        ({"kind": "leave-one-speaker-out"}, fake_corpus(["a", "b"]), "gives 2 folds"),
        ({"kind": "leave-one-speaker-out", "dev": "same-session"}, fake_corpus(TEN, per_session=5),
         "needs leave-one-speaker-out and two speakers in each session"),
        ({"kind": "k-fold", "dev": "same-session"}, fake_corpus(TEN), "needs leave-one-speaker-out"),
        ({"kind": "fixed", "fixed": "ravdess-emobx"}, fake_corpus(TEN),
         "bad fixed list .*did you mean 'ravdess-emobox'"),
        ({"kind": "fixed", "fixed": "ravdess-emobox"}, fake_corpus(TEN), "corpus 'fake' differ in speakers"),
        ({"kind": "leave-one-session-out"},
         Corpus("fake", (Utterance("x", "a", "sad"),)), "'x' has no session; leave-one-session-out needs"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_the_corpus_are_refused(config: dict, corpus: Corpus, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_protocol(corpus, ProtocolConfig(**config))


# --- the file ------------------------------------------------------------------------------------


def test_a_protocol_file_is_read_back_and_changes_are_refused(tmp_path: Path) -> None:
    protocol = build_protocol(fake_corpus(TEN), ProtocolConfig(allow=("speaker",)))
    path = tmp_path / "protocol.json"
    protocol.write(path)
    assert read_protocol(path) == protocol
    data = json.loads(path.read_text())
    assert data["hash"] == protocol.hash
    data["folds"][0]["train"].append(data["folds"][0]["test"].pop())
    path.write_text(json.dumps(data))
    with pytest.raises(
        ModelError, match=r"was changed: the hash of its ids is \w{12}, but the file has " + protocol.hash
    ):
        read_protocol(path)
    with pytest.raises(ModelError, match="is this a run folder"):
        read_protocol(tmp_path / "nothing.json")


def test_a_damaged_protocol_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "protocol.json"
    build_protocol(fake_corpus(TEN), ProtocolConfig()).write(path)
    assert [file.name for file in tmp_path.iterdir()] == ["protocol.json"], "nothing half-written stays"
    data = json.loads(path.read_text())
    for damaged, message in (
        (path.read_text()[:-20], "is no protocol: .*line"),
        (
            json.dumps({key: value for key, value in data.items() if key != "folds"}),
            "is no protocol: it has no 'folds'",
        ),
        (json.dumps({**data, "folds": [{"name": "1", "train": []}]}), "is no protocol: it has no 'dev'"),
        (json.dumps({**data, "folds": 3}), "is no protocol: .*int"),
        ("[]", "is no protocol"),
        ("\udcff", "is no protocol: .*utf-8"),
    ):
        path.write_text(damaged, encoding="utf-8", errors="surrogateescape")
        with pytest.raises(ModelError, match=rf"protocol\.json' {message}"):
            read_protocol(path)


def test_the_hash_depends_on_every_id_of_every_split() -> None:
    protocol = build_protocol(fake_corpus(TEN), ProtocolConfig())
    assert re.fullmatch(r"[0-9a-f]{12}", protocol.hash)
    assert build_protocol(fake_corpus(TEN), ProtocolConfig()).hash == protocol.hash
    fold = protocol.folds[0]
    moved = replace(fold, train=fold.train[1:], dev=(*fold.dev, fold.train[0]))
    others = [
        replace(protocol, folds=(moved, *protocol.folds[1:])), replace(protocol, folds=protocol.folds[1:]),
        replace(protocol, allowed=("speaker",)),
        replace(protocol, folds=(replace(fold, name="x"), *protocol.folds[1:])),
    ]  # fmt: skip
    assert len({protocol.hash, *(other.hash for other in others)}) == 5
    assert protocol.stamp == protocol.hash
    assert others[2].stamp == f"{others[2].hash} LEAKS speaker BY DESIGN"


def test_the_message_for_an_unknown_fold_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"bad fold '6', expected one of \['1', '2', '3', '4', '5'\]"):
        build_protocol(fake_corpus(TEN), ProtocolConfig()).fold("6")


# --- the audit -----------------------------------------------------------------------------------

FOUR = fake_corpus(["a", "b", "c", "d"])


def protocol_of(train: str, dev: str, test: str, allowed: tuple[str, ...] = ()) -> Protocol:
    """A protocol with one fold. `a` stands for both utterances of speaker a, `a0` for the first one."""
    ids = [utterance.id for utterance in FOUR]

    def pick(names: str) -> tuple[str, ...]:
        return tuple(name for part in names.split() for name in ids if name.replace("-", "").startswith(part))

    return Protocol("fake", "by hand", (Fold("1", pick(train), pick(dev), pick(test)),), allowed)


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        (("a b", "c", "d a0"), r"fold 1: utterances in both train and test: 'a-0'$"),
        (("a b", "c b1", "d"), r"utterances in both train and dev: 'b-1'"),
        (("a b", "c", "d c0"), r"utterances in both dev and test: 'c-0'"),
        (("a b0", "c", "d b1"), r"fold 1: speakers in both train and test: speaker 'b' \('b-0', 'b-1'\)"),
        (("a b0", "c b1", "d"), r"speakers in both train and dev: speaker 'b'"),
        (("a b", "c0", "d c1"), r"speakers in both dev and test: speaker 'c'"),
        (("a b", "c", "c"), r"fold 1: dev and test are the same utterances"),
        (("a b", "c", ""), r"fold 1: the test split is empty"),
        (("a b", "", "c"), r"fold 1: the dev split is empty"),
        (("", "a", "c"), r"fold 1: the train split is empty"),
    ],
)
def test_the_audit_refuses_leaks(splits: tuple[str, str, str], message: str) -> None:
    with pytest.raises(LeakError, match=message):
        audit_protocol(FOUR, protocol_of(*splits))


def test_the_audit_accepts_clean_folds() -> None:
    found = audit_protocol(FOUR, protocol_of("a b", "c", "d"))
    assert (found.num_utterances, found.duplicates) == (8, ())


def test_the_audit_refuses_unknown_ids() -> None:
    protocol = Protocol("fake", "x", (Fold("1", ("a-0", "zz"), ("b-0",), ("c-0",)),))
    with pytest.raises(CorpusError, match="fold 1, train: the corpus has no utterance 'zz'"):
        audit_protocol(FOUR, protocol)


def test_many_leaks_are_counted_and_the_first_named() -> None:
    corpus = fake_corpus(["a", "b", "c"], each=8)
    ids = [utterance.id for utterance in corpus]
    protocol = Protocol("x", "x", (Fold("1", tuple(ids[:16]), tuple(ids[16:]), tuple(ids[:8])),))
    with pytest.raises(LeakError, match=r"'a-0', 'a-1', 'a-2', 'a-3', 'a-4', and 3 more"):
        audit_protocol(corpus, protocol)


def test_an_allowed_leak_is_accepted_and_marked_in_the_stamp() -> None:
    splits = ("a b0", "c", "d b1")
    with pytest.raises(LeakError):
        audit_protocol(FOUR, protocol_of(*splits))
    allowed = protocol_of(*splits, allowed=("speaker",))
    assert audit_protocol(FOUR, allowed).num_utterances == 8
    assert allowed.stamp.endswith("LEAKS speaker BY DESIGN")
    with pytest.raises(LeakError, match="utterances in both"):
        audit_protocol(FOUR, protocol_of("a b", "c", "d b1", allowed=("speaker",)))


def test_same_session_dev_of_iemocap_has_no_leak() -> None:
    corpus = fake_corpus([f"Ses0{s}{g}" for s in range(1, 6) for g in "FM"])
    protocol = build_protocol(corpus, ProtocolConfig(kind="leave-one-speaker-out", dev="same-session"))
    assert audit_protocol(corpus, protocol).duplicates == ()
    fold = protocol.fold("Ses02F")
    assert speakers_of(corpus, fold.dev) == {"Ses02M"}
    assert not speakers_of(corpus, fold.train) & {"Ses02F", "Ses02M"}


def test_shared_transcripts_are_counted() -> None:
    words = {"a-0": "Kids are talking", "a-1": "dogs sit", "d-0": "kids  are TALKING", "d-1": "never heard"}
    corpus = replace(FOUR, utterances=tuple(replace(u, transcript=words.get(u.id)) for u in FOUR))
    assert audit_protocol(corpus, protocol_of("a b", "c", "d")).shared_transcripts == {"1": 0.5}
    assert audit_protocol(FOUR, protocol_of("a b", "c", "d")).shared_transcripts == {}


# --- classes -------------------------------------------------------------------------------------


def with_emotions(**emotions: str) -> Corpus:
    """A corpus where speaker a has an utterance for each letter of `a`: n is neutral, h happy, s sad."""
    names = {"n": "neutral", "h": "happy", "s": "sad"}
    return Corpus(
        "fake",
        tuple(
            Utterance(f"{speaker}-{number}", speaker, names[letter])
            for speaker, letters in emotions.items()
            for number, letter in enumerate(letters)
        ),
    )


def one_fold(corpus: Corpus, train: str, dev: str, test: str, name: str = "1") -> Fold:
    """A fold whose splits hold all utterances of these speakers."""
    return Fold(name, *(tuple(u.id for u in corpus if u.speaker in split) for split in (train, dev, test)))


MANY = 12 * "nh"


def test_balanced_folds_have_no_warnings() -> None:
    corpus = with_emotions(a=MANY, b=MANY, c=MANY)
    folds = tuple(one_fold(corpus, *names, name=names[2]) for names in ("abc", "bca", "cab"))
    assert class_warnings(corpus, Protocol("fake", "x", folds)) == ()
    assert absent_from_training(corpus, Protocol("fake", "x", folds)) == {}


def test_emotions_that_are_absent_from_a_split_are_named() -> None:
    corpus = with_emotions(a=MANY, b=MANY + "s" * 20, c=MANY + "s" * 20)
    protocol = Protocol("fake", "x", (one_fold(corpus, *"abc", name="c"), one_fold(corpus, *"bca", name="a")))
    assert class_warnings(corpus, protocol) == (
        "no 'sad' in train of 1 of 2 folds (c): a model that trains without it gives it a recall of about 0",
        "no 'sad' in test of 1 of 2 folds (a): UA of such a fold is the mean over the other emotions",
    )
    assert absent_from_training(corpus, protocol) == {"c": ("sad",)}
    single = Protocol("fake", "x", (one_fold(corpus, *"bac"),))
    assert class_warnings(corpus, single) == ("no 'sad' in dev of fold 1: the epoch is chosen without it",)


def test_scores_get_a_note_on_emotions_that_no_training_has() -> None:
    corpus = with_emotions(a=MANY, b=MANY + "s", c=MANY + "s", d=MANY)
    folds = (one_fold(corpus, *"abc", name="c"), one_fold(corpus, *"abd", name="d"), one_fold(corpus, *"adb"))
    protocol = Protocol("fake", "x", folds)
    assert notes_for_scores(corpus, protocol, ProtocolConfig()) == (
        "'sad' is in test but not in training of 2 of 3 folds (c, 1). The model cannot know it there: its "
        "recall is about 0, which UA includes.",
        "24 of 98 utterances are tested in no fold",
        "the folds use 73 to 74 of 98 utterances",
    )
    note, *_ = notes_for_scores(corpus, protocol, ProtocolConfig(refit=True))
    assert "1 of 3 folds (1)" in note, "a refit also trains on dev"
    config = ProtocolConfig(kind="fixed", fixed="ravdess-2606.03359")
    assert "chose their models on test scores" in notes_for_scores(corpus, protocol, config)[-1]


def test_rare_emotions_are_counted() -> None:
    corpus = with_emotions(a=MANY + "sss", b=MANY + "s", c=MANY + "ss")
    protocol = Protocol("fake", "x", (one_fold(corpus, *"abc"),))
    assert class_warnings(corpus, protocol) == (
        f"fewer than {RARE} training utterances of 'sad' in fold 1: 3",
        f"fewer than {RARE} test utterances of 'sad' in all folds together: 2; one of them moves its "
        "recall by 50 points",
    )
    assert count_classes(corpus, protocol)["1"]["train"] == {"neutral": 12, "happy": 12, "sad": 3}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text("nhs", min_size=1, max_size=30), min_size=3, max_size=5))
def test_counts_of_classes_sum_to_the_splits(letters: list[str]) -> None:
    corpus = with_emotions(**dict(zip("abcde", letters, strict=False)))
    protocol = build_protocol(corpus, ProtocolConfig(kind="leave-one-speaker-out"))
    counts = count_classes(corpus, protocol)
    for fold in protocol.folds:
        for split in SPLITS:
            assert counts[fold.name][split].total() == len(fold.split(split))
    absent = absent_from_training(corpus, protocol)
    warned = " ".join(class_warnings(corpus, protocol))
    for emotion in {name for names in absent.values() for name in names}:
        assert f"no '{emotion}' in train" in warned


# --- identical recordings ------------------------------------------------------------------------

SOUND = make.speech(0.7, 150, seed=5)
QUIET = np.zeros(4800, np.float32)  # 0.3 s, a whole number of frames
ODD = np.zeros(4877, np.float32)  # and 77 samples


def write_16_bit(path: Path, sound: np.ndarray) -> None:
    soundfile.write(path, sound, make.RATE, subtype="PCM_16")


COPIES: dict[str, Callable[[Path], None]] = {
    "the-same-samples": lambda path: write_16_bit(path, SOUND),
    "half-as-loud": lambda path: write_16_bit(path, 0.5 * SOUND),
    "a-tenth-as-loud": lambda path: write_16_bit(path, 0.1 * SOUND),
    "louder": lambda path: write_16_bit(path, 1.9 * SOUND),
    "silence-around-it": lambda path: write_16_bit(path, np.concatenate([QUIET, SOUND, QUIET])),
    "later-by-one-sample": lambda path: write_16_bit(path, np.concatenate([ODD[:1], SOUND])),
    "later-and-a-tenth-as-loud": lambda path: write_16_bit(
        path, np.concatenate([ODD, 0.1 * SOUND, ODD[:999]])
    ),
    "re-quantised-from-float": lambda path: soundfile.write(path, SOUND, make.RATE, subtype="FLOAT"),
    "re-quantised-from-24-bit": lambda path: soundfile.write(path, 0.7 * SOUND, make.RATE, subtype="PCM_24"),
    "another-container": lambda path: soundfile.write(path, SOUND, make.RATE, format="FLAC"),
    "twice-in-stereo": lambda path: write_16_bit(path, np.stack([SOUND, SOUND], axis=1)),
}  # fmt: skip


def with_audio(folder: Path) -> Corpus:
    utterances = []
    for index, utterance in enumerate(FOUR):
        path = folder / f"{utterance.id}.wav"
        write_16_bit(path, make.speech(0.7, 110 + 10 * index, seed=50 + index))
        utterances.append(replace(utterance, path=path))
    return replace(FOUR, utterances=tuple(utterances))


@pytest.mark.parametrize("copy", COPIES)
def test_an_identical_recording_in_two_splits_is_refused(copy: str, tmp_path: Path) -> None:
    corpus = with_audio(tmp_path)
    clean = protocol_of("a b", "c", "d")
    assert audit_protocol(corpus, clean).duplicates == ()
    write_16_bit(tmp_path / "a-1.wav", SOUND)
    COPIES[copy](tmp_path / "d-0.wav")
    with pytest.raises(
        LeakError, match=r"identical recordings in two splits: 'a-1' \(train\) = 'd-0' \(test\)"
    ):
        audit_protocol(corpus, clean)
    # `allow = ["speaker"]` allows speakers and nothing else.
    with pytest.raises(LeakError, match="identical recordings"):
        audit_protocol(corpus, protocol_of("a b", "c", "d", allowed=("speaker",)))


def test_an_identical_recording_inside_one_split_is_reported(tmp_path: Path) -> None:
    corpus = with_audio(tmp_path)
    write_16_bit(tmp_path / "a-1.wav", SOUND)
    write_16_bit(tmp_path / "b-0.wav", 0.5 * SOUND)
    assert audit_protocol(corpus, protocol_of("a b", "c", "d"), workers=2).duplicates == (("a-1", "b-0"),)


def test_rounded_copies_are_found_wherever_they_start(tmp_path: Path) -> None:
    # Rounding moves some sample across the threshold in about one of ten such copies.
    rng, utterances = np.random.default_rng(0), []
    for number in range(40):
        sound = make.speech(0.3, 100 + 3 * number, seed=number)
        ramp = np.minimum(1, np.linspace(0.001, 8, len(sound))) * np.minimum(
            1, np.linspace(8, 0.001, len(sound))
        )
        before, after = (np.zeros(rng.integers(0, 2000)) for _ in range(2))
        for name, copy in (("a", ramp * sound), ("b", np.concatenate([before, 0.2 * ramp * sound, after]))):
            path = tmp_path / f"{number}{name}.wav"
            write_16_bit(path, copy)
            utterances.append(Utterance(path.stem, "s", "sad", path))
    expected = [(f"{number}a", f"{number}b") for number in range(40)]
    assert identical_recordings(Corpus("x", tuple(utterances))) == expected


@pytest.mark.parametrize(("folder", "pairs"), [
    ("ravdess", {"03-01-03-01-02-01-07 03-01-03-01-02-02-07"}),
    ("ased", {"n1-07-01-02-53 n1-07-02-02-53", "h3-01-01-02-08 h3-01-02-02-08",
              "s4-03-01-01-23 s4-03-02-01-23", "a5-07-01-02-63 a5-07-02-02-63"}),
])  # fmt: skip
def test_known_duplicates_of_real_corpora_are_found(folder: str, pairs: set[str]) -> None:
    root = make.DATA / "corpora" / folder
    if not root.is_dir():
        pytest.skip(f"no '{root}'; set EMODISTILL_DATA")
    assert {" ".join(pair) for pair in identical_recordings(read_corpus(folder, root), workers=2)} == pairs


def test_similar_recordings_are_not_identical(tmp_path: Path) -> None:
    corpus = with_audio(tmp_path)
    write_16_bit(tmp_path / "a-1.wav", SOUND)
    changed = SOUND.copy()
    changed[4000:4100] *= 0.9
    write_16_bit(tmp_path / "d-0.wav", changed)
    assert identical_recordings(corpus) == []


def test_unreadable_audio_is_skipped(tmp_path: Path) -> None:
    corpus = with_audio(tmp_path)
    (tmp_path / "a-0.wav").write_text("nothing")
    (tmp_path / "b-0.wav").unlink()
    assert identical_recordings(corpus) == []


def test_segments_of_one_recording_are_compared_as_segments(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    write_16_bit(path, np.concatenate([SOUND, make.speech(0.7, 200, seed=9), SOUND]))
    corpus = Corpus(
        "x", tuple(Utterance(n, n, "sad", path, 0.7 * k, 0.7 * (k + 1)) for k, n in enumerate("pqr"))
    )
    assert identical_recordings(corpus) == [("p", "r")]


# --- teachers ------------------------------------------------------------------------------------


def test_a_teacher_trained_on_held_out_utterances_is_refused() -> None:
    audit_teacher(["a", "b"], ["c"], "prosodic")
    with pytest.raises(LeakError, match="the prosodic teacher was trained on held-out utterances: 'b'"):
        audit_teacher(["a", "b"], ["b", "c"], "prosodic")


def test_notes_count_utterances_that_several_folds_test_or_none() -> None:
    utterances = [Utterance(name, name, "sad") for name in "abcd"]
    folds = (Fold("1", ("c",), ("d",), ("a", "b")), Fold("2", ("c",), ("d",), ("a",)))
    notes = notes_for_scores(utterances, Protocol("x", "own", folds), ProtocolConfig())
    assert notes == (
        "1 utterances are tested in more than one fold, and pooled scores count each of them once for each "
        "fold",
        "2 of 4 utterances are tested in no fold",
        "the folds use 3 to 4 of 4 utterances",
    )
    one = (Fold("1", ("c",), ("d",), ("a", "b")),)
    assert notes_for_scores(utterances, Protocol("x", "own", one), ProtocolConfig()) == ()


def test_a_model_may_know_an_utterance_with_and_without_the_name_of_its_corpus() -> None:
    plain = Utterance("7", "s", "sad", corpus="nemo")
    assert ids_of(plain, "pool") == {"7", "nemo/7", "pool/7"}
    pooled = Utterance("nemo/7", "s", "sad", corpus="nemo")
    assert {"7", "nemo/7"} <= ids_of(pooled, "pool")
    assert "ased/7" not in ids_of(plain, "pool") | ids_of(pooled, "pool")


def test_ids_that_differ_in_the_corpus_alone_are_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    mine = [Utterance(name, "s", "sad", corpus="table") for name in ("1011_a", "1011_b", "new")]
    warn_of_equal_ids({"crema-d/1011_a", "crema-d/1011_b", "other/x"}, mine, "bundled")
    text = " ".join(capsys.readouterr().err.split())
    assert "2 utterances have ids that bundled was trained or chosen on in another corpus" in text
    assert "'1011_a' here and 'crema-d/1011_a' there" in text
    warn_of_equal_ids({"crema-d/9"}, mine, "bundled")
    assert capsys.readouterr().err == ""


# --- leave one corpus out -------------------------------------------------------------------------


def pooled_corpora(*sizes: int, emotions: tuple[str, ...] = ("angry", "sad")) -> Corpus:
    """Pooled corpora a, b, … with these numbers of speakers; two utterances of each emotion and speaker."""
    return Corpus(
        "pool",
        tuple(
            Utterance(f"{name}/{s}/{emotion}/{take}", f"{name}/{s}", emotion, corpus=name)
            for name, size in zip("abcd", sizes, strict=False)
            for s in range(size)
            for emotion in emotions
            for take in range(2)
        ),
    )


LEAVE_ONE_CORPUS_OUT = ProtocolConfig(kind="leave-one-corpus-out", folds=4)


def test_each_corpus_is_the_test_split_of_one_fold() -> None:
    corpus = pooled_corpora(9, 5, 2)
    protocol = build_protocol(corpus, LEAVE_ONE_CORPUS_OUT)
    assert [fold.name for fold in protocol.folds] == ["a", "b", "c"]
    speaker = {utterance.id: utterance.speaker for utterance in corpus}
    for fold in protocol.folds:
        assert set(fold.test) == {name for name in speaker if name.startswith(f"{fold.name}/")}
        assert set(fold.train) | set(fold.dev) == set(speaker) - set(fold.test)
        dev = {speaker[name] for name in fold.dev}
        assert dev.isdisjoint({speaker[name] for name in fold.train})
        sizes = {"a": 3, "b": 2, "c": 1}
        expected = {name: number for name, number in sizes.items() if name != fold.name}
        assert {name: sum(s.startswith(name) for s in dev) for name in expected} == expected
    assert protocol.description == "leave-one-corpus-out; dev: one in 4 speakers of each training corpus"


def test_dev_speakers_do_not_depend_on_the_corpus_that_is_left_out() -> None:
    folds = {
        fold.name: set(fold.dev)
        for fold in build_protocol(pooled_corpora(6, 6, 6), LEAVE_ONE_CORPUS_OUT).folds
    }
    in_c = [{name for name in folds[left_out] if name.startswith("c/")} for left_out in "ab"]
    assert in_c[0] == in_c[1] != set()


def test_corpora_with_different_emotions_are_refused() -> None:
    corpus = pooled_corpora(3, 3)
    more = Utterance("b/9", "b/0", "calm", corpus="b")
    with pytest.raises(
        ConfigError, match=r"'a' lacks \['calm'\]\. All share \['angry', 'sad'\]: --set corpus\.labels="
    ):
        build_protocol(Corpus("pool", (*corpus.utterances, more)), LEAVE_ONE_CORPUS_OUT)


def test_too_few_or_too_small_corpora_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"two corpora or more, got \['a'\]"):
        build_protocol(pooled_corpora(5), LEAVE_ONE_CORPUS_OUT)
    with pytest.raises(ConfigError, match="without 'b' no corpus has two speakers"):
        build_protocol(pooled_corpora(1, 3), LEAVE_ONE_CORPUS_OUT)


def test_a_speaker_name_in_two_corpora_is_a_leak(tmp_path: Path) -> None:
    corpus = pooled_corpora(3, 3)
    twins = tuple(replace(u, speaker=u.speaker[-1]) for u in corpus)
    with pytest.raises(LeakError, match="speakers in both"):
        audit_protocol(Corpus("pool", twins), build_protocol(Corpus("pool", twins), LEAVE_ONE_CORPUS_OUT))
