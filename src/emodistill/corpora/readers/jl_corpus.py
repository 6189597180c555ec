"""JL-Corpus, acted emotional speech in New Zealand English.

Layout: `Raw JL corpus (unchecked and unannotated)/JL(wav+txt)/female1_angry_10a_1.wav`, with the words in a
`.txt` file beside it. The parts of a name are speaker, emotion, sentence with its session letter, and
repetition.

Quirks: There are four speakers. The five primary emotions are angry, excited, happy, neutral and sad. The
five secondary ones (anxious, apologetic, assertive, concerned, encouraging) have no counterpart and are read
as other. To keep the primary ones alone, give `--labels angry,excited,happy,neutral,sad`. The reader was
written from the corpus's README and EmoBox's script.
"""

import re
from pathlib import Path

from emodistill.citations import Citation
from emodistill.corpora.base import Corpus, Reader, Utterance, audio_files, check_root
from emodistill.errors import CorpusError

_EMOTIONS = {
    "angry": "angry", "excited": "excited", "happy": "happy", "neutral": "neutral", "sad": "sad",
    "anxious": "other", "apologetic": "other", "assertive": "other", "concerned": "other",
    "encouraging": "other",
}  # fmt: skip
_NAME = re.compile(r"((female|male)\d)_([a-z]+)_(\w+)")


def read(root: Path) -> Corpus:
    """Read all files below the folder."""
    root = check_root(root, "jl-corpus", "files such as female1_angry_10a_1.wav", "**/*male[12]_*")
    utterances: list[Utterance] = []
    for stem, path in audio_files(root).items():
        match = _NAME.fullmatch(stem)
        if match is None or match[3] not in _EMOTIONS:
            raise CorpusError(
                f"jl-corpus: '{path}' is not named speaker_emotion_sentence_repetition as in "
                f"female1_angry_10a_1: expected an emotion of {list(_EMOTIONS)}"
            )
        text_file = path.with_suffix(".txt")
        text = text_file.read_text(encoding="utf-8-sig", errors="replace") if text_file.is_file() else ""
        transcript = text.strip()
        utterances.append(
            Utterance(
                id=stem,
                path=path,
                speaker=match[1],
                gender=match[2],
                language="en",
                emotion=_EMOTIONS[match[3]],
                transcript=transcript or None,
                transcript_source="gold" if transcript else None,
                corpus="jl-corpus",
            )
        )
    return Corpus("jl-corpus", tuple(utterances))


JL_CORPUS = Reader(
    name="jl-corpus",
    read=read,
    languages={"en": "English (New Zealand)"},
    licence="CC0 1.0",
    url="https://www.kaggle.com/datasets/tli725/jl-corpus",
    citation=Citation(
        "james2018jlcorpus",
        "inproceedings",
        author="James, Jesin and Tian, Li and Watson, Catherine Inez",
        title="An Open Source Emotional Speech Corpus for Human Robot Interaction Applications",
        year=2018,
        booktitle="Interspeech",
        pages="2768--2772",
        doi="10.21437/Interspeech.2018-1349",
    ),
    utterances="2400",
    speakers="4",
    emotions="5 + other",
    tested_on="fake folder",
)
