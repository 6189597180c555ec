"""MELD, the Multimodal EmotionLines Dataset: dialogues of the television series Friends.

Layout: `train_sent_emo.csv`, `dev_sent_emo.csv` and `test_sent_emo.csv`, at the top or one folder down. The
clips `diaN_uttM.mp4` are in `train_splits`, `dev_splits_complete` and `output_repeated_splits_test`. Extract
their audio beside them and keep the names:

```
for clip in train_splits/*.mp4; do ffmpeg -i "$clip" -ac 1 -ar 16000 "${clip%.mp4}.wav"; done
```

A split without any audio file is read as text alone.

Counts: train 9989, dev 1109, test 2610. neutral 6436, happy (joy in the files) 2308, surprised 1636, angry
1607, sad 1002, disgusted 361, fearful 358. There are 304 speakers and 1432 dialogues.

Quirks: Dialogue numbers start again in each split, so ids contain the split. Some releases of the CSV files
hold text that was decoded wrongly: cp1252 as Latin-1 (U+0092 for an apostrophe), or UTF-8 as cp1252. The
reader repairs it. The clip dia110_utt7 of dev is missing. `final_videos_test*` and `._*` belong to no row.
Some clips are cut badly. Splits share the main actors: 96 % of the test lines have a speaker of the training
split. The folder names and the missing clip are from the README of a mirror of the raw release. The
repository states GPL-3.0; the footage belongs to the broadcaster.
"""

import re
from pathlib import Path

from emodistill.citations import Citation
from emodistill.corpora.base import Corpus, Reader, Utterance, audio_files, check_root
from emodistill.corpora.tables import table_rows
from emodistill.errors import CorpusError, one_of

_EMOTIONS = {
    "anger": "angry", "disgust": "disgusted", "fear": "fearful", "joy": "happy",
    "neutral": "neutral", "sadness": "sad", "surprise": "surprised",
}  # fmt: skip
_CLIPS = {"train": "train_splits", "dev": "dev_splits_complete", "test": "output_repeated_splits_test"}
_COLUMNS = ("Utterance", "Speaker", "Emotion", "Dialogue_ID", "Utterance_ID")


def read(root: Path) -> Corpus:
    """Read every split whose CSV is in the folder or one folder down."""
    layout = "train_sent_emo.csv, dev_sent_emo.csv and test_sent_emo.csv"
    root = check_root(root, "meld", layout)
    utterances: list[Utterance] = []
    for split, folder in _CLIPS.items():
        for table in sorted([*root.glob(f"{split}_sent_emo.csv"), *root.glob(f"*/{split}_sent_emo.csv")])[:1]:
            utterances += _rows(table, split, _clips(root, folder))
    if not utterances:
        raise CorpusError(f"meld: '{root}' holds none of {layout}")
    return Corpus("meld", tuple(utterances))


def repair_text(text: str) -> str:
    """Return MELD's text without its two kinds of decoding errors. Correct text does not change.

    Non-ASCII characters whose cp1252 bytes are valid UTF-8 (`â€™`) are decoded as UTF-8. Then characters from
    U+0080 to U+009F, which are control codes and no text, are decoded as cp1252.

    >>> repair_text("He\\x92s lost it, itâ€™s café")
    'He’s lost it, it’s café'
    """
    text = re.sub(r"[^\x00-\x7f]{2,}", lambda run: _as_utf8(run[0]), text)
    return re.sub(r"[\x80-\x9f]", lambda c: c[0].encode("latin-1").decode("cp1252", "ignore"), text)


def _as_utf8(run: str) -> str:
    try:  # cp1252 leaves five bytes undefined; decoders keep them as U+0081, U+008D, …
        return b"".join(c.encode("latin-1" if "\x80" <= c <= "\x9f" else "cp1252") for c in run).decode()
    except UnicodeError:
        return run


def _clips(root: Path, folder: str) -> tuple[Path, dict[str, Path]] | None:
    """Return the folder with a split's audio and its files by stem; None where no audio was extracted."""
    for clips_folder in sorted(path for path in root.rglob(folder) if path.is_dir()):
        files = audio_files(clips_folder, "dia*")
        if files:
            return clips_folder, files
    return None


def _rows(table: Path, split: str, clips: tuple[Path, dict[str, Path]] | None) -> list[Utterance]:
    utterances: list[Utterance] = []
    for number, row in table_rows(table, "meld", _COLUMNS):
        if row["Emotion"] not in _EMOTIONS:
            raise CorpusError(
                f"meld: '{table}', row {number}: " + one_of("emotion", row["Emotion"], _EMOTIONS)
            )
        stem = f"dia{row['Dialogue_ID']}_utt{row['Utterance_ID']}"
        utterances.append(
            Utterance(
                id=f"{split}_{stem}",
                path=clips[1].get(stem, clips[0] / f"{stem}.wav") if clips else None,
                speaker=repair_text(row["Speaker"]).strip(),
                session=f"{split}_dia{row['Dialogue_ID']}",
                language="en",
                emotion=_EMOTIONS[row["Emotion"]],
                transcript=repair_text(row["Utterance"]).strip(),
                transcript_source="gold",
                split=split,
                corpus="meld",
            )
        )
    return utterances


MELD = Reader(
    name="meld",
    read=read,
    languages={"en": "English"},
    licence="GPL-3.0 (repository)",
    url="https://affective-meld.github.io",
    citation=Citation(
        "poria2019meld",
        "inproceedings",
        author="Poria, Soujanya and Hazarika, Devamanyu and Majumder, Navonil and Naik, Gautam and "
        "Cambria, Erik and Mihalcea, Rada",
        title="{MELD}: A Multimodal Multi-Party Dataset for Emotion Recognition in Conversations",
        year=2019,
        booktitle="Annual Meeting of the Association for Computational Linguistics (ACL)",
        pages="527--536",
        doi="10.18653/v1/P19-1050",
    ),
    utterances="13708",
    speakers="304",
    emotions="7",
    tested_on="real text; audio: fake folder",
)
