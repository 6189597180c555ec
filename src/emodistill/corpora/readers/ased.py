"""ASED v1, the Amharic Speech Emotion Dataset.

Retta, Almekhlafi, Sutcliffe, Mhamed, Ali & Feng (2023), "A new Amharic speech emotion dataset and
classification benchmark", ACM TALLIP 22(1), https://doi.org/10.1145/3529759. No licence stated: research,
cite the paper. From https://github.com/wgwangang/ASED_V1.

Layout: `01Neutral` … `05Angry`, files `xn-yy-aa-gg-bb`: emotion letter and folder number, sentence,
repetition, gender, speaker.

Quirks: the gender codes disagree for speakers 09, 15, 21, 23 and 25, so the speaker is the number alone
and the gender is each speaker's more frequent code (01 female, 02 male, after EmoBox: the folder itself
does not say); one file starts with `S4` instead of `s4`; four recordings were filed twice, as
repetitions 01 and 02 (n1-07-..-02-53, h3-01-..-02-08, s4-03-..-01-23, a5-07-..-02-63): all rows are
kept, each pair with one speaker. Their samples are equal; in a copy that was encoded anew the bytes differ.
Sentences 03 to 07 are tied to one emotion each. The distribution holds no transcripts.
"""

from collections import Counter, defaultdict
from pathlib import Path

from emodistill.corpora.base import Corpus, Utterance, audio_files, check_root
from emodistill.errors import CorpusError

_EMOTIONS = {"n1": "neutral", "f2": "fearful", "h3": "happy", "s4": "sad", "a5": "angry"}
_GENDERS = {"01": "female", "02": "male"}
_FOLDERS = "0[1-5]*/*"


def read(root: Path) -> Corpus:
    """Read the folder that holds `01Neutral` … `05Angry`."""
    root = check_root(root, "ased", "folders 01Neutral … 05Angry", _FOLDERS)
    files = {stem: (path, stem.split("-")) for stem, path in audio_files(root, _FOLDERS).items()}
    codes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for path, parts in files.values():
        if len(parts) != 5 or parts[0].lower() not in _EMOTIONS or parts[3] not in _GENDERS:
            raise CorpusError(f"ased: '{path}' is not named xn-yy-aa-gg-bb, with xn one of {list(_EMOTIONS)}")
        codes[parts[4]][parts[3]] += 1
    return Corpus(
        "ased",
        tuple(
            Utterance(
                id=stem,
                path=path,
                speaker=parts[4],
                gender=_GENDERS[codes[parts[4]].most_common(1)[0][0]],
                language="am",
                emotion=_EMOTIONS[parts[0].lower()],
                corpus="ased",
            )
            for stem, (path, parts) in files.items()
        ),
    )
