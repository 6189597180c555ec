"""RAVDESS, the Ryerson Audio-Visual Database of Emotional Speech and Song (speech, audio only).

Layout: `Audio_Speech_Actors_01-24.zip`, unpacked to `Actor_01` … `Actor_24`, with files such as
`Actor_01/03-01-05-01-01-01-01.wav`. The parts of a name are modality (03 is audio only), channel (01 is
speech), emotion, intensity, statement, repetition and actor. Odd actors are men, even ones are women.

Counts: angry, happy, sad, fearful, disgusted, surprised and calm have 192 utterances each, neutral has 96.
Each actor has 60.

Scale: Intensity is the one that the actor was asked for: 1 is normal, 2 is strong. `neutral` has normal
alone.

Quirks: Two sentences are spoken in every emotion, so words tell nothing about the emotion. `neutral` has half
as many utterances as the other emotions. Five originals are stereo. 03-01-03-01-02-01-07 and
03-01-03-01-02-02-07 are one recording, byte for byte. Songs and video are left out and counted.
"""

from collections.abc import Collection
from pathlib import Path

from emodistill.citations import Citation
from emodistill.corpora.base import Corpus, Reader, Utterance, audio_files, check_root
from emodistill.errors import CorpusError

_EMOTIONS = {
    "01": "neutral", "02": "calm", "03": "happy", "04": "sad",
    "05": "angry", "06": "fearful", "07": "disgusted", "08": "surprised",
}  # fmt: skip
_INTENSITIES = {"01": 1.0, "02": 2.0}  # normal, strong
_STATEMENTS = {"01": "Kids are talking by the door.", "02": "Dogs are sitting by the door."}
_SCALE = (1.0, 2.0)


def read(root: Path) -> Corpus:
    """Read the folder that holds `Actor_01` … `Actor_24`; songs and video are counted and left out."""
    root = check_root(root, "ravdess", "folders Actor_01 … Actor_24", "Actor_*/*")
    utterances: list[Utterance] = []
    dropped: dict[str, int] = {}
    for stem, path in audio_files(root, "Actor_*/*").items():
        codes = stem.split("-")
        known: tuple[Collection[str], ...] = (_EMOTIONS, _INTENSITIES, _STATEMENTS)
        if len(codes) != 7 or any(code not in names for code, names in zip(codes[2:5], known, strict=True)):
            raise CorpusError(
                f"ravdess: '{path}' is not named 03-01-EE-II-SS-RR-AA with an emotion 01 … 08, an intensity "
                "01 or 02, and a statement 01 or 02"
            )
        modality, channel, emotion, intensity, statement, _, actor = codes
        if (modality, channel) != ("03", "01"):
            dropped["not audio-only speech"] = dropped.get("not audio-only speech", 0) + 1
            continue
        utterances.append(
            Utterance(
                id=stem,
                path=path,
                speaker=str(int(actor)),
                gender="male" if int(actor) % 2 else "female",
                language="en",
                emotion=_EMOTIONS[emotion],
                transcript=_STATEMENTS[statement],
                transcript_source="gold",
                corpus="ravdess",
                intensity=_INTENSITIES[intensity],
                scale=_SCALE,
            )
        )
    return Corpus("ravdess", tuple(utterances), dropped)


RAVDESS = Reader(
    name="ravdess",
    read=read,
    languages={"en": "English"},
    licence="CC BY-NC-SA 4.0",
    url="https://doi.org/10.5281/zenodo.1188976",
    citation=Citation(
        "livingstone2018ravdess",
        "article",
        author="Livingstone, Steven R. and Russo, Frank A.",
        title="The {Ryerson Audio-Visual Database of Emotional Speech and Song} ({RAVDESS}): A dynamic, "
        "multimodal set of facial and vocal expressions in {North American English}",
        year=2018,
        journal="PLoS ONE",
        volume="13",
        number="5",
        pages="e0196391",
        doi="10.1371/journal.pone.0196391",
    ),
    utterances="1440",
    speakers="24",
    emotions="8",
    tested_on="real corpus",
    dimensions=("intensity",),
    scale=_SCALE,
)
