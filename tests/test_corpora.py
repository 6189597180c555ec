"""Corpus readers on fake trees and, where they are at hand, on the real corpora; manifests in and out."""

import csv
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import factories as make
import factories_corpora as fake
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from emodistill.config import CorpusConfig
from emodistill.corpora import (
    READERS,
    Corpus,
    Utterance,
    drop_bad_audio,
    read_corpus,
    read_manifest,
    write_manifest,
)
from emodistill.corpora.base import audio_duration_s
from emodistill.corpora.load import add_transcripts, open_corpus
from emodistill.corpora.readers.meld import repair_text
from emodistill.corpora.stats import corpus_stats, plot_stats
from emodistill.errors import CorpusError
from emodistill.labels import EMOTIONS, label_map

TREES: dict[str, Callable[..., None]] = {
    "ased": fake.ased,
    "crema-d": fake.crema_d,
    "crema-d-perceived": fake.crema_d,
    "emobox": fake.emobox,
    "emodb": fake.emodb,
    "emorynlp": fake.emorynlp,
    "emovo": fake.emovo,
    "esd": fake.esd,
    "iemocap": fake.iemocap,
    "jl-corpus": fake.jl_corpus,
    "meld": fake.meld,
    "msp-podcast": fake.msp_podcast,
    "nemo": fake.nemo,
    "ravdess": fake.ravdess,
    "savee": fake.savee,
    "shemo": fake.shemo,
    "tess": fake.tess,
    "urdu": fake.urdu,
}

# id -> (speaker, gender, language, emotion, transcript)
Rows = dict[str, tuple[str, str | None, str | None, str | None, str | None]]
EXPECTED: dict[str, Rows] = {
    "ased": {
        "n1-01-01-01-09": ("09", "female", "am", "neutral", None),
        "a5-01-01-01-09": ("09", "female", "am", "angry", None),
        "S4-04-02-02-09": ("09", "female", "am", "sad", None),
        "s4-04-02-02-10": ("10", "male", "am", "sad", None),
    },
    "crema-d": {
        "1001_DFA_ANG_XX": ("1001", "male", "en", "angry", "Don't forget a jacket."),
        "1002_IEO_HAP_LO": ("1002", "female", "en", "happy", "It's eleven o'clock."),
        "1040_ITH_SAD_XX": ("1040", "male", "en", "sad", "I think I have a doctor's appointment."),
    },
    "crema-d-perceived": {
        "1001_DFA_ANG_XX": ("1001", "male", "en", "neutral", "Don't forget a jacket."),
        "1002_IEO_HAP_LO": ("1002", "female", "en", None, "It's eleven o'clock."),
        "1040_ITH_SAD_XX": ("1040", "male", "en", "sad", "I think I have a doctor's appointment."),
    },
    "emobox": {
        "cafe-01-c-1": ("01", None, "fr", "angry", None),
        "cafe-02-p-1": ("02", None, "fr", "fearful", None),
    },
    "emodb": {
        "03a01Fa": ("03", "male", "de", "happy", "Der Lappen liegt auf dem Eisschrank."),
        "16b10Wb": ("16", "female", "de", "angry", "Die wird auf dem Platz sein, wo wir sie immer hinlegen."),
    },
    "emorynlp": {
        "train_s03e04_1_2": ("Monica Geller & Ross Geller", None, "en", "other", "Yes!"),
        "dev_s01e15_1_1": ("Rachel Green", None, "en", "happy", "Coffee."),
    },
    "emovo": {
        "dis-f1-b1": ("f1", "female", "it", "disgusted", "Gli operai si alzano presto."),
        "gio-m3-d2": ("m3", "male", "it", "happy", "Porti con te quella cosa?"),
    },
    "esd": {
        "0001_000351": ("0001", None, "zh", "angry", "打远一看，它们的确很是美丽，"),
        "0011_001401": ("0011", None, "en", "surprised", "The nine the eggs, I keep."),
    },
    "iemocap": {
        "Ses01F_impro04_M003": ("Ses01M", "male", "en", "excited", "The words of Ses01F_impro04_M003."),
        "Ses01F_impro04_F000": ("Ses01F", "female", "en", None, "The words of Ses01F_impro04_F000."),
        "Ses05M_script01_F010": ("Ses05F", "female", "en", "angry", "The words of Ses05M_script01_F010."),
    },
    "jl-corpus": {
        "female1_angry_10a_1": ("female1", "female", "en", "angry", "Carl leaps into a jeep."),
        "male2_anxious_1b_2": ("male2", "male", "en", "other", None),
    },
    "meld": {
        "train_dia0_utt0": ("Joey", None, "en", "happy", "He’s here, isn’t he?"),
        "dev_dia0_utt0": ("Ross", None, "en", "fearful", "Café?"),
        "test_dia0_utt0": ("Rachel", None, "en", "disgusted", "No."),
    },
    "msp-podcast": {
        "MSP-PODCAST_0001_0008": ("30", "male", "en", "neutral", "Well, yes."),
        "MSP-PODCAST_0002_0001": ("unknown-MSP-PODCAST_0002", None, "en", None, None),
        "MSP-PODCAST_0003_0001": ("7", "female", "en", "contempt", None),
    },
    "nemo": {
        "SM0_anger_1": ("SM0", "male", "pl", "angry", 'To "był" dom.'),
        "EB0_surprised_2": ("EB0", "female", "pl", "surprised", "Naprawdę?"),
    },
    "ravdess": {
        "03-01-05-01-01-01-01": ("1", "male", "en", "angry", "Kids are talking by the door."),
        "03-01-02-01-02-01-02": ("2", "female", "en", "calm", "Dogs are sitting by the door."),
    },
    "savee": {
        "DC_a01": ("DC", "male", "en", "angry", None),
        "KL_su15": ("KL", "male", "en", "surprised", None),
    },
    "shemo": {
        "F21N37": ("F21", "female", "fa", "neutral", "مگه من؟"),
        "M01W02": ("M01", "male", "fa", "surprised", None),
    },
    "tess": {
        "OAF_back_angry": ("OAF", "female", "en", "angry", "Say the word back."),
        "YAF_food_ps": ("YAF", "female", "en", "surprised", "Say the word food."),
        "OA_bite_neutral": ("OAF", "female", "en", "neutral", "Say the word bite."),
    },
    "urdu": {
        "SM1_F1_A01": ("SM1", "male", "ur", "angry", None),
        "SF9_F10_N087": ("SF9", "female", "ur", "neutral", None),
    },
}
TEXT_ALONE = {"emorynlp"}


def tree(name: str, root: Path, suffix: str = ".wav") -> Path:
    """The fake tree of a corpus; EmoBox's audio lies outside the folder that is read."""
    if name == "emobox":
        root = root / "data" / "cafe"
        fake.touch(root.parents[1], ["downloads/cafe/01-c-1", "downloads/cafe/02-p-1"], suffix)
    root.mkdir(parents=True, exist_ok=True)
    TREES[name](root, suffix)
    return root


def rows(corpus: Corpus) -> Rows:
    return {u.id: (u.speaker, u.gender, u.language, u.emotion, u.transcript) for u in corpus}


def by_id(corpus: Corpus, name: str) -> Utterance:
    return next(utterance for utterance in corpus if utterance.id == name)


# --- every reader ------------------------------------------------------------------------------


def test_every_reader_has_a_fake_tree() -> None:
    assert TREES.keys() == EXPECTED.keys() == READERS.keys()


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3", ".opus"])
@pytest.mark.parametrize("name", TREES)
def test_reader_reads_its_layout(
    name: str, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soundfile, "info", None)  # no reader may open audio
    monkeypatch.setattr(soundfile, "SoundFile", None)
    corpus = read_corpus(name, tree(name, tmp_path, suffix), labels="all")
    assert rows(corpus) == EXPECTED[name]
    assert corpus.dropped == {}
    for utterance in corpus:
        assert utterance.transcript_source == ("gold" if utterance.transcript else None)
        if name in TEXT_ALONE:
            assert utterance.path is None
        else:
            assert utterance.path is not None
            assert utterance.path.is_file()
            assert utterance.path.suffix == suffix


@pytest.mark.parametrize("name", READERS)
def test_missing_folder_says_what_was_expected(name: str, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"no folder '.*nowhere'; expected .+"):
        read_corpus(name, tmp_path / "nowhere")


@pytest.mark.parametrize("name", READERS)
def test_empty_folder_says_what_was_expected(name: str, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=rf"holds no.*{tmp_path.name}|{tmp_path.name}.* holds no"):
        read_corpus(name, tmp_path)


def test_unknown_corpus_names_the_nearest() -> None:
    with pytest.raises(CorpusError, match=r"bad corpus 'iemokap', expected .*did you mean 'iemocap'"):
        read_corpus("iemokap", Path())


# Each case: corpus, file to write, its content (None: a file name alone), what the message must say.
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


@pytest.mark.parametrize(("name", "file", "content", "message"), BAD_LABELS)
def test_unknown_label_says_where_and_what(
    name: str, file: str, content: str | None, message: str, tmp_path: Path
) -> None:
    root = tree(name, tmp_path)
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
    root = tree(name, tmp_path)
    if name == "meld":  # a second clip says that the split's audio was extracted
        fake.touch(root, ["train/train_splits/dia9_utt9.wav"])
    path = (root / file).resolve()
    path.unlink()
    corpus = read_corpus(name, root, labels="all")
    assert rows(corpus) == EXPECTED[name]
    missing = [u for u in corpus if u.path is not None and not u.path.exists()]
    assert [u.path.resolve() for u in missing if u.path] == [path]


# --- what single readers do beyond that --------------------------------------------------------


def test_iemocap_dimensions_votes_and_session(tmp_path: Path) -> None:
    turn = by_id(read_corpus("iemocap", tree("iemocap", tmp_path), "all"), "Ses01F_impro04_M003")
    assert (turn.valence, turn.arousal, turn.dominance) == (2.5, 3.0, 3.5)  # the file's order is V, A, D
    assert turn.vote_counts() == {"excited": 2, "happy": 1}  # the actor's own view (C-M1) is no vote
    assert turn.session == "Ses01"


def test_iemocap_default_labels_merge_excited_and_count_the_rest(tmp_path: Path) -> None:
    corpus = read_corpus("iemocap", tree("iemocap", tmp_path))
    assert {u.id: u.emotion for u in corpus} == {
        "Ses01F_impro04_M003": "happy",
        "Ses05M_script01_F010": "angry",
    }
    assert corpus.dropped == {"emotion not agreed": 1}
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
    assert corpus.dropped["emotion not agreed"] == sum(label == "xxx" for label in others.values())


def test_crema_d_votes_and_two_labels(tmp_path: Path) -> None:
    root = tree("crema-d", tmp_path)
    assert by_id(read_corpus("crema-d", root), "1001_DFA_ANG_XX").vote_counts() == {"neutral": 2, "angry": 1}
    perceived = read_corpus("crema-d-perceived", root)
    assert perceived.dropped == {"emotion not agreed": 1}  # the tie A:H
    (root / "processedResults/summaryTable.csv").unlink()
    perceived = read_corpus("crema-d-perceived", root)  # from the responses alone
    assert {u.id: u.emotion for u in perceived} == {"1001_DFA_ANG_XX": "neutral"}
    assert perceived.dropped == {"no vote on the voice": 2}
    (root / "finishedResponses.csv").unlink()
    with pytest.raises(CorpusError, match=r"neither summaryTable\.csv nor finishedResponses\.csv"):
        read_corpus("crema-d-perceived", root)


def test_meld_without_audio_is_text_alone(tmp_path: Path) -> None:
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
def test_repair_text(broken: str, sound: str) -> None:
    assert repair_text(broken) == sound


@given(st.text(alphabet=st.characters(codec="ascii")))
def test_repair_text_leaves_ascii_alone(text: str) -> None:
    assert repair_text(text) == text


def test_ravdess_songs_are_counted(tmp_path: Path) -> None:
    root = tree("ravdess", tmp_path)
    fake.touch(root, ["Actor_01/03-02-05-01-01-01-01.wav"])
    assert read_corpus("ravdess", root).dropped == {"not audio-only speech": 1}


def test_nemo_audio_without_a_row_is_counted(tmp_path: Path) -> None:
    root = tree("nemo", tmp_path)
    fake.touch(root, ["samples/XX0_anger_1.ogg"])
    assert read_corpus("nemo", root).dropped == {"audio not in data.tsv": 1}


def test_two_files_of_one_name_are_an_error(tmp_path: Path) -> None:
    root = tree("urdu", tmp_path)
    fake.touch(root, ["Angry/SM1_F1_A01.ogg"])
    with pytest.raises(CorpusError, match="two audio files named 'SM1_F1_A01'"):
        read_corpus("urdu", root)


def test_tess_nested_copy_is_counted(tmp_path: Path) -> None:
    root = tree("tess", tmp_path)
    fake.tess(root / "TESS Toronto emotional speech set data")
    corpus = read_corpus("tess", root)
    assert rows(corpus) == EXPECTED["tess"]
    assert corpus.dropped == {"second copy of a file": 3}


def test_savee_flat_layout_gives_the_same_ids(tmp_path: Path) -> None:
    fake.touch(tmp_path, ["DC_a01.wav", "KL_su15.wav"])
    assert rows(read_corpus("savee", tmp_path)) == EXPECTED["savee"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030"])
def test_esd_text_in_any_encoding(encoding: str, tmp_path: Path) -> None:
    root = tree("esd", tmp_path)
    lines = "0001_000351\t打远一看，\t生气\r\n0001_000352\t没有声音\t生气\r\n\r\nno id\r\n"
    fake.write(root / "0001/0001.txt", lines, encoding)
    corpus = read_corpus("esd", root)
    assert by_id(corpus, "0001_000351").transcript == "打远一看，"
    assert by_id(corpus, "0001_000351").split == "train"
    assert corpus.dropped == {"words without audio": 1}


def test_esd_emotion_never_stays_in_the_transcript(tmp_path: Path) -> None:
    root = tree("esd", tmp_path)
    fake.write(root / "0011/0011.txt", "0011_001401 I keep the eggs. Surprise\n")
    assert by_id(read_corpus("esd", root), "0011_001401").transcript == "I keep the eggs."


def test_msp_podcast_splits_dimensions_and_unlabelled_audio(tmp_path: Path) -> None:
    root = tree("msp-podcast", tmp_path)
    fake.touch(root, ["Audios/MSP-PODCAST_test3_0001.wav"])
    (root / "Labels/labels_consensus.csv").rename(root / "Labels/labels_concensus.csv")
    corpus = read_corpus("msp-podcast", root, "all")
    assert corpus.dropped == {"audio without a label": 1}
    assert [u.split for u in corpus] == ["test", "train", "dev"]
    first = by_id(corpus, "MSP-PODCAST_0001_0008")
    assert (first.arousal, first.valence, first.dominance) == (2.2, 4.0, 2.6)


def test_emobox_fold_gives_splits(tmp_path: Path) -> None:
    root = tree("emobox", tmp_path)
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


def real(name: str, folder: str) -> Corpus:
    if not (make.DATA / folder).is_dir():
        pytest.skip(f"no '{make.DATA / folder}'; set EMODISTILL_DATA")
    return read_corpus(name, make.DATA / folder)


def test_real_ravdess() -> None:
    corpus = real("ravdess", "corpora/ravdess")
    emotions = ("angry", "happy", "sad", "fearful", "disgusted", "surprised", "calm")
    assert Counter(u.emotion for u in corpus) == {**dict.fromkeys(emotions, 192), "neutral": 96}
    assert Counter(u.speaker for u in corpus) == {str(actor): 60 for actor in range(1, 25)}
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
    most = {speaker: max(n for (who, _), n in pairs.items() if who == speaker) for speaker in counts}
    assert sum(most.values()) == 384  # what naming each speaker's most frequent emotion gets right


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


# --- Corpus ------------------------------------------------------------------------------------


def utterances(*emotions: str | None) -> tuple[Utterance, ...]:
    return tuple(
        Utterance(id=str(number), speaker="a", emotion=emotion, corpus="tiny")
        for number, emotion in enumerate(emotions)
    )


def test_relabel_counts_what_it_merges_and_drops() -> None:
    corpus = Corpus("tiny", utterances("excited", "excited", "happy", "bored", None), {"before": 1})
    merged = corpus.relabel(label_map("iemocap-4"))
    assert [u.emotion for u in merged] == ["happy"] * 3
    assert merged.merged == {"excited -> happy": 2}
    assert merged.dropped == {"before": 1, "emotion bored": 1, "emotion not agreed": 1}
    assert len(merged) + sum(merged.dropped.values()) == len(corpus) + 1


def test_listeners_votes_are_merged_as_the_labels_are() -> None:
    item = Utterance("u", "s", "excited", votes='{"excited": 2, "happy": 1, "bored": 1}')
    (merged,) = Corpus("c", (item,)).relabel(label_map("iemocap-4"))
    assert merged.vote_counts() == {"happy": 3, "bored": 1}


def test_relabel_to_a_list() -> None:
    corpus = Corpus("tiny", utterances("happy", "sad", "angry")).relabel(label_map("angry,sad"))
    assert [u.emotion for u in corpus] == ["sad", "angry"]
    assert corpus.labels.names == ("angry", "sad")


def test_nothing_left_is_an_error() -> None:
    with pytest.raises(CorpusError, match=r"no utterances left \(dropped: \{'emotion bored': 1\}\)"):
        Corpus("tiny", utterances("bored")).relabel(label_map("angry,sad"))


def test_duplicate_id_is_an_error() -> None:
    with pytest.raises(CorpusError, match=r"corpus 'tiny': duplicate id '0' \(1 such ids\)"):
        Corpus("tiny", utterances("sad") * 2)


def test_unknown_emotion_is_an_error() -> None:
    with pytest.raises(CorpusError, match=r"'0': bad emotion 'hapy', .*did you mean 'happy'"):
        Corpus("tiny", utterances("hapy"))


# --- audio that is not there -------------------------------------------------------------------


def test_drop_bad_audio_counts_and_describes(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "good.wav", np.zeros(16_000, np.float32), 16_000)
    soundfile.write(tmp_path / "empty.wav", np.zeros(0, np.float32), 16_000)
    (tmp_path / "broken.wav").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    (tmp_path / "bytes0.wav").touch()
    audio = {"good": "good.wav", "empty": "empty.wav", "broken": "broken.wav", "bytes0": "bytes0.wav"}
    made = [
        Utterance(id=name, speaker="a", emotion="sad", path=tmp_path / file)
        for name, file in {**audio, "gone": "gone.wav", "late": "good.wav"}.items()
    ]
    made[-1] = replace(made[-1], start_s=1.5, end_s=2.0)
    made.append(Utterance(id="text", speaker="a", emotion="sad"))
    for name, start_s, end_s in (
        ("before", -0.1, 0.5),
        ("empty segment", 0.5, 0.5),
        ("backwards", None, -0.2),
    ):
        made.append(replace(made[0], id=name, start_s=start_s, end_s=end_s))
    corpus, problems = drop_bad_audio(Corpus("tiny", tuple(made), {"before": 2}))
    assert [u.id for u in corpus] == ["good", "text"]
    assert corpus.dropped == {
        "before": 2, "audio zero-length": 1, "audio broken": 2, "audio missing": 1,
        "segment outside audio": 2, "segment empty": 2,
    }  # fmt: skip
    assert len(problems) == 8
    assert problems[0].startswith("row 2, 'empty': audio zero-length (")
    assert problems[3] == f"row 5, 'gone': audio missing ({tmp_path / 'gone.wav'})"
    assert "starts at 1.5 s of 1.00 s" in problems[4]
    assert problems[5].startswith("row 8, 'before': segment outside audio: starts at -0.1 s of 1.00 s")
    assert problems[6].startswith("row 9, 'empty segment': segment empty: starts at 0.5 s, ends at 0.5 s")
    assert problems[7].startswith("row 10, 'backwards': segment empty: starts at 0.0 s, ends at -0.2 s")


def test_the_length_of_what_is_no_audio(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("this is no audio")
    for name, message in (
        ("text.wav", "'x': audio broken at '.*text.wav'"),
        ("gone.wav", "audio missing at"),
    ):
        with pytest.raises(CorpusError, match=message):
            audio_duration_s(Utterance("x", "a", "sad", tmp_path / name))


def test_a_drawing_makes_its_folder(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    made = Corpus("x", (Utterance("1", "a", "sad"),))
    plot_stats(corpus_stats(made), tmp_path / "new/folder/x.svg")
    assert (tmp_path / "new/folder/x.svg").stat().st_size > 0


# --- manifests ---------------------------------------------------------------------------------

_text = (
    st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
    .map(str.strip)
    .filter(bool)
)
_number = st.floats(-1e6, 1e6)


@st.composite
def corpora(draw: st.DrawFn) -> list[Utterance]:
    """Utterances with any text in any column; audio paths are relative until a folder is known."""
    made = []
    for name in draw(st.lists(_text, min_size=1, max_size=4, unique=True)):
        transcript = draw(st.none() | _text)
        path = draw(st.sampled_from([None, "a b.wav", 'sub/ä,".wav', "../elsewhere/c.flac"]))
        made.append(
            Utterance(
                id=name,
                speaker=draw(_text),
                emotion=draw(st.none() | st.sampled_from(EMOTIONS)),
                path=None if path is None else Path(path),
                start_s=draw(st.none() | _number),
                end_s=draw(st.none() | _number),
                session=draw(st.none() | _text),
                gender=draw(st.sampled_from([None, "female", "male"])),
                language=draw(st.sampled_from([None, "en", "pl"])),
                transcript=transcript,
                transcript_source=draw(st.sampled_from(["gold", "whisper"])) if transcript else None,
                split=draw(st.sampled_from([None, "train", "dev", "test"])),
                arousal=draw(st.none() | _number),
                valence=draw(st.none() | _number),
                dominance=draw(st.none() | _number),
                votes=draw(st.sampled_from([None, '{"sad": 2, "angry": 1}'])),
                corpus=draw(_text),
            )
        )
    return made


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
@given(made=corpora())
@settings(max_examples=30, deadline=None)
def test_manifest_round_trip(suffix: str, made: list[Utterance]) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve() / "made"
        placed = tuple(u if u.path is None else replace(u, path=(root / u.path).resolve()) for u in made)
        write_manifest(Corpus("any", placed), root / f"any{suffix}")
        assert read_manifest(root / f"any{suffix}").utterances == placed


def test_manifest_paths_are_relative_to_it(tmp_path: Path) -> None:
    audio = tmp_path / "corpus" / "a.wav"
    corpus = Corpus("tiny", (Utterance(id="a", speaker="b", emotion="sad", path=audio, corpus="tiny"),))
    write_manifest(corpus, tmp_path / "utterances.csv")
    assert "corpus/a.wav" in (tmp_path / "utterances.csv").read_text()
    assert str(tmp_path) not in (tmp_path / "utterances.csv").read_text()
    assert read_manifest(tmp_path / "utterances.csv", name="tiny") == corpus


def manifest(tmp_path: Path, text: str, encoding: str = "utf-8") -> Path:
    fake.write(tmp_path / "m.csv", text, encoding)
    return tmp_path / "m.csv"


def test_manifest_with_bom_and_few_columns(tmp_path: Path) -> None:
    path = manifest(tmp_path, "id,speaker,emotion,transcript\r\n1,a,sad,Ö\r\n", "utf-8-sig")
    (utterance,) = read_manifest(path)
    assert utterance == Utterance(
        id="1", speaker="a", emotion="sad", transcript="Ö", transcript_source="gold", corpus="m"
    )


def test_manifest_with_other_column_names(tmp_path: Path) -> None:
    path = manifest(tmp_path, "file,who,feeling\nx.wav,a,sad\n")
    with pytest.raises(CorpusError, match=r"has no column 'id' \(it has \['file', 'who', 'feeling'\]\)"):
        read_manifest(path)
    (utterance,) = read_manifest(
        path, columns={"id": "file", "path": "file", "speaker": "who", "emotion": "feeling"}
    )
    assert (utterance.id, utterance.path) == ("x.wav", tmp_path / "x.wav")
    with pytest.raises(CorpusError, match=r"bad manifest column 'speeker', .*did you mean 'speaker'"):
        read_manifest(path, columns={"speeker": "who"})


def test_manifest_with_other_emotion_names(tmp_path: Path) -> None:
    path = manifest(tmp_path, "id,speaker,emotion\n1,a,anger\n2,a,sad\n3,a,very sad\n4,a,\n")
    with pytest.raises(CorpusError, match=r"row 2: bad emotion 'anger'.* corpus\.emotions = \{\"anger\" = "):
        read_manifest(path)
    names = {"anger": "angry", "very sad": "sad"}
    made = read_manifest(path, emotions=names)
    assert [utterance.emotion for utterance in made] == ["angry", "sad", "sad", None]
    opened = open_corpus(CorpusConfig(manifest=str(path), emotions=names), lambda _: None)
    assert [utterance.emotion for utterance in opened] == ["angry", "sad", "sad"]
    with pytest.raises(CorpusError, match=r"bad emotion 'angri', .*did you mean 'angry'"):
        read_manifest(path, emotions={"anger": "angri"})


def test_tables_with_an_open_quote_say_which_row(tmp_path: Path) -> None:
    made = Corpus("x", (Utterance("1", "a", "sad"),))
    fake.write(tmp_path / "asr.csv", 'id,transcript,source\n1,"Yes,asr\n')
    with pytest.raises(CorpusError, match=r"transcripts: '.*asr\.csv', row 2: not CSV"):
        add_transcripts(made, tmp_path / "asr.csv")
    root = tree("nemo", tmp_path / "nemo")
    text = (root / "data.tsv").read_text(encoding="utf-8")
    (root / "data.tsv").write_text(text + '"no end', encoding="utf-8")
    with pytest.raises(CorpusError, match=r"nemo: '.*data\.tsv', row 4: not CSV"):
        read_corpus("nemo", root)


def test_parquet_that_is_none(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "m.parquet").write_text("id,speaker,emotion\n")
    with pytest.raises(CorpusError, match=r"m\.parquet' is not Parquet: [^\n]+$"):
        read_manifest(tmp_path / "m.parquet")


def test_crema_d_in_a_folder_of_another_name(tmp_path: Path) -> None:
    fake.touch(tmp_path, ["AudioFLAC/1001_DFA_ANG_XX.flac"])
    with pytest.raises(CorpusError, match=r"holds \['AudioFLAC'\]; expected a folder AudioWAV or AudioMP3"):
        read_corpus("crema-d", tmp_path)


HEADER = "id,speaker,emotion,start_s,transcript\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADER + "1,a,sad,,\n2,a,hapy,,\n", r"m\.csv', row 3: bad emotion 'hapy', .*did you mean 'happy'"),
        (HEADER + "1,a,sad,,\n1,a,sad,,\n", r"row 3: duplicate id '1', first in row 2"),
        (HEADER + "1,a,sad,soon,\n", r"row 2: start_s is 'soon', expected a number"),
        (HEADER + "1,a,sad,nan,\n", r"row 2: start_s is 'nan', expected a number"),
        (HEADER + "1,,sad,,\n", r"row 2: an utterance needs an id and a speaker"),
        (HEADER + "1,a,sad,,Yes, I do\n", r"row 2: more cells than columns"),
        (
            HEADER + '1,a,sad,,Yes\n2,a,sad,,"No\n3,a,sad,,No\n',
            r"m\.csv', row 3: not CSV \(unexpected end of data\)",
        ),
        (HEADER + '1,a,sad,,"Yes" he said\n', r"row 2: not CSV .*is a quote left open, or not doubled\?"),
        (HEADER, r"m\.csv' holds no rows"),
    ],
)
def test_bad_manifest_says_which_row(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=message):
        read_manifest(manifest(tmp_path, text))


def test_manifest_that_is_not_utf8(tmp_path: Path) -> None:
    path = manifest(tmp_path, HEADER + "1,a,sad,,Öl\n", "cp1252")
    with pytest.raises(CorpusError, match="is not UTF-8"):
        read_manifest(path)


def test_missing_manifest_says_how_to_write_one(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"no manifest '.*none\.csv'; write one with: emodistill"):
        read_manifest(tmp_path / "none.csv")


def test_parquet_from_elsewhere_with_numbers_and_nan(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = arrow.Table.from_pylist(
        [{"id": 1, "speaker": 7, "emotion": "sad", "arousal": float("nan"), "transcript": None}]
    )
    parquet.write_table(table, tmp_path / "m.parquet")
    (utterance,) = read_manifest(tmp_path / "m.parquet")
    assert utterance == Utterance(id="1", speaker="7", emotion="sad", corpus="m")


def test_what_an_emotion_counts_as_is_declared_before_the_labels(tmp_path: Path) -> None:
    fake.ravdess(tmp_path)
    own, declared = (
        read_corpus("ravdess", tmp_path, None, emotions) for emotions in (None, {"calm": "neutral"})
    )
    calm = sum(utterance.emotion == "calm" for utterance in own)
    assert calm
    assert declared.merged == {"calm -> neutral": calm}
    assert "calm" not in declared.labels.names
    kept = read_corpus("ravdess", tmp_path, "neutral,sad", {"calm": "neutral"})
    assert sum(u.emotion == "neutral" for u in kept) == sum(u.emotion in ("calm", "neutral") for u in own)
    for wrong in ({"clam": "neutral"}, {"calm": "natural"}):
        with pytest.raises(
            CorpusError, match=r"corpus\.emotions: bad emotion '(clam|natural)'.*did you mean"
        ):
            read_corpus("ravdess", tmp_path, None, wrong)
