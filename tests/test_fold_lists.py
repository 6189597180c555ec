"""Folds from files: own lists in a CSV, EmoBox's folders, and corpora of one speaker."""

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import factories as make
import factories_corpora as fake
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emodistill.config import ProtocolConfig
from emodistill.corpora import Corpus, Utterance, read_corpus
from emodistill.errors import ConfigError, LeakError
from emodistill.protocol import (
    FIXED_FOLDS,
    SPLITS,
    Protocol,
    audit_protocol,
    build_protocol,
    class_warnings,
    count_classes,
)

ALLOWED: tuple = ("speaker",)


def corpus_of(speakers: Sequence[str], each: int = 4, name: str = "own") -> Corpus:
    """A corpus without audio: `each` utterances of each speaker, half of them angry and half sad."""
    return Corpus(
        name,
        tuple(
            Utterance(f"{speaker}-{take}", speaker, "angry" if take % 2 else "sad")
            for speaker in speakers
            for take in range(each)
        ),
    )


SIX = corpus_of("abcdef")


def write_list(path: Path, header: str, rows: Sequence[Sequence[str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header.split(","), *rows])
    return path


def of_list(path: Path, corpus: Corpus = SIX, **settings: object) -> Protocol:
    config = ProtocolConfig.model_validate({"kind": "list", "folds_from": str(path), **settings})
    return build_protocol(corpus, config)


def by_speaker(folds: dict[str, str], corpus: Corpus = SIX) -> list[tuple[str, str]]:
    """The rows of a list that tests each speaker in a fold."""
    return [(u.id, folds[u.speaker]) for u in corpus]


def speakers(corpus: Corpus, ids: Sequence[str]) -> str:
    by_id = {utterance.id: utterance.speaker for utterance in corpus}
    return "".join(sorted({by_id[name] for name in ids}))


def splits(protocol: Protocol, corpus: Corpus = SIX) -> dict[str, tuple[str, ...]]:
    """The speakers of each split, by fold."""
    return {
        fold.name: tuple(speakers(corpus, fold.split(split)) for split in SPLITS) for fold in protocol.folds
    }


# --- own lists -----------------------------------------------------------------------------------


def test_a_fold_alone_is_the_test_fold_and_the_next_one_is_dev(tmp_path: Path) -> None:
    path = write_list(
        tmp_path / "folds.csv", "id,fold", by_speaker(dict(zip("abcdef", "112233", strict=True)))
    )
    protocol = of_list(path)
    assert splits(protocol) == {"1": ("ef", "cd", "ab"), "2": ("ab", "ef", "cd"), "3": ("cd", "ab", "ef")}
    assert protocol.description == "list folds.csv; dev: the next fold's test utterances"
    audit_protocol(SIX, protocol)


def test_two_folds_draw_dev_from_the_training_speakers(tmp_path: Path) -> None:
    path = write_list(
        tmp_path / "folds.csv", "id,fold", by_speaker(dict(zip("abcdef", "xxxyyy", strict=True)))
    )
    protocol = of_list(path, folds=3)
    for fold, (train, dev, test) in splits(protocol).items():
        assert test == {"x": "abc", "y": "def"}[fold]
        assert (len(dev), len(train)) == (1, 2)
    assert protocol.description.endswith("dev: one in 3 training speakers")
    audit_protocol(SIX, protocol)


def test_a_split_gives_the_whole_fold(tmp_path: Path) -> None:
    chosen = dict(zip("abcdef", ["train", "train", "train", "dev", "test", "-"], strict=True))
    path = write_list(tmp_path / "f.csv", "id,split", [(u.id, chosen[u.speaker]) for u in SIX])
    protocol = of_list(path)
    assert splits(protocol) == {"1": ("abc", "d", "e")}
    assert protocol.description == "list f.csv; dev: that of the list"
    rows = [(u.id, fold, chosen[u.speaker]) for fold in ("x", "y") for u in SIX]
    both = of_list(write_list(tmp_path / "g.csv", "id,fold,split", rows))
    assert splits(both) == {"x": ("abc", "d", "e"), "y": ("abc", "d", "e")}


def test_a_split_without_dev_draws_it(tmp_path: Path) -> None:
    rows = [(u.id, "1", "test" if u.speaker in "ef" else "train") for u in SIX]
    protocol = of_list(write_list(tmp_path / "f.csv", "id,fold,split", rows), folds=4)
    ((train, dev, test),) = splits(protocol).values()
    assert (len(train), len(dev), test) == (3, 1, "ef")
    audit_protocol(SIX, protocol)


def test_a_hyphen_leaves_an_utterance_out(tmp_path: Path) -> None:
    rows = by_speaker(dict(zip("abcdef", "12345-", strict=True)))
    protocol = of_list(write_list(tmp_path / "f.csv", "id,fold", rows))
    assert [fold.name for fold in protocol.folds] == ["1", "2", "3", "4", "5"]
    used = {name for fold in protocol.folds for split in SPLITS for name in fold.split(split)}
    assert speakers(SIX, sorted(used)) == "abcde"


def test_tabs_and_spaces_are_read(tmp_path: Path) -> None:
    path = tmp_path / "folds.tsv"
    rows = [f" {u.id}\t{u.speaker} \n" for u in SIX]
    path.write_text("﻿id\tfold\n" + "".join(rows), encoding="utf-8")
    assert [fold.name for fold in of_list(path).folds] == list("abcdef")


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["111222", "112233", "111223", "123456"]).flatmap(st.permutations), st.randoms())
def test_any_list_by_speaker_gives_clean_folds(
    tmp_path_factory: pytest.TempPathFactory, folds: list[str], random: Random
) -> None:
    rows = by_speaker(dict(zip("abcdef", folds, strict=True)))
    path = tmp_path_factory.mktemp("lists") / "f.csv"
    protocol = of_list(write_list(path, "id,fold", rows))
    assert sorted(name for fold in protocol.folds for name in fold.test) == sorted(u.id for u in SIX)
    for fold in protocol.folds:
        assert sorted([*fold.train, *fold.dev, *fold.test]) == sorted(u.id for u in SIX)
    audit_protocol(SIX, protocol)
    random.shuffle(rows)
    again = of_list(write_list(path, "id,fold", rows))
    assert again == protocol, "folds do not depend on the order of rows"


GOOD = by_speaker(dict(zip("abcdef", "112233", strict=True)))


def test_semicolons_and_ids_that_no_fold_uses_are_read(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    lines = ["id;fold", *(";".join(row) for row in GOOD), "z-1;-"]
    path.write_text("\n".join(lines), encoding="utf-8")
    plain = of_list(write_list(tmp_path / "g.csv", "id,fold", GOOD))
    assert of_list(path).folds == plain.folds


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        ("id,fold", GOOD[2:], r"f.csv' lacks 2 of the 24 utterances of corpus 'own': 'a-0', 'a-1'; add"),
        ("id,fold", [*GOOD, ("z-1", "1"), ("z-2", "1"), ("z-3", "2"), ("z-4", "2")],
         r"names ids that corpus 'own' lacks \(4 of 28\): 'z-1', 'z-2', 'z-3', …; the corpus has 24 "
         "utterances, such as 'a-0'"),
        ("id,fold", [*GOOD, ("a-0", "2")], r"row 26: 'a-0' is also in row 2; expected one row"),
        ("id,fold,split", [(*row, "test") for row in [*GOOD, GOOD[0]]], r"row 26: 'a-0' is also in row 2"),
        ("id,fold,split", [(*row, "valid") for row in GOOD], r"row 2: bad split 'valid', expected one of"),
        ("id,fold,split", [(*row, "train") for row in GOOD], r"fold 1: 20 utterances have no split: 'b-0'"),
        ("id,split", [(row[0], "train") for row in GOOD], r"fold 1: no utterance of the corpus is in test"),
        ("id,speaker", GOOD, r"needs a column fold, split or both; it has \['id', 'speaker'\]"),
        ("name,fold", GOOD, r"has no column 'id'"),
        ("id,fold", [*GOOD[1:], ("a-0", "")], r"row 25: expected an id and a fold, got .* - as fold leaves"),
        ("id,fold", [*GOOD[1:], ("a-0", "../1")], r"row 25: bad fold '\.\./1'"),
        ("id,fold", [], r"has no rows"),
        ("id,fold", [(name, "1") for name, _ in GOOD], r"has 1 folds, .* it needs at least 2"),
    ],
)  # fmt: skip
def test_lists_that_do_not_fit_are_refused(
    header: str, rows: list[tuple[str, ...]], message: str, tmp_path: Path
) -> None:
    if header == "id,fold,split" and "no split" in message:
        rows = [row for row in rows if row[0].startswith("a")] + [
            (row[0], "2", row[2]) for row in rows if not row[0].startswith("a")
        ]
    with pytest.raises(Exception, match=message) as caught:
        of_list(write_list(tmp_path / "f.csv", header, rows))
    assert type(caught.value).__name__ in ("ConfigError", "CorpusError")


def test_a_missing_list_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no file '.*nothing\.csv'; expected a CSV"):
        of_list(tmp_path / "nothing.csv")


def test_ids_that_the_corpus_dropped_may_be_listed(tmp_path: Path) -> None:
    path = write_list(tmp_path / "f.csv", "id,fold", [*GOOD, ("z-1", "1")])
    protocol = of_list(path, replace(SIX, dropped={"audio missing": 1}))
    assert protocol.description.endswith("; 1 listed utterances were dropped from the corpus")


def test_a_speaker_in_two_listed_splits_is_a_leak_unless_it_is_allowed(tmp_path: Path) -> None:
    rows = [(u.id, str(int(u.id[-1]) % 3)) for u in SIX]
    path = write_list(tmp_path / "f.csv", "id,fold", rows)
    with pytest.raises(LeakError, match="fold 0: speakers in both train and test: speaker 'b'"):
        audit_protocol(SIX, of_list(path))
    protocol = of_list(path, allow=ALLOWED)
    audit_protocol(SIX, protocol)
    assert protocol.stamp.endswith("LEAKS speaker BY DESIGN")
    assert {len(fold.dev) for fold in protocol.folds} <= {6, 12}, "dev is what the next fold tests"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"kind": "list"}, "kind = 'list' needs folds_from: a CSV"),
        ({"kind": "emobox"}, "kind = 'emobox' needs folds_from: a folder"),
        (
            {"kind": "k-fold", "folds_from": "x.csv"},
            "folds_from = 'x.csv' has no effect with kind = 'k-fold'",
        ),
    ],
)
def test_folds_from_and_its_kinds_need_each_other(config: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ProtocolConfig(**config)


def test_dev_of_a_list_is_not_that_of_a_session(tmp_path: Path) -> None:
    path = write_list(tmp_path / "f.csv", "id,fold", GOOD)
    with pytest.raises(ConfigError, match="same-session' needs leave-one-speaker-out"):
        of_list(path, dev="same-session")


# --- EmoBox --------------------------------------------------------------------------------------


def emobox_folder(root: Path, folds: dict[str, dict[str, Sequence[str]]], name: str = "own") -> Path:
    """A folder `data/NAME` with folds as in EmoBox: fold -> train, valid or test -> ids of our reader."""
    folder = root / "EmoBox/data" / name
    for fold, parts in folds.items():
        for part, ids in parts.items():
            lines = [fake.emobox_line(f"{name}-{i}", name, f"downloads/{name}/{i}.wav", "x") for i in ids]
            fake.write(folder / f"fold_{fold}/{name}_{part}_fold_{fold}.jsonl", "".join(lines))
    return folder


def of_emobox(folder: Path, corpus: Corpus = SIX, **settings: object) -> Protocol:
    config = ProtocolConfig.model_validate({"kind": "emobox", "folds_from": str(folder), **settings})
    return build_protocol(corpus, config)


def ids_of(corpus: Corpus, names: str) -> list[str]:
    return [utterance.id for utterance in corpus if utterance.speaker in names]


def test_folds_of_emobox_are_read_as_they_are(tmp_path: Path) -> None:
    tests = {"1": "ab", "2": "cd", "10": "ef"}
    folder = emobox_folder(
        tmp_path,
        {
            fold: {
                "train": ids_of(SIX, "".join(set("abcdef") - set(test))), "test": ids_of(SIX, test)
            } for fold, test in tests.items()
        },
    )  # fmt: skip
    protocol = of_emobox(folder)
    assert splits(protocol) == {"1": ("ef", "cd", "ab"), "2": ("ab", "ef", "cd"), "10": ("cd", "ab", "ef")}
    assert protocol.description == "EmoBox's folds of own; dev: the next fold's test utterances"
    audit_protocol(SIX, protocol)
    (one,) = of_emobox(folder / "fold_2", folds=4).folds
    assert (one.name, speakers(SIX, one.test)) == ("2", "cd")
    assert len(speakers(SIX, one.dev)) == 1


def test_a_valid_list_of_emobox_is_dev(tmp_path: Path) -> None:
    parts = {"train": "abc", "valid": "d", "test": "ef"}
    folder = emobox_folder(tmp_path, {"1": {part: ids_of(SIX, names) for part, names in parts.items()}})
    assert splits(of_emobox(folder)) == {"1": ("abc", "d", "ef")}
    assert of_emobox(folder).description.endswith("dev: that of the list")


def test_emobox_lists_of_ravdess_equal_our_fixed_list(tmp_path: Path) -> None:
    listed = FIXED_FOLDS["ravdess-emobox"]
    actors = sorted((actor for group in listed.values() for actor in group), key=int)
    utterances = tuple(
        Utterance(f"03-01-0{emotion}-01-01-01-{int(actor):02}", actor, label)
        for actor in actors
        for emotion, label in enumerate(("neutral", "happy", "sad"), start=1)
    )
    corpus = Corpus("ravdess", utterances)
    folds = {
        fold: {
            "train": [u.id for u in utterances if u.speaker not in group],
            "test": [u.id for u in utterances if u.speaker in group],
        }
        for fold, group in listed.items()
    }
    folder = emobox_folder(tmp_path, folds, "ravdess")
    fixed = build_protocol(corpus, ProtocolConfig(kind="fixed", fixed="ravdess-emobox"))
    assert of_emobox(folder, corpus).hash == fixed.hash


def test_emobox_lists_of_meld_fit_the_reader_of_meld(tmp_path: Path) -> None:
    chosen = {"train": "abcd", "dev": "e", "test": "f"}
    meld = Corpus(
        "meld",
        tuple(
            Utterance(f"{split}_dia{k}_utt{k}", speaker, "sad")
            for split, names in chosen.items()
            for k, speaker in enumerate(names)
        ),
    )
    folder = tmp_path / "data/meld"
    for split, part in (("train", "train"), ("dev", "valid"), ("test", "test")):
        lines = [
            fake.emobox_line(f"meld-dia{k}_utt{k}-{part}", "meld", f"downloads/x/dia{k}_utt{k}.mp4", "joy")
            for k in range(len(chosen[split]))
        ]
        fake.write(folder / f"fold_1/meld_{part}_fold_1.jsonl", "".join(lines))
    assert splits(of_emobox(folder, meld), meld) == {"1": ("abcd", "e", "f")}


def test_differences_of_emobox_and_corpus_are_counted(tmp_path: Path) -> None:
    folder = emobox_folder(
        tmp_path, {"1": {"train": [*ids_of(SIX, "abc"), "x", "y"], "test": ids_of(SIX, "d")}}
    )
    description = of_emobox(folder).description
    assert "the corpus lacks 2 of EmoBox's utterances" in description
    assert "no fold has 8 of the corpus's 24 utterances" in description
    with pytest.raises(ConfigError, match=r"corpus 'other' has no utterance of train or test; EmoBox lists "):
        of_emobox(folder, corpus_of("z", name="other"))


def test_a_folder_without_folds_of_emobox_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"has no lists such as fold_1/\*_train_fold_1.jsonl; expected EmoBox"
    ):
        of_emobox(tmp_path)


def test_emobox_folds_fit_the_corpus_that_is_read_from_emobox(tmp_path: Path) -> None:
    root = tmp_path / "EmoBox/data/cafe"
    fake.emobox(root)
    corpus = read_corpus("emobox", root)
    with pytest.raises(ConfigError, match="only speaker '01' trains, and the list has no dev split"):
        of_emobox(root, corpus)


# --- one speaker ---------------------------------------------------------------------------------

ALONE = corpus_of("a", each=30)


@pytest.mark.parametrize("kind", ["k-fold", "leave-one-speaker-out"])
def test_a_corpus_of_one_speaker_is_pointed_to_what_takes_it(kind: str) -> None:
    with pytest.raises(ConfigError, match="The corpus has 1 speaker, so its utterances must be") as caught:
        build_protocol(ALONE, ProtocolConfig(kind=kind))  # type: ignore[arg-type]
    allow = "--set 'protocol.allow=[\"speaker\"]'"
    assert f"--set protocol.kind=k-fold {allow}. Each score is then marked LEAKS speaker BY" in str(
        caught.value
    )
    assert f"--set protocol.kind=list --set protocol.folds_from=folds.csv {allow}" in str(caught.value)


def test_k_fold_divides_the_utterances_of_one_speaker() -> None:
    protocol = build_protocol(ALONE, ProtocolConfig(allow=ALLOWED))
    audit_protocol(ALONE, protocol)
    assert protocol.stamp.endswith("LEAKS speaker BY DESIGN")
    assert sorted(name for fold in protocol.folds for name in fold.test) == sorted(u.id for u in ALONE)
    counts = count_classes(ALONE, protocol)
    assert all(by_split["test"] == {"angry": 3, "sad": 3} for by_split in counts.values())
    assert "k-fold over utterances, balanced by emotion" in protocol.description
    assert not any("no '" in warning for warning in class_warnings(ALONE.utterances, protocol))
    ten = corpus_of("abcdefghij")
    assert (
        build_protocol(ten, ProtocolConfig(allow=ALLOWED)).folds
        == build_protocol(ten, ProtocolConfig()).folds
    )


def test_sessions_divide_the_utterances_of_one_speaker() -> None:
    sessions = tuple(replace(u, session=f"S{int(u.id.split('-')[1]) % 3}") for u in ALONE)
    corpus = replace(ALONE, utterances=sessions)
    protocol = build_protocol(corpus, ProtocolConfig(kind="leave-one-session-out", allow=ALLOWED))
    audit_protocol(corpus, protocol)
    assert [(fold.name, len(fold.test)) for fold in protocol.folds] == [("S0", 10), ("S1", 10), ("S2", 10)]


def test_sessions_of_one_speaker_are_pointed_to_what_divides_them() -> None:
    sessions = tuple(replace(u, session=f"S{int(u.id.split('-')[1]) % 3}") for u in ALONE)
    corpus = replace(ALONE, utterances=sessions)
    message = (
        r"leave-one-session-out on 'own' gives 1 fold; .*=k-fold \(or leave-one-session-out\) --set 'protocol"
    )
    with pytest.raises(ConfigError, match=message):
        build_protocol(corpus, ProtocolConfig(kind="leave-one-session-out"))


def test_own_folds_of_one_speaker_need_the_speaker_to_be_allowed(tmp_path: Path) -> None:
    path = write_list(tmp_path / "f.csv", "id,fold", [(u.id, str(int(u.id[2:]) % 5)) for u in ALONE])
    with pytest.raises(ConfigError, match=r"only speaker 'a' trains, .*--set 'protocol\.allow"):
        of_list(path, ALONE)
    protocol = of_list(path, ALONE, allow=ALLOWED)
    audit_protocol(ALONE, protocol)
    assert [len(fold.test) for fold in protocol.folds] == [6] * 5


def test_the_folds_of_one_speaker_in_emobox_draw_dev_from_its_utterances(tmp_path: Path) -> None:
    ids = [utterance.id for utterance in ALONE]
    folder = emobox_folder(tmp_path, {"1": {"train": ids[:20], "test": ids[20:]}})
    protocol = of_emobox(folder, ALONE, allow=ALLOWED)
    audit_protocol(ALONE, protocol)
    assert [len(protocol.folds[0].split(split)) for split in SPLITS] == [16, 4, 10]
    assert protocol.description.endswith("dev: one in 5 training utterances")


# --- the folds of arXiv 2606.03359 ---------------------------------------------------------------


def test_the_five_folds_of_ravdess_hold_each_actor_once() -> None:
    listed = FIXED_FOLDS["ravdess-2606.03359"]
    actors = sorted((actor for group in listed.values() for actor in group), key=int)
    assert actors == [str(number) for number in range(1, 25)]
    corpus = corpus_of(actors)
    protocol = build_protocol(corpus, ProtocolConfig(kind="fixed", fixed="ravdess-2606.03359"))
    audit_protocol(corpus, protocol)
    tested = [{name.split("-")[0] for name in fold.test} for fold in protocol.folds]
    assert tested[0] == {"2", "5", "14", "15", "16"}
    assert tested[4] == {"1", "4", "9", "22"}


def test_real_ravdess_takes_the_five_folds() -> None:
    root = make.DATA / "corpora/ravdess"
    if not root.is_dir():
        pytest.skip(f"no '{root}'; set EMODISTILL_DATA")
    corpus = read_corpus("ravdess", root)
    protocol = build_protocol(corpus, ProtocolConfig(kind="fixed", fixed="ravdess-2606.03359"))
    assert [len(fold.test) for fold in protocol.folds] == [300, 300, 300, 300, 240]
    assert class_warnings(corpus.utterances, protocol) == ()
