"""Measures the time and the memory that a stereo call needs: each channel on its own against the mix.

    python benchmarks/channels.py FOLDER [--minutes 60] [--rate 44100] [--runs 1]
    python benchmarks/channels.py FOLDER --levels

FOLDER holds recordings of speech, in any format. The files are dealt to the two channels in turn. There are
two calls of the same length. In "turns" the speakers take turns, as in a real call. In "both" they speak at
the same time all the time, so there is twice as much speech to recognise as in the mix.

A measurement is a whole `emodistill timeline` in a process of its own, from the start of Python to the JSON
file. The ways are measured in turn, so that other work on the machine slows down all of them. Time is CPU
time, and the clock is beside it. Memory is the peak of the process (RSS).

With --levels, it measures instead how much speech the detector finds at lower levels, in 16 bits, against the
speech that it finds at a peak of 1.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import soxr

from emodistill.audio.decoding import SUFFIXES
from emodistill.audio.speech_activity import SpeechDetector, find_speech
from emodistill.audio.waveform import SAMPLE_RATE, Waveform, load, peak_normalise, remove_offset, trim_silence

WAYS = ("mix", "split")
PEAK = 0.5
PAUSE_S = 0.5  # after two utterances
TRIM_DB = 40.0
NUM_RECORDINGS = 200
PEAKS = (1.0, 0.1, 0.02, 0.01, 0.005, 0.003, 0.002, 0.001, 0.0005)


class Measurement(NamedTuple):
    """What one process needed."""

    cpu_s: float
    clock_s: float
    memory_mb: float


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="recordings of speech")
    parser.add_argument("--minutes", type=float, default=60.0, help="length of the call")
    parser.add_argument("--rate", type=int, default=44_100, help="of the call, in Hz")
    parser.add_argument("--runs", type=int, default=1, help="measurements of each way; the least counts")
    parser.add_argument("--adapt", default="none", help="the option of `emodistill timeline`")
    parser.add_argument("--levels", action="store_true", help="speech that is found at lower levels")
    given = parser.parse_args()
    files = sorted(path for path in given.folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if len(files) < 2:
        raise SystemExit(f"expected at least two recordings below '{given.folder}', found {len(files)}")
    if given.levels:
        print_levels(files)
        return
    print("| call | channels | CPU s | clock s | CPU against mix | peak MB |")
    print("| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for call in ("turns", "both"):
            path = Path(folder, f"{call}.wav")
            write_call(path, files, call == "turns", round(60 * given.minutes), given.rate)
            best: dict[str, Measurement] = {}
            for _ in range(given.runs):
                for way in WAYS:
                    measured = measure(path, way, given.adapt)
                    best[way] = min(measured, best.get(way, measured))
            for way, found in best.items():
                ratio = found.cpu_s / best["mix"].cpu_s
                cells = [call, way, f"{found.cpu_s:.1f}", f"{found.clock_s:.1f}", f"{ratio:.2f}"]
                print(f"| {' | '.join(cells)} | {found.memory_mb:.0f} |", flush=True)


def print_levels(files: Sequence[Path]) -> None:
    """Print the speech that is found in `NUM_RECORDINGS` of the files, at each of `PEAKS`."""
    chosen = np.random.default_rng(0).permutation(len(files))[:NUM_RECORDINGS]
    waveforms = [peak_normalise(remove_offset(load(files[place]))) for place in chosen]
    detector = SpeechDetector()
    print(f"{len(waveforms)} recordings\n| peak | speech against that at peak 1 | without speech |")
    print("| --- | --- | --- |")
    whole = 0
    for peak in PEAKS:
        lengths = []
        for waveform in waveforms:
            quiet = np.round(peak * 2**15 * waveform) / 2**15
            spans = find_speech(detector.probabilities(quiet.astype(np.float32)))
            lengths.append(sum(end - start for start, end in spans))
        whole = whole or sum(lengths)
        print(f"| {peak} | {100 * sum(lengths) / whole:.1f} % | {lengths.count(0)} |", flush=True)


def write_call(path: Path, files: Sequence[Path], in_turns: bool, length_s: int, rate_hz: int) -> None:
    """Write a stereo WAV in which two speakers take turns, or speak at the same time."""
    pause = np.zeros((round(PAUSE_S * SAMPLE_RATE), 2), dtype=np.float32)
    resampler = soxr.ResampleStream(SAMPLE_RATE, rate_hz, 2, "float32")
    utterances = map(utterance, cycle(files))
    left = length_s * rate_hz  # frames
    with soundfile.SoundFile(path, "w", rate_hz, 2, "PCM_16") as file:
        while left > 0:
            one, other = next(utterances), next(utterances)
            if in_turns:
                columns = [np.append(one, 0 * other), np.append(0 * one, other)]
            else:
                columns = [one, np.resize(other, len(one))]
            frames = resampler.resample_chunk(np.concatenate([np.stack(columns, axis=1), pause]))[:left]
            file.write(frames)
            left -= len(frames)


def utterance(path: Path) -> Waveform:
    """Return a recording (samples,) without the silence around it, at a peak of `PEAK`."""
    sound = trim_silence(remove_offset(load(path)), TRIM_DB)
    return np.asarray(PEAK * sound / max(float(np.abs(sound).max(initial=0.0)), 1e-9), dtype=np.float32)


def measure(path: Path, way: str, adapt: str) -> Measurement:
    """Return what one run of `emodistill timeline` needed."""
    command = [sys.executable, "-m", "emodistill", "timeline", str(path), "--channels", way]
    command += ["--adapt", adapt, "--output", str(path.with_suffix(".json"))]
    start = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"'{' '.join(command)}' failed with exit code {process.returncode}")
    clock_s = time.perf_counter() - start
    return Measurement(usage.ru_utime + usage.ru_stime, clock_s, usage.ru_maxrss / 1024)


if __name__ == "__main__":
    main()
