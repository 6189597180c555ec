"""A worker: it loads the model once, and turns each shard of the manifest into one Parquet part."""

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from emodistill.errors import EmodistillError
from emodistill.inference.embedding_rows import to_table as embeddings_table
from emodistill.inference.inputs import Input, embed_inputs, predict_inputs
from emodistill.inference.parquet_table import load_pyarrow, table_bytes, to_table
from emodistill.inference.prediction import Prediction
from emodistill.inference.prediction_rows import Columns
from emodistill.inference.recognizer import Recognizer
from emodistill.inference.thread_map import map_in_order
from emodistill.scale.job import PART, Job, Plan
from emodistill.scale.manifest import read_inputs
from emodistill.scale.tries import Tries

ROW = "row"  # the last column of each part: the number of the row in the manifest, from 0


class ShardWorker:
    """Writes the part of each shard that Ray gives to it. Ray calls it in an actor."""

    folder = ""  # of its files, in the output folder

    def __init__(self, job: Job, plan: Plan) -> None:
        """Load the model."""
        self.job, self.plan = job, plan
        self.recognizer: Recognizer = job.recognizer()

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Write the parts of the shards in a batch; returns the shards, their numbers of rows, and errors."""
        done: dict[str, list[Any]] = {"shard": [], "rows": [], "error": []}
        for shard in map(int, batch["shard"]):
            rows, problem = 0, ""
            try:
                rows = self.write(shard)
            except Exception as error:  # Ray would hide it in a log; the driver prints it.
                problem = f"shard {shard}: {type(error).__name__}: {error}"
            for name, value in {"shard": shard, "rows": rows, "error": problem}.items():
                done[name].append(value)
        return done

    def write(self, shard: int) -> int:
        """Write the part of a shard; returns its number of rows."""
        tries = Tries(self.job, shard)
        rows = tries.guard(read_shard(self.job, self.plan, shard))
        places = [url or str(item.location) for item, url in rows]
        inputs = tries.watched(with_audio(self.job, rows))
        table = self.table(inputs, self.plan.first_row(shard), places)
        self.job.storage.write(self.job.place(self.folder, shard), table_bytes(table))
        tries.finish()
        return len(table)

    def table(self, inputs: Iterator[Input], first_row: int, places: Sequence[str]) -> Any:
        """Return the table of the rows of a shard, in order.

        `first_row` is the number of the first one, and `places` has the path or the URL of each audio.
        """
        if self.job.verb == "embed":
            embedded = embed_inputs(self.recognizer, inputs, self._channel, self.job.voice)
            rows = [row for each in embedded for row in each]
            return with_row_numbers(embeddings_table(rows, self.recognizer.embedding_dims), first_row)
        predicted = predict_inputs(self.recognizer, inputs, self._channel, self.job.voice)
        return self.predictions_table((row for each in predicted for row in each), first_row)

    def predictions_table(self, rows: Iterable[Prediction], first_row: int) -> Any:
        """Return the table of predictions, with the columns of `predict --from`."""
        table = to_table(self.columns.names, map(self.columns.values, rows))
        return with_row_numbers(table, first_row)

    @cached_property
    def columns(self) -> Columns:
        """The columns of predictions."""
        has_voices = self.job.by_speaker or self.job.voice is not None
        return Columns(self.recognizer.emotions, has_voices, listed=True)

    @cached_property
    def _channel(self) -> Any:
        return "mix" if self.job.channel is None else self.job.channel


def read_shard(job: Job, plan: Plan, shard: int) -> list[tuple[Input, str | None]]:
    """Return the inputs of a shard, each with the URL of its audio; None for a local file."""
    content = job.storage.read(f"{job.shards}/{PART.format(shard)}")
    table = load_pyarrow().parquet.read_table(io.BytesIO(content))
    return read_inputs(table, plan.first_row(shard), job.root, job.allowed)


def with_audio(job: Job, rows: Sequence[tuple[Input, str | None]]) -> Iterator[Input]:
    """Yield the inputs in order, those of URLs with their audio, which threads read ahead.

    The audio is closed when the next input is taken. An input whose audio cannot be read has an `error`.
    """

    def fetched(row: tuple[Input, str | None]) -> Input:
        item, url = row
        if url is None:
            return item
        try:
            return replace(item, opened=job.storage.fetch(url))
        except EmodistillError as error:  # of the audio, or of a kind of URL whose package is missing
            return replace(item, error=str(error))

    jobs = job.readers if any(url is not None for _, url in rows) else 1
    for item in map_in_order(fetched, rows, jobs):
        yield item
        if item.opened is not None:
            item.opened.close()


def with_row_numbers(table: Any, first_row: int) -> Any:
    """Return a table with the number of each row in the manifest as its last column."""
    arrow = load_pyarrow()
    numbers = arrow.array(range(first_row, first_row + len(table)), arrow.int64())
    return table.append_column(ROW, numbers)
