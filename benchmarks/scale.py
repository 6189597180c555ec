"""`emodistill scale`: two workers against one, and one against `Recognizer.predict_all(jobs=1)`.

    python benchmarks/scale.py FOLDER [--files 5000] [--rounds 3] [--shard-rows 125] [--json FILE]

The clock runs after the cluster and its workers have started, each with one thread. It stops when the last
part is written. The ways alternate. Processes without Ray show what two cores of this machine give at most.
A ratio is the median of the ratios within a round, so that other work on the machine slows all ways equally.
It prints the CPU time of a file, and the memory of a worker and of the driver. Use a machine with at least
two free cores.
"""

import argparse
import json
import math
import multiprocessing
import os
import random
import resource
import shutil
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa

from emodistill.audio.decoding import SUFFIXES, read_header
from emodistill.inference.recognizer import Recognizer
from emodistill.scale.engine import cluster, run_shards
from emodistill.scale.job import PART, Job, Plan
from emodistill.scale.manifest import read_batches, write_shards
from emodistill.scale.worker import ShardWorker


class TimedWorker(ShardWorker):
    """A worker that also returns its process, its CPU seconds, and when each shard began and ended."""

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Write the parts of the shards in a batch."""
        began, cpu_s = time.time(), time.process_time()
        done = super().__call__(batch)
        took_s = [time.process_time() - cpu_s] * len(done["shard"])
        times = {"began": [began] * len(took_s), "ended": [time.time()] * len(took_s), "cpu_s": took_s}
        return {**done, **times, "pid": [os.getpid()] * len(took_s), "peak_mb": [peak_mb()] * len(took_s)}


def peak_mb() -> float:
    """Return the most memory that this process had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


class IdleWorker:
    """A worker that does nothing, so that the time of the driver is left."""

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return what came."""
        return batch


def driver_costs(ray: Any, shards: int = 2000) -> tuple[float, float]:
    """Return the CPU milliseconds, and the kB that stay, of the driver for one shard."""
    began_s, began_kb = time.process_time(), resident_kb()
    assert sum(1 for _ in run_shards(ray, IdleWorker, (), range(shards), 2, 1)) == shards
    return 1000 * (time.process_time() - began_s) / shards, (resident_kb() - began_kb) / shards


def resident_kb() -> float:
    """Return the memory that this process has now, in kB."""
    return (
        int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize() / 1000
    )


@dataclass(frozen=True)
class Measured:
    """One run: the seconds of all files, of each shard, and between two shards of a worker."""

    whole_s: float
    shards_s: list[float]
    gaps_s: list[float]
    cpu_s: float  # of all workers
    worker_mb: float


def run_scale(ray: Any, files: list[Path], folder: Path, shard_rows: int, workers: int) -> Measured:
    """Recognise all files with some workers."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    manifest = folder / "rows.parquet"
    pa.parquet.write_table(pa.table({"path": [str(file) for file in files]}), manifest)
    job = Job("predict", str(folder / "out"), "/")
    sizes = write_shards(read_batches(str(manifest), job.storage), shard_rows, job.storage, job.shards, PART)
    rows = list(run_shards(ray, TimedWorker, (job, Plan(tuple(sizes), {})), range(len(sizes)), workers, 1))
    assert sum(row["rows"] for row in rows) == len(files)
    assert not any(row["error"] for row in rows)
    rows.sort(key=lambda row: (row["pid"], row["began"]))
    return Measured(
        whole_s=max(row["ended"] for row in rows) - min(row["began"] for row in rows),
        shards_s=[row["ended"] - row["began"] for row in rows],
        gaps_s=[after["began"] - row["ended"] for row, after in pairwise(rows) if after["pid"] == row["pid"]],
        cpu_s=sum(row["cpu_s"] for row in rows),
        worker_mb=max(row["peak_mb"] for row in rows),
    )


def _recognise(files: list[Path], started: Any) -> None:
    recognizer = Recognizer(threads=1)
    assert all(row.error is None for row in recognizer.predict_all(files[:5], jobs=1))
    started.wait()
    assert all(row.error is None for row in recognizer.predict_all(files, jobs=1))


def plain_s(files: list[Path], processes: int) -> float:
    """Return the seconds of all files in processes without Ray, after each has loaded the model."""
    context = multiprocessing.get_context("spawn")
    started = context.Barrier(processes + 1)
    parts = [(files[number::processes], started) for number in range(processes)]
    running = [context.Process(target=_recognise, args=part) for part in parts]
    for process in running:
        process.start()
    started.wait()
    began = time.perf_counter()
    for process in running:
        process.join()
    assert not any(process.exitcode for process in running)
    return time.perf_counter() - began


def ratio(over: list[float], under: list[float]) -> float:
    """Return the median of the ratios within a round."""
    return median(first / second for first, second in zip(over, under, strict=True))


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="recordings, in and below this folder")
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shard-rows", type=int, default=125)
    parser.add_argument(
        "--json", type=Path, help="write the figures and the seconds of each shard to this file"
    )
    options = parser.parse_args()
    found = sorted(path for path in options.folder.resolve().rglob("*") if path.suffix.lower() in SUFFIXES)
    random.Random(7).shuffle(found)
    files = found[: options.files]
    audio_s = sum(header.duration_s or 0.0 for file in files if (header := read_header(file)) is not None)
    recognizer = Recognizer(threads=1)
    times: dict[str, list[float]] = {"predict_all": [], "one worker": [], "two workers": []}
    plain: dict[int, list[float]] = {1: [], 2: []}
    cpu_s: dict[str, list[float]] = {"predict_all": [], "one worker": []}
    gaps_s: list[float] = []
    shards_s: list[float] = []
    temporary = Path(tempfile.mkdtemp(prefix="emodistill-scale-"))
    with cluster(None, 2) as ray:
        ray.data.DataContext.get_current().wait_for_min_actors_s = 600
        for _ in range(options.rounds):
            began, cpu_began_s = time.perf_counter(), time.process_time()
            assert sum(row.error is None for row in recognizer.predict_all(files, jobs=1)) > 0
            times["predict_all"].append(time.perf_counter() - began)
            cpu_s["predict_all"].append(time.process_time() - cpu_began_s)
            for name, workers in (("one worker", 1), ("two workers", 2)):
                one = run_scale(ray, files, temporary, options.shard_rows, workers)
                times[name].append(one.whole_s)
                if workers == 1:
                    cpu_s[name].append(one.cpu_s)
                    shards_s += one.shards_s
                else:
                    gaps_s += one.gaps_s
            for processes, seconds in plain.items():
                seconds.append(plain_s(files, processes))
            print({name: round(values[-1], 2) for name, values in times.items()}, flush=True)
        driver_ms, driver_kb = driver_costs(ray)
    shutil.rmtree(temporary)
    cpu_ms = 1000 * median(cpu_s["one worker"]) / len(files)
    figures = {
        "files": len(files),
        "mean seconds of audio": round(audio_s / len(files), 2),
        **{
            f"{name}, ms a file": round(1000 * median(values) / len(files), 2)
            for name, values in times.items()
        },
        "two workers against one": round(ratio(times["one worker"], times["two workers"]), 2),
        "two processes without Ray against one": round(ratio(plain[1], plain[2]), 2),
        "overhead of one worker": round(ratio(times["one worker"], times["predict_all"]) - 1, 3),
        "overhead in CPU time": round(ratio(cpu_s["one worker"], cpu_s["predict_all"]) - 1, 3),
        "ms between two shards": round(1000 * median(gaps_s or [math.nan]), 1),
        "CPU ms of the driver for a shard": round(driver_ms, 1),
        "kB of the driver for a shard": round(driver_kb, 1),
        "MB of a worker, at most": round(one.worker_mb),
        "MB of the driver with the model, at most": round(peak_mb()),
        "CPU ms a file": round(cpu_ms, 2),
        "CPU hours for 10^8 files": round(cpu_ms / 1000 * 1e8 / 3600),
    }
    for name, value in figures.items():
        print(f"{name:42} {value}")
    if options.json is not None:
        text = json.dumps(
            {**figures, "rows of a shard": options.shard_rows, "seconds of shards": shards_s}, indent=1
        )
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
