"""Emotion over time, measured: compute per hop, latency of segments, memory and speed over hours.

    python benchmarks/streaming.py [--model DIR] [--speech DIR] [--minutes 5] [--hours 3] [--quick]
    python benchmarks/streaming.py [--model DIR] --changes MANIFEST [--speakers 4,10,12,14]

Speech is cut from the recordings below --speech (synthetic without it), with pauses of 0.7 to 1.5 s between
utterances. Three measurements, each on one thread:

* compute: milliseconds of work for each hop of 0.5 s, by the clock and of CPU;
* latency: from the last loud sample of an utterance (within 40 dB of its loudest frame) to the push that
  returns its segment, in audio time with chunks of 20 ms, and with the compute of that push added;
* memory: the peak of a process of its own that makes the timeline of a recording of so many hours.

With --changes: how well segments follow speech whose emotion is known and changes, for several prices of a
change. Utterances of one speaker are joined without pauses, six emotions of one to three utterances each, or one
emotion of six. This is what CHANGE_COST was chosen by, on dev speakers.
"""

import argparse
import hashlib
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
from emodistill.corpora import read_manifest
from emodistill.inference import segmentation as segments_module
from emodistill.inference.recognizer import Recognizer
from emodistill.inference.segmentation import HOP_S
from emodistill.inference.streaming import Segment, StreamingRecognizer

CHILD = """
import resource, sys, time
from emodistill.inference.recognizer import Recognizer
from emodistill.inference.timelines import timeline
recognizer = Recognizer(sys.argv[1], threads=1)
started = time.perf_counter()
found = timeline(sys.argv[2], recognizer)
took = time.perf_counter() - started
print(found.duration_s, len(found.segments), took, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="bundled", help="bundled, or the folder of an exported model")
    parser.add_argument("--speech", type=Path, help="a folder with recordings of single utterances")
    parser.add_argument("--minutes", type=float, default=5.0, help="of the stream")
    parser.add_argument("--hours", type=float, default=3.0, help="of the file; 0: none")
    parser.add_argument("--quick", action="store_true", help="one minute, and a file of six")
    parser.add_argument("--changes", type=Path, help="a manifest of corpus prepare")
    parser.add_argument("--speakers", help="of the manifest, e.g. 4,10; default: all")
    given = parser.parse_args()
    if given.changes:
        changes(Recognizer(given.model, threads=1), given.changes, given.speakers)
        return
    minutes, hours = (1.0, 0.1) if given.quick else (given.minutes, given.hours)
    recognizer = Recognizer(given.model, threads=1)
    waveform, ends = programme(given.speech, 60 * minutes)
    print(f"model {given.model}, {len(waveform) / SAMPLE_RATE:.0f} s with {len(ends)} utterances, one thread")
    compute(recognizer, waveform)
    latency(recognizer, waveform, ends)
    if hours:
        memory(given.model, waveform, hours)


def programme(folder: Path | None, length_s: float) -> tuple[np.ndarray, list[int]]:
    """Utterances with pauses between them, and the sample at which each has ended."""
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
    # A trace of noise: digital silence is too easy to hear.
    waveform = np.concatenate(parts) + 1e-4 * rng.standard_normal(total)
    return waveform.astype(np.float32), ends


def synthetic(length_s: float, rng: np.random.Generator) -> np.ndarray:
    """Something voiced with syllables."""
    at = np.arange(round(length_s * SAMPLE_RATE)) / SAMPLE_RATE
    phase = 2 * np.pi * np.cumsum(rng.uniform(90, 240) * (1 + 0.15 * np.sin(2 * np.pi * at))) / SAMPLE_RATE
    voice = sum(np.sin(k * phase) / k for k in range(1, 12)) * (0.3 + np.abs(np.sin(2 * np.pi * 3 * at)))
    return np.asarray(0.3 * voice / np.abs(voice).max(), dtype=np.float32)


def compute(recognizer: Recognizer, waveform: np.ndarray) -> None:
    """Work for each hop."""
    size = round(HOP_S * SAMPLE_RATE)
    stream = StreamingRecognizer(recognizer)
    stream.push(waveform[: 10 * size])  # warm
    took, used = [], []
    for start in range(10 * size, len(waveform) - size, size):
        started, cpu = time.perf_counter(), time.thread_time()
        stream.push(waveform[start : start + size])
        used.append(1000 * (time.thread_time() - cpu))
        took.append(1000 * (time.perf_counter() - started))
    for what, values in (("by the clock", took), ("CPU alone", used)):  # they differ on a busy machine
        p50, p99 = np.percentile(values, [50, 99])
        print(f"compute per hop of {HOP_S} s, {what}: p50 {p50:.1f} ms, p99 {p99:.1f} ms, most {max(values):.1f} ms; "
              f"{sum(values) / (len(values) * HOP_S):.1f} ms for a second of audio")  # fmt: skip


def latency(recognizer: Recognizer, waveform: np.ndarray, ends: list[int]) -> None:
    """From the end of an utterance to its segment."""
    size = SAMPLE_RATE // 50
    stream = StreamingRecognizer(recognizer)
    audio_ms, all_ms, after_ms = [], [], []
    for start in range(0, len(waveform), size):
        started = time.perf_counter()
        events = stream.push(waveform[start : start + size])
        took = 1000 * (time.perf_counter() - started)
        closed = [event for event in events if isinstance(event, Segment)][-1:]
        for segment in closed:
            now_s = (start + size) / SAMPLE_RATE
            # Its last breath may be no speech to the detector; later than 0.69 s is the next utterance.
            spoken = [end / SAMPLE_RATE for end in ends if -0.69 < end / SAMPLE_RATE - segment.end_s < 1.5]
            after_ms.append(1000 * (now_s - segment.end_s))
            if spoken:  # else it ended at a pause inside an utterance
                audio_ms.append(1000 * (now_s - spoken[0]))
                all_ms.append(audio_ms[-1] + took)
    for what, values in (
        ("segment's end → event, audio time", after_ms),
        ("last loud sample → event, audio time", audio_ms),
        ("the same and compute", all_ms),
    ):
        p50, p99 = np.percentile(values, [50, 99])
        print(f"{what}: p50 {p50:.0f} ms, p99 {p99:.0f} ms, most {max(values):.0f} ms (n = {len(values)})")


def memory(model: str, waveform: np.ndarray, hours: float) -> None:
    """The peak of a process that reads so many hours, beside one that reads a minute."""
    with tempfile.TemporaryDirectory() as folder:
        for length_s in (60.0, 3600 * hours):
            path = Path(folder) / "long.flac"
            left = round(length_s * SAMPLE_RATE)
            with soundfile.SoundFile(path, "w", SAMPLE_RATE, 1) as file:
                while left > 0:
                    file.write(waveform[:left])
                    left -= len(waveform)
            done = subprocess.run(
                [sys.executable, "-c", CHILD, model, str(path)], capture_output=True, text=True, check=True
            )
            duration_s, segments, took_s, peak_mb = done.stdout.split()
            print(f"a file of {float(duration_s) / 3600:.2f} h: {segments} segments, {float(took_s):.1f} s "
                  f"({float(duration_s) / float(took_s):.0f} × real time), peak {float(peak_mb):.0f} MB")  # fmt: skip


def changes(recognizer: Recognizer, manifest: Path, speakers: str | None) -> None:
    """Segments of joined utterances against what they are known to be."""
    by_speaker: dict[str, dict[str, list[Path]]] = {}
    for utterance in read_manifest(manifest):
        chosen = speakers is None or utterance.speaker in speakers.split(",")
        if chosen and utterance.emotion in recognizer.emotions:
            emotions = by_speaker.setdefault(utterance.speaker, {})
            emotions.setdefault(utterance.emotion, []).append(utterance.path)
    judged = Remembering(recognizer)
    print("| price | time right, changing | segments / true | time right, steady | segments / true |")
    print("| --- | --- | --- | --- | --- |")
    for cost in (0.5, 1.0, 1.5, 2.0, 3.0, 4.0):
        segments_module.CHANGE_COST = cost
        row = [f"{cost}"]
        for num_emotions in (6, 1):
            right = heard = found = 0
            rng = np.random.default_rng(1)
            for number in range(24):
                spoken = by_speaker[sorted(by_speaker)[number % len(by_speaker)]]
                waveform, truth = joined(spoken, num_emotions, rng)
                judge = segments_module.WindowScorer(judged)
                judge.append(waveform)
                stretch = segments_module.Stretch(judge, 0)
                for event in (*stretch.reach(len(waveform)), *stretch.close(len(waveform))):
                    if isinstance(event, Segment):
                        span = slice(round(event.start_s * SAMPLE_RATE), round(event.end_s * SAMPLE_RATE))
                        right += int((truth[span] == event.emotion).sum())
                        heard += len(truth[span])
                        found += 1
            row += [f"{100 * right / heard:.1f} %", f"{found / (24 * num_emotions):.2f}"]
        print("| " + " | ".join(row) + " |", flush=True)


def joined(
    spoken: dict[str, list[Path]], num_emotions: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A waveform (samples,) and the emotion of each of its samples."""
    parts, truth, last = [], [], ""
    for _ in range(num_emotions):
        last = str(rng.choice([name for name in sorted(spoken) if name != last]))
        num = min(len(spoken[last]), int(rng.integers(1, 4)) if num_emotions > 1 else 6)
        for place in rng.choice(len(spoken[last]), num, replace=False):
            parts.append(trim_silence(load(spoken[last][place]), 35.0))
            truth += [last] * len(parts[-1])
    return np.concatenate(parts), np.array(truth)


class Remembering:
    """A recogniser that judges every window once."""

    def __init__(self, recognizer: Recognizer) -> None:
        self.emotions, self.min_confidence = recognizer.emotions, 0.0
        self._recognizer = recognizer
        self._known: dict[bytes, np.ndarray] = {}

    def probabilities(self, waveform: np.ndarray) -> np.ndarray:
        """(emotions,) of a waveform (samples,)."""
        key = hashlib.sha256(waveform.tobytes()).digest()
        if key not in self._known:
            self._known[key] = self._recognizer.probabilities(waveform)
        return self._known[key]


if __name__ == "__main__":
    main()
