"""Fuzz every reader of outside bytes with atheris: inputs are mutated to reach code that no input reached.

    python -m pip install atheris
    python scripts/fuzz.py --seconds 600                    # all targets, the same time for each
    python scripts/fuzz.py --seconds 120 --target segments  # one target
    python scripts/fuzz.py --target segments --input FILE   # one input again

The targets stand in `tests/fuzz_targets.py`. The folder (--out) gets the corpus of each target, an input for
each finding as small as the script can make it, and `cpu.csv` with the CPU seconds. A finding is an error
that the reader must not raise, a crash, an input that takes over 10 s, or one that takes over 2 GB.
"""

import argparse
import csv
import hashlib
import importlib
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
MAX_INPUT_S, MAX_RSS_MB, MAX_INPUT_BYTES = 10, 2048, 65_536
MINIMISE_S = 20.0
ALLOWED_CODES = (0, 77)  # of libFuzzer: the time is over; a finding, which is saved
MODULES = ["emodistill", "tomllib"]  # that are measured


def main() -> None:
    """Fuzz targets, each in processes of their own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0, help="of all targets together")
    parser.add_argument("--target", action="append", default=[], help="repeatable; default: all")
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "emodistill-fuzz")
    parser.add_argument("--input", type=Path, help="read this input once, and show its error")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
    sys.path.insert(0, str(ROOT / "tests"))
    if given.child:
        _fuzz_here(given.target[0], given.seconds, given.out)
        return
    targets = importlib.import_module("fuzz_targets").TARGETS
    names = given.target or list(targets)
    for name in names:
        if name not in targets:
            sys.exit(f"bad target '{name}', expected one of {list(targets)}")
    if given.input is not None:
        with tempfile.TemporaryDirectory() as folder:
            targets[names[0]].try_input(given.input.read_bytes(), Path(folder))
        return
    found = 0
    for name in names:
        found += _fuzz(name, given.seconds / len(names), given.out)
    sys.exit(1 if found else 0)


def _fuzz(name: str, seconds: float, out: Path) -> int:
    """Fuzz one target, and return the number of its findings. A process that crashes is started again."""
    began, used_before = time.monotonic(), _child_seconds()
    crashes = out / "findings" / name
    before = set(crashes.glob("*")) if crashes.is_dir() else set()
    while (left_s := seconds - (time.monotonic() - began)) > 2:
        command = [sys.executable, __file__, "--child", "--target", name, "--seconds", str(left_s),
                   "--out", str(out)]  # fmt: skip
        log = out / "logs" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as stream:
            done = subprocess.run(command, stdout=stream, stderr=stream, check=False)
        if done.returncode == 0:
            break
    found = sorted(path for path in set(crashes.glob("*")) - before if path.suffix != ".txt")
    cpu_s = _child_seconds() - used_before
    table = out / "cpu.csv"
    is_new = not table.is_file()
    with table.open("a", newline="") as file:
        writer = csv.writer(file)
        if is_new:
            writer.writerow(["target", "cpu_s", "findings"])
        writer.writerow([name, f"{cpu_s:.1f}", len(found)])
    print(f"{name}: {cpu_s:.0f} CPU seconds, {len(found)} findings", *found, sep="\n  ", flush=True)
    return len(found)


def _child_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _fuzz_here(name: str, seconds: float, out: Path) -> None:
    """Fuzz one target in this process."""
    import atheris

    corpus, crashes = out / "corpus" / name, out / "findings" / name
    corpus.mkdir(parents=True, exist_ok=True)
    crashes.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="emodistill-fuzz-"))
    with atheris.instrument_imports(include=MODULES):
        target = importlib.import_module("fuzz_targets").TARGETS[name]
        seeds = list(target.seeds())
        for seed in seeds:  # It imports what the reader imports on demand.
            target.try_input(seed, folder)
    for seed in seeds:
        (corpus / hashlib.sha1(seed).hexdigest()).write_bytes(seed)
    known = {path.name.split("-")[0] for path in crashes.glob("*")}

    def test_one_input(data: bytes) -> None:
        try:
            target.try_input(data, folder)
        except Exception as error:  # each is a finding
            place = _place(error)
            if place not in known:
                known.add(place)
                small = _minimised(lambda part: _failure(target, part, folder) == place, data)
                (crashes / f"{place}-{type(error).__name__}").write_bytes(small)
                text = "".join(traceback.format_exception(error))
                (crashes / f"{place}-{type(error).__name__}.txt").write_text(text, errors="replace")

    options = [
        sys.argv[0], str(corpus), f"-max_total_time={round(seconds)}", f"-timeout={MAX_INPUT_S}",
        f"-rss_limit_mb={MAX_RSS_MB}", f"-max_len={MAX_INPUT_BYTES}", f"-artifact_prefix={crashes}/native-",
        "-print_final_stats=1", "-verbosity=0",
    ]  # fmt: skip
    atheris.Setup(options, test_one_input)
    atheris.Fuzz()


def _place(error: BaseException) -> str:
    """Return a short name of where an error came from: its kind, and the last lines of our code in it."""
    frames = [
        f"{frame.filename}:{frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if "emodistill" in Path(frame.filename).parts or "fuzz_targets" in frame.filename
    ]
    return hashlib.sha1(f"{type(error).__name__} {frames[-2:]}".encode()).hexdigest()[:10]


def _failure(target: Any, data: bytes, folder: Path) -> str | None:
    try:
        target.try_input(data, folder)
    except Exception as error:
        return _place(error)
    return None


def _minimised(fails: Callable[[bytes], bool], data: bytes) -> bytes:
    """Return a smaller input that fails in the same way, without pieces that it does not need."""
    until = time.monotonic() + MINIMISE_S
    size = max(1, len(data) // 2)
    signal.alarm(0)
    while size >= 1 and time.monotonic() < until:
        start = 0
        while start < len(data) and time.monotonic() < until:
            shorter = data[:start] + data[start + size :]
            if fails(shorter):
                data = shorter
            else:
                start += size
        size //= 2
    return data


if __name__ == "__main__":
    main()
