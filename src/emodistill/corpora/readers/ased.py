"""ASED v1, the Amharic Speech Emotion Dataset.

Layout: folders `01Neutral` … `05Angry` with files `xn-yy-aa-gg-bb`. The parts of a name are the emotion (a
letter and the number of its folder), sentence, repetition, gender and speaker.

Counts: neutral 522, fearful 510, angry 486, happy 486, sad 470. The 65 speakers (25 women, 40 men) have 4 to
70 utterances each.

Quirks: The folder does not say which gender code is which. 01 is read as female and 02 as male, as EmoBox
does. The codes of speakers 09, 15, 21, 23 and 25 disagree. So the speaker is the number alone, and the gender
is the more frequent code. One file name starts with `S4` instead of `s4`. Four recordings were filed twice,
as repetitions 01 and 02: n1-07-01-02-53, h3-01-01-02-08, s4-03-01-01-23 and a5-07-01-02-63. All rows are
kept, because both files of a pair have the same speaker. Their samples are equal; their bytes differ in an
Opus copy. Sentences 03 to 07 belong to one emotion each. There are no transcripts.
"""

from collections import Counter, defaultdict
from pathlib import Path

from emodistill.citations import Citation
from emodistill.corpora.base import Corpus, Reader, Utterance, audio_files, check_root
from emodistill.errors import CorpusError

_EMOTIONS = {"n1": "neutral", "f2": "fearful", "h3": "happy", "s4": "sad", "a5": "angry"}
_GENDERS = {"01": "female", "02": "male"}
_FILES = "0[1-5]*/*"


def read(root: Path) -> Corpus:
    """Read the folder that holds `01Neutral` … `05Angry`."""
    root = check_root(root, "ased", "folders 01Neutral … 05Angry", _FILES)
    files = {stem: (path, stem.split("-")) for stem, path in audio_files(root, _FILES).items()}
    gender_codes: defaultdict[str, Counter[str]] = defaultdict(Counter)  # by speaker
    for path, parts in files.values():
        if len(parts) != 5 or parts[0].lower() not in _EMOTIONS or parts[3] not in _GENDERS:
            raise CorpusError(f"ased: '{path}' is not named xn-yy-aa-gg-bb, with xn one of {list(_EMOTIONS)}")
        gender_codes[parts[4]][parts[3]] += 1
    return Corpus(
        "ased",
        tuple(
            Utterance(
                id=stem,
                path=path,
                speaker=parts[4],
                gender=_GENDERS[gender_codes[parts[4]].most_common(1)[0][0]],
                language="am",
                emotion=_EMOTIONS[parts[0].lower()],
                corpus="ased",
            )
            for stem, (path, parts) in files.items()
        ),
    )


ASED = Reader(
    name="ased",
    read=read,
    languages={"am": "Amharic"},
    licence="none stated",
    url="https://github.com/wgwangang/ASED_V1",
    citation=Citation(
        "retta2023ased",
        "article",
        author="Retta, Ephrem Afele and Almekhlafi, Eiad and Sutcliffe, Richard and Mhamed, Mustafa and "
        "Ali, Haider and Feng, Jun",
        title="A New {Amharic} Speech Emotion Dataset and Classification Benchmark",
        year=2023,
        journal="ACM Transactions on Asian and Low-Resource Language Information Processing",
        volume="22",
        number="1",
        doi="10.1145/3529759",
    ),
    utterances="2474",
    speakers="65",
    emotions="5",
    tested_on="real corpus",
)
