"""eGeMAPS LLDs, side by side in one run: over processes against one, and cached against computed.

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
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--utterances", type=int, default=480)
    parser.add_argument("--workers", type=int, default=2)
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
    print(
        f"{given.workers} processes against 1: {statistics.median(processes):.2f} × (median of {given.rounds})"
    )
    print(f"cached against computed: {statistics.median(cached):.0f} ×")


def _timed(utterances: list[Utterance], workers: int, cache: ArrayCache) -> float:
    """Seconds until every LLD of every utterance is in memory."""
    started = time.perf_counter()
    for key in cache_llds(utterances, AudioConfig(), workers, cache):
        cache.read(key)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
