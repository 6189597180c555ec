"""TESS, the Toronto Emotional Speech Set.

Pichora-Fuller & Dupuis (2020), https://doi.org/10.5683/SP2/E8H2MF. CC BY-NC 4.0 by its mirrors.

Layout: `OAF_back_angry.wav`: speaker (OAF the older woman, YAF the younger), word, emotion; flat or in
folders such as `OAF_angry`.

Quirks: two speakers, so no honest speaker-independent figure beyond "one to the other"; 200 words in
the frame "Say the word …", in every emotion; `ps` is pleasant surprise; one file is named OA_bite_neutral;
a common archive holds the whole set twice, one folder inside the other: the second copy is counted and
left out.
"""

from pathlib import Path

from emodistill.audio.decoding import SUFFIXES
from emodistill.corpora.base import Corpus, Utterance, check_root
from emodistill.errors import CorpusError

_EMOTIONS = {
    "angry": "angry", "disgust": "disgusted", "fear": "fearful", "happy": "happy",
    "neutral": "neutral", "ps": "surprised", "sad": "sad",
}  # fmt: skip
_SPEAKERS = {"OAF": "OAF", "YAF": "YAF", "OA": "OAF"}


def read(root: Path) -> Corpus:
    """Read all files below the folder, however they are nested."""
    root = check_root(root, "tess", "files such as OAF_back_angry.wav, in folders or not", "**/*_*_*.*")
    found: dict[str, Utterance] = {}
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
        if path.stem in found:
            copies += 1
            continue
        found[path.stem] = Utterance(
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
    return Corpus("tess", tuple(found.values()), {"second copy of a file": copies} if copies else {})
