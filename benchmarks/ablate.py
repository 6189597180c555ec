"""Measures how much time `emodistill ablate` saves, compared to running each cell of its grid by itself.

    python benchmarks/ablate.py RAVDESS WHISPER_DIR [--speakers 4] [--set student.optim.epochs=3]
    python benchmarks/ablate.py CONTROLLED WHISPER_DIR --both MINILM_DIR

The first command has a prosodic teacher alone, and so five cells. The second command uses the corpus of
scripts/controlled.py, both teachers, and all seven cells. --speakers is the number of training speakers. In
the second command, dev and test have half as many speakers each.

First one process runs `emodistill ablate`. Then `emodistill crossval` runs each cell in a process of its own.
Then `emodistill ablate` runs again, so that a machine whose speed changes favours neither side. All start
from an empty cache. The cells share one cache; with --own-caches each has its own.

The script prints wall time and CPU time. On a busy machine, use CPU time. It also compares the predictions,
byte for byte.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from emodistill.corpora import read_corpus, read_manifest, write_manifest
from emodistill.corpora.base import Corpus, Utterance

THREADS = ("runtime.threads=1", "runtime.workers=1")
SETTINGS = (
    "corpus.name=ravdess-part", "protocol.kind=k-fold", "protocol.refit=false", "augment.views=2",
    "student.layers=2", "student.frozen=2", "student.pool=[1,2]", "student.probe=none",
)  # fmt: skip


def main() -> None:
    """Run both ways, and print the times."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path, help="folder of RAVDESS, or of scripts/controlled.py")
    parser.add_argument("backbone", type=Path, help="folder of the student's backbone")
    parser.add_argument("--speakers", type=int, default=4, help="use only the first training speakers")
    parser.add_argument(
        "--both", type=Path, metavar="ENCODER", help="use both teachers; folder of the text encoder"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a field of the recipe"
    )
    parser.add_argument("--own-caches", action="store_true", help="give each cell its own cache")
    given = parser.parse_args()
    if given.both is None:
        corpus = read_corpus("ravdess", given.corpus)
        chosen = tuple(replace(u, transcript=None) for u in _of_speakers(corpus, given.speakers))
        recipe, settings = "ravdess-whisper", [*SETTINGS, f"protocol.folds={given.speakers}"]
    else:
        corpus = read_manifest(given.corpus / "utterances.csv")
        parts = (("train", given.speakers), ("dev", given.speakers // 2), ("test", given.speakers // 2))
        chosen = tuple(
            utterance
            for split, number in parts
            for utterance in _of_speakers([u for u in corpus if u.split == split], number)
        )
        recipe, settings = "controlled", [f"linguistic.encoder={given.both.resolve()}"]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        write_manifest(Corpus("part", chosen), work / "utterances.csv")
        settings += [
            *THREADS, f"corpus.manifest={work / 'utterances.csv'}",
            f"student.backbone={given.backbone.resolve()}", *given.set,
        ]  # fmt: skip
        options = [text for setting in settings for text in ("--set", setting)]
        grids = [_grid([recipe, *options], work / "grid")]
        cells = sorted((work / "grid/cells").glob("*/seed-*"))
        alone = []
        for cell in cells:
            name, cache = cell.parent.name, work / "cache-alone"
            out = work / "alone" / name
            command = ["crossval", str(cell / "recipe.toml"), "--out", str(out)]
            alone.append(_timed(command, cache / name if given.own_caches else cache))
            print(f"{name} alone: {alone[-1][0]:.1f} s, {alone[-1][1]:.1f} s of CPU", flush=True)
            same = (out / "predictions.csv").read_bytes() == (cell / "predictions.csv").read_bytes()
            print(f"  same bytes in predictions.csv as in the grid: {same}", flush=True)
        grids.append(_grid([recipe, *options], work / "again"))
    wall, cpu = (sum(values) for values in zip(*alone, strict=True))
    grid = [sum(values) / len(grids) for values in zip(*grids, strict=True)]
    print(f"{len(chosen)} utterances, {len(cells)} cells of {recipe}")
    print(f"ablate, mean of two: {grid[0]:.1f} s, {grid[1]:.1f} s of CPU")
    print(f"one by one: {wall:.1f} s, {cpu:.1f} s of CPU")
    print(f"ratio: {wall / grid[0]:.2f} by wall time, {cpu / grid[1]:.2f} by CPU time")


def _of_speakers(utterances: Iterable[Utterance], number: int) -> tuple[Utterance, ...]:
    """Return the utterances of the first `number` speakers."""
    corpus = Corpus("part", tuple(utterances))
    return tuple(utterance for utterance in corpus if utterance.speaker in corpus.speakers[:number])


def _grid(arguments: list[str], out: Path) -> tuple[float, float]:
    """Return wall and CPU seconds of a whole grid that starts from an empty cache."""
    spent = _timed(["ablate", *arguments, "--out", str(out)], out.with_name(f"cache-{out.name}"))
    print(f"ablate: {spent[0]:.1f} s, {spent[1]:.1f} s of CPU", flush=True)
    return spent


def _timed(arguments: list[str], cache: Path) -> tuple[float, float]:
    """Return wall and CPU seconds of a command of emodistill, with those of its child processes."""
    environment = {**os.environ, "EMODISTILL_CACHE": str(cache)}
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-m", "emodistill", *arguments], env=environment, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - started, cpu


if __name__ == "__main__":
    main()
