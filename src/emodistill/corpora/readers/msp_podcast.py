"""MSP-Podcast, spontaneous English speech from podcasts, labelled by crowds.

Layout: `Labels/labels_consensus.csv` (some releases spell it `labels_concensus.csv`) with the columns
FileName, EmoClass, EmoAct, EmoVal, EmoDom, SpkrID, Gender and Split_Set. Audio is in
`Audios/MSP-PODCAST_0001_0008.wav`, words in `Transcripts/MSP-PODCAST_0001_0008.txt`.

Scale: Raters place the dimensions on scales from 1 to 7, and the table has the means: the scale is 1..7. A
value outside it stops the reader.

Quirks: X means no agreement: no emotion. O is read as other. Train, Development
(or Validation) and Test1 become train, dev and test. Test2 and Test3 become `test2` and `test3`, so that no
score includes them by accident: a published protocol refuses them until you filter or rename them. The labels
of Test3 are not published, so its audio is left out and counted. Where the speaker is unknown, it is
`unknown-` and the name of the podcast, since the splits keep podcasts apart. The reader was written from the
file's header as public code quotes it.
"""

from pathlib import Path

from emodistill.citations import Citation
from emodistill.corpora.audio_folders import check_name
from emodistill.corpora.base import Corpus, Reader, Utterance, audio_files, check_root
from emodistill.corpora.tables import table_rows
from emodistill.errors import CorpusError, one_of
from emodistill.labels import scale_text

_EMOTIONS = {
    "A": "angry", "H": "happy", "S": "sad", "N": "neutral", "F": "fearful", "D": "disgusted",
    "U": "surprised", "C": "contempt", "O": "other", "X": None,
}  # fmt: skip
_SPLITS = {
    "Train": "train", "Development": "dev", "Validation": "dev",
    "Test1": "test", "Test2": "test2", "Test3": "test3",
}  # fmt: skip
_GENDERS = {"Male": "male", "Female": "female", "Unknown": None}
_SCALE = (1.0, 7.0)
_TABLES = tuple(
    f"{folder}{name}.csv" for folder in ("Labels/", "") for name in ("labels_consensus", "labels_concensus")
)
_COLUMNS = ("FileName", "EmoClass", "EmoAct", "EmoVal", "EmoDom", "SpkrID", "Gender", "Split_Set")


def read(root: Path) -> Corpus:
    """Read the folder that holds `Labels`, `Audios` and, in some copies, `Transcripts`."""
    root = check_root(root, "msp-podcast", "folders Labels (with labels_consensus.csv) and Audios")
    table = next((root / name for name in _TABLES if (root / name).is_file()), None)
    if table is None:
        raise CorpusError(f"msp-podcast: '{root}' holds none of {list(_TABLES)}")
    audio = audio_files(root, "Audios/**/*")
    utterances: list[Utterance] = []
    for number, row in table_rows(table, "msp-podcast", _COLUMNS):
        where = f"msp-podcast: '{table}', row {number}: "
        for column, known in (("EmoClass", _EMOTIONS), ("Split_Set", _SPLITS), ("Gender", _GENDERS)):
            if row[column] not in known:
                raise CorpusError(where + one_of(column, row[column], known))
        check_name(f"{row['FileName']}.txt")  # of the transcript
        stem = Path(row["FileName"]).stem
        text_file = root / "Transcripts" / f"{stem}.txt"
        text = text_file.read_text(encoding="utf-8", errors="replace") if text_file.is_file() else ""
        transcript = text.strip()
        known_speaker = row["SpkrID"] not in ("", "Unknown")
        utterances.append(
            Utterance(
                id=stem,
                path=audio.pop(stem, root / "Audios" / Path(row["FileName"]).name),
                speaker=row["SpkrID"] if known_speaker else f"unknown-{stem.rsplit('_', 1)[0]}",
                session=stem.rsplit("_", 1)[0],
                gender=_GENDERS[row["Gender"]],
                language="en",
                emotion=_EMOTIONS[row["EmoClass"]],
                transcript=transcript or None,
                transcript_source="gold" if transcript else None,
                split=_SPLITS[row["Split_Set"]],
                arousal=_number(row["EmoAct"], where),
                valence=_number(row["EmoVal"], where),
                dominance=_number(row["EmoDom"], where),
                scale=_SCALE,
                corpus="msp-podcast",
            )
        )
    return Corpus("msp-podcast", tuple(utterances), {"audio without a label": len(audio)} if audio else {})


def _number(cell: str, where: str) -> float | None:
    """Return the mean rating of a cell; None for an empty cell."""
    try:
        value = float(cell) if cell else None
    except ValueError as error:
        raise CorpusError(f"{where}'{cell}' is not a number") from error
    if value is not None and not _SCALE[0] <= value <= _SCALE[1]:
        raise CorpusError(f"{where}'{cell}' is outside of the scale {scale_text(_SCALE)}")
    return value


MSP_PODCAST = Reader(
    name="msp-podcast",
    read=read,
    languages={"en": "English"},
    licence="signed licence",
    url="https://ecs.utdallas.edu/research/researchlabs/msp-lab/MSP-Podcast.html",
    citation=Citation(
        "lotfian2019msppodcast",
        "article",
        author="Lotfian, Reza and Busso, Carlos",
        title="Building Naturalistic Emotionally Balanced Speech Corpus by Retrieving Emotional Speech from "
        "Existing Podcast Recordings",
        year=2019,
        journal="IEEE Transactions on Affective Computing",
        volume="10",
        number="4",
        pages="471--483",
        doi="10.1109/TAFFC.2017.2736999",
    ),
    utterances="by release",
    speakers="by release",
    emotions="8 + other",
    tested_on="fake folder",
    dimensions=("arousal", "valence", "dominance"),
    scale=_SCALE,
)
