"""CREMA-D, the Crowd-sourced Emotional Multimodal Actors Dataset.

Layout: `AudioWAV/1001_DFA_ANG_XX.wav`, or `AudioMP3`. The parts of a name are actor, sentence, emotion and
level. Some copies also have `VideoDemographics.csv`, `processedResults/summaryTable.csv`,
`processedResults/tabulatedVotes.csv` and `finishedResponses.csv`.

Two names: The corpus has two kinds of label, so there are two readers. `crema-d` labels the emotion that the
actor intended, from the file name. `crema-d-perceived` labels the emotion that most listeners chose from the
voice alone: `VoiceVote` of `summaryTable.csv`, else the most votes of the tables below. A tie (`A:N`) has no
emotion. A clip without a vote is left out and counted. The two labels agree on 44.6 % of the clips,
where a tie of two emotions counts as half a clip. So say which label a score is for.

Scale: Intensity is the level that the actor was asked for: LO is 1, MD is 2 and HI is 3. Only the sentence
IEO has levels, and `neutral` has none. XX means that no level was asked for: the intensity is left empty.
Both readers have it.

Votes: Both readers have the votes on the voice alone. They are counted in `finishedResponses.csv`, else read
from `tabulatedVotes.csv`, whose ids begin with 1 for the voice, 2 for the face and 3 for both. In the real
table each of 7442 clips has 4 to 12 votes on the voice, 9.2 on average, and their winners are those of
`summaryTable.csv` in all clips. 644 clips are ties.

Quirks: Actors speak the same 12 sentences in all emotions. The file 1040_ITH_SAD_X is named 1040_ITH_SAD_XX
in the tables and here. 1076_MTI_SAD_XX is silent. Clone with git-lfs: without it the audio files are short
text files, which count as broken. Published splits share actors. Gender and age come from
`VideoDemographics.csv`, where that file exists. The columns of `finishedResponses.csv` are known from the
README of the repository alone.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from emodistill.citations import Citation
from emodistill.corpora.base import Corpus, Reader, Utterance, audio_files, check_root
from emodistill.corpora.tables import table_rows
from emodistill.errors import CorpusError, one_of

_EMOTIONS = {
    "ANG": "angry", "DIS": "disgusted", "FEA": "fearful", "HAP": "happy", "NEU": "neutral", "SAD": "sad",
}  # fmt: skip
_VOTES = {"A": "angry", "D": "disgusted", "F": "fearful", "H": "happy", "N": "neutral", "S": "sad"}
_GENDERS = {"Male": "male", "Female": "female"}
_SENTENCES = {
    "IEO": "It's eleven o'clock.", "TIE": "That is exactly what happened.",
    "IOM": "I'm on my way to the meeting.", "IWW": "I wonder what this is about.",
    "TAI": "The airplane is almost full.", "MTI": "Maybe tomorrow it will be cold.",
    "IWL": "I would like a new alarm clock.", "ITH": "I think I have a doctor's appointment.",
    "DFA": "Don't forget a jacket.", "ITS": "I think I've seen this before.",
    "TSI": "The surface is slick.", "WSI": "We'll stop in a couple of minutes.",
}  # fmt: skip
_RENAMED = {"1040_ITH_SAD_X": "1040_ITH_SAD_XX"}  # name of the audio file -> name in the tables
_LEVELS = {"LO": 1.0, "MD": 2.0, "HI": 3.0, "XX": None}
_SCALE = (1.0, 3.0)
_VOICE_ONLY = "1"  # queryType, and the first digit of an id of tabulatedVotes: 1 voice, 2 face, 3 both


def read(root: Path) -> Corpus:
    """Read the folder that holds `AudioWAV`, else `AudioMP3`. The emotion is the intended one."""
    root = check_root(root, "crema-d", "a folder AudioWAV or AudioMP3", "Audio*/*")
    folder = next((root / name for name in ("AudioWAV", "AudioMP3") if (root / name).is_dir()), None)
    if folder is None:
        names = sorted(path.name for path in root.glob("Audio*"))
        raise CorpusError(f"crema-d: '{root}' holds {names}; expected a folder AudioWAV or AudioMP3")
    audio = {_RENAMED.get(stem, stem): path for stem, path in audio_files(folder, "*").items()}
    table = _find_table(root, "summaryTable.csv")
    listed = _summary_votes(table) if table else {}
    genders, ages = _demographics(root)
    votes = _votes(root)
    utterances: list[Utterance] = []
    for stem in sorted(audio.keys() | listed.keys()):
        path = audio.get(stem, folder / f"{stem}.wav")
        parts = stem.split("_")
        known: tuple[Collection[str], ...] = (_SENTENCES, _EMOTIONS, _LEVELS)
        if len(parts) != 4 or any(part not in names for part, names in zip(parts[1:], known, strict=True)):
            raise CorpusError(
                f"crema-d: '{path}' is not named actor_sentence_emotion_level as in 1001_DFA_ANG_XX: "
                f"expected a sentence of {list(_SENTENCES)}, an emotion of {list(_EMOTIONS)} and a level of "
                f"{list(_LEVELS)}"
            )
        intensity = _LEVELS[parts[3]]
        utterances.append(
            Utterance(
                id=stem,
                path=path,
                speaker=parts[0],
                gender=genders.get(parts[0]),
                age=ages.get(parts[0]),
                language="en",
                emotion=_EMOTIONS[parts[2]],
                transcript=_SENTENCES[parts[1]],
                transcript_source="gold",
                votes=json.dumps(votes[stem]) if stem in votes else None,
                corpus="crema-d",
                intensity=intensity,
                scale=None if intensity is None else _SCALE,
            )
        )
    return Corpus("crema-d", tuple(utterances))


def read_perceived(root: Path) -> Corpus:
    """Read the same folder. The emotion is the listeners' vote on the voice alone, None for a tie.

    Raises `CorpusError` where the folder has none of the tables of votes.
    """
    intended = read(root)
    table = _find_table(Path(root), "summaryTable.csv")
    if table is not None:
        winners = _summary_votes(table)
    else:
        winners = {stem: _winners(votes) for stem, votes in _votes(Path(root)).items()}
    if not winners:
        raise CorpusError(
            f"crema-d-perceived: '{root}' holds no summaryTable.csv, finishedResponses.csv or "
            "tabulatedVotes.csv; get one of them from the repository CheyneyComputerScience/CREMA-D, or read "
            "the corpus 'crema-d', which has the intended emotions and needs none of them"
        )
    kept = [
        replace(
            utterance,
            emotion=winners[utterance.id][0] if len(winners[utterance.id]) == 1 else None,
            corpus="crema-d-perceived",
        )
        for utterance in intended
        if winners.get(utterance.id)
    ]
    num_unrated = len(intended) - len(kept)
    dropped = {"no vote on the voice": num_unrated} if num_unrated else {}
    return Corpus("crema-d-perceived", tuple(kept), dropped)


def _find_table(root: Path, name: str) -> Path | None:
    """Return the path of a table at the top, in `processedResults`, or where newer clones keep it."""
    folders = ("", "processedResults", "data/InfoAndStats", "data/InfoAndStats/processedResults")
    return next((root / folder / name for folder in folders if (root / folder / name).is_file()), None)


def _demographics(root: Path) -> tuple[dict[str, str], dict[str, float]]:
    """Return the gender and the age of each actor; empty dicts without `VideoDemographics.csv`."""
    path = _find_table(root, "VideoDemographics.csv")
    genders: dict[str, str] = {}
    ages: dict[str, float] = {}
    for number, row in () if path is None else table_rows(path, "crema-d", ("ActorID", "Sex")):
        where = f"crema-d: '{path}', row {number}: "
        if row["Sex"] not in _GENDERS:
            raise CorpusError(where + one_of("sex", row["Sex"], _GENDERS))
        genders[row["ActorID"]] = _GENDERS[row["Sex"]]
        if age := row.get("Age"):
            if not age.isdecimal():
                raise CorpusError(f"{where}age is '{age}', expected a number of years")
            ages[row["ActorID"]] = float(age)
    return genders, ages


def _summary_votes(path: Path) -> dict[str, list[str]]:
    """Return the emotions that won the vote on the voice, by clip; several emotions are a tie."""
    winners: dict[str, list[str]] = {}
    for number, row in table_rows(path, "crema-d", ("FileName", "VoiceVote")):
        letters = row["VoiceVote"].split(":")
        for letter in letters:
            if letter not in _VOTES:
                raise CorpusError(f"crema-d: '{path}', row {number}: " + one_of("vote", letter, _VOTES))
        winners[Path(row["FileName"]).stem] = [_VOTES[letter] for letter in letters]
    return winners


def _votes(root: Path) -> dict[str, Counter[str]]:
    """Return how many listeners chose each emotion from the voice alone, by clip; empty without a table."""
    responses = _find_table(root, "finishedResponses.csv")
    if responses is not None:
        return _response_votes(responses)
    table = _find_table(root, "tabulatedVotes.csv")
    return {} if table is None else _tabulated_votes(table)


def _response_votes(path: Path) -> dict[str, Counter[str]]:
    """Return the votes on the voice of `finishedResponses.csv`, which has a row for each answer."""
    votes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for number, row in table_rows(path, "crema-d", ("queryType", "clipName", "respEmo")):
        if row["queryType"] == _VOICE_ONLY:
            if row["respEmo"] not in _VOTES:
                raise CorpusError(
                    f"crema-d: '{path}', row {number}: " + one_of("vote", row["respEmo"], _VOTES)
                )
            votes[Path(row["clipName"]).stem][_VOTES[row["respEmo"]]] += 1
    return votes


def _tabulated_votes(path: Path) -> dict[str, Counter[str]]:
    """Return the votes on the voice of `tabulatedVotes.csv`, which has a row for each clip and kind of query.

    Its column of ids has no name.
    """
    votes: dict[str, Counter[str]] = {}
    for number, row in table_rows(path, "crema-d", ("", "fileName", *_VOTES)):
        if not row[""].startswith(_VOICE_ONLY):
            continue
        where = f"crema-d: '{path}', row {number}"
        for letter in _VOTES:
            if not row[letter].isdecimal():
                raise CorpusError(f"{where}: column {letter} is '{row[letter]}', expected a number of votes")
        counts = Counter(
            {emotion: int(row[letter]) for letter, emotion in _VOTES.items() if int(row[letter])}
        )
        if not counts:
            raise CorpusError(f"{where}: the votes on '{row['fileName']}' sum to 0, expected one or more")
        stem = Path(row["fileName"]).stem
        if stem in votes:
            raise CorpusError(f"{where}: '{stem}' has votes on the voice in an earlier row too")
        votes[stem] = counts
    return votes


def _winners(votes: Counter[str]) -> list[str]:
    return [emotion for emotion, count in votes.items() if count == max(votes.values())]


INTENDED = Reader(
    name="crema-d",
    read=read,
    languages={"en": "English"},
    licence="ODbL 1.0",
    url="https://github.com/CheyneyComputerScience/CREMA-D",
    citation=Citation(
        "cao2014cremad",
        "article",
        author="Cao, Houwei and Cooper, David G. and Keutmann, Michael K. and Gur, Ruben C. and "
        "Nenkova, Ani and Verma, Ragini",
        title="{CREMA-D}: Crowd-Sourced Emotional Multimodal Actors Dataset",
        year=2014,
        journal="IEEE Transactions on Affective Computing",
        volume="5",
        number="4",
        pages="377--390",
        doi="10.1109/TAFFC.2014.2336244",
    ),
    utterances="7442",
    speakers="91",
    emotions="6",
    tested_on="real names and tables",
    dimensions=("intensity",),
    scale=_SCALE,
)
PERCEIVED = replace(INTENDED, name="crema-d-perceived", read=read_perceived)
