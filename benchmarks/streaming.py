"""Measures streams and timelines: compute for each hop, latency of segments, memory for hours of audio.

    python benchmarks/streaming.py [--model DIR] [--speech DIR] [--minutes 5] [--hours 3] [--quick]

The speech is made of the recordings in and below --speech, with pauses of 0.7 to 1.5 s. Without --speech it
is synthetic. There are three measurements, each on one thread:

* Compute: wall and CPU milliseconds for each hop of 0.5 s.
* Latency: from the last loud sample of an utterance to the push that returns its segment, without
  smoothing. Loud means within 40 dB of the loudest frame. Latency is in audio time with chunks of 20 ms,
  without and with the compute of that push.
* Memory: the peak of a separate process that makes the timeline of a recording of --hours.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import soundfile

from emodistill.audio.decoding import MEDIA_SUFFIXES, SUFFIXES
from emodistill.audio.waveform import SAMPLE_RATE, load, trim_silence
from emodistill.inference.recognizer import Recognizer
from emodistill.inference.segmentation import Segment
from emodistill.inference.segmentation_options import HOP_S
from emodistill.inference.streaming import StreamingRecognizer

CHILD = """
import resource, sys, time
from emodistill.inference.recognizer import Recognizer
from emodistill.inference.timelines import timeline
recognizer = Recognizer(sys.argv[1], threads=1)
started = time.perf_counter()
result = timeline(sys.argv[2], recognizer)
seconds = time.perf_counter() - started
peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(result.duration_s, len(result.segments), seconds, peak_mb)
"""


def main() -> None:
    """Measure what the command line names, and print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="bundled", help="bundled, or the folder of an exported model")
    parser.add_argument("--speech", type=Path, help="folder with recordings of single utterances")
    parser.add_argument("--minutes", type=float, default=5.0, help="length of the stream")
    parser.add_argument("--hours", type=float, default=3.0, help="length of the file; 0: no file")
    parser.add_argument("--quick", action="store_true", help="a stream of one minute, and a file of six")
    given = parser.parse_args()
    minutes, hours = (1.0, 0.1) if given.quick else (given.minutes, given.hours)
    recognizer = Recognizer(given.model, threads=1)
    waveform, ends = programme(given.speech, 60 * minutes)
    print(f"model {given.model}, {len(waveform) / SAMPLE_RATE:.0f} s with {len(ends)} utterances, one thread")
    compute(recognizer, waveform)
    latency(recognizer, waveform, ends)
    if hours:
        memory(given.model, waveform, hours)


def programme(folder: Path | None, length_s: float) -> tuple[np.ndarray, list[int]]:
    """Return utterances with pauses between them, (samples,), and the index of the last sample of each."""
    rng = np.random.default_rng(0)
    files = sorted(
        path for path in (folder.rglob("*") if folder else ()) if path.suffix in (*SUFFIXES, *MEDIA_SUFFIXES)
    )
    parts: list[np.ndarray] = []
    ends: list[int] = []
    total = 0
    while total < length_s * SAMPLE_RATE:
        if files:
            spoken = trim_silence(load(files[rng.integers(len(files))]), 40.0)
        else:
            spoken = synthetic(rng.uniform(1.0, 6.0), rng)
        pause = np.zeros(round(rng.uniform(0.7, 1.5) * SAMPLE_RATE), dtype=np.float32)
        parts += [spoken, pause]
        ends.append(total + len(spoken))
        total += len(spoken) + len(pause)
    # A little noise, because digital silence is too easy for the speech detector.
    waveform = np.concatenate(parts) + 1e-4 * rng.standard_normal(total)
    return waveform.astype(np.float32), ends


def synthetic(length_s: float, rng: np.random.Generator) -> np.ndarray:
    """Return a voiced sound (samples,) with syllables."""
    time_s = np.arange(round(length_s * SAMPLE_RATE)) / SAMPLE_RATE
    pitch_hz = rng.uniform(90, 240) * (1 + 0.15 * np.sin(2 * np.pi * time_s))
    phase = 2 * np.pi * np.cumsum(pitch_hz) / SAMPLE_RATE
    voice = sum(np.sin(k * phase) / k for k in range(1, 12)) * (0.3 + np.abs(np.sin(2 * np.pi * 3 * time_s)))
    return np.asarray(0.3 * voice / np.abs(voice).max(), dtype=np.float32)


def compute(recognizer: Recognizer, waveform: np.ndarray) -> None:
    """Print the wall and CPU time for each hop."""
    size = round(HOP_S * SAMPLE_RATE)
    stream = StreamingRecognizer(recognizer, SAMPLE_RATE)
    stream.push(waveform[: 10 * size])  # warm
    wall_ms, cpu_ms = [], []
    for start in range(10 * size, len(waveform) - size, size):
        started, cpu = time.perf_counter(), time.thread_time()
        stream.push(waveform[start : start + size])
        cpu_ms.append(1000 * (time.thread_time() - cpu))
        wall_ms.append(1000 * (time.perf_counter() - started))
    for name, values in (("wall time", wall_ms), ("CPU time", cpu_ms)):  # they differ on a busy machine
        p50, p99 = np.percentile(values, [50, 99])
        per_second = sum(values) / (len(values) * HOP_S)
        print(f"compute per hop of {HOP_S} s, {name}: p50 {p50:.1f} ms, p99 {p99:.1f} ms, ", end="")
        print(f"most {max(values):.1f} ms; {per_second:.1f} ms for a second of audio")


def latency(recognizer: Recognizer, waveform: np.ndarray, ends: list[int]) -> None:
    """Print the time from the end of an utterance to its segment."""
    size = SAMPLE_RATE // 50
    stream = StreamingRecognizer(recognizer, SAMPLE_RATE, smooth_s=0.0)
    audio_ms, total_ms, after_ms = [], [], []
    for start in range(0, len(waveform), size):
        started = time.perf_counter()
        events = stream.push(waveform[start : start + size])
        compute_ms = 1000 * (time.perf_counter() - started)
        closed = [event for event in events if isinstance(event, Segment)][-1:]
        for segment in closed:
            now_s = (start + size) / SAMPLE_RATE
            # A segment may end before the utterance, at a last breath. It never ends 0.69 s after it.
            ends_s = [end / SAMPLE_RATE for end in ends if -0.69 < end / SAMPLE_RATE - segment.end_s < 1.5]
            after_ms.append(1000 * (now_s - segment.end_s))
            if ends_s:  # otherwise the segment ended at a pause inside an utterance
                audio_ms.append(1000 * (now_s - ends_s[0]))
                total_ms.append(audio_ms[-1] + compute_ms)
    for name, values in (
        ("end of the segment → event, audio time", after_ms),
        ("last loud sample → event, audio time", audio_ms),
        ("last loud sample → event, audio time and compute", total_ms),
    ):
        p50, p99 = np.percentile(values, [50, 99])
        print(f"{name}: p50 {p50:.0f} ms, p99 {p99:.0f} ms, most {max(values):.0f} ms (n = {len(values)})")


def memory(model: str, waveform: np.ndarray, hours: float) -> None:
    """Print the peak memory of a process that reads `hours`, and of one that reads a minute."""
    with tempfile.TemporaryDirectory() as folder:
        for length_s in (60.0, 3600 * hours):
            path = Path(folder) / "long.flac"
            num_left = round(length_s * SAMPLE_RATE)
            with soundfile.SoundFile(path, "w", SAMPLE_RATE, 1) as file:
                while num_left > 0:
                    file.write(waveform[:num_left])
                    num_left -= len(waveform)
            done = subprocess.run(
                [sys.executable, "-c", CHILD, model, str(path)], capture_output=True, text=True, check=True
            )
            duration_s, segments, seconds, peak_mb = map(float, done.stdout.split())
            print(f"a file of {duration_s / 3600:.2f} h: {segments:.0f} segments, {seconds:.1f} s ", end="")
            print(f"({duration_s / seconds:.0f} × real time), peak {peak_mb:.0f} MB")


if __name__ == "__main__":
    main()
