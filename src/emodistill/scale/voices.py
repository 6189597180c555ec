"""Voices of millions of inputs: two passes over the shards, of which only the first one decodes audio.

Pass 1 keeps the statistics of each input. They are added up to one voice for each speaker. Pass 2 compares
each input with the voice of the speaker's other inputs: the sums of the speaker minus its own.
"""

import hashlib
import io
import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from emodistill.inference.inputs import Input, statistics_of_inputs
from emodistill.inference.parquet_table import load_pyarrow, table_bytes, valid_text
from emodistill.inference.prediction import Prediction
from emodistill.inference.thread_map import map_in_order
from emodistill.inference.voices import SpeechStatistics, VoiceSums
from emodistill.scale.engine import configure
from emodistill.scale.job import STATISTICS, VOICES, Job, Plan
from emodistill.scale.manifest import REMOTE_JOBS
from emodistill.scale.storage import join
from emodistill.scale.worker import ShardWorker, with_row_numbers

INDEX = "index.json"  # in the folder of voices: the first speaker of each file; written last
VOICES_PER_FILE = 1024
FILES_IN_MEMORY = 4  # of voices, in a worker

# Statistics of an input beside the columns of its row.
_FIELDS = {
    "path": "string", "id": "string", "start_s": "double", "end_s": "double", "speaker": "string",
    "channel": "int64", "reason": "string", "error": "string", "voice": "string", "audio": "string",
}  # fmt: skip


class StatisticsWorker(ShardWorker):
    """Pass 1: writes the statistics of the inputs of each shard."""

    folder = STATISTICS

    def table(self, inputs: Iterator[Input], first_row: int, places: Sequence[str]) -> Any:
        """Return the statistics of the inputs of a shard, in order, with the names of their voices."""
        arrow = load_pyarrow()
        taken: list[Input] = []

        def noted() -> Iterator[Input]:
            for item in inputs:
                taken.append(item)
                yield item

        rows: list[dict[str, Any]] = []
        windows, speech_s = [], []
        found = statistics_of_inputs(self.recognizer, noted(), self._channel)
        for (item,), place in zip(found, places, strict=True):
            source = taken[-1]
            row = source.row(Prediction(source.path, error=item.error))  # its end needs the audio, still open
            voice = None if row.speaker is None else json.dumps([row.speaker, item.channel])
            audio = json.dumps([voice, place, source.start_s, source.end_s])
            about = {
                name: getattr(row, name) for name in ("path", "id", "start_s", "end_s", "speaker", "error")
            }
            rows.append(
                {**about, "channel": item.channel, "reason": item.reason, "voice": voice,
                 "audio": hashlib.sha256(audio.encode(errors="backslashreplace")).hexdigest()[:32]}
            )  # fmt: skip
            windows.append(item.windows.ravel())
            speech_s.append(item.speech_s)
        columns = [
            arrow.array([valid_text(row[name]) for row in rows], arrow.type_for_alias(kind))
            for name, kind in _FIELDS.items()
        ]
        columns += [
            arrow.array(windows, arrow.list_(arrow.float32())),
            arrow.array(speech_s, arrow.list_(arrow.float64())),
        ]
        table = arrow.Table.from_arrays(columns, names=[*_FIELDS, "windows", "window_s"])
        return with_row_numbers(table, first_row)


class VoicedWorker(ShardWorker):
    """Pass 2: compares the inputs of each shard with the voices of their speakers. It decodes no audio."""

    def __init__(self, job: Job, plan: Plan) -> None:
        """Load the model, and the index of the voices."""
        super().__init__(job, plan)
        self._voices = VoiceTable(job)

    def write(self, shard: int) -> int:
        """Write the part of a shard; returns its number of rows."""
        table = read_statistics(self.job, shard)
        sums = self._voices.of({name for name in table["voice"].to_pylist() if name is not None})
        rows = [self._prediction(*each, sums) for each in statistics_in(table)]
        part = self.predictions_table(rows, self.plan.first_row(shard))
        self.job.storage.write(self.job.place("", shard), table_bytes(part))
        return len(part)

    def _prediction(
        self, about: Mapping[str, Any], statistics: SpeechStatistics, sums: Mapping[str, VoiceSums]
    ) -> Prediction:
        voice = None
        if about["voice"] in sums and len(statistics.windows):
            others = sums[about["voice"]] - VoiceSums.of([statistics])
            voice = others.voice(self.recognizer.card.sha256) if others.num_utterances else None
        row = self.recognizer.predict_statistics(statistics, voice)
        return replace(
            row, path=about["path"], id=about["id"], start_s=about["start_s"], end_s=about["end_s"],
            speaker=about["speaker"],
        )  # fmt: skip


class VoiceTable:
    """The voices of all speakers, in files that are sorted by speaker. A worker reads those that it needs."""

    def __init__(self, job: Job) -> None:
        """Read the index."""
        self._job = job
        self._firsts: list[str] = json.loads(job.storage.read(join(join(job.out, VOICES), INDEX)))
        self._file = lru_cache(FILES_IN_MEMORY)(self._read)

    def of(self, names: set[str]) -> dict[str, VoiceSums]:
        """Return the sums of these voices; a name without speech has none."""
        files: dict[int, list[str]] = {}
        for name in names:
            files.setdefault(bisect_right(self._firsts, name) - 1, []).append(name)
        found: dict[str, VoiceSums] = {}
        for number in sorted(files):
            if number >= 0:
                table = self._file(number)
                wanted = table.filter(load_pyarrow().compute.field("voice").isin(files[number]))
                found.update((row["voice"], _sums(row)) for row in wanted.to_pylist())
        return found

    def _read(self, number: int) -> Any:
        content = self._job.storage.read(self._job.place(VOICES, number))
        return load_pyarrow().parquet.read_table(io.BytesIO(content))


def read_statistics(job: Job, shard: int, columns: list[str] | None = None) -> Any:
    """Return the statistics of a shard as a table of Arrow; `columns` are those to read, None for all."""
    content = job.storage.read(job.place(STATISTICS, shard))
    return load_pyarrow().parquet.read_table(io.BytesIO(content), columns=columns)


def statistics_in(table: Any) -> Iterator[tuple[dict[str, Any], SpeechStatistics]]:
    """Yield the fields and the statistics of each input in a table of `read_statistics`."""
    # Numbers stay in NumPy: lists of Python would take ten times the memory.
    windows, seconds = table["windows"].combine_chunks(), table["window_s"].combine_chunks()
    rows = table.drop_columns(["windows", "window_s"]).to_pylist()
    for about, values, times in zip(rows, windows, seconds, strict=True):
        speech_s = times.values.to_numpy(zero_copy_only=False)
        flat = values.values.to_numpy(zero_copy_only=False)
        yield about, SpeechStatistics(
            about["path"], flat.reshape(len(speech_s), -1) if len(speech_s) else np.zeros((0, 0), np.float32),
            speech_s, about["reason"], about["error"], about["channel"],
        )  # fmt: skip


def make_voices(ray: Any, job: Job, shards: Sequence[int]) -> int:
    """Add the statistics of all shards up to one voice for each speaker; returns the number of voices.

    Sums of each shard come first, so a speaker needs memory for one sum of each shard, not for each input.
    They are added in the order of the shards, so two runs give the same voices. An input that is there twice
    counts once.
    """
    configure(ray, may_fail=False)  # a voice without some of its inputs would be wrong
    if not shards:
        return _write_voices(job, [])
    items = ray.data.from_items([{"shard": shard} for shard in shards], override_num_blocks=len(shards))
    firsts = _copies(items, job)
    sums = items.map_batches(sum_shards, batch_size=1, batch_format="pyarrow", fn_args=(job, firsts))
    voices = sums.groupby("voice").map_groups(add_sums, batch_format="pyarrow").sort("voice")
    return _write_voices(job, voices.iter_batches(batch_size=VOICES_PER_FILE, batch_format="pyarrow"))


def _copies(items: Any, job: Job) -> dict[str, int]:
    """Return the first row of each audio that a speaker has several times, by what identifies the audio."""
    from ray.data.aggregate import Count, Min

    keys = items.map_batches(keys_of_shards, batch_size=1, batch_format="pyarrow", fn_args=(job,))
    counted = keys.groupby("audio").aggregate(Count(alias_name="count"), Min("row", alias_name="first"))
    repeated = counted.map_batches(several, batch_format="pyarrow", batch_size=None)
    firsts: dict[str, int] = {}
    for batch in repeated.iter_batches(batch_size=None, batch_format="pyarrow"):
        if "audio" in batch.column_names:
            firsts.update(zip(batch["audio"].to_pylist(), batch["first"].to_pylist(), strict=True))
    return firsts


def keys_of_shards(batch: Any, job: Job) -> Any:
    """Return what identifies the audio of each input with speech, and the number of its row."""
    compute = load_pyarrow().compute
    tables = [
        read_statistics(job, shard, ["audio", "row", "voice", "reason", "error"])
        for shard in batch["shard"].to_pylist()
    ]
    table = load_pyarrow().concat_tables(tables)
    with_speech = compute.and_(compute.is_null(table["reason"]), compute.is_null(table["error"]))
    return table.filter(compute.and_(with_speech, compute.is_valid(table["voice"]))).select(["audio", "row"])


def several(batch: Any) -> Any:
    """Return the rows of a table whose `count` is over 1."""
    return batch.filter(load_pyarrow().compute.greater(batch["count"], 1))


def sum_shards(batch: Any, job: Job, firsts: Mapping[str, int]) -> Any:
    """Return one row for each voice in a shard: the sums over its inputs, without copies."""
    rows: list[dict[str, Any]] = []
    for shard in batch["shard"].to_pylist():
        sums: dict[str, VoiceSums] = {}
        for about, statistics in statistics_in(read_statistics(job, shard)):
            is_copy = firsts.get(about["audio"], about["row"]) != about["row"]
            if about["voice"] is not None and len(statistics.windows) and not is_copy:
                own = VoiceSums.of([statistics])
                sums[about["voice"]] = sums[about["voice"]] + own if about["voice"] in sums else own
        rows += [_row(name, shard, sums[name]) for name in sorted(sums)]
    return _voices_table(rows)


def add_sums(group: Any) -> Any:
    """Return the one row of a voice: the sums of all shards, added in the order of the shards."""
    rows = sorted(group.to_pylist(), key=lambda row: int(row["shard"]))
    total = _sums(rows[0])
    for row in rows[1:]:
        total = total + _sums(row)
    return _voices_table([_row(rows[0]["voice"], rows[0]["shard"], total)])


def _row(name: str, shard: int, sums: VoiceSums) -> dict[str, Any]:
    return {
        "voice": name, "shard": shard, "weighted": np.asarray(sums.weighted, np.float64),
        "speech_s": sums.speech_s, "utterances": sums.num_utterances,
    }  # fmt: skip


def _sums(row: Mapping[str, Any]) -> VoiceSums:
    return VoiceSums(np.array(row["weighted"], np.float64), row["speech_s"], row["utterances"])


def _voices_table(rows: Sequence[Mapping[str, Any]]) -> Any:
    arrow = load_pyarrow()
    kinds = {
        "voice": arrow.string(), "shard": arrow.int64(), "weighted": arrow.list_(arrow.float64()),
        "speech_s": arrow.float64(), "utterances": arrow.int64(),
    }  # fmt: skip
    arrays = [arrow.array([row[name] for row in rows], kind) for name, kind in kinds.items()]
    return arrow.Table.from_arrays(arrays, names=list(kinds))


def _write_voices(job: Job, batches: Iterable[Any]) -> int:
    """Write the files of voices, and their index last; returns the number of voices."""
    firsts: list[str] = []
    num_voices = 0
    for batch in batches:
        if len(batch):
            job.storage.write(job.place(VOICES, len(firsts)), table_bytes(batch))
            firsts.append(batch["voice"][0].as_py())
            num_voices += len(batch)
    job.storage.write(join(join(job.out, VOICES), INDEX), json.dumps(firsts).encode())
    return num_voices


def has_voices(job: Job) -> bool:
    """Return whether the voices of the output folder are complete."""
    return INDEX in job.storage.names(join(job.out, VOICES))


def remove_voices(job: Job) -> None:
    """Delete voices and statistics, which are personal data, when all parts are written."""
    places = [
        join(join(job.out, folder), name)
        for folder in (VOICES, STATISTICS)
        for name in job.storage.names(join(job.out, folder))
    ]
    for _ in map_in_order(job.storage.remove, places, REMOTE_JOBS):
        pass
