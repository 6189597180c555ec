"""Cut manifests of lhotse: `cuts.jsonl.gz`, or `cuts_train.jsonl.gz` … where each utterance has a split."""

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emodistill.audio.decoding import AudioHeader, read_header
from emodistill.corpora.base import Corpus, Utterance, audio_duration_s
from emodistill.corpora.manifest import COLUMNS
from emodistill.corpora.parts import recording_ids
from emodistill.corpora.writers.base import CorpusWriter
from emodistill.errors import CorpusError
from emodistill.labels import scale_text

SPLITS = ("train", "dev", "test")
# Columns that are no custom fields of a supervision.
_OWN = ("id", "path", "start_s", "end_s", "duration_s", "speaker", "gender", "language", "transcript")


def write(corpus: Corpus, folder: Path, audio: Mapping[Path, str]) -> None:
    """Write the cuts of a corpus, each with one supervision; see `CorpusWriter`.

    The emotion and all else that lhotse has no field for are custom fields of the supervision.
    """
    has_splits = all(item.split in SPLITS for item in corpus)
    recordings: dict[Path, dict[str, Any]] = {}
    ids = recording_ids(audio)
    lines: dict[str, list[str]] = {}
    for item in corpus:
        assert item.path is not None, "checked by `write_corpus`"
        if item.path not in recordings:
            recordings[item.path] = _recording(item, ids[item.path], audio[item.path])
        name = f"cuts_{item.split}" if has_splits else "cuts"
        cut = _cut(item, recordings[item.path])
        lines.setdefault(name, []).append(json.dumps(cut, ensure_ascii=False))
    for name, cuts in lines.items():
        with gzip.open(folder / f"{name}.jsonl.gz", "wt", encoding="utf-8", newline="\n") as file:
            file.write("\n".join([*cuts, ""]))


def _recording(item: Utterance, name: str, source: str) -> dict[str, Any]:
    header = None if item.path is None else read_header(item.path)
    if header is None:
        raise CorpusError(f"'{item.id}': audio broken at '{item.path}'")
    num_samples = round(_length_s(item, header) * header.rate_hz)
    channels = list(range(header.channels))
    return {
        "id": name,
        "sources": [{"type": "file", "channels": channels, "source": source}],
        "sampling_rate": header.rate_hz,
        "num_samples": num_samples,
        "duration": num_samples / header.rate_hz,
        "channel_ids": channels,
    }


def _length_s(item: Utterance, header: AudioHeader) -> float:
    if header.duration_s is not None:
        return header.duration_s
    return audio_duration_s(Utterance(item.id, item.speaker, None, item.path))


def _cut(item: Utterance, recording: Mapping[str, Any]) -> dict[str, Any]:
    start_s = item.start_s or 0.0
    duration_s = min(item.end_s or recording["duration"], recording["duration"]) - start_s
    channels = recording["channel_ids"]
    channel = channels[0] if len(channels) == 1 else channels
    custom = {name: getattr(item, name) for name in COLUMNS if name not in _OWN}
    custom |= {"votes": item.vote_counts() or None, "scale": item.scale and scale_text(item.scale)}
    supervision = {
        "id": item.id,
        "recording_id": recording["id"],
        "start": 0.0,
        "duration": duration_s,
        "channel": channel,
        "text": item.transcript,
        "language": item.language,
        "speaker": item.speaker,
        "gender": item.gender,
        "custom": {name: value for name, value in custom.items() if value is not None},
    }
    return {
        "id": item.id,
        "start": start_s,
        "duration": duration_s,
        "channel": channel,
        "supervisions": [{name: value for name, value in supervision.items() if value is not None}],
        "recording": recording,
        "type": "MonoCut" if len(channels) == 1 else "MultiCut",
    }


WRITER = CorpusWriter(
    "lhotse",
    write,
    copies_audio=False,
    tables=("cuts.jsonl.gz", *(f"cuts_{split}.jsonl.gz" for split in SPLITS)),
)
