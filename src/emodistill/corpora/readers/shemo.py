"""ShEMO, the Sharif Emotional Speech Database: Persian radio plays.

Layout: `female/F01A01.wav` and `male/M01A01.wav`. The parts of a name are speaker, letter of the emotion, and
number. The words are offered separately as `shemo.json`; put it beside the two folders. It is on
<https://huggingface.co/datasets/pariajm/sharif_emotional_speech_dataset> and maps names such as `F21N37` to
`speaker_id`, `gender`, `emotion`, `transcript` and `ipa`.

Counts: By its authors angry 1059, neutral 1028, sad 449, surprised 225, happy 201, fearful 38. EmoBox counts
2838 in all.

Quirks: The speech is semi-natural and the classes are far from balanced. Some of the original transcripts are
known to be wrong. The reader was written from the card of that dataset and EmoBox's script.
"""

import re
from pathlib import Path

from emodistill.citations import Citation
from emodistill.corpora.base import Corpus, Reader, Utterance, audio_files, check_root
from emodistill.errors import CorpusError
from emodistill.reading import read_json

_EMOTIONS = {
    "A": "angry", "F": "fearful", "H": "happy", "N": "neutral", "S": "sad", "W": "surprised",
}  # fmt: skip
_FOLDERS = {"F": "female", "M": "male"}
_NAME = re.compile(r"(([FM])\d\d)([A-Z])\d+")


def read(root: Path) -> Corpus:
    """Read the folder that holds `female`, `male` and, if you added it, `shemo.json`."""
    root = check_root(root, "shemo", "folders female and male", "*male/*")
    audio = {**audio_files(root, "female/*"), **audio_files(root, "male/*")}
    table = root / "shemo.json"
    words = read_json(table, CorpusError, "is not the JSON of ShEMO") if table.is_file() else {}
    utterances: list[Utterance] = []
    for stem in sorted(audio.keys() | words.keys()):
        match = _NAME.fullmatch(stem)
        if match is None or match[3] not in _EMOTIONS:
            raise CorpusError(
                f"shemo: '{audio.get(stem, table)}': '{stem}' is not named speaker, emotion, number as in "
                f"F01A01: expected an emotion of {list(_EMOTIONS)}"
            )
        speaker, gender, emotion = match.groups()
        stated = words.get(stem, {})
        if not isinstance(stated, dict):
            raise CorpusError(f"shemo: '{table}', '{stem}': expected an object with transcript")
        transcript = str(stated.get("transcript") or "").strip()
        utterances.append(
            Utterance(
                id=stem,
                path=audio.get(stem, root / _FOLDERS[gender] / f"{stem}.wav"),
                speaker=speaker,
                gender=_FOLDERS[gender],
                language="fa",
                emotion=_EMOTIONS[emotion],
                transcript=transcript or None,
                transcript_source="gold" if transcript else None,
                corpus="shemo",
            )
        )
    return Corpus("shemo", tuple(utterances))


SHEMO = Reader(
    name="shemo",
    read=read,
    languages={"fa": "Persian"},
    licence="academic",
    url="https://github.com/mansourehk/ShEMO",
    citation=Citation(
        "nezami2019shemo",
        "article",
        author="Mohamad Nezami, Omid and Jamshid Lou, Paria and Karami, Mansoureh",
        title="{ShEMO}: a large-scale validated database for {Persian} speech emotion detection",
        year=2019,
        journal="Language Resources and Evaluation",
        volume="53",
        number="1",
        pages="1--16",
        doi="10.1007/s10579-018-9427-x",
        eprint="1906.01155",
    ),
    utterances="3000",
    speakers="87",
    emotions="6",
    tested_on="fake folder",
)
