"""TESS, the Toronto Emotional Speech Set.

Layout: `OAF_back_angry.wav`, in one folder or in folders such as `OAF_angry`. The parts of a name are speaker
(OAF is the older woman, YAF the younger), word and emotion.

Counts: Two women speak 200 words in each of seven emotions, which makes 400 utterances of each emotion.

Quirks: With two speakers, a speaker-independent score can only be from one to the other. The 200 words stand
in the frame "Say the word …" and are spoken in every emotion, so words tell nothing about the emotion. `ps`
is pleasant surprise. One file is named OA_bite_neutral. A common archive holds the whole set twice, one
folder inside the other: the second copy is left out and counted. The reader was written from the published
naming scheme and EmoBox's script.
"""

from pathlib import Path

from emodistill.audio.decoding import SUFFIXES
from emodistill.citations import Citation
from emodistill.corpora.base import Corpus, Reader, Utterance, check_root
from emodistill.errors import CorpusError

_EMOTIONS = {
    "angry": "angry", "disgust": "disgusted", "fear": "fearful", "happy": "happy",
    "neutral": "neutral", "ps": "surprised", "sad": "sad",
}  # fmt: skip
_SPEAKERS = {"OAF": "OAF", "YAF": "YAF", "OA": "OAF"}


def read(root: Path) -> Corpus:
    """Read all files below the folder, however they are nested."""
    root = check_root(root, "tess", "files such as OAF_back_angry.wav, in folders or not", "**/*_*_*.*")
    utterances: dict[str, Utterance] = {}
    copies = 0
    for path in sorted(root.rglob("*"), key=lambda path: (len(path.parts), path)):
        if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
            continue
        parts = path.stem.split("_")
        if len(parts) != 3 or parts[0] not in _SPEAKERS or parts[2].lower() not in _EMOTIONS:
            raise CorpusError(
                f"tess: '{path}' is not named speaker_word_emotion as in OAF_back_angry: expected a speaker "
                f"of {list(_SPEAKERS)} and an emotion of {list(_EMOTIONS)}"
            )
        if path.stem in utterances:
            copies += 1
            continue
        utterances[path.stem] = Utterance(
            id=path.stem,
            path=path,
            speaker=_SPEAKERS[parts[0]],
            gender="female",
            language="en",
            emotion=_EMOTIONS[parts[2].lower()],
            transcript=f"Say the word {parts[1]}.",
            transcript_source="gold",
            corpus="tess",
        )
    return Corpus("tess", tuple(utterances.values()), {"second copy of a file": copies} if copies else {})


TESS = Reader(
    name="tess",
    read=read,
    languages={"en": "English"},
    licence="CC BY-NC 4.0 by its mirrors",
    url="https://doi.org/10.5683/SP2/E8H2MF",
    citation=Citation(
        "pichorafuller2020tess",
        "misc",
        author="Pichora-Fuller, M. Kathleen and Dupuis, Kate",
        title="Toronto emotional speech set ({TESS})",
        year=2020,
        publisher="Borealis",
        doi="10.5683/SP2/E8H2MF",
        note="Data set",
    ),
    utterances="2800",
    speakers="2",
    emotions="7",
    tested_on="fake folder",
)
