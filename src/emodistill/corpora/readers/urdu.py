"""URDU, utterances from Urdu television talk shows: spontaneous, not acted.

Layout: folders `Angry`, `Happy`, `Neutral` and `Sad` with files such as `SM1_F10_A010`. The parts of a name
are gender and speaker, file, and emotion with a number.

Counts: 100 utterances of each emotion. The file names hold 29 speakers (11 women, 18 men), though the paper
counts 38. SM5 has 80 utterances.

Quirks: The emotion follows the speaker closely: each speaker's most frequent emotion is right for 96 % (384
of 400). Split by speaker, and read scores with care even then. There are no transcripts.
"""

import re
from pathlib import Path

from emodistill.citations import Citation
from emodistill.corpora.base import Corpus, Reader, Utterance, audio_files, check_root
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


URDU = Reader(
    name="urdu",
    read=read,
    languages={"ur": "Urdu"},
    licence="research",
    url="https://github.com/siddiquelatif/urdu-dataset",
    citation=Citation(
        "latif2018urdu",
        "inproceedings",
        author="Latif, Siddique and Qayyum, Adnan and Usman, Muhammad and Qadir, Junaid",
        title="Cross Lingual Speech Emotion Recognition: {Urdu} vs. {Western} Languages",
        year=2018,
        booktitle="International Conference on Frontiers of Information Technology (FIT)",
        pages="88--93",
        eprint="1812.10411",
    ),
    utterances="400",
    speakers="29",
    emotions="4",
    tested_on="real corpus",
)
