"""SAVEE, the Surrey Audio-Visual Expressed Emotion database.

Layout: `AudioData/DC/a01.wav` in the original, `DC_a01.wav` in copies. The parts of a name are speaker,
letters of the emotion, and sentence.

Counts: Each of the four men has 30 neutral utterances and 15 of each other emotion.

Quirks: Sentence numbers start again in every emotion, and most sentences belong to one emotion. So words tell
the emotion. The corpus is free for research after registration. The reader was written from the published
naming scheme and EmoBox's script.
"""

import re
from pathlib import Path

from emodistill.audio.decoding import SUFFIXES
from emodistill.citations import Citation
from emodistill.corpora.base import Corpus, Reader, Utterance, check_root
from emodistill.errors import CorpusError

_EMOTIONS = {
    "a": "angry", "d": "disgusted", "f": "fearful", "h": "happy",
    "n": "neutral", "sa": "sad", "su": "surprised",
}  # fmt: skip
_SPEAKERS = ("DC", "JE", "JK", "KL")
_NAME = re.compile(r"([A-Z]{2})_([a-z]{1,2})\d\d")


def read(root: Path) -> Corpus:
    """Read either layout; ids are `DC_a01` in both."""
    root = check_root(
        root, "savee", "files DC_a01.wav, or DC/a01.wav below AudioData", "**/*[a-z][0-9][0-9].*"
    )
    utterances: list[Utterance] = []
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
            continue
        name = path.stem if "_" in path.stem else f"{path.parent.name}_{path.stem}"
        match = _NAME.fullmatch(name)
        if match is None or match[1] not in _SPEAKERS or match[2] not in _EMOTIONS:
            raise CorpusError(
                f"savee: '{path}' is not named DC_a01 or DC/a01: expected a speaker of {list(_SPEAKERS)} and "
                f"an emotion of {list(_EMOTIONS)}"
            )
        utterances.append(
            Utterance(
                id=name,
                path=path,
                speaker=match[1],
                gender="male",
                language="en",
                emotion=_EMOTIONS[match[2]],
                corpus="savee",
            )
        )
    return Corpus("savee", tuple(utterances))


SAVEE = Reader(
    name="savee",
    read=read,
    languages={"en": "English"},
    licence="research, registration",
    url="http://kahlan.eps.surrey.ac.uk/savee",
    citation=Citation(
        "haq2009savee",
        "inproceedings",
        author="Haq, Sanaul and Jackson, Philip J. B.",
        title="Speaker-Dependent Audio-Visual Emotion Recognition",
        year=2009,
        booktitle="International Conference on Auditory-Visual Speech Processing (AVSP)",
        pages="53--58",
    ),
    utterances="480",
    speakers="4",
    emotions="7",
    tested_on="fake folder",
)
