"""URDU, utterances from Urdu television talk shows: spontaneous, not acted.

Latif, Qayyum, Usman & Qadir (2018), "Cross lingual speech emotion recognition: Urdu vs. Western
languages", FIT, https://arxiv.org/abs/1812.10411. Research only. From
https://github.com/siddiquelatif/urdu-dataset.

Layout: `Angry`, `Happy`, `Neutral`, `Sad`, files `SM1_F10_A010`: gender and speaker, file, emotion and
number.

Quirks: the file names hold 29 speakers (11 women, 18 men) though the paper counts 38; emotion follows
the speaker closely: naming each speaker's most frequent emotion is right for 96 % (384 of 400). Split
by speaker, and read the score with care even then. No transcripts.
"""

import re
from pathlib import Path

from emodistill.corpora.base import Corpus, Utterance, audio_files, check_root
from emodistill.errors import CorpusError

_EMOTIONS = {"A": "angry", "H": "happy", "N": "neutral", "S": "sad"}
_GENDERS = {"F": "female", "M": "male"}
_NAME = re.compile(r"(S([FM])\d+)_F\d+_([AHNS])\d+")


def read(root: Path) -> Corpus:
    """Read the folder that holds `Angry`, `Happy`, `Neutral` and `Sad`."""
    folders = "[AHNS]*/*"
    root = check_root(root, "urdu", "folders Angry, Happy, Neutral and Sad", folders)
    utterances: list[Utterance] = []
    for stem, path in audio_files(root, folders).items():
        match = _NAME.fullmatch(stem)
        if match is None or match[3] != path.parent.name[0]:
            raise CorpusError(f"urdu: '{path}' is not named SM1_F10_A010 with the first letter of its folder")
        utterances.append(
            Utterance(
                id=stem,
                path=path,
                speaker=match[1],
                gender=_GENDERS[match[2]],
                language="ur",
                emotion=_EMOTIONS[match[3]],
                corpus="urdu",
            )
        )
    return Corpus("urdu", tuple(utterances))
