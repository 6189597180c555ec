"""ESD, the Emotional Speech Dataset, Mandarin and English.

Layout: `0001/Angry/0001_000351.wav`; some copies have folders `train`, `evaluation` and `test` in between.
The text file `0001/0001.txt` holds lines `0001_000351<tab>text<tab>emotion`. Speakers 0001 to 0010 speak
Mandarin, 0011 to 0020 English.

Counts: 350 sentences in each of five emotions by each speaker.

Quirks: All speakers of a language speak the same 350 sentences in every emotion, so words tell nothing about
the emotion. The text files have several encodings (UTF-8, UTF-16, GB 18030). They name the emotion in either
language, so the folder decides, and the name is cut off from the words. The published parts share all
speakers. The files do not say which speakers are women, so the gender is left empty. The reader was written
from EmoBox's script and the published layout.
"""

import re
from pathlib import Path

from emodistill.citations import Citation
from emodistill.corpora.base import Corpus, Reader, Utterance, audio_files, check_root
from emodistill.errors import CorpusError, one_of

_EMOTIONS = {
    "Angry": "angry", "Happy": "happy", "Neutral": "neutral", "Sad": "sad", "Surprise": "surprised",
}  # fmt: skip
_SPLITS = {"train": "train", "evaluation": "dev", "test": "test"}
_FIRST_ENGLISH = 11
_NAMES = "|".join([*_EMOTIONS, "生气", "快乐", "中立", "伤心", "惊喜"])
_LINE = re.compile(rf"(\d{{4}}_\d{{6}})\s+(.+?)(?:\s+(?:{_NAMES}))?\s*")


def read(root: Path) -> Corpus:
    """Read the folder that holds `0001` … `0020` (any of them)."""
    speakers = "0[0-9][0-9][0-9]"
    root = check_root(root, "esd", "folders 0001 … 0020 with Angry, Happy, …", speakers)
    utterances: list[Utterance] = []
    missing = 0
    for folder in sorted(path for path in root.glob(speakers) if path.is_dir()):
        audio = audio_files(folder)
        words = _transcripts(folder / f"{folder.name}.txt")
        missing += len(words.keys() - audio.keys())
        for stem, path in audio.items():
            emotion, *parts = path.relative_to(folder).parts[:-1] or ("",)
            if emotion not in _EMOTIONS:
                raise CorpusError(f"esd: '{path}': " + one_of("emotion folder", emotion, _EMOTIONS))
            utterances.append(
                Utterance(
                    id=stem,
                    path=path,
                    speaker=folder.name,
                    language="en" if int(folder.name) >= _FIRST_ENGLISH else "zh",
                    emotion=_EMOTIONS[emotion],
                    transcript=words.get(stem),
                    transcript_source="gold" if stem in words else None,
                    split=_SPLITS.get(parts[0]) if parts else None,
                    corpus="esd",
                )
            )
    return Corpus("esd", tuple(utterances), {"words without audio": missing} if missing else {})


def _transcripts(path: Path) -> dict[str, str]:
    """Return the transcripts by id; an empty dict without the file."""
    if not path.is_file():
        return {}
    data = path.read_bytes()
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        text = data.decode("utf-16", errors="replace")
    else:
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = data.decode("gb18030", errors="replace")
    return {match[1]: match[2] for line in text.splitlines() if (match := _LINE.fullmatch(line))}


ESD = Reader(
    name="esd",
    read=read,
    languages={"zh": "Mandarin", "en": "English"},
    licence="research, signed form",
    url="https://github.com/HLTSingapore/Emotional-Speech-Data",
    citation=Citation(
        "zhou2022esd",
        "article",
        author="Zhou, Kun and Sisman, Berrak and Liu, Rui and Li, Haizhou",
        title="Emotional voice conversion: Theory, databases and {ESD}",
        year=2022,
        journal="Speech Communication",
        volume="137",
        pages="1--18",
        doi="10.1016/j.specom.2021.11.006",
        eprint="2105.14762",
    ),
    utterances="35000",
    speakers="20",
    emotions="5",
    tested_on="fake folder",
)
