"""Small fake folders in the layouts of the real corpora, and the rows that readers must return for them.

Audio files are empty, because no reader opens them. To add a corpus, write a function that makes its folder,
and add it to `FOLDERS` and its rows to `EXPECTED`.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path


def touch(root: Path, names: Iterable[str], suffix: str = "") -> None:
    """Make empty files, and their folders, below `root`."""
    for name in names:
        path = root / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def write(path: Path, text: str, encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))


def demo(root: Path, suffix: str = ".wav") -> None:
    rows = [
        "id,path,speaker,gender,language,emotion,transcript,arousal,valence,dominance,scale",
        f"f01_001,audio/f01/f01_001{suffix},f01,female,en,sad,He is gloomy about this exam again.,2,1,3,1..5",
        f"m01_002,audio/m01/m01_002{suffix},m01,male,en,happy,,4.25,5,3,1..5",
    ]
    write(root / "utterances.csv", "\n".join(rows) + "\n")
    touch(root, ["audio/f01/f01_001", "audio/m01/m01_002"], suffix)


def ravdess(root: Path, suffix: str = ".wav") -> None:
    touch(root, ["Actor_01/03-01-05-01-01-01-01", "Actor_02/03-01-02-01-02-01-02"], suffix)


def nemo(root: Path, suffix: str = ".wav") -> None:
    rows = [
        "file_id\temotion\traw_text\tnormalized_text\tspeaker_id\tgender\tage",
        'SM0_anger_1.wav\tanger\tTo "był" dom.\tto był dom\t        SM0\tmale\t24',
        "EB0_surprised_2.wav\tsurprised\tNaprawdę?\tnaprawdę\t        EB0\tfemale\t27",
    ]
    write(root / "data.tsv", "\n".join(rows) + "\n")
    touch(root, ["samples/SM0_anger_1", "samples/EB0_surprised_2"], suffix)


def ased(root: Path, suffix: str = ".wav") -> None:
    touch(root, ["01Neutral/n1-01-01-01-09", "05Angry/a5-01-01-01-09"], suffix)
    touch(root, ["04Sad/S4-04-02-02-09", "04Sad/s4-04-02-02-10"], suffix)


def urdu(root: Path, suffix: str = ".wav") -> None:
    touch(root, ["Angry/SM1_F1_A01", "Neutral/SF9_F10_N087"], suffix)


def iemocap(root: Path, suffix: str = ".wav", turns: Mapping[str, str] | None = None) -> None:
    """`turns` maps utterance ids to raw emotions."""
    turns = turns or {
        "Ses01F_impro04_M003": "exc",
        "Ses01F_impro04_F000": "xxx",
        "Ses05M_script01_F010": "ang",
    }
    dialogues: dict[str, list[str]] = {}
    for name in turns:
        dialogues.setdefault(name.rsplit("_", 1)[0], []).append(name)
    for dialogue, names in dialogues.items():
        session = root / f"Session{dialogue[4]}"
        blocks = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"]
        for number, name in enumerate(names):
            blocks.append(
                f"[{number}.2901 - {number}.9357]\t{name}\t{turns[name]}\t[2.5000, 3.0000, 3.5000]\n"
                "C-E1:\tExcited; Happiness;\t()\nC-E2:\tExcited;\t(glad; really)\nC-M1:\tAnger;\t()\n"
                "A-E3:\tval 3; act 2; dom  2;\t()\n\n"
            )
        write(session / f"dialog/EmoEvaluation/{dialogue}.txt", "".join(blocks))
        words = [f"{name} [000.2901-000.9357]: The words of {name}.\n" for name in names]
        write(session / f"dialog/transcriptions/{dialogue}.txt", "".join([*words, "M: no turn at all\n"]))
        write(session / f"dialog/EmoEvaluation/._{dialogue}.txt", "\x00\x05")
        touch(session, [f"sentences/wav/{dialogue}/{name}" for name in names], suffix)


def emodb(root: Path, suffix: str = ".wav") -> None:
    touch(root, ["wav/03a01Fa", "wav/16b10Wb"], suffix)


def crema_d(root: Path, suffix: str = ".wav") -> None:
    touch(root / "AudioWAV", ["1001_DFA_ANG_XX", "1002_IEO_HAP_LO", "1040_ITH_SAD_X"], suffix)
    touch(root, ["AudioMP3/1001_DFA_ANG_XX"], ".mp3")
    write(
        root / "processedResults/summaryTable.csv",
        '"","FileName","VoiceVote","VoiceLevel","FaceVote","FaceLevel","MultiModalVote","MultiModalLevel"\n'
        '"1","1001_DFA_ANG_XX","N","71.67","A","57","A","57.38"\n'
        '"2","1002_IEO_HAP_LO","A:H","30.67:51.00","H","63.5","H","63.5"\n'
        '"3","1040_ITH_SAD_XX","S","71.67","S","57","S","57.38"\n',
    )
    write(
        root / "VideoDemographics.csv",
        '"ActorID","Age","Sex","Race","Ethnicity"\n1001,51,"Male","Caucasian","Not Hispanic"\n'
        '1002,21,"Female","Caucasian","Not Hispanic"\n1040,42,"Male","Caucasian","Not Hispanic"\n',
    )
    write(
        root / "finishedResponses.csv",
        '"","localid","queryType","clipName","respEmo"\n'
        '"1","a","1","1001_DFA_ANG_XX","N"\n"2","b","1","1001_DFA_ANG_XX","N"\n'
        '"3","c","1","1001_DFA_ANG_XX","A"\n"4","d","3","1001_DFA_ANG_XX","A"\n',
    )


_MELD = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode\n"


def meld(root: Path, suffix: str | None = ".wav") -> None:
    """`suffix` None makes the text alone."""
    broken = '1,"He\x92s here, isnâ€™t he?",Joey,joy,positive,0,0,1,1\n'
    write(root / "train/train_sent_emo.csv", _MELD + broken)
    write(root / "dev_sent_emo.csv", _MELD + "1,Café?,Ross,fear,negative,0,0,1,1\n")
    write(root / "test_sent_emo.csv", _MELD + "1,No.,Rachel,disgust,negative,0,0,1,1\n")
    if suffix:
        touch(root, ["train/train_splits/dia0_utt0", "dev_splits_complete/dia0_utt0"], suffix)
        touch(root / "output_repeated_splits_test", ["._dia0_utt0", "dia0_utt0"], suffix)


def emorynlp(root: Path, suffix: str = ".wav") -> None:
    header = "Utterance,Speaker,Emotion,Scene_ID,Utterance_ID,Season,Episode,Start_Time,End_Time\n"
    two = "\"['Monica Geller', 'Ross Geller']\""
    write(root / "emorynlp_train_final.csv", f"{header}Yes!,{two},Powerful,1,2,3,4,a,b\n")
    write(root / "emorynlp_dev_final.csv", header + "Coffee.,['Rachel Green'],Joyful,1,1,1,15,a,b\n")


def savee(root: Path, suffix: str = ".wav") -> None:
    touch(root, ["AudioData/DC/a01", "AudioData/KL/su15"], suffix)


def tess(root: Path, suffix: str = ".wav") -> None:
    touch(root, ["OAF_angry/OAF_back_angry", "OAF_neutral/OA_bite_neutral"], suffix)
    touch(root, ["YAF_pleasant_surprised/YAF_food_ps"], suffix)


def esd(root: Path, suffix: str = ".wav") -> None:
    touch(root, ["0001/Angry/train/0001_000351", "0011/Surprise/0011_001401"], suffix)
    write(root / "0001/0001.txt", "0001_000351\t打远一看，它们的确很是美丽，\t生气\n", "utf-16")
    write(root / "0011/0011.txt", "0011_001401\tThe nine the eggs, I keep.\tSurprise\n")


def emovo(root: Path, suffix: str = ".wav") -> None:
    touch(root, ["f1/dis-f1-b1", "m3/gio-m3-d2"], suffix)


def jl_corpus(root: Path, suffix: str = ".wav") -> None:
    folder = "Raw JL corpus (unchecked and unannotated)/JL(wav+txt)"
    touch(root, [f"{folder}/female1_angry_10a_1", f"{folder}/male2_anxious_1b_2"], suffix)
    write(root / folder / "female1_angry_10a_1.txt", "Carl leaps into a jeep.\n")


def shemo(root: Path, suffix: str = ".wav") -> None:
    touch(root, ["female/F21N37", "male/M01W02"], suffix)
    words = {"speaker_id": "F21", "gender": "female", "emotion": "neutral", "transcript": "مگه من؟"}
    write(root / "shemo.json", json.dumps({"F21N37": words}))


MSP_PODCAST = (
    "FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set\n"
    "MSP-PODCAST_0001_0008.wav,N,2.2,4.0,2.6,30,Male,Test1\n"
    "MSP-PODCAST_0002_0001.wav,X,3.0,5.5,3.1,Unknown,Unknown,Train\n"
    "MSP-PODCAST_0003_0001.wav,C,3.0,5.5,3.1,7,Female,Development\n"
)


def msp_podcast(root: Path, suffix: str = ".wav") -> None:
    write(root / "Labels/labels_consensus.csv", MSP_PODCAST)
    touch(root, [f"Audios/MSP-PODCAST_{name}" for name in ("0001_0008", "0002_0001", "0003_0001")], suffix)
    write(root / "Transcripts/MSP-PODCAST_0001_0008.txt", "Well, yes.\n")


def emobox_line(key: str, dataset: str, wav: str, emotion: str, **more: object) -> str:
    audio = {"wav": wav, "type": "raw", "sample_rate": 16000, "num_frame": 16000.0, "length": 1.0}
    item = {"key": key, "dataset": dataset, "task": "category", "emo": emotion, "channel": 1}
    return json.dumps({**item, **audio, **more}) + "\n"


def emobox(root: Path, suffix: str = ".wav") -> None:
    """A folder `data/cafe` as in EmoBox, with one fold."""
    first = emobox_line("cafe-01-c-1", "cafe", f"downloads/cafe/01-c-1{suffix}", "c")
    second = emobox_line("cafe-02-p-1", "cafe", f"downloads/cafe/02-p-1{suffix}", "p")
    write(root / "cafe.jsonl", first + second)
    write(root / "label_map.json", json.dumps({"c": "Angry", "p": "Fear"}))
    write(
        root / "data.seg.wrd.stm",
        "cafe-01-c-1 1 01 0 1.0 <id=cafe-01-c-1,lang=en,spk=01,emotion=c> c\n"
        "cafe-02-p-1 1 02 0 1.0 <id=cafe-02-p-1,lang=en,spk=02,emotion=p> p\n",
    )
    write(root / "fold_1/cafe_train_fold_1.jsonl", first)
    write(root / "fold_1/cafe_test_fold_1.jsonl", second)


# --- all corpora ---------------------------------------------------------------------------------

# Name of the reader -> function that makes its fake folder: (root, suffix of the audio files).
FOLDERS: dict[str, Callable[..., None]] = {
    "ased": ased,
    "crema-d": crema_d,
    "crema-d-perceived": crema_d,
    "demo": demo,
    "emobox": emobox,
    "emodb": emodb,
    "emorynlp": emorynlp,
    "emovo": emovo,
    "esd": esd,
    "iemocap": iemocap,
    "jl-corpus": jl_corpus,
    "meld": meld,
    "msp-podcast": msp_podcast,
    "nemo": nemo,
    "ravdess": ravdess,
    "savee": savee,
    "shemo": shemo,
    "tess": tess,
    "urdu": urdu,
}

# Utterance id -> (speaker, gender, language, emotion, transcript), as the reader must return them.
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
    "demo": {
        "f01_001": ("f01", "female", "en", "sad", "He is gloomy about this exam again."),
        "m01_002": ("m01", "male", "en", "happy", None),
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
TEXT_ALONE = {"emorynlp"}  # corpora whose utterances have no audio path
