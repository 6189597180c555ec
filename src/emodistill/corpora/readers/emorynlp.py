"""EmoryNLP emotion detection: transcripts of the television series Friends, without audio.

Layout: `emorynlp_train_final.csv`, `emorynlp_dev_final.csv` and `emorynlp_test_final.csv`. These files are in
the MELD repository (GPL-3.0).

Counts: train 7551, dev 954, test 984. neutral 3095, happy 2099, fearful 1184, angry 968, calm 831, other 717,
sad 595. 259 speakers, where several names together count as one.

Quirks: The seven classes are those of the feeling wheel. Joyful is read as happy, Mad as angry, Scared as
fearful and Peaceful as calm. Powerful (proud, confident, respected) has no counterpart and is read as other.
A line that several people speak at once names them all: the speaker is their names, joined by " & ". Splits
share speakers. The times in the files are places in the episode's subtitles, not in a recording, so they are
left out.
"""

import ast
from pathlib import Path

from emodistill.citations import Citation
from emodistill.corpora.base import Corpus, Reader, Utterance, check_root
from emodistill.corpora.tables import table_rows
from emodistill.errors import CorpusError, one_of

_EMOTIONS = {
    "Joyful": "happy", "Mad": "angry", "Sad": "sad", "Scared": "fearful", "Neutral": "neutral",
    "Peaceful": "calm", "Powerful": "other",
}  # fmt: skip
_SPLITS = ("train", "dev", "test")
_COLUMNS = ("Utterance", "Speaker", "Emotion", "Scene_ID", "Utterance_ID", "Season", "Episode")


def read(root: Path) -> Corpus:
    """Read every split whose CSV is in the folder."""
    root = check_root(root, "emorynlp", "emorynlp_train_final.csv, … dev, … test", "emorynlp_*_final.csv")
    utterances: list[Utterance] = []
    for split in _SPLITS:
        table = root / f"emorynlp_{split}_final.csv"
        for number, row in table_rows(table, "emorynlp", _COLUMNS) if table.is_file() else ():
            where = f"emorynlp: '{table}', row {number}: "
            if row["Emotion"] not in _EMOTIONS:
                raise CorpusError(where + one_of("emotion", row["Emotion"], _EMOTIONS))
            for column in ("Season", "Episode"):
                if not row[column].isdecimal():
                    raise CorpusError(f"{where}{column} is '{row[column]}', expected a whole number")
            scene = f"s{int(row['Season']):02}e{int(row['Episode']):02}_{row['Scene_ID']}"
            utterances.append(
                Utterance(
                    id=f"{split}_{scene}_{row['Utterance_ID']}",
                    speaker=_speaker(row["Speaker"], where),
                    session=f"{split}_{scene}",
                    language="en",
                    emotion=_EMOTIONS[row["Emotion"]],
                    transcript=row["Utterance"].strip(),
                    transcript_source="gold",
                    split=split,
                    corpus="emorynlp",
                )
            )
    return Corpus("emorynlp", tuple(utterances))


def _speaker(cell: str, where: str) -> str:
    """Return the speaker of a cell such as `['Monica Geller', 'Phoebe Buffay']`."""
    try:
        names = ast.literal_eval(cell)
    except (SyntaxError, ValueError):
        names = None
    if not isinstance(names, list) or not names:
        raise CorpusError(f"{where}speaker is '{cell}', expected a list such as ['Monica Geller']")
    return " & ".join(str(name) for name in names)


EMORYNLP = Reader(
    name="emorynlp",
    read=read,
    languages={"en": "English"},
    licence="GPL-3.0 (repository)",
    url="https://github.com/emorynlp/emotion-detection",
    citation=Citation(
        "zahiri2018emorynlp",
        "inproceedings",
        author="Zahiri, Sayyed M. and Choi, Jinho D.",
        title="Emotion Detection on {TV} Show Transcripts with Sequence-based Convolutional Neural Networks",
        year=2018,
        booktitle="Workshops of the AAAI Conference on Artificial Intelligence",
        eprint="1708.04299",
    ),
    utterances="9489",
    speakers="259",
    emotions="7",
    tested_on="real text",
)
