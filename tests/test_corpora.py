"""Corpus readers on fake folders and, where they exist, on the real corpora; `Corpus` and audio headers."""

import csv
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import factories as make
import factories_corpora as fake
import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from emodistill.config import CorpusConfig, load_recipe
from emodistill.corpora import (
    READERS,
    Corpus,
    Reader,
    Utterance,
    audio_duration_s,
    corpus_stats,
    data_sources,
    drop_bad_audio,
    open_corpus,
    plot_stats,
    read_corpus,
    read_manifest,
    readers,
)
from emodistill.corpora.base import most_frequent
from emodistill.corpora.readers import crema_d
from emodistill.corpora.readers.meld import repair_text
from emodistill.errors import ConfigError, CorpusError
from emodistill.labels import get_label_map

ROOT = Path(__file__).parents[1]


def fake_folder(name: str, root: Path, suffix: str = ".wav") -> Path:
    """Make the fake folder of a corpus; EmoBox's audio is outside the folder that is read."""
    if name == "emobox":
        root = root / "data" / "cafe"
        fake.touch(root.parents[1], ["downloads/cafe/01-c-1", "downloads/cafe/02-p-1"], suffix)
    root.mkdir(parents=True, exist_ok=True)
    fake.FOLDERS[name](root, suffix)
    return root


def rows(corpus: Corpus) -> fake.Rows:
    return {u.id: (u.speaker, u.gender, u.language, u.emotion, u.transcript) for u in corpus}


def by_id(corpus: Corpus, name: str) -> Utterance:
    return next(utterance for utterance in corpus if utterance.id == name)


# --- the registry ------------------------------------------------------------------------------


def test_every_reader_has_a_fake_folder() -> None:
    hint = "add the corpus to FOLDERS and EXPECTED in tests/factories_corpora.py"
    assert fake.FOLDERS.keys() == READERS.keys(), hint
    assert fake.EXPECTED.keys() == READERS.keys(), hint


def test_readers_are_sorted_and_named_as_they_are_registered() -> None:
    assert list(READERS) == sorted(READERS)
    assert all(reader.name == name for name, reader in READERS.items())


@pytest.mark.parametrize("name", READERS)
def test_a_reader_states_all_facts(name: str) -> None:
    reader = READERS[name]
    assert reader.licence
    assert reader.citation
    assert reader.tested_on
    assert re.match(r"https?://\S+$", reader.url or "") or reader.packaged, (
        "no address, and not in this package"
    )
    assert reader.languages
    assert all(re.fullmatch("[a-z]{2}", code) and language for code, language in reader.languages.items())
    assert reader.default_labels == "all" or get_label_map(reader.default_labels)

    def letters(text: str) -> str:
        return re.sub(r"\W|_", "", text).lower()

    module = reader.read.__module__.rpartition(".")[2]
    begins = letters(reader.description).startswith(letters(module))
    assert begins, f"the docstring of {module}.py does not begin with '{module}'"
    for heading in ("Layout", "Quirks"):
        missing = f"the docstring of {module}.py has no paragraph '{heading}: '"
        assert f"\n\n{heading}: " in reader.description, missing


@pytest.mark.parametrize("name", READERS)
def test_a_reader_is_in_the_documentation(name: str) -> None:
    page = (ROOT / "docs/corpora.md").read_text(encoding="utf-8")
    listed = f"\n| `{name}` | " in page and re.search(rf"^## .*\b{name}\b", page, flags=re.M)
    assert listed, f"docs/corpora.md lacks '{name}': run python scripts/docs_tables.py"


def test_generated_parts_of_the_documentation_are_up_to_date() -> None:
    command = [sys.executable, str(ROOT / "scripts/docs_tables.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_one_new_file_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = (ROOT / "src/emodistill/corpora/readers/urdu.py").read_text(encoding="utf-8")
    (tmp_path / "made_up.py").write_text(module.replace('name="urdu"', 'name="made-up"'), encoding="utf-8")
    monkeypatch.setattr(readers, "__path__", [*readers.__path__, str(tmp_path)])
    names = list(readers._find_readers(Reader))
    del sys.modules["emodistill.corpora.readers.made_up"]
    assert names == sorted([*READERS, "made-up"])


def test_cards_state_licence_and_address_of_each_corpus() -> None:
    items = [
        Utterance("1", "a", "sad", language="pl", corpus="nemo"),
        Utterance("2", "b", "sad", language="en"),
        Utterance("3", "c", "sad", language="de"),
    ]
    nemo, other = data_sources({"train": items, "dev": items[:1]}, "mine")
    assert (nemo.name, nemo.licence, nemo.url) == ("nemo", READERS["nemo"].licence, READERS["nemo"].url)
    assert (nemo.language, nemo.utterances) == ("pl", {"train": 1, "dev": 1})
    assert (other.name, other.licence, other.url, other.language) == ("mine", "not stated", None, None)


# --- every reader ------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3", ".opus"])
@pytest.mark.parametrize("name", fake.FOLDERS)
def test_reader_reads_its_layout(
    name: str, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soundfile, "info", None)  # no reader may open audio
    monkeypatch.setattr(soundfile, "SoundFile", None)
    corpus = read_corpus(name, fake_folder(name, tmp_path, suffix), labels="all")
    assert rows(corpus) == fake.EXPECTED[name]
    assert corpus.dropped == {}
    for utterance in corpus:
        assert utterance.corpus == ("cafe" if name == "emobox" else name)  # EmoBox: the name of its data set
        assert utterance.language in READERS[name].languages
        assert utterance.transcript_source == ("gold" if utterance.transcript else None)
        if name in fake.TEXT_ALONE:
            assert utterance.path is None
        else:
            assert utterance.path is not None
            assert utterance.path.is_file()
            assert utterance.path.suffix == suffix


@pytest.mark.parametrize("name", READERS)
def test_the_message_for_a_missing_folder_says_what_was_expected(name: str, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"no folder '.*nowhere'; expected .+"):
        read_corpus(name, tmp_path / "nowhere")


@pytest.mark.parametrize("name", READERS)
def test_the_message_for_an_empty_folder_says_what_was_expected(name: str, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=rf"holds no.*{tmp_path.name}|{tmp_path.name}.* holds no"):
        read_corpus(name, tmp_path)


def test_the_message_for_an_unknown_corpus_names_the_nearest() -> None:
    with pytest.raises(CorpusError, match=r"bad corpus 'iemokap', expected .*did you mean 'iemocap'"):
        read_corpus("iemokap", Path())


# Each case: corpus, file to write, its content (None: an empty audio file), text that the message must
# contain.
BAD_LABELS = [
    ("nemo", "data.tsv", "file_id\temotion\traw_text\tspeaker_id\tgender\na.wav\tangre\tx\tA\tmale\n",
     r"data\.tsv', row 2: bad emotion 'angre', expected one of \['anger'.*did you mean 'anger'"),
    ("iemocap", "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt",
     "[1.0 - 2.0]\tSes01F_impro01_F000\thpy\t[2.5, 2.5, 2.5]\n",
     r"Ses01F_impro01\.txt', line 1: bad emotion 'hpy', expected one of \['ang'"),
    ("iemocap", "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt",
     "\n[1.0 - 2.0]\tSes01F_impro01_F000\thap\t[2.5, 2.5]\n",
     r"line 2: got '\[1\.0.*expected '\[start - end\]"),
    ("iemocap", "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt",
     "[1.0 - 2.0]\tSes01F_impro01_F000\thap\t[2.5, 2.5, 2]\nC-E1:\tJoy;\t()\n", r"line 2: bad vote 'joy'"),
    ("iemocap", "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt",
     "[1.0 - 2.0]\tSes01F_impro01_X000\thap\t[2.5, 2.5, 2]\n", r"line 1: the last part of the id .* F or M"),
    ("crema-d", "AudioWAV/1001_DFA_JOY_XX.wav", None, r"1001_DFA_JOY_XX\.wav' is not named .*'ANG'"),
    ("crema-d", "processedResults/summaryTable.csv", "FileName,VoiceVote\n1001_DFA_ANG_XX,N:Z\n",
     r"summaryTable\.csv', row 2: bad vote 'Z', expected one of \['A'"),
    ("crema-d", "finishedResponses.csv", "queryType,clipName,respEmo\n1,1001_DFA_ANG_XX,J\n",
     r"finishedResponses\.csv', row 2: bad vote 'J'"),
    ("crema-d", "VideoDemographics.csv", "ActorID,Sex\n1001,M\n",
     r"VideoDemographics\.csv', row 2: bad sex 'M'"),
    ("crema-d", "VideoDemographics.csv", "ActorID\n1001\n", r"has no column 'Sex' \(it has \['ActorID'\]\)"),
    ("emodb", "wav/03a01Xa.wav", None, r"03a01Xa\.wav' is not named .*'W'"),
    ("meld", "dev_sent_emo.csv",
     "Utterance,Speaker,Emotion,Dialogue_ID,Utterance_ID\nHi,Joey,happiness,0,0\n",
     r"dev_sent_emo\.csv', row 2: bad emotion 'happiness', expected one of \['anger'"),
    ("emorynlp", "emorynlp_dev_final.csv",
     "Utterance,Speaker,Emotion,Scene_ID,Utterance_ID,Season,Episode\nHi,['A'],Happy,1,1,1,1\n",
     r"row 2: bad emotion 'Happy', expected one of \['Joyful'"),
    ("emorynlp", "emorynlp_dev_final.csv",
     "Utterance,Speaker,Emotion,Scene_ID,Utterance_ID,Season,Episode\nHi,Ross,Mad,1,1,1,1\n",
     r"row 2: speaker is 'Ross', expected a list"),
    ("ased", "01Neutral/q1-01-01-01-01.wav", None, r"q1-01-01-01-01\.wav' is not named .*'n1'"),
    ("urdu", "Angry/SM1_F1_H01.wav", None, r"SM1_F1_H01\.wav' is not named"),
    ("ravdess", "Actor_01/03-01-99-01-01-01-01.wav", None, r"is not named 03-01-EE-II-SS-RR-AA"),
    ("savee", "AudioData/DC/x01.wav", None, r"x01\.wav' is not named .*'sa'"),
    ("tess", "OAF_back_joy.wav", None, r"OAF_back_joy\.wav' is not named .*'angry'"),
    ("esd", "0001/Joy/0001_000001.wav", None, r"bad emotion folder 'Joy', expected one of \['Angry'"),
    ("emovo", "f1/xxx-f1-b1.wav", None, r"xxx-f1-b1\.wav' is not named .*'dis'"),
    ("jl-corpus", "female1_joyful_1a_1.wav", None, r"female1_joyful_1a_1\.wav' is not named .*'angry'"),
    ("shemo", "female/F01X01.wav", None, r"'F01X01' is not named .*'A'"),
    ("msp-podcast", "Labels/labels_consensus.csv", fake.MSP_PODCAST.replace(",C,", ",Q,"),
     r"labels_consensus\.csv', row 4: bad EmoClass 'Q', expected one of \['A'"),
    ("msp-podcast", "Labels/labels_consensus.csv", fake.MSP_PODCAST.replace("Test1", "Test9"),
     r"row 2: bad Split_Set 'Test9'"),
    ("msp-podcast", "Labels/labels_consensus.csv", fake.MSP_PODCAST.replace("2.2", "high"),
     r"row 2: 'high' is not a number"),
    ("emobox", "cafe.jsonl", fake.emobox_line("k", "cafe", "k.wav", "z", speaker="1"),
     r"cafe\.jsonl', line 1: bad emotion 'z', expected one of \['c', 'p'\]"),
    ("emobox", "cafe.jsonl", fake.emobox_line("k", "cafe", "k.wav", "c"), r"line 1: no speaker for 'k'"),
    ("emobox", "cafe.jsonl", '{"key": "k"}\n', r"line 1: no 'dataset' \(it has \['key'\]\)"),
    ("emobox", "cafe.jsonl", "[\n", r"line 1: not JSON"),
]  # fmt: skip


def test_every_reader_has_a_case_of_an_unknown_label() -> None:
    others = {"crema-d-perceived", "demo"}  # the tables of crema-d, and a manifest
    assert {case[0] for case in BAD_LABELS} == READERS.keys() - others, "add the corpus to BAD_LABELS"


@pytest.mark.parametrize(("name", "file", "content", "message"), BAD_LABELS)
def test_the_message_for_an_unknown_label_names_file_and_row(
    name: str, file: str, content: str | None, message: str, tmp_path: Path
) -> None:
    root = fake_folder(name, tmp_path)
    fake.write(root / file, content or "")
    with pytest.raises(CorpusError, match=message):
        read_corpus(name, root)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("nemo", "samples/SM0_anger_1.wav"),
        ("iemocap", "Session1/sentences/wav/Ses01F_impro04/Ses01F_impro04_M003.wav"),
        ("crema-d", "AudioWAV/1001_DFA_ANG_XX.wav"),
        ("crema-d-perceived", "AudioWAV/1001_DFA_ANG_XX.wav"),
        ("meld", "train/train_splits/dia0_utt0.wav"),
        ("shemo", "female/F21N37.wav"),
        ("msp-podcast", "Audios/MSP-PODCAST_0001_0008.wav"),
        ("emobox", "../../downloads/cafe/01-c-1.wav"),
    ],
)
def test_listed_but_missing_audio_keeps_its_row(name: str, file: str, tmp_path: Path) -> None:
    root = fake_folder(name, tmp_path)
    if name == "meld":  # another clip shows that the split's audio was extracted
        fake.touch(root, ["train/train_splits/dia9_utt9.wav"])
    path = (root / file).resolve()
    path.unlink()
    corpus = read_corpus(name, root, labels="all")
    assert rows(corpus) == fake.EXPECTED[name]
    missing = [u for u in corpus if u.path is not None and not u.path.exists()]
    assert [u.path.resolve() for u in missing if u.path] == [path]


# --- single readers ----------------------------------------------------------------------------


def test_iemocap_has_dimensions_votes_and_sessions(tmp_path: Path) -> None:
    turn = by_id(read_corpus("iemocap", fake_folder("iemocap", tmp_path), "all"), "Ses01F_impro04_M003")
    assert (turn.valence, turn.arousal, turn.dominance) == (2.5, 3.0, 3.5)  # the file's order is V, A, D
    assert turn.vote_counts() == {"excited": 2, "happy": 1}  # the actor's own view (C-M1) is no vote
    assert turn.session == "Ses01"


@pytest.mark.parametrize("name", sorted(READERS))
def test_a_reader_declares_the_dimensions_and_the_scale_that_it_reads(name: str, tmp_path: Path) -> None:
    reader = READERS[name]
    read = [u for u in reader.read(fake_folder(name, tmp_path)) if u.dimensions()]
    assert {dimension for u in read for dimension in u.dimensions()} == set(reader.dimensions)
    assert {u.scale for u in read} == ({reader.scale} if reader.dimensions else set())
    assert all(0 <= value <= 1 for u in read for value in u.unit_dimensions().values())


def test_iemocap_leaves_an_impossible_mean_of_raters_empty(tmp_path: Path) -> None:
    root = fake_folder("iemocap", tmp_path)
    for path in root.glob("Session1/dialog/EmoEvaluation/Ses*.txt"):
        path.write_text(path.read_text().replace("[2.5000, 3.0000, 3.5000]", "[5.5000, 3.0000, 0.5000]"))
    turn = by_id(read_corpus("iemocap", root, "all"), "Ses01F_impro04_M003")
    assert (turn.valence, turn.arousal, turn.dominance, turn.scale) == (None, 3.0, None, (1.0, 5.0))


def test_msp_podcast_refuses_a_value_outside_its_scale(tmp_path: Path) -> None:
    root = fake_folder("msp-podcast", tmp_path)
    fake.write(root / "Labels/labels_consensus.csv", fake.MSP_PODCAST.replace("2.2", "7.2"))
    with pytest.raises(CorpusError, match=r"row 2: '7\.2' is outside of the scale 1\.\.7"):
        read_corpus("msp-podcast", root)


def test_ravdess_and_crema_d_have_the_intensity_that_the_actor_was_asked_for(tmp_path: Path) -> None:
    fake.touch(
        tmp_path / "ravdess", ["Actor_01/03-01-05-02-01-01-01", "Actor_01/03-01-01-01-01-01-01"], ".wav"
    )
    ravdess = read_corpus("ravdess", tmp_path / "ravdess")
    assert [(u.emotion, u.unit_dimensions()) for u in ravdess] == [
        ("neutral", {"intensity": 0.0}),
        ("angry", {"intensity": 1.0}),
    ]
    stems = [f"1001_IEO_SAD_{level}" for level in ("LO", "MD", "HI")]
    fake.touch(tmp_path / "crema/AudioWAV", [*stems, "1001_DFA_SAD_XX"], ".wav")
    crema = {u.id: u for u in read_corpus("crema-d", tmp_path / "crema")}
    assert [crema[stem].intensity for stem in stems] == [1.0, 2.0, 3.0]
    assert (crema["1001_DFA_SAD_XX"].intensity, crema["1001_DFA_SAD_XX"].scale) == (None, None)


def test_default_labels_of_iemocap_merge_excited_and_count_dropped_turns(tmp_path: Path) -> None:
    corpus = read_corpus("iemocap", fake_folder("iemocap", tmp_path))
    assert {u.id: u.emotion for u in corpus} == {
        "Ses01F_impro04_M003": "happy",
        "Ses05M_script01_F010": "angry",
    }
    assert corpus.dropped == {"no emotion": 1}
    assert corpus.merged == {"excited -> happy": 1}


LEFT_OUT = ("fru", "xxx", "oth", "sur", "fea", "dis")


def test_iemocap_four_classes_are_the_5531_published_utterances(tmp_path: Path) -> None:
    listing = make.DATA / "protocols" / "iemocap_4class_utterances.csv"
    if not listing.is_file():
        pytest.skip(f"no '{listing}'; set EMODISTILL_DATA")
    with listing.open(newline="", encoding="utf-8") as file:
        wanted = {row["utterance"]: row["emotion"] for row in csv.DictReader(file)}
    others = {
        f"{name.rsplit('_', 1)[0]}_{letter}9{number:02}": label
        for name in list(wanted)[::50]
        for number, letter, label in zip(range(6), "FMFMFM", LEFT_OUT, strict=True)
    }
    assert not others.keys() & wanted.keys()
    fake.iemocap(tmp_path, turns={**wanted, **others})
    corpus = read_corpus("iemocap", tmp_path)
    assert {u.id for u in corpus} == wanted.keys()
    assert len(corpus) == 5531
    assert Counter(u.emotion for u in corpus) == {"angry": 1103, "happy": 1636, "sad": 1084, "neutral": 1708}
    assert corpus.speakers == tuple(f"Ses0{session}{letter}" for session in range(1, 6) for letter in "FM")
    assert Counter(u.gender for u in corpus) == {"female": 2649, "male": 2882}
    assert corpus.merged == {"excited -> happy": 1041}
    assert sum(corpus.dropped.values()) == len(others)
    assert corpus.dropped["no emotion"] == sum(label == "xxx" for label in others.values())


def test_crema_d_has_votes_and_two_kinds_of_label(tmp_path: Path) -> None:
    root = fake_folder("crema-d", tmp_path)
    assert by_id(read_corpus("crema-d", root), "1001_DFA_ANG_XX").vote_counts() == {"neutral": 2, "angry": 1}
    perceived = read_corpus("crema-d-perceived", root)
    assert perceived.dropped == {"no emotion": 1}  # the tie A:H
    (root / "processedResults/summaryTable.csv").unlink()
    perceived = read_corpus("crema-d-perceived", root)  # from the responses alone
    assert {u.id: u.emotion for u in perceived} == {"1001_DFA_ANG_XX": "neutral"}
    assert perceived.dropped == {"no vote on the voice": 2}
    (root / "finishedResponses.csv").unlink()
    with pytest.raises(CorpusError, match=r"holds no summaryTable\.csv, finishedResponses\.csv or tabulated"):
        read_corpus("crema-d-perceived", root)


TABULATED = '"","A","D","F","H","N","S","fileName","numResponses"\n'


def test_crema_d_reads_tabulated_votes_of_the_voice(tmp_path: Path) -> None:
    root = fake_folder("crema-d", tmp_path)
    fake.write(
        root / "processedResults/tabulatedVotes.csv",
        TABULATED + '"100001",3,0,0,0,3,0,"1001_DFA_ANG_XX",6\n"100002",0,0,0,2,1,0,"1002_IEO_HAP_LO",3\n'
        '"200001",9,0,0,0,0,0,"1001_DFA_ANG_XX",9\n"300001",0,9,0,0,0,0,"1001_DFA_ANG_XX",9\n',
    )
    own = by_id(read_corpus("crema-d", root), "1001_DFA_ANG_XX")
    assert own.vote_counts() == {"neutral": 2, "angry": 1}  # finishedResponses.csv comes first
    (root / "finishedResponses.csv").unlink()
    assert by_id(read_corpus("crema-d", root), "1001_DFA_ANG_XX").vote_counts() == {"angry": 3, "neutral": 3}
    perceived = read_corpus("crema-d-perceived", root)
    assert by_id(perceived, "1001_DFA_ANG_XX").vote_counts() == {"angry": 3, "neutral": 3}
    (root / "processedResults/summaryTable.csv").unlink()
    perceived = read_corpus("crema-d-perceived", root)  # from the votes alone
    assert {u.id: u.emotion for u in perceived} == {"1002_IEO_HAP_LO": "happy"}
    assert perceived.dropped == {"no vote on the voice": 1, "no emotion": 1}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("0,0,0,0,0,0", r"row 3: the votes on '1002_IEO_HAP_LO' sum to 0, expected one or more"),
        ("1,0,0,0,-1,0", r"row 3: column N is '-1', expected a number of votes"),
        ("1,0,,0,1,0", r"row 3: column F is '', expected a number of votes"),
    ],
)
def test_bad_tabulated_votes_are_named_with_their_row(tmp_path: Path, row: str, message: str) -> None:
    root = fake_folder("crema-d", tmp_path)
    (root / "finishedResponses.csv").unlink()
    path = root / "processedResults/tabulatedVotes.csv"
    first = '"100001",3,0,0,0,3,0,"1001_DFA_ANG_XX",6\n'
    fake.write(path, f'{TABULATED}{first}"100002",{row},"1002_IEO_HAP_LO",3\n')
    with pytest.raises(CorpusError, match=r"tabulatedVotes\.csv', " + message):
        read_corpus("crema-d", root)
    fake.write(path, TABULATED + first + first.replace("100001", "100009"))
    with pytest.raises(CorpusError, match=r"row 3: '1001_DFA_ANG_XX' has votes on the voice in an earlier"):
        read_corpus("crema-d", root)


def test_crema_d_without_a_known_audio_folder_is_an_error(tmp_path: Path) -> None:
    fake.touch(tmp_path, ["AudioFLAC/1001_DFA_ANG_XX.flac"])
    with pytest.raises(CorpusError, match=r"holds \['AudioFLAC'\]; expected a folder AudioWAV or AudioMP3"):
        read_corpus("crema-d", tmp_path)


def test_meld_without_audio_is_read_as_text_alone(tmp_path: Path) -> None:
    fake.meld(tmp_path, suffix=None)
    fake.touch(tmp_path, ["train/train_splits/dia0_utt0.mp4"])
    corpus = read_corpus("meld", tmp_path)
    assert [u.path for u in corpus] == [None] * 3
    assert [u.split for u in corpus] == ["train", "dev", "test"]
    assert [u.session for u in corpus] == ["train_dia0", "dev_dia0", "test_dia0"]


def test_meld_file_in_cp1252(tmp_path: Path) -> None:
    header = "Utterance,Speaker,Emotion,Dialogue_ID,Utterance_ID\n"
    fake.write(tmp_path / "dev_sent_emo.csv", header + "He’s late…,Ross,anger,0,0\n", "cp1252")
    assert [u.transcript for u in read_corpus("meld", tmp_path)] == ["He’s late…"]


@pytest.mark.parametrize(
    ("broken", "sound"),
    [
        ("It\x92s", "It’s"),
        ("wait\x85", "wait…"),
        ("Itâ€™s â€œfineâ€\x9d", "It’s “fine”"),
        ("CafÃ©", "Café"),
        ("ItÂ\x92s", "It’s"),
        ("Café, naïve – “yes”…", "Café, naïve – “yes”…"),
        ("\x81odd", "odd"),
    ],
)
def test_wrongly_decoded_text_is_repaired(broken: str, sound: str) -> None:
    assert repair_text(broken) == sound


@given(st.text(alphabet=st.characters(codec="ascii")))
def test_repair_text_leaves_ascii_alone(text: str) -> None:
    assert repair_text(text) == text


def test_ravdess_songs_are_counted(tmp_path: Path) -> None:
    root = fake_folder("ravdess", tmp_path)
    fake.touch(root, ["Actor_01/03-02-05-01-01-01-01.wav"])
    assert read_corpus("ravdess", root).dropped == {"not audio-only speech": 1}


def test_nemo_audio_without_a_row_is_counted(tmp_path: Path) -> None:
    root = fake_folder("nemo", tmp_path)
    fake.touch(root, ["samples/XX0_anger_1.ogg"])
    assert read_corpus("nemo", root).dropped == {"audio not in data.tsv": 1}


def test_two_files_with_the_same_stem_are_an_error(tmp_path: Path) -> None:
    root = fake_folder("urdu", tmp_path)
    fake.touch(root, ["Angry/SM1_F1_A01.ogg"])
    with pytest.raises(CorpusError, match="two audio files named 'SM1_F1_A01'"):
        read_corpus("urdu", root)


def test_tess_nested_copy_is_counted(tmp_path: Path) -> None:
    root = fake_folder("tess", tmp_path)
    fake.tess(root / "TESS Toronto emotional speech set data")
    corpus = read_corpus("tess", root)
    assert rows(corpus) == fake.EXPECTED["tess"]
    assert corpus.dropped == {"second copy of a file": 3}


def test_savee_flat_layout_gives_the_same_ids(tmp_path: Path) -> None:
    fake.touch(tmp_path, ["DC_a01.wav", "KL_su15.wav"])
    assert rows(read_corpus("savee", tmp_path)) == fake.EXPECTED["savee"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030"])
def test_esd_transcripts_are_read_in_any_encoding(encoding: str, tmp_path: Path) -> None:
    root = fake_folder("esd", tmp_path)
    lines = "0001_000351\t打远一看，\t生气\r\n0001_000352\t没有声音\t生气\r\n\r\nno id\r\n"
    fake.write(root / "0001/0001.txt", lines, encoding)
    corpus = read_corpus("esd", root)
    assert by_id(corpus, "0001_000351").transcript == "打远一看，"
    assert by_id(corpus, "0001_000351").split == "train"
    assert corpus.dropped == {"words without audio": 1}


def test_esd_emotion_never_stays_in_the_transcript(tmp_path: Path) -> None:
    root = fake_folder("esd", tmp_path)
    fake.write(root / "0011/0011.txt", "0011_001401 I keep the eggs. Surprise\n")
    assert by_id(read_corpus("esd", root), "0011_001401").transcript == "I keep the eggs."


def test_msp_podcast_splits_dimensions_and_unlabelled_audio(tmp_path: Path) -> None:
    root = fake_folder("msp-podcast", tmp_path)
    fake.touch(root, ["Audios/MSP-PODCAST_test3_0001.wav"])
    (root / "Labels/labels_consensus.csv").rename(root / "Labels/labels_concensus.csv")
    corpus = read_corpus("msp-podcast", root, "all")
    assert corpus.dropped == {"audio without a label": 1}
    assert [u.split for u in corpus] == ["test", "train", "dev"]
    first = by_id(corpus, "MSP-PODCAST_0001_0008")
    assert (first.arousal, first.valence, first.dominance) == (2.2, 4.0, 2.6)


def test_emobox_fold_gives_splits(tmp_path: Path) -> None:
    root = fake_folder("emobox", tmp_path)
    corpus = read_corpus("emobox", root / "fold_1")
    assert {u.id: u.split for u in corpus} == {"cafe-01-c-1": "train", "cafe-02-p-1": "test"}
    assert [u.split for u in read_corpus("emobox", root)] == [None, None]
    assert corpus.name == "cafe"


def test_emobox_iemocap_takes_the_speaker_from_the_id(tmp_path: Path) -> None:
    key = "iemocap-Ses01F_impro04_M003"
    fake.write(tmp_path / "iemocap.jsonl", fake.emobox_line(key, "iemocap", "downloads/x.wav", "exc"))
    fake.write(tmp_path / "label_map.json", '{"exc": "Happy"}')
    fake.write(
        tmp_path / "data.seg.wrd.stm", f"{key} 1 Ses01F 0 1 <id={key},lang=en,spk=Ses01F,emotion=exc> exc\n"
    )
    (utterance,) = read_corpus("emobox", tmp_path)
    assert (utterance.speaker, utterance.session, utterance.emotion) == ("Ses01M", "Ses01", "excited")


def test_emobox_segments_text_and_label_field(tmp_path: Path) -> None:
    line = fake.emobox_line(
        "a", "pavoque", "downloads/a.wav", "poker", start_time=1.5, end_time=2.5, speaker="s", text=" Ja. "
    )
    fake.write(tmp_path / "pavoque.jsonl", line.replace('"emo"', '"label"'))
    fake.write(tmp_path / "label_map.json", '{"poker": "Poker"}')
    (utterance,) = read_corpus("emobox", tmp_path)
    assert (utterance.start_s, utterance.end_s, utterance.transcript) == (1.5, 2.5, "Ja.")
    assert (utterance.emotion, utterance.language) == ("other", "de")


# --- the real corpora --------------------------------------------------------------------------


def data_folder(folder: str) -> Path:
    if not (make.DATA / folder).is_dir():
        pytest.skip(f"no '{make.DATA / folder}'; set EMODISTILL_DATA")
    return make.DATA / folder


def real(name: str, folder: str, labels: str | None = None) -> Corpus:
    return read_corpus(name, data_folder(folder), labels)


def test_real_ravdess() -> None:
    corpus = real("ravdess", "corpora/ravdess")
    emotions = ("angry", "happy", "sad", "fearful", "disgusted", "surprised", "calm")
    assert Counter(u.emotion for u in corpus) == {**dict.fromkeys(emotions, 192), "neutral": 96}
    assert Counter(u.speaker for u in corpus) == {str(actor): 60 for actor in range(1, 25)}
    assert Counter(u.intensity for u in corpus) == {1.0: 768, 2.0: 672}
    assert {u.intensity for u in corpus if u.emotion == "neutral"} == {1.0}
    assert {u.scale for u in corpus} == {(1.0, 2.0)}
    assert corpus.dropped == {}
    assert all(u.path and u.path.is_file() for u in corpus)


def test_real_nemo() -> None:
    corpus = real("nemo", "corpora/nemo")
    assert Counter(u.emotion for u in corpus) == {
        "angry": 749, "happy": 749, "sad": 769, "neutral": 809, "fearful": 736, "surprised": 669,
    }  # fmt: skip
    assert Counter(u.speaker for u in corpus) == {
        "EB0": 539, "IC0": 540, "KD0": 540, "KS0": 540, "MK0": 450, "MP0": 256, "SM0": 538, "TP0": 539,
        "WR0": 539,
    }  # fmt: skip
    assert len({u.transcript for u in corpus}) == 90
    assert Counter({u.speaker: u.gender for u in corpus}.values()) == {"male": 5, "female": 4}
    assert not any(u.emotion == "surprised" for u in corpus if u.speaker == "MK0")
    assert corpus.dropped == {}
    assert all(u.path and u.path.is_file() for u in corpus)


def test_real_ased() -> None:
    corpus = real("ased", "corpora/ased")
    assert Counter(u.emotion for u in corpus) == {
        "angry": 486, "happy": 486, "sad": 470, "neutral": 522, "fearful": 510,
    }  # fmt: skip
    assert corpus.speakers == tuple(f"{number:02}" for number in range(1, 66))
    assert Counter({u.speaker: u.gender for u in corpus}.values()) == {"female": 25, "male": 40}
    counts = Counter(u.speaker for u in corpus)
    assert (min(counts.values()), max(counts.values()), counts["09"], counts["25"]) == (4, 70, 16, 66)


def test_real_urdu() -> None:
    corpus = real("urdu", "corpora/urdu")
    assert Counter(u.emotion for u in corpus) == {"angry": 100, "happy": 100, "sad": 100, "neutral": 100}
    counts = Counter(u.speaker for u in corpus)
    assert len(counts) == 29
    assert counts.most_common(3) == [("SM5", 80), ("SM4", 48), ("SM25", 40)]
    pairs = Counter((u.speaker, u.emotion) for u in corpus)
    most = {speaker: max(n for (name, _), n in pairs.items() if name == speaker) for speaker in counts}
    assert sum(most.values()) == 384  # utterances with their speaker's most frequent emotion


def test_real_meld_text() -> None:
    corpus = real("meld", "text/meld")
    assert Counter(u.split for u in corpus) == {"train": 9989, "dev": 1109, "test": 2610}
    assert Counter(u.emotion for u in corpus) == {
        "neutral": 6436, "happy": 2308, "surprised": 1636, "angry": 1607, "sad": 1002, "disgusted": 361,
        "fearful": 358,
    }  # fmt: skip
    assert len(corpus.speakers) == 304
    assert len({u.session for u in corpus}) == 1432
    assert not any("\x80" <= character <= "\x9f" for u in corpus for character in u.transcript or "")


def test_real_emorynlp_text() -> None:
    corpus = real("emorynlp", "text/emorynlp")
    assert Counter(u.split for u in corpus) == {"train": 7551, "dev": 954, "test": 984}
    assert Counter(u.emotion for u in corpus) == {
        "neutral": 3095, "happy": 2099, "fearful": 1184, "angry": 968, "calm": 831, "other": 717, "sad": 595,
    }  # fmt: skip
    assert len(corpus.speakers) == 259


def test_real_demo() -> None:
    corpus = open_corpus(CorpusConfig(name="demo"), print)
    assert Counter(u.emotion for u in corpus) == dict.fromkeys(("angry", "happy", "neutral", "sad"), 120)
    assert (len(corpus), len(corpus.speakers)) == (480, 10)


def test_real_emovo() -> None:
    corpus = real("emovo", "corpora/emovo")
    emotions = ("angry", "happy", "sad", "neutral", "fearful", "disgusted", "surprised")
    assert Counter(u.emotion for u in corpus) == dict.fromkeys(emotions, 84)
    assert Counter(u.speaker for u in corpus) == dict.fromkeys(("f1", "f2", "f3", "m1", "m2", "m3"), 98)
    assert len({u.transcript for u in corpus}) == 14
    assert all(u.path and u.path.is_file() for u in corpus)


def test_real_crema_d() -> None:
    corpus = real("crema-d", "corpora/crema_d")
    emotions = ("angry", "happy", "sad", "fearful", "disgusted")
    assert Counter(u.emotion for u in corpus) == {**dict.fromkeys(emotions, 1271), "neutral": 1087}
    assert len(corpus.speakers) == 91
    assert Counter({u.speaker: u.gender for u in corpus}.values()) == {"male": 48, "female": 43}
    assert Counter(u.intensity for u in corpus) == {None: 6077, 1.0: 455, 2.0: 455, 3.0: 455}
    assert {u.transcript for u in corpus if u.intensity} == {"It's eleven o'clock."}
    assert all(u.emotion != "neutral" for u in corpus if u.intensity)
    assert len({u.transcript for u in corpus}) == 12
    assert sum(u.path is not None and u.path.is_file() for u in corpus) > 7400


def test_real_crema_d_perceived() -> None:
    corpus = real("crema-d-perceived", "corpora/crema_d", "all")
    assert Counter(u.emotion for u in corpus) == {
        "neutral": 3897, "angry": 986, "fearful": 645, None: 644, "disgusted": 547, "sad": 370, "happy": 353,
    }  # fmt: skip
    assert len(corpus) == 7442
    votes = [item.vote_counts() for item in corpus]
    assert sum(sum(counts.values()) for counts in votes) == 68_568
    assert [item.emotion for item in corpus] == [most_frequent(counts) for counts in votes]


def test_crema_d_intended_and_perceived_emotions_agree_on_44_6_percent() -> None:
    folder = data_folder("corpora/crema_d")
    winners = crema_d._summary_votes(folder / "processedResults/summaryTable.csv")
    shares = [(u.emotion in winners[u.id]) / len(winners[u.id]) for u in read_corpus("crema-d", folder)]
    assert np.mean(shares) == pytest.approx(0.446, abs=5e-4)


def test_real_spanish_manifest() -> None:
    corpus = read_manifest(data_folder("corpora/spanish") / "utterances.csv")
    assert Counter(u.emotion for u in corpus) == {
        "sad": 192, "disgusted": 191, "fearful": 191, "surprised": 190, "angry": 188, "happy": 186,
        "neutral": 183,
    }  # fmt: skip
    assert (len(corpus), len(corpus.speakers)) == (1321, 16)
    assert all(u.language == "es" and u.path and u.path.is_file() for u in corpus)


# --- a recipe's corpus ---------------------------------------------------------------------------


def test_a_pool_finds_folders_with_a_hyphen_or_an_underscore(tmp_path: Path) -> None:
    fake.ravdess(tmp_path / "ravdess")
    fake.jl_corpus(tmp_path / "jl_corpus")
    config = CorpusConfig(name="both", root=str(tmp_path), pool=("ravdess", "jl-corpus"), labels="all")
    messages: list[str] = []
    with pytest.raises(CorpusError, match="no utterance has audio"):  # the fake audio is empty
        open_corpus(config, messages.append)
    (tmp_path / "jl_corpus").rename(tmp_path / "jl")
    with pytest.raises(CorpusError, match=r"jl-corpus: no folder '.*jl-corpus'"):
        open_corpus(config, messages.append)


def test_a_map_of_emotions_of_a_pool_may_name_emotions_of_one_corpus(tmp_path: Path) -> None:
    fake.ravdess(tmp_path / "ravdess")
    fake.savee(tmp_path / "savee")
    for path in tmp_path.rglob("*.wav"):
        soundfile.write(path, np.zeros(1600, np.float32), 16_000)
    config = CorpusConfig(name="both", root=str(tmp_path), pool=("ravdess", "savee"), emotions={"calm": "-"})
    messages: list[str] = []
    corpus = open_corpus(config, messages.append)
    assert {utterance.corpus for utterance in corpus} == {"ravdess", "savee"}
    assert "calm" not in corpus.labels.names
    assert any(re.fullmatch(r"dropped: \d+ × ravdess: emotion calm", message) for message in messages)
    wrong = config.model_copy(update={"emotions": {"bored": "-"}})
    with pytest.raises(CorpusError, match=r"corpus 'both': bad name in the map of emotions 'bored'"):
        open_corpus(wrong, print)


def test_emotions_are_renamed_before_the_label_map(tmp_path: Path) -> None:
    fake.ravdess(tmp_path)
    own, declared = (
        read_corpus("ravdess", tmp_path, None, emotions) for emotions in (None, {"calm": "neutral"})
    )
    calm = sum(utterance.emotion == "calm" for utterance in own)
    assert calm
    assert declared.merged == {"calm -> neutral": calm}
    assert "calm" not in declared.labels.names
    without = read_corpus("ravdess", tmp_path, None, {"calm": "-"})
    assert without.dropped == {"emotion calm": calm}
    assert len(without) == len(own) - calm
    everyone = read_corpus("ravdess", tmp_path, "all", {"calm": "-"}, keep_left_out=True)
    assert sum(utterance.emotion is None for utterance in everyone) == calm
    kept = read_corpus("ravdess", tmp_path, "neutral,sad", {"calm": "neutral"})
    assert sum(u.emotion == "neutral" for u in kept) == sum(u.emotion in ("calm", "neutral") for u in own)
    for wrong in ({"clam": "neutral"}, {"calm": "natural"}):
        with pytest.raises(
            CorpusError, match=r"corpus 'ravdess'.*map of emotions.* '(clam|natural)'.*did you mean"
        ):
            read_corpus("ravdess", tmp_path, None, wrong)


def test_a_recipe_without_data_says_what_to_set() -> None:
    with pytest.raises(
        ConfigError, match=r"no data for 'mine': --set corpus\.root=DIR .*ravdess.*corpus\.manifest"
    ):
        open_corpus(CorpusConfig(name="mine"), print)


def test_a_recipe_with_a_folder_and_a_manifest_is_refused(tmp_path: Path, manifest: Path) -> None:
    config = CorpusConfig(name="ravdess", root="here", manifest=str(manifest))
    message = (
        r"corpus\.root = 'here' and corpus\.manifest = '.*', .*corpus\.manifest=none .*corpus\.root=none"
    )
    for pool in ((), ("ravdess", "nemo")):
        with pytest.raises(ConfigError, match=message):
            open_corpus(config.model_copy(update={"pool": pool}), print)
    assert len(open_corpus(config.model_copy(update={"root": None}), print)) == 36
    with pytest.raises(CorpusError, match="no folder 'here'"):
        open_corpus(config.model_copy(update={"manifest": None}), print)
    sets = ["corpus.root=DIR", "corpus.manifest=none"]
    path = tmp_path / "mine.toml"
    path.write_text(f'name = "mine"\n[corpus]\nmanifest = "{manifest}"\n')
    assert load_recipe(path, sets).corpus == CorpusConfig(root="DIR")
    # A manifest replaces the pool of a shipped recipe, as its comment says.
    config = load_recipe("bundled", [f"corpus.manifest={manifest}"]).corpus
    assert len(open_corpus(config, print)) == 36


# --- Corpus ------------------------------------------------------------------------------------


def utterances(*emotions: str | None) -> tuple[Utterance, ...]:
    return tuple(
        Utterance(id=str(number), speaker="a", emotion=emotion, corpus="tiny")
        for number, emotion in enumerate(emotions)
    )


def test_relabel_counts_merged_and_dropped_utterances() -> None:
    corpus = Corpus("tiny", utterances("excited", "excited", "happy", "bored", None), {"before": 1})
    merged = corpus.relabel(get_label_map("iemocap-4"))
    assert [u.emotion for u in merged] == ["happy"] * 3
    assert merged.merged == {"excited -> happy": 2}
    assert merged.dropped == {"before": 1, "emotion bored": 1, "no emotion": 1}
    assert len(merged) + sum(merged.dropped.values()) == len(corpus) + 1


def test_votes_are_merged_like_labels() -> None:
    item = Utterance("u", "s", "excited", votes='{"excited": 2, "happy": 1, "bored": 1}')
    (merged,) = Corpus("c", (item,)).relabel(get_label_map("iemocap-4"))
    assert merged.vote_counts() == {"happy": 3, "bored": 1}


def test_relabel_with_a_list_of_emotions() -> None:
    corpus = Corpus("tiny", utterances("happy", "sad", "angry")).relabel(get_label_map("angry,sad"))
    assert [u.emotion for u in corpus] == ["sad", "angry"]
    assert corpus.labels.names == ("angry", "sad")


def test_a_corpus_without_utterances_is_an_error() -> None:
    with pytest.raises(CorpusError, match=r"no utterances left \(dropped: \{'emotion bored': 1\}\)"):
        Corpus("tiny", utterances("bored")).relabel(get_label_map("angry,sad"))


def test_duplicate_id_is_an_error() -> None:
    with pytest.raises(CorpusError, match=r"corpus 'tiny': duplicate id '0' \(1 such ids\)"):
        Corpus("tiny", utterances("sad") * 2)


def test_unknown_emotion_is_an_error() -> None:
    with pytest.raises(CorpusError, match=r"'0': bad emotion 'hapy', .*did you mean 'happy'"):
        Corpus("tiny", utterances("hapy"))


# --- audio headers -----------------------------------------------------------------------------


def test_drop_bad_audio_counts_and_describes(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "good.wav", np.zeros(16_000, np.float32), 16_000)
    soundfile.write(tmp_path / "empty.wav", np.zeros(0, np.float32), 16_000)
    (tmp_path / "broken.wav").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    (tmp_path / "bytes0.wav").touch()
    audio = {"good": "good.wav", "empty": "empty.wav", "broken": "broken.wav", "bytes0": "bytes0.wav"}
    items = [
        Utterance(id=name, speaker="a", emotion="sad", path=tmp_path / file)
        for name, file in {**audio, "gone": "gone.wav", "late": "good.wav"}.items()
    ]
    items[-1] = replace(items[-1], start_s=1.5, end_s=2.0)
    items.append(Utterance(id="text", speaker="a", emotion="sad"))
    for name, start_s, end_s in (
        ("before", -0.1, 0.5),
        ("empty segment", 0.5, 0.5),
        ("backwards", None, -0.2),
    ):
        items.append(replace(items[0], id=name, start_s=start_s, end_s=end_s))
    corpus, problems = drop_bad_audio(Corpus("tiny", tuple(items), {"before": 2}))
    assert [u.id for u in corpus] == ["good", "text"]
    assert corpus.dropped == {
        "before": 2, "audio zero-length": 1, "audio broken": 2, "audio missing": 1,
        "segment outside audio": 2, "segment empty": 2,
    }  # fmt: skip
    assert len(problems) == 8
    assert problems[0].startswith("'empty': audio zero-length (")
    assert problems[3] == f"'gone': audio missing ({tmp_path / 'gone.wav'})"
    assert "starts at 1.5 s of 1.00 s" in problems[4]
    assert problems[5].startswith("'before': segment outside audio: starts at -0.1 s of 1.00 s")
    assert problems[6].startswith("'empty segment': segment empty: starts at 0.5 s, ends at 0.5 s")
    assert problems[7].startswith("'backwards': segment empty: starts at 0.0 s, ends at -0.2 s")


def test_the_length_of_bad_audio_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("this is no audio")
    for name, message in (
        ("text.wav", "'x': audio broken at '.*text.wav'"),
        ("gone.wav", "audio missing at"),
    ):
        with pytest.raises(CorpusError, match=message):
            audio_duration_s(Utterance("x", "a", "sad", tmp_path / name))


def test_plot_stats_creates_its_folder(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    corpus = Corpus("x", (Utterance("1", "a", "sad"),))
    plot_stats(corpus_stats(corpus), tmp_path / "new/folder/x.svg")
    assert (tmp_path / "new/folder/x.svg").stat().st_size > 0
