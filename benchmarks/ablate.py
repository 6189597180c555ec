"""The grid of an ablation against its cells run one by one, each with the same settings.

    python benchmarks/ablate.py RAVDESS WHISPER_DIR [--speakers 4] [--set student.optim.epochs=3]
    python benchmarks/ablate.py CONTROLLED WHISPER_DIR --both MINILM_DIR

The first has a prosodic teacher alone and so five cells; the second, over the corpus that scripts/controlled.py makes, both
teachers and all seven cells of the paper's ablation. --speakers is of training; in the second, half as many are dev and test.

One process runs `emodistill ablate`; then each of its cells is run by `emodistill crossval` in a process of its own,
as somebody without the verb would; then the grid once more, so that a machine that gets faster or slower meanwhile favours
neither. All start from an empty cache; the cells share theirs, as they would on one machine, or, with --own-caches, not. Wall
time and CPU time are printed: on a busy machine trust the second. Predictions are compared, byte for byte.
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
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("backbone", type=Path)
    parser.add_argument("--speakers", type=int, default=4, help="the first so many")
    parser.add_argument("--both", type=Path, metavar="ENCODER", help="of the linguistic teacher")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--own-caches", action="store_true", help="one by one, share no cache")
    given = parser.parse_args()
    if given.both is None:
        corpus = read_corpus("ravdess", given.corpus)
        chosen = _of_speakers(corpus, given.speakers)
        chosen = tuple(replace(u, transcript=None) for u in chosen)
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
            print(f"  predictions equal to the grid's, byte for byte: {same}", flush=True)
        grids.append(_grid([recipe, *options], work / "again"))
    wall, cpu = (sum(values) for values in zip(*alone, strict=True))
    grid = [sum(values) / len(grids) for values in zip(*grids, strict=True)]
    print(
        f"{len(chosen)} utterances, {len(cells)} cells of {recipe}\n"
        f"ablate, mean of two: {grid[0]:.1f} s, {grid[1]:.1f} s of CPU\none by one: {wall:.1f} s, {cpu:.1f} s of CPU\n"
        f"ratio: {wall / grid[0]:.2f} by wall time, {cpu / grid[1]:.2f} by CPU time"
    )


def _of_speakers(utterances: Iterable[Utterance], number: int) -> tuple[Utterance, ...]:
    """The utterances of the first so many speakers."""
    corpus = Corpus("part", tuple(utterances))
    return tuple(utterance for utterance in corpus if utterance.speaker in corpus.speakers[:number])


def _grid(arguments: list[str], out: Path) -> tuple[float, float]:
    """Seconds of a whole grid, from nothing."""
    spent = _timed(["ablate", *arguments, "--out", str(out)], out.with_name(f"cache-{out.name}"))
    print(f"ablate: {spent[0]:.1f} s, {spent[1]:.1f} s of CPU", flush=True)
    return spent


def _timed(arguments: list[str], cache: Path) -> tuple[float, float]:
    """Wall and CPU seconds of a command, its children's included."""
    environment = {**os.environ, "EMODISTILL_CACHE": str(cache)}
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-m", "emodistill", *arguments], env=environment, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - started, cpu


if __name__ == "__main__":
    main()
