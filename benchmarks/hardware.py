"""A provider of ONNX Runtime beside the CPU: equality of the answers, and speed.

    python benchmarks/hardware.py --provider openvino FILE_OR_FOLDER… [--model bundled] [--rounds 5]

Both recognisers run the model on the same windows of speech, one thread each. They take turns at each window,
so that other work on the machine slows both alike. The speech is found once. The first run of a window is not
counted, because many providers compile the model for each new length.

The table gives the largest difference of a probability and of an embedding, the share of windows with equal
emotions, milliseconds for a second of audio, and the speed ratio. Times are medians over windows and rounds.
Above 1, the provider is faster than the CPU. The exit code is 1 if a probability differs by more than 1e-3.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime

from emodistill import Recognizer
from emodistill.audio.recording import Recording
from emodistill.audio.speech_activity import SpeechDetector
from emodistill.audio.waveform import SAMPLE_RATE, Waveform
from emodistill.inference.input_files import find_audio_files
from emodistill.inference.speech_windows import speech_windows

TOLERANCE = 1e-3  # largest difference of a probability


def windows_of(files: list[Path]) -> list[Waveform]:
    """Return the windows of speech of all files."""
    detector = SpeechDetector()
    found = (speech_windows(Recording(str(file), None), detector) for file in files)
    return [window for windows in found if not isinstance(windows, str) for window in windows]


def timed_s(recognizer: Recognizer, window: Waveform) -> float:
    """Return the seconds of one run of the model."""
    start = time.perf_counter()
    recognizer.run(window)
    return time.perf_counter() - start


def main() -> int:
    """Print the table and return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--provider", required=True)
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    windows = windows_of(find_audio_files(given.paths).files)
    if not windows:
        parser.error("no file has speech")
    cpu, other = (Recognizer(given.model, threads=1, provider=name) for name in ("cpu", given.provider))
    first, same = [0.0, 0.0], 0
    seconds: list[tuple[float, float]] = []  # of the CPU and of the provider, for one second of audio
    first_s: list[float] = []
    for window in windows:
        length_s = len(window) / SAMPLE_RATE
        begin = time.perf_counter()
        found = other.run(window)
        first_s.append((time.perf_counter() - begin) / length_s)
        expected = cpu.run(window)
        for index, name in enumerate(("probabilities", "embedding")):
            first[index] = max(first[index], float(np.abs(found[name] - expected[name]).max()))
        same += int(found["probabilities"].argmax() == expected["probabilities"].argmax())
        for _ in range(given.rounds):
            seconds.append((timed_s(cpu, window) / length_s, timed_s(other, window) / length_s))
    cpu_ms, other_ms = (1000 * statistics.median(column) for column in zip(*seconds, strict=True))
    ratio = statistics.median(on_cpu / on_other for on_cpu, on_other in seconds)
    print(f"ONNX Runtime {onnxruntime.__version__}, {given.model}, {len(windows)} windows, one thread\n")
    print(
        "| provider | probability differs by | embedding by | same emotion | ms per s of audio | first run | "
        "speed ratio |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    print(f"| cpu | 0 | 0 | 100 % | {cpu_ms:.1f} | | 1 |")
    print(
        f"| {given.provider} | {first[0]:.1e} | {first[1]:.1e} | {100 * same / len(windows):.1f} % | "
        f"{other_ms:.1f} | {1000 * statistics.median(first_s):.1f} | {ratio:.2f} |"
    )
    return int(first[0] > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
