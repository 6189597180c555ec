"""How long `emodistill scale` takes by the size of its shards: a simulation of stragglers and failures.

    python scripts/scale_simulation.py [--plot docs/scale.png] [--measured FILE]

Workers take shards from one queue, as Ray Data gives them out. A worker holds one more shard than the one
that it works on. The driver looks for free places ten times in a second. Each shard costs it some
milliseconds, one after the other, and the worker some more. A file takes a lognormal time. Some workers are
always slow, since another program shares their machine. A worker fails at random (preempted, out of memory).
The time in its shard is lost, Ray starts it again, and the same worker begins the shard anew.

The times are those of benchmarks/scale.py, whose --json file --measured reads. For each size of shards the
script prints the time over the ideal time (no failure, no slow worker, no gap), the median of several draws.
"""

import argparse
import heapq
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

SIZES = (100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000)  # rows of a shard
HELD = 2  # shards of a worker: one that it works on, and one that waits
GOOD = 1.02  # a size is good while its makespan is at most this much over the best one


@dataclass(frozen=True)
class Cluster:
    """What is simulated.

    Attributes:
        files: in the manifest.
        workers: that run at a time.
        failures: of one worker in an hour.
        file_s, file_spread: mean seconds of a file, and the standard deviation of its logarithm.
        gap_s: between two shards of a worker: messages of Ray, reading and writing the shard.
        driver_s: CPU time of the driver for a shard; it gives out one after the other.
        look_s: at most so long the driver does not see that a worker has room for one more shard.
        restart_s: from a failure until the worker has loaded the model again.
        slow, slow_factor: the share of workers that are slow, and how many times as long they take.
    """

    files: int = 100_000_000
    workers: int = 400
    failures: float = 0.05
    file_s: float = 0.0091
    file_spread: float = 0.6
    gap_s: float = 0.0056
    driver_s: float = 0.0035
    look_s: float = 0.1
    restart_s: float = 15.0
    slow: float = 0.05
    slow_factor: float = 2.0

    @property
    def ideal_s(self) -> float:
        """The seconds without failures, slow workers and gaps."""
        return self.files * self.file_s / self.workers


def makespan_s(cluster: Cluster, shard_rows: int, rng: np.random.Generator) -> float:
    """Return the seconds until the last shard is written."""
    num_shards = -(-cluster.files // shard_rows)
    # A sum of many lognormal times is close to a normal one with the same mean and variance.
    spread_s = cluster.file_s * np.sqrt(np.expm1(cluster.file_spread**2) * shard_rows)
    times_s = np.maximum(rng.normal(cluster.file_s * shard_rows, spread_s, num_shards), 1e-3)
    speeds = np.where(rng.random(cluster.workers) < cluster.slow, cluster.slow_factor, 1.0)
    rate = cluster.failures / 3600.0
    # Since when a worker has room for a shard; a worker without any goes first.
    places = [(0.0, place, worker) for place in range(HELD) for worker in range(cluster.workers)]
    given_out_s, ends_s = 0.0, [0.0] * cluster.workers
    for time_s in times_s.tolist():
        free_s, place, worker = heapq.heappop(places)
        given_out_s = max(free_s + cluster.look_s, given_out_s + cluster.driver_s)
        now_s = max(given_out_s, ends_s[worker]) + cluster.gap_s
        needed_s = time_s * float(speeds[worker])
        while rate and (fails_s := rng.exponential(1 / rate)) < needed_s:
            now_s += fails_s + cluster.restart_s
        now_s += needed_s
        ends_s[worker] = now_s
        heapq.heappush(places, (now_s, place, worker))
    return max(ends_s)


def overheads(cluster: Cluster, sizes: tuple[int, ...], draws: int) -> dict[int, float]:
    """Return the makespan over its ideal for each number of rows of a shard, the median of the draws."""
    found = {}
    for rows in sizes:
        spans = [makespan_s(cluster, rows, np.random.default_rng(seed)) for seed in range(draws)]
        found[rows] = float(np.median(spans)) / cluster.ideal_s
    return found


def good_sizes(found: dict[int, float]) -> list[int]:
    """Return the sizes whose makespan is close to the best one."""
    return [rows for rows, value in found.items() if value <= GOOD * min(found.values())]


def measured(file: Path, cluster: Cluster) -> Cluster:
    """Return the cluster with the times in a file of benchmarks/scale.py."""
    figures = json.loads(file.read_text(encoding="utf-8"))
    rows, times = figures["rows of a shard"], np.array(figures["seconds of shards"])
    file_s = float(np.median(times)) / rows
    variance = max(0.0, float(times.var()) / rows / file_s**2)
    return replace(
        cluster, file_s=file_s, gap_s=figures["ms between two shards"] / 1000,
        file_spread=float(np.sqrt(np.log1p(variance))),
    )  # fmt: skip


def plot(results: dict[str, dict[int, float]], file: Path) -> None:
    """Draw the makespan over its ideal by the number of rows of a shard, one line for each cluster."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for (name, found), marker in zip(results.items(), "os^Dv", strict=False):
        axes.plot(list(found), list(found.values()), marker=marker, label=name)
    axes.set_xscale("log")
    axes.set_xlabel("rows of a shard")
    axes.set_ylabel("time / ideal time")
    axes.set_ylim(1.0, 2.0)  # a line that leaves the picture is no good size
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(file, dpi=150)


def main() -> None:
    """Simulate some clusters, print a table, and draw it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--plot", type=Path, help="draw the table to this file")
    parser.add_argument("--measured", type=Path, help="the --json file of benchmarks/scale.py")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="a share of the files, for a quick look")
    options = parser.parse_args()
    base = Cluster() if options.measured is None else measured(options.measured, Cluster())
    clusters = {
        "10⁸ files, 400 workers, 0.05 failures an hour": base,
        "10⁸ files, 400 workers, 1 failure an hour": replace(base, failures=1.0),
        "10⁷ files, 40 workers, 1 failure an hour": replace(base, files=10_000_000, workers=40, failures=1.0),
        "10⁷ files, 400 workers, 1 failure an hour": replace(base, files=10_000_000, failures=1.0),
    }
    results: dict[str, dict[int, float]] = {}
    print(f"{'rows of a shard':48}" + "".join(f"{rows:>8}" for rows in SIZES))
    for name, cluster in clusters.items():
        cluster = replace(cluster, files=int(cluster.files * options.scale))
        results[name] = overheads(cluster, SIZES, options.draws)
        print(f"{name:48}" + "".join(f"{value:8.2f}" for value in results[name].values()), flush=True)
    shared = set.intersection(*(set(good_sizes(found)) for found in results.values()))
    best = min(SIZES, key=lambda rows: max(found[rows] / min(found.values()) for found in results.values()))
    print(
        f"within {GOOD - 1:.0%} of the best everywhere: {sorted(shared) or 'none'}; smallest regret: {best}"
    )
    if options.plot is not None:
        plot(results, options.plot)


if __name__ == "__main__":
    main()
