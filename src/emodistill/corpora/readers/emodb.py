"""EmoDB, the Berlin Database of Emotional Speech.

Layout: `wav/03a01Fa.wav`. The parts of a name are speaker (03), text (a01), the German letter of the emotion
(F) and version (a).

Counts: By its authors angry 127, bored 81, neutral 79, happy 71, fearful 69, sad 62, disgusted 46; ten
speakers, ten sentences.

Quirks: No licence is stated; the corpus is free to download. Listeners chose these 535 utterances from 800,
so the classes are uneven. The ten sentences are spoken in every emotion, so words tell nothing about the
emotion. Published splits often share speakers. The reader was written from the published naming scheme.
"""

import re
from pathlib import Path

from emodistill.citations import Citation
from emodistill.corpora.base import Corpus, Reader, Utterance, audio_files, check_root
from emodistill.errors import CorpusError

_EMOTIONS = {
    "W": "angry", "L": "bored", "E": "disgusted", "A": "fearful", "F": "happy", "T": "sad", "N": "neutral",
}  # fmt: skip
_GENDERS = {
    "03": "male", "08": "female", "09": "female", "10": "male", "11": "male",
    "12": "male", "13": "female", "14": "female", "15": "male", "16": "female",
}  # fmt: skip
_TEXTS = {
    "a01": "Der Lappen liegt auf dem Eisschrank.",
    "a02": "Das will sie am Mittwoch abgeben.",
    "a04": "Heute abend könnte ich es ihm sagen.",
    "a05": "Das schwarze Stück Papier befindet sich da oben neben dem Holzstück.",
    "a07": "In sieben Stunden wird es soweit sein.",
    "b01": "Was sind denn das für Tüten, die da unter dem Tisch stehen?",
    "b02": "Sie haben es gerade hochgetragen und jetzt gehen sie wieder runter.",
    "b03": "An den Wochenenden bin ich jetzt immer nach Hause gefahren und habe Agnes besucht.",
    "b09": "Ich will das eben wegbringen und dann mit Karl was trinken gehen.",
    "b10": "Die wird auf dem Platz sein, wo wir sie immer hinlegen.",
}
_NAME = re.compile(r"(\d\d)([ab]\d\d)([A-Z])[a-z]?")


def read(root: Path) -> Corpus:
    """Read the folder that holds `wav/`, or the files themselves."""
    root = check_root(root, "emodb", "a folder wav with files such as 03a01Fa.wav", "**/[01]*")
    utterances: list[Utterance] = []
    for stem, path in audio_files(root).items():
        match = _NAME.fullmatch(stem)
        if match is None or match[1] not in _GENDERS or match[2] not in _TEXTS or match[3] not in _EMOTIONS:
            raise CorpusError(
                f"emodb: '{path}' is not named speaker, text, emotion, version as in 03a01Fa: expected a "
                f"speaker of {list(_GENDERS)}, a text of {list(_TEXTS)}, an emotion of {list(_EMOTIONS)}"
            )
        speaker, text, emotion = match.groups()
        utterances.append(
            Utterance(
                id=stem,
                path=path,
                speaker=speaker,
                gender=_GENDERS[speaker],
                language="de",
                emotion=_EMOTIONS[emotion],
                transcript=_TEXTS[text],
                transcript_source="gold",
                corpus="emodb",
            )
        )
    return Corpus("emodb", tuple(utterances))


EMODB = Reader(
    name="emodb",
    read=read,
    languages={"de": "German"},
    licence="none stated",
    url="http://emodb.bilderbar.info",
    citation=Citation(
        "burkhardt2005emodb",
        "inproceedings",
        author="Burkhardt, Felix and Paeschke, Astrid and Rolfes, Miriam and Sendlmeier, Walter F. and "
        "Weiss, Benjamin",
        title="A Database of {German} Emotional Speech",
        year=2005,
        booktitle="Interspeech",
        pages="1517--1520",
        doi="10.21437/Interspeech.2005-446",
    ),
    utterances="535",
    speakers="10",
    emotions="7",
    tested_on="fake folder",
)
