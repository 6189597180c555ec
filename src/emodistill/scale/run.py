"""A run of `emodistill scale`: cut the manifest into shards, give them to workers, and count the rows."""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from emodistill.console import progress, say, warn
from emodistill.errors import ConfigError
from emodistill.inference.parquet_table import load_pyarrow
from emodistill.inference.resume import CONTINUE
from emodistill.inference.voices import ensure_voices
from emodistill.reading import parse_json
from emodistill.scale import SHARD_ROWS
from emodistill.scale.engine import cluster, load_ray, run_shards
from emodistill.scale.job import PART, STATE, STATISTICS, Job, Plan
from emodistill.scale.manifest import check_manifest, manifest_sha256, read_batches, write_shards
from emodistill.scale.storage import import_fsspec, join
from emodistill.scale.voices import StatisticsWorker, VoicedWorker, has_voices, make_voices, remove_voices
from emodistill.scale.worker import ROW, ShardWorker

FORMAT = 1  # of the state file
CHECK_THREADS = 16  # read the footers of parts
MAX_ERRORS = 3  # of shards, that are printed


@dataclass(frozen=True)
class Part:
    """What the footer of a part states.

    Attributes:
        rows: their number.
        failed: how many of them have an `error`.
        first, last: the lowest and the highest number of a row.
    """

    rows: int
    failed: int
    first: int | None
    last: int | None


@dataclass(frozen=True)
class Result:
    """What a run has done.

    Attributes:
        rows: of the manifest.
        written: rows in the output.
        failed: rows with an `error`.
        missing: shards without a part, or with other rows than the manifest's.
        reused: shards that were there already.
    """

    rows: int
    written: int
    failed: int
    missing: tuple[int, ...]
    reused: int


def run(
    job: Job,
    manifest: str,
    *,
    speaker: str | None = None,
    shard_rows: int = SHARD_ROWS,
    workers: int = 1,
    address: str | None = None,
    retry_failed: bool = False,
) -> Result:
    """Compute one row for each row of a manifest, as Parquet parts in `job.out`.

    A folder that an earlier run began is continued: shards whose part is there are not done again, and with
    `retry_failed` only those without an `error` are kept.

    Args:
        job: what to compute.
        manifest: the path or URL of a CSV, TSV or Parquet file, or of a folder of Parquet files.
        speaker: the column of speakers; None: the column `speaker`, if there is one.
        shard_rows: the number of rows of a part.
        workers: how many of them run at a time.
        address: of a Ray cluster; None: start one on this machine, and stop it at the end.

    Raises:
        ConfigError: a manifest that cannot be read, or a folder that was begun with other settings.
        ModelError: the model cannot do it.
        MissingExtraError: Ray Data, or the package for a URL, is not installed.
    """
    import_fsspec()
    check_manifest(manifest, job.storage)
    job.storage.check(job.out, writable=True)
    if job.by_speaker and retry_failed:
        raise ConfigError(
            "--retry-failed and --speaker exclude each other: one more file changes the voice, and so all "
            "rows of its speaker; name another --out"
        )
    recognizer = job.recognizer()
    if job.by_speaker:
        ensure_voices(recognizer.card)
    load_ray()
    extra = {"speaker": speaker, "by speaker": job.by_speaker, "shard rows": shard_rows}
    plan = _plan(job, manifest, {**job.settings(recognizer), **extra}, speaker)
    done = _whole(job, plan, retry_failed)
    pending = [shard for shard in range(len(plan.sizes)) if shard not in done]
    if pending:
        if done:
            say(f"{len(done)} of {len(plan.sizes)} parts are there already")
        with cluster(address, workers * job.threads) as ray:
            compute = _compute_voices if job.by_speaker else _compute_parts
            compute(ray, job, plan, pending, workers)
    return _finish(job, plan, len(done))


def _compute_parts(ray: Any, job: Job, plan: Plan, shards: Sequence[int], workers: int) -> None:
    _compute(ray, ShardWorker, job, plan, shards, workers)


def _compute_voices(ray: Any, job: Job, plan: Plan, shards: Sequence[int], workers: int) -> None:
    """Compute statistics, voices and parts; each of them continues what an earlier run left."""
    every = range(len(plan.sizes))
    if not has_voices(job):
        names = _names(job, STATISTICS)
        _compute(ray, StatisticsWorker, job, plan, [n for n in every if PART.format(n) not in names], workers)
        names = _names(job, STATISTICS)
        if not all(PART.format(shard) in names for shard in every):
            return
        say(f"{make_voices(ray, job, every)} voices")
    _compute(ray, VoicedWorker, job, plan, shards, workers)


def _compute(
    ray: Any, worker: type[ShardWorker], job: Job, plan: Plan, shards: Sequence[int], workers: int
) -> None:
    """Let workers do the shards, with a progress bar that counts rows, and print their first errors."""
    num_errors = 0
    what = "statistics" if worker.folder else job.verb
    bar, task = progress(what, sum(plan.sizes[shard] for shard in shards))
    with bar:
        for row in run_shards(ray, worker, (job, plan), shards, workers, job.threads):
            bar.advance(task, int(row["rows"]))
            num_errors += bool(row["error"])
            if row["error"] and num_errors <= MAX_ERRORS:
                warn(str(row["error"]))


def _plan(job: Job, manifest: str, settings: dict[str, Any], speaker: str | None) -> Plan:
    """Return the plan of the output folder, or cut the manifest into shards and keep the new plan there."""
    settings = {**settings, "manifest": manifest_sha256(manifest, job.storage)}
    names = job.storage.names(job.out)
    if STATE in names:
        plan = _read_state(job)
        different = [name for name, value in settings.items() if plan.settings.get(name) != value]
        if different:
            raise ConfigError(
                f"'{job.out}' was begun with another {' and '.join(different)}: name another --out, or "
                "give the options of before"
            )
        return plan
    others = [name for name in names if not name.startswith(".")]  # a killed run may leave a hidden file
    if others:
        raise ConfigError(
            f"'{job.out}' holds files ({min(others)}) but no {STATE}: name an empty folder, or a new one"
        )
    batches = read_batches(manifest, job.storage, speaker)
    sizes = write_shards(batches, int(settings["shard rows"]), job.storage, job.shards, PART)
    plan = Plan(tuple(sizes), settings)
    _write_state(job, plan)
    return plan


def _read_state(job: Job) -> Plan:
    place = join(job.out, STATE)
    try:
        state = parse_json(job.storage.read(place))
        if state["format"] != FORMAT:
            raise ValueError(f"format {state['format']!r}, expected {FORMAT}")
        return Plan(tuple(map(int, state["shards"])), dict(state["settings"]))
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise ConfigError(f"'{place}' is damaged ({error}): name another --out") from error


def _write_state(job: Job, plan: Plan, result: Result | None = None) -> None:
    counts = None if result is None else {
        "rows": result.written, "failed": result.failed, "missing": list(result.missing),
    }  # fmt: skip
    state = {
        "format": FORMAT, "settings": dict(plan.settings), "rows": plan.num_rows, "shards": list(plan.sizes),
        "result": counts,
    }  # fmt: skip
    job.storage.write(join(job.out, STATE), (json.dumps(state, indent=1) + "\n").encode())


def _names(job: Job, folder: str = "") -> set[str]:
    """Return the names of the complete files in a folder of the output, or in the output folder itself."""
    return set(job.storage.names(join(job.out, folder) if folder else job.out))


def _whole(job: Job, plan: Plan, retry_failed: bool) -> set[int]:
    """Return the shards whose part has their rows; with `retry_failed`, only those without a failed row."""
    whole = _with_their_rows(_footers(job, plan), plan)
    return {shard for shard, part in whole.items() if not (retry_failed and part.failed)}


def _with_their_rows(footers: Mapping[int, Part | None], plan: Plan) -> dict[int, Part]:
    """Return the parts that have the rows of their shard."""
    rows = {n: (size, plan.first_row(n), plan.first_row(n) + size - 1) for n, size in enumerate(plan.sizes)}
    there = {shard: part for shard, part in footers.items() if part is not None}
    return {n: part for n, part in there.items() if (part.rows, part.first, part.last) == rows[n]}


def _footers(job: Job, plan: Plan) -> dict[int, Part | None]:
    """Return the footers of the parts that are there, by shard; None: the part cannot be read."""
    names = _names(job)
    there = [shard for shard in range(len(plan.sizes)) if PART.format(shard) in names]
    with ThreadPoolExecutor(CHECK_THREADS) as pool:
        return dict(zip(there, pool.map(lambda shard: _footer(job, shard), there), strict=True))


def _footer(job: Job, shard: int) -> Part | None:
    """Return what the footer of a part states, or None where it cannot be read; no row is read."""
    pyarrow = load_pyarrow()
    with job.storage.open(job.place("", shard)) as opened:
        try:
            return _part(pyarrow.parquet.ParquetFile(opened).metadata)
        except (pyarrow.ArrowException, ValueError, TypeError, AttributeError):
            return None  # it is damaged, or lacks columns or statistics


def _part(metadata: Any) -> Part:
    names = [metadata.schema.column(number).path for number in range(metadata.num_columns)]
    row, error = names.index(ROW), names.index("error")
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    failed = sum(group.num_rows - group.column(error).statistics.null_count for group in groups)
    lows = [group.column(row).statistics.min for group in groups]
    highs = [group.column(row).statistics.max for group in groups]
    return Part(metadata.num_rows, failed, min(lows, default=None), max(highs, default=None))


def _finish(job: Job, plan: Plan, reused: int) -> Result:
    """Check that the output has exactly the rows of the manifest, and keep the result in the folder."""
    footers = _footers(job, plan)
    whole = _with_their_rows(footers, plan)
    missing = tuple(shard for shard in range(len(plan.sizes)) if shard not in whole)
    parts = [part for part in footers.values() if part is not None]
    written = sum(part.rows for part in parts)
    failed = sum(part.failed for part in parts)
    result = Result(plan.num_rows, written, failed, missing, reused)
    _write_state(job, plan, result)
    if job.by_speaker and not missing:
        remove_voices(job)
    return result


def summary(result: Result, out: str) -> str:
    """Return what the command says at the end.

    >>> summary(Result(10, 10, 1, (), 0), "out")
    'out: 10 rows, 1 failed'
    """
    text = f"{out}: {result.written} rows, {result.failed} failed"
    if result.missing:
        text += f"; {len(result.missing)} parts are missing, {CONTINUE}"
    return text
