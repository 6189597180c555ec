"""IEMOCAP, the Interactive Emotional Dyadic Motion Capture database (full release).

Layout: folders `Session1` … `Session5` of `IEMOCAP_full_release`. In each, `dialog/EmoEvaluation/DIALOG.txt`
has one block for each turn: times, id, consensus emotion, and mean valence, activation and dominance. One
line for each rater follows. The words are in `dialog/transcriptions/DIALOG.txt`, the audio in
`sentences/wav/DIALOG/ID.wav`.

Counts: The default label map `iemocap-4` keeps the four classes of most papers, with excited as happy. These
are 5531
turns: angry 1103, happy 1636 (595 and 1041 excited), sad 1084, neutral 1708; 2649 by women and 2882 by men.

Scale: Raters choose whole numbers from 1 to 5, so the scale is 1..5. The release states the mean of the
raters, and the means of a few turns lie outside the scale, such as a dominance of 0.5. The mean of valid
ratings cannot be there, so such a value is left empty. The turn stays, with its other dimensions.

Quirks: In `Ses01F_impro04_M003` the letter after the session says who wore the markers, not who speaks. The
speaker is the session and the letter of the last part, here `Ses01M`. Dimensions are in the order valence,
activation, dominance. `xxx` means that the raters did not agree: no emotion. Votes are
the categories that the outside raters named (lines C-E1 …), and one rater may name several. The actors' views
of themselves (C-F1, C-M1) are no votes. Mac archives leave files named `._*`, which are skipped. Scripted
dialogues repeat the same lines across sessions. The reader was written from the format as public readers
describe it. An unknown category stops it, with the file and line.
"""

import json
import re
from collections import Counter
from pathlib import Path

from emodistill.citations import Citation
from emodistill.corpora.base import Corpus, Reader, Utterance, audio_files, check_root
from emodistill.errors import CorpusError, one_of

_EMOTIONS = {
    "ang": "angry", "hap": "happy", "sad": "sad", "neu": "neutral", "exc": "excited", "fru": "frustrated",
    "fea": "fearful", "sur": "surprised", "dis": "disgusted", "oth": "other", "xxx": None,
}  # fmt: skip
_VOTES = {
    "anger": "angry", "happiness": "happy", "sadness": "sad", "neutral": "neutral",
    "neutral state": "neutral", "excited": "excited", "frustration": "frustrated", "fear": "fearful",
    "surprise": "surprised", "disgust": "disgusted", "other": "other",
}  # fmt: skip
_GENDERS = {"F": "female", "M": "male"}
_SCALE = (1.0, 5.0)
_NUMBER = r"(-?[\d.]+)"
_TURN = re.compile(rf"\[{_NUMBER} - {_NUMBER}\]\s+(\S+)\s+(\S+)\s+\[{_NUMBER},\s*{_NUMBER},\s*{_NUMBER}\]\s*")
_RATER = re.compile(r"C-E\d+:\s*([^\t(]*)")
_WORDS = re.compile(r"(Ses\S+) \[[^]]*\]:\s*(.*)")


def read(root: Path) -> Corpus:
    """Read the folder that holds `Session1` … `Session5` (any of them), without opening audio."""
    layout = "folders Session1 … Session5 with dialog/EmoEvaluation and sentences/wav (IEMOCAP_full_release)"
    evaluations = "Session[1-5]/dialog/EmoEvaluation/*.txt"
    root = check_root(root, "iemocap", layout, evaluations)
    utterances: list[Utterance] = []
    for session in sorted(root.glob("Session[1-5]")):
        words: dict[str, str] = {}
        for path in _texts(session / "dialog/transcriptions"):
            words |= _transcripts(path)
        audio = audio_files(session, "sentences/wav/*/*")
        for path in _texts(session / "dialog/EmoEvaluation"):
            utterances += _turns(path, session / "sentences/wav", audio, words)
    return Corpus("iemocap", tuple(utterances))


def _texts(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.txt") if not path.name.startswith("."))


def _transcripts(path: Path) -> dict[str, str]:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return {match[1]: match[2].strip() for line in lines if (match := _WORDS.match(line))}


def _turns(path: Path, wav: Path, audio: dict[str, Path], words: dict[str, str]) -> list[Utterance]:
    """Return the turns of one dialogue. A block ends where the next one starts."""
    turns: list[re.Match[str]] = []
    votes: list[Counter[str]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        where = f"iemocap: '{path}', line {number}: "
        if line.startswith("["):
            turn = _TURN.fullmatch(line)
            if turn is None:
                raise CorpusError(f"{where}got '{line}', expected '[start - end] id emotion [v, a, d]'")
            if turn[4] not in _EMOTIONS:
                raise CorpusError(where + one_of("emotion", turn[4], _EMOTIONS))
            if turn[3].rsplit("_", 1)[-1][0] not in _GENDERS:
                raise CorpusError(f"{where}the last part of the id '{turn[3]}' names no speaker, F or M")
            turns.append(turn)
            votes.append(Counter())
        elif turns and (rater := _RATER.match(line)):
            for vote in filter(None, (part.strip().lower() for part in rater[1].split(";"))):
                if vote not in _VOTES:
                    raise CorpusError(where + one_of("vote", vote, _VOTES))
                votes[-1][_VOTES[vote]] += 1
    return [_utterance(turn, count, wav, audio, words) for turn, count in zip(turns, votes, strict=True)]


def _utterance(
    turn: re.Match[str], votes: Counter[str], wav: Path, audio: dict[str, Path], words: dict[str, str]
) -> Utterance:
    _, _, name, emotion, valence, arousal, dominance = turn.groups()
    dialogue, last = name.rsplit("_", 1)
    transcript = words.get(name) or None
    return Utterance(
        id=name,
        path=audio.get(name, wav / dialogue / f"{name}.wav"),
        speaker=name[:5] + last[0],
        session=name[:5],
        gender=_GENDERS[last[0]],
        language="en",
        emotion=_EMOTIONS[emotion],
        transcript=transcript,
        transcript_source="gold" if transcript else None,
        valence=_rating(valence),
        arousal=_rating(arousal),
        dominance=_rating(dominance),
        scale=_SCALE,
        votes=json.dumps(votes) if votes else None,
        corpus="iemocap",
    )


def _rating(text: str) -> float | None:
    """Return the mean of the raters; None for a value that no valid ratings have."""
    value = float(text)
    return value if _SCALE[0] <= value <= _SCALE[1] else None


IEMOCAP = Reader(
    name="iemocap",
    read=read,
    languages={"en": "English"},
    licence="signed form",
    url="https://sail.usc.edu/iemocap",
    citation=Citation(
        "busso2008iemocap",
        "article",
        author="Busso, Carlos and Bulut, Murtaza and Lee, Chi-Chun and Kazemzadeh, Abe and Mower, Emily and "
        "Kim, Samuel and Chang, Jeannette N. and Lee, Sungbok and Narayanan, Shrikanth S.",
        title="{IEMOCAP}: interactive emotional dyadic motion capture database",
        year=2008,
        journal="Language Resources and Evaluation",
        volume="42",
        number="4",
        pages="335--359",
        doi="10.1007/s10579-008-9076-6",
    ),
    utterances="10039; four classes 5531",
    speakers="10",
    emotions="10",
    tested_on="fake folder with the 5531 real ids",
    default_labels="iemocap-4",
    dimensions=("arousal", "valence", "dominance"),
    scale=_SCALE,
)
