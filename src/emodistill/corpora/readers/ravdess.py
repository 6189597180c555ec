"""RAVDESS, the Ryerson Audio-Visual Database of Emotional Speech and Song (speech, audio only).

Livingstone & Russo (2018), PLoS ONE 13(5), https://doi.org/10.5281/zenodo.1188976. CC BY-NC-SA 4.0.

Layout: `Actor_XX/03-01-EE-II-SS-RR-AA.wav`: modality (03 audio), channel (01 speech), emotion,
intensity, statement, repetition, actor. Odd actors are men, even ones women.

Quirks: two sentences, spoken in every emotion, so words tell nothing; `neutral` has one intensity and
so half as many utterances; five originals are stereo; one utterance is a byte-for-byte duplicate.
"""

from pathlib import Path

from emodistill.corpora.base import Corpus, Utterance, audio_files, check_root
from emodistill.errors import CorpusError

_EMOTIONS = {
    "01": "neutral", "02": "calm", "03": "happy", "04": "sad",
    "05": "angry", "06": "fearful", "07": "disgusted", "08": "surprised",
}  # fmt: skip
_STATEMENTS = {"01": "Kids are talking by the door.", "02": "Dogs are sitting by the door."}


def read(root: Path) -> Corpus:
    """Read the folder that holds `Actor_01` … `Actor_24`; songs and video are counted and left out."""
    root = check_root(root, "ravdess", "folders Actor_01 … Actor_24", "Actor_*/*")
    utterances: list[Utterance] = []
    dropped: dict[str, int] = {}
    for stem, path in audio_files(root, "Actor_*/*").items():
        codes = stem.split("-")
        if len(codes) != 7 or codes[2] not in _EMOTIONS or codes[4] not in _STATEMENTS:
            raise CorpusError(f"ravdess: '{path}' is not named 03-01-EE-II-SS-RR-AA")
        modality, channel, emotion, _, statement, _, actor = codes
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
            )
        )
    return Corpus("ravdess", tuple(utterances), dropped)
