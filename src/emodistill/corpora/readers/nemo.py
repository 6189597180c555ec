"""nEMO, acted emotional speech in Polish.

Layout: `data.tsv` (file_id, emotion, raw_text, normalized_text, speaker_id, gender, age) beside
`samples/SPEAKER_emotion_sentence.wav`.

Counts: neutral 809, sad 769, angry 749, happy 749, fearful 736, surprised 669. EB0 539, IC0 540, KD0 540, KS0
540, MK0 450, MP0 256, SM0 538, TP0 539, WR0 539 (4 women, 5 men).

Quirks: `file_id` ends in `.wav` for any format of the files. `speaker_id` has leading spaces. MK0 has no
surprise, and MP0 has about half as many utterances as the others. The 90 sentences are spoken in every
emotion, so words tell nothing about the emotion. The Hugging Face hub has the corpus too (amu-cai/nEMO).
"""

from pathlib import Path

from emodistill.citations import Citation
from emodistill.corpora.base import Corpus, Reader, Utterance, audio_files, check_root
from emodistill.corpora.tables import table_rows
from emodistill.errors import CorpusError, one_of

_EMOTIONS = {
    "anger": "angry", "fear": "fearful", "happiness": "happy",
    "neutral": "neutral", "sadness": "sad", "surprised": "surprised",
}  # fmt: skip
_COLUMNS = ("file_id", "emotion", "raw_text", "speaker_id", "gender")


def read(root: Path) -> Corpus:
    """Read the folder that holds `data.tsv` and `samples/`; audio without a row is counted and left out."""
    root = check_root(root, "nemo", "data.tsv and a folder samples", "data.tsv")
    audio = audio_files(root, "samples/*")
    utterances: list[Utterance] = []
    for number, row in table_rows(root / "data.tsv", "nemo", _COLUMNS, delimiter="\t"):
        if row["emotion"] not in _EMOTIONS:
            raise CorpusError(
                f"nemo: '{root / 'data.tsv'}', row {number}: " + one_of("emotion", row["emotion"], _EMOTIONS)
            )
        stem = Path(row["file_id"]).stem
        utterances.append(
            Utterance(
                id=stem,
                path=audio.pop(stem, root / "samples" / row["file_id"]),
                speaker=row["speaker_id"].strip(),
                gender=row["gender"].strip() or None,
                age=_age(row.get("age"), f"nemo: '{root / 'data.tsv'}', row {number}"),
                language="pl",
                emotion=_EMOTIONS[row["emotion"]],
                transcript=row["raw_text"].strip(),
                transcript_source="gold",
                corpus="nemo",
            )
        )
    return Corpus("nemo", tuple(utterances), {"audio not in data.tsv": len(audio)} if audio else {})


def _age(cell: str | None, where: str) -> float | None:
    text = (cell or "").strip()
    if text and not text.isdecimal():
        raise CorpusError(f"{where}: age is '{text}', expected a number of years")
    return float(text) if text else None


NEMO = Reader(
    name="nemo",
    read=read,
    languages={"pl": "Polish"},
    licence="CC BY-NC-SA 4.0",
    url="https://github.com/amu-cai/nEMO",
    citation=Citation(
        "christop2024nemo",
        "inproceedings",
        author="Christop, Iwona",
        title="{nEMO}: Dataset of Emotional Speech in {Polish}",
        year=2024,
        booktitle="Joint International Conference on Computational Linguistics, Language Resources and "
        "Evaluation (LREC-COLING)",
        eprint="2404.06292",
        url="https://aclanthology.org/2024.lrec-main.1059",
    ),
    utterances="4481",
    speakers="9",
    emotions="6",
    tested_on="real corpus",
)
