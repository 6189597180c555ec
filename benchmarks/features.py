"""Measures how much faster the eGeMAPS LLDs are over several processes, and from the cache.

python benchmarks/features.py RAVDESS [--utterances 480] [--workers 2] [--rounds 3]
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from emodistill.config import AudioConfig
from emodistill.corpora import Utterance, read_corpus
from emodistill.features.cache import ArrayCache
from emodistill.features.llds import cache_llds


def main() -> None:
    """Print the seconds of each round, and the median ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path, help="folder of RAVDESS")
    parser.add_argument("--utterances", type=int, default=480, help="number of utterances")
    parser.add_argument("--workers", type=int, default=2, help="number of processes")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    utterances = list(read_corpus("ravdess", given.corpus).utterances)[: given.utterances]
    processes: list[float] = []
    cached: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for round_ in range(given.rounds):
            one = _timed(utterances, 1, ArrayCache(Path(folder) / f"one-{round_}"))
            several = _timed(utterances, given.workers, ArrayCache(Path(folder) / f"several-{round_}"))
            again = _timed(utterances, 1, ArrayCache(Path(folder) / f"one-{round_}"))
            processes.append(one / several)
            cached.append(one / again)
            print(f"1 process {one:.2f} s · {given.workers} processes {several:.2f} s · cached {again:.3f} s")
    ratio, cached_ratio = statistics.median(processes), statistics.median(cached)
    print(f"median of {given.rounds} rounds:")
    print(f"{given.workers} processes are {ratio:.2f} × as fast as 1")
    print(f"reading the cache is {cached_ratio:.0f} × as fast as computing")


def _timed(utterances: list[Utterance], workers: int, cache: ArrayCache) -> float:
    """Return the seconds until the LLDs of all utterances are in memory."""
    started = time.perf_counter()
    for key in cache_llds(utterances, AudioConfig(), workers, cache):
        cache.read(key)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
