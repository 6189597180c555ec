"""EmoBox metadata: 32 corpora in one JSONL format.

Layout: `data/CORPUS/CORPUS.jsonl` has one line for each utterance, with the fields key, dataset, wav, type,
sample_rate, num_frame, task, length, emo and channel. pavoque also has start_time and end_time. `wav` starts
with `downloads/` and is relative to the folder that holds `data`. Beside the JSONL are `label_map.json`
(label of the
corpus: name of EmoBox), `data.seg.wrd.stm` (the speakers) and `fold_1` …, with a train file, a test file and
sometimes a valid file each. Give `data/CORPUS` to read everything, or one fold to read its published parts as
splits. `protocol.kind=emobox` reads all folds, also for the corpus's own reader:

```
emodistill corpus prepare emobox EmoBox/data/cafe -o utterances.csv
emodistill corpus prepare emobox EmoBox/data/cafe/fold_1 -o utterances.csv
emodistill corpus audit ravdess-whisper --set corpus.root=RAVDESS \\
    --set protocol.kind=emobox --set protocol.folds_from=EmoBox/data/ravdess
```

Quirks: The metadata has no audio, and each corpus keeps its own licence. Speakers come from
`data.seg.wrd.stm`, or from a field "speaker" of a line. For IEMOCAP the `.stm` says who wore the markers, so
the speaker is taken from the id (see iemocap). There `exc` stays excited, although EmoBox's map merges it.
Many published folds share speakers between train and test. msppodcast has no `.stm`: use its own reader.
Emotions without one of our names (Amused, Sarcastic, Sleepy, Worried, …) are read as other. No-agreement and
UnKnown have no emotion. The reader was written from EmoBox's writer and its label maps.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from emodistill.citations import Citation
from emodistill.corpora.audio_folders import check_name
from emodistill.corpora.base import Corpus, Reader, Utterance, check_root, natural_sort_key
from emodistill.corpora.tables import read_text
from emodistill.errors import ConfigError, CorpusError, one_of
from emodistill.reading import json_object, read_json

# EmoBox's names of emotions, and the raw labels of corpora without a label map.
_EMOTIONS = {
    "Angry": "angry", "Happy": "happy", "Sad": "sad", "Neutral": "neutral", "Fear": "fearful",
    "Disgust": "disgusted", "Surprise": "surprised", "Calm": "calm", "Boredom": "bored",
    "Excited": "excited", "Contempt": "contempt", "No-agreement": None, "UnKnown": None,
    "Amused": "other", "Anxious": "other", "Apologetic": "other", "Assertive": "other", "breath": "other",
    "Concerned": "other", "disappointment, disapproval": "other", "Encouraging": "other",
    "Enthusiastic": "other", "Other": "other", "pain, groan": "other", "pleasure": "other", "Poker": "other",
    "Sarcastic": "other", "Sleepy": "other", "Worried": "other",
    "rab": "angry", "gio": "happy", "tri": "sad", "neu": "neutral", "pau": "fearful", "dis": "disgusted",
    "sor": "surprised", "exc": "excited",
}  # fmt: skip
_LANGUAGES = {
    "aesdd": "el", "ased": "am", "cafe": "fr", "casia": "zh", "cremad": "en", "emns": "en", "emodb": "de",
    "emovdb": "en", "emovo": "it", "emozionalmente": "it", "enterface": "en", "iemocap": "en",
    "jlcorpus": "en", "m3ed": "zh", "mead": "en", "meld": "en", "mer2023": "zh", "mesd": "es",
    "msppodcast": "en", "oreau": "fr", "pavoque": "de", "polish": "pl", "ravdess": "en", "resd": "ru",
    "savee": "en", "shemo": "fa", "subesco": "bn", "tess": "en", "turevdb": "tr", "urdu": "ur",
}  # fmt: skip
_SPLITS = {"train": "train", "valid": "dev", "test": "test"}
_SPEAKER = re.compile(r"(\S+) .*?,spk=(.*),emotion=")
_IEMOCAP = re.compile(r"(?:iemocap-)?(Ses\d\d)\w+_([FM])\w+")


def read(root: Path) -> Corpus:
    """Read `data/CORPUS` or `data/CORPUS/fold_N` of an EmoBox checkout."""
    root = check_root(root, "emobox", "data/CORPUS or data/CORPUS/fold_1 of EmoBox", "*.jsonl").resolve()
    is_fold = root.name.startswith("fold_")
    folder = root.parent if is_fold else root
    base = next((path.parent for path in root.parents if path.name == "data"), root)
    names = _label_map(folder / "label_map.json")
    speakers = _speakers(folder / "data.seg.wrd.stm")
    utterances: list[Utterance] = []
    for path in sorted(root.glob("*.jsonl")):
        split = next((ours for part, ours in _SPLITS.items() if is_fold and f"_{part}_" in path.name), None)
        for number, item in _lines(path):
            where = f"emobox: '{path}', line {number}: "
            utterances.append(_utterance(item, where, base, names, speakers, split))
    return Corpus(utterances[0].corpus or "emobox" if utterances else "emobox", tuple(utterances))


def published_folds(root: Path) -> dict[str, dict[str, list[tuple[str, ...]]]]:
    """Return EmoBox's folds of a corpus: fold -> split -> utterances, each as the ids that it may have.

    `root` is `data/CORPUS`, or one `fold_N` in it. An utterance may have four ids: EmoBox's key, the key
    without the name of the corpus, the stem of the audio file, and the stem after the split, as in MELD's
    test_dia0_utt0. Readers of the corpora use one of these.

    Raises `ConfigError` where there is no fold, and `CorpusError` for a line that is not JSON.
    """
    found = [root] if root.name.startswith("fold_") else list(root.glob("fold_*"))
    folds: dict[str, dict[str, list[tuple[str, ...]]]] = {}
    for folder in sorted(found, key=lambda path: natural_sort_key(path.name)):
        lists: dict[str, list[tuple[str, ...]]] = {}
        for part, split in _SPLITS.items():
            for path in sorted(folder.glob(f"*_{part}_*.jsonl")):
                for number, item in _lines(path):
                    _check_fields(item, f"emobox: '{path}', line {number}: ")
                    key, stem = str(item["key"]), Path(item["wav"]).stem
                    own = key.removeprefix(f"{item['dataset']}-")
                    lists.setdefault(split, []).append((key, own, stem, f"{split}_{stem}"))
        if lists:
            folds[folder.name.removeprefix("fold_")] = lists
    if not folds:
        raise ConfigError(
            f"'{root}' has no lists such as fold_1/*_train_fold_1.jsonl; expected EmoBox's folder of one "
            "corpus, such as EmoBox/data/ravdess"
        )
    return folds


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if line.strip():
            yield number, json_object(line, CorpusError, f"emobox: '{path}', line {number}: not JSON")


def _check_fields(item: dict[str, Any], where: str) -> None:
    for field in ("key", "dataset", "wav"):
        if field not in item:
            raise CorpusError(f"{where}no '{field}' (it has {list(item)})")
    if not isinstance(item["wav"], str):
        raise CorpusError(f"{where}wav is {item['wav']!r}, expected a path")
    try:
        check_name(item["wav"])
    except CorpusError as error:
        raise CorpusError(f"{where}{error}") from error
    if Path(item["wav"]).is_absolute() or ".." in Path(item["wav"].replace("\\", "/")).parts:
        raise CorpusError(
            f"{where}wav is '{item['wav']}', expected a path below EmoBox's folder, without '..'"
        )
    for field in ("start_time", "end_time"):
        value = item.get(field)
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise CorpusError(f"{where}{field} is {value!r}, expected seconds")


def _label_map(path: Path) -> dict[str, str]:
    return read_json(path, CorpusError, "is no map of labels") if path.is_file() else {}


def _speakers(path: Path) -> dict[str, str]:
    lines = read_text(path).splitlines() if path.is_file() else []
    return {match[1]: match[2] for line in lines if (match := _SPEAKER.match(line))}


def _utterance(
    item: dict[str, Any],
    where: str,
    base: Path,
    names: dict[str, str],
    speakers: dict[str, str],
    split: str | None,
) -> Utterance:
    """Return the utterance of one line of a JSONL. Paths start at `base`; `names` is the label map."""
    _check_fields(item, where)
    key, dataset = str(item["key"]), str(item["dataset"])
    label = str(item.get("emo", item.get("label")))
    name = label if label in _EMOTIONS else names.get(label, label)
    if name not in _EMOTIONS:
        raise CorpusError(where + one_of("emotion", label, names or _EMOTIONS))
    speaker = item.get("speaker") or item.get("spk") or speakers.get(key)
    session = None
    if match := _IEMOCAP.fullmatch(key):
        session = match[1]
        speaker = match[1] + match[2]
    if not speaker:
        raise CorpusError(
            f"{where}no speaker for '{key}': expected a field 'speaker', or EmoBox's file data.seg.wrd.stm "
            "beside the JSONL of the whole corpus"
        )
    transcript = str(item.get("text") or "").strip() or None
    return Utterance(
        id=key,
        path=base / item["wav"],
        start_s=item.get("start_time"),
        end_s=item.get("end_time"),
        speaker=str(speaker),
        session=session,
        language=_LANGUAGES.get(dataset),
        emotion=_EMOTIONS[name],
        transcript=transcript,
        transcript_source="gold" if transcript else None,
        split=split,
        corpus=dataset,
    )


EMOBOX = Reader(
    name="emobox",
    read=read,
    languages={
        "am": "Amharic", "bn": "Bengali", "de": "German", "el": "Greek", "en": "English", "es": "Spanish",
        "fa": "Persian", "fr": "French", "it": "Italian", "pl": "Polish", "ru": "Russian", "tr": "Turkish",
        "ur": "Urdu", "zh": "Mandarin",
    },
    licence="MIT (metadata)",
    url="https://github.com/emo-box/EmoBox",
    citation=Citation(
        "ma2024emobox", "inproceedings",
        author="Ma, Ziyang and Chen, Mingjie and Zhang, Hezhao and Zheng, Zhisheng and Chen, Wenxi and "
        "Li, Xiquan and Ye, Jiaxin and Chen, Xie and Hain, Thomas",
        title="{EmoBox}: Multilingual Multi-corpus Speech Emotion Recognition Toolkit and Benchmark",
        year=2024, booktitle="Interspeech", pages="1580--1584", eprint="2406.07162",
    ),
    utterances="by corpus",
    speakers="by corpus",
    emotions="by corpus",
    tested_on="fake folder",
)  # fmt: skip
