"""CREMA-D, the Crowd-sourced Emotional Multimodal Actors Dataset.

Cao, Cooper, Keutmann, Gur, Nenkova & Verma (2014), IEEE Transactions on Affective Computing 5(4),
https://doi.org/10.1109/TAFFC.2014.2336244. Open Database License; from
https://github.com/CheyneyComputerScience/CREMA-D (git-lfs).

Layout: `AudioWAV/1001_DFA_ANG_XX.wav`: actor, sentence, emotion, level. Beside it, and not in every
copy: `VideoDemographics.csv`, `processedResults/summaryTable.csv`, `finishedResponses.csv`.

Two labels, so two names. `crema-d` is what the actor was told to play, from the file name.
`crema-d-perceived` is what most listeners heard in the voice alone, `VoiceVote`; a tie (`A:N`) is
emotion None. The two agree on 44.6 % of the clips: say which one a score is about.

Quirks: 12 sentences, the same in all emotions; the file 1040_ITH_SAD_X is 1040_ITH_SAD_XX in the tables
(and here); 1076_MTI_SAD_XX is silent; without git-lfs the audio files are short text pointers, which count
as broken. Published splits share actors.
"""

import json
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

from emodistill.corpora.base import Corpus, Utterance, audio_files, check_root
from emodistill.corpora.manifest import table_rows
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
_RENAMED = {"1040_ITH_SAD_X": "1040_ITH_SAD_XX"}  # the file's name: the name in the tables
_VOICE_ONLY = "1"  # queryType: 1 voice, 2 face, 3 both


def read(root: Path) -> Corpus:
    """Read the folder that holds `AudioWAV` (else `AudioMP3`); the emotion is the intended one."""
    root = check_root(root, "crema-d", "a folder AudioWAV or AudioMP3", "Audio*/*")
    folder = next((root / name for name in ("AudioWAV", "AudioMP3") if (root / name).is_dir()), None)
    if folder is None:
        there = sorted(path.name for path in root.glob("Audio*"))
        raise CorpusError(f"crema-d: '{root}' holds {there}; expected a folder AudioWAV or AudioMP3")
    audio = {_RENAMED.get(stem, stem): path for stem, path in audio_files(folder, "*").items()}
    table = _find(root, "summaryTable.csv")
    listed = _summary_votes(table) if table else {}
    genders = _genders(root)
    votes = _response_votes(root)
    utterances: list[Utterance] = []
    for stem in sorted(audio.keys() | listed.keys()):
        path = audio.get(stem, folder / f"{stem}.wav")
        parts = stem.split("_")
        if len(parts) != 4 or parts[1] not in _SENTENCES or parts[2] not in _EMOTIONS:
            raise CorpusError(
                f"crema-d: '{path}' is not named actor_sentence_emotion_level as in 1001_DFA_ANG_XX: "
                f"expected a sentence of {list(_SENTENCES)} and an emotion of {list(_EMOTIONS)}"
            )
        utterances.append(
            Utterance(
                id=stem,
                path=path,
                speaker=parts[0],
                gender=genders.get(parts[0]),
                language="en",
                emotion=_EMOTIONS[parts[2]],
                transcript=_SENTENCES[parts[1]],
                transcript_source="gold",
                votes=json.dumps(votes[stem]) if stem in votes else None,
                corpus="crema-d",
            )
        )
    return Corpus("crema-d", tuple(utterances))


def read_perceived(root: Path) -> Corpus:
    """Read the same folder; the emotion is the listeners' vote on the voice alone, None for a tie.

    Needs `summaryTable.csv` or `finishedResponses.csv` below `root`.
    """
    intended = read(root)
    table = _find(Path(root), "summaryTable.csv")
    if table is not None:
        votes = _summary_votes(table)
    else:
        votes = {stem: _winners(count) for stem, count in _response_votes(Path(root)).items()}
    if not votes:
        raise CorpusError(
            f"crema-d-perceived: '{root}' holds neither summaryTable.csv nor finishedResponses.csv; both "
            "are in the repository CheyneyComputerScience/CREMA-D (the corpus 'crema-d', with the intended "
            "emotions, does without them)"
        )
    kept = [
        replace(u, emotion=winners[0] if len(winners) == 1 else None, corpus="crema-d-perceived")
        for u in intended
        if (winners := votes.get(u.id))
    ]
    unrated = len(intended) - len(kept)
    return Corpus("crema-d-perceived", tuple(kept), {"no vote on the voice": unrated} if unrated else {})


def _find(root: Path, name: str) -> Path | None:
    """A table by name at the top, in `processedResults` or where newer clones keep it."""
    folders = ("", "processedResults", "data/InfoAndStats", "data/InfoAndStats/processedResults")
    return next((root / folder / name for folder in folders if (root / folder / name).is_file()), None)


def _genders(root: Path) -> dict[str, str]:
    path = _find(root, "VideoDemographics.csv")
    if path is None:
        return {}
    genders: dict[str, str] = {}
    for number, row in table_rows(path, "crema-d", ("ActorID", "Sex")):
        if row["Sex"] not in _GENDERS:
            raise CorpusError(f"crema-d: '{path}', row {number}: " + one_of("sex", row["Sex"], _GENDERS))
        genders[row["ActorID"]] = _GENDERS[row["Sex"]]
    return genders


def _summary_votes(path: Path) -> dict[str, list[str]]:
    """The winners of the vote on the voice, several where it was a tie."""
    votes: dict[str, list[str]] = {}
    for number, row in table_rows(path, "crema-d", ("FileName", "VoiceVote")):
        letters = row["VoiceVote"].split(":")
        for letter in letters:
            if letter not in _VOTES:
                raise CorpusError(f"crema-d: '{path}', row {number}: " + one_of("vote", letter, _VOTES))
        votes[Path(row["FileName"]).stem] = [_VOTES[letter] for letter in letters]
    return votes


def _response_votes(root: Path) -> dict[str, Counter[str]]:
    """How many listeners named each emotion on hearing the voice alone."""
    path = _find(root, "finishedResponses.csv")
    votes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    if path is not None:
        for number, row in table_rows(path, "crema-d", ("queryType", "clipName", "respEmo")):
            if row["queryType"] == _VOICE_ONLY:
                if row["respEmo"] not in _VOTES:
                    raise CorpusError(
                        f"crema-d: '{path}', row {number}: " + one_of("vote", row["respEmo"], _VOTES)
                    )
                votes[Path(row["clipName"]).stem][_VOTES[row["respEmo"]]] += 1
    return votes


def _winners(count: Counter[str]) -> list[str]:
    return [emotion for emotion, number in count.items() if number == max(count.values())]
