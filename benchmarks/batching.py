"""Measures whether the server would be faster if it ran several requests as one batch.

    python benchmarks/batching.py runs --threads 1
    python benchmarks/batching.py runs --threads 2
    python benchmarks/batching.py parts

`runs` puts 16 files of 3 s through the bundled model: one at a time, and as batches of 2, 4, 8 and 16. A
single run uses one thread, as in the server, and --threads runs go on in parallel. A batch uses all threads.
All files have one length here. Real requests do not, so a batch would also cost padding, and waiting until it
is full. Rounds are interleaved and the median of the ratios within a round is printed, so that other work on
the machine slows all sizes equally.

`parts` measures where the CPU time of a request goes: the CPU time of the server, and in this process the
time of decoding, speech detection and the model.
"""

import argparse
import io
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
from serving import PORT, speech, start, wav

from emodistill import Recognizer
from emodistill.audio.recording import Recording
from emodistill.audio.waveform import SAMPLE_RATE, load_bounded
from emodistill.inference.model_card import BUNDLED
from emodistill.inference.speech_windows import speech_windows

NUM_FILES = 16
LENGTH_S = 3.0


def session(threads: int) -> onnxruntime.InferenceSession:
    """Return the bundled model with this number of threads for a run."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Idle threads must not take CPU time from the others.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(BUNDLED / "model.onnx", options, providers=["CPUExecutionProvider"])


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Return the wall seconds and the CPU seconds of this process that `work` takes."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def runs(threads: int, rounds: int) -> None:
    """Print the throughput of batches, divided by the throughput of single runs."""
    waveforms = np.stack([speech(LENGTH_S, seed) for seed in range(NUM_FILES)]).astype(np.float32) / 32768
    single, batched = session(1), session(threads)
    pool = ThreadPoolExecutor(threads)

    def alone() -> None:
        list(pool.map(lambda row: single.run(None, {"waveform": row[None]}), waveforms))

    def together(size: int) -> Callable[[], None]:
        def work() -> None:
            for first in range(0, NUM_FILES, size):
                batched.run(None, {"waveform": waveforms[first : first + size]})

        return work

    work_by_size = {1: alone, **{size: together(size) for size in (2, 4, 8, 16)}}
    times: dict[int, list[tuple[float, float]]] = {size: [] for size in work_by_size}
    for number in range(rounds + 2):
        order = np.random.default_rng(number).permutation(list(work_by_size))
        for size in order.tolist():
            seconds = timed(work_by_size[size])
            if number >= 2:  # the first runs of a graph are slow
                times[size].append(seconds)
    single_s = np.asarray(times[1])
    print(f"threads {threads}, {rounds} rounds of {NUM_FILES} files of {LENGTH_S:g} s")
    print("throughput divided by that of single runs, by wall time and by CPU time")
    print("| batch | wall time: median | 25 to 75 % | CPU time: median | 25 to 75 % |")
    print("| --- | --- | --- | --- | --- |")
    for size in work_by_size:
        wall, cpu = np.percentile(single_s / np.asarray(times[size]), [25, 50, 75], axis=0).T
        cells = [f"{median:.2f} | {low:.2f} to {high:.2f}" for low, median, high in (wall, cpu)]
        print(f"| {size} | {' | '.join(cells)} |")


def cpu_s(process: int) -> float:
    """Return the user and system time of a process so far, in seconds."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100  # Linux counts in ticks of 10 ms


def parts(num_requests: int) -> None:
    """Print the share of each part in the CPU time of a request."""
    import httpx2

    files = [wav(LENGTH_S, seed) for seed in range(NUM_FILES)]
    process = start(1)
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{PORT}", timeout=60) as http:
            for number in range(num_requests + 50):
                if number == 50:
                    before = cpu_s(process.pid)
                http.post(
                    "/v1/predict", files={"files": ("a.wav", files[number % NUM_FILES])}
                ).raise_for_status()
        whole_ms = 1000 * (cpu_s(process.pid) - before) / num_requests
    finally:
        process.terminate()
        process.wait()
    recognizer = Recognizer(threads=1)
    part_ms: dict[str, list[float]] = {name: [] for name in ("decoding", "speech detection", "the model")}
    for number in range(num_requests + 50):
        marks = [time.thread_time()]
        waveform = load_bounded(io.BytesIO(files[number % NUM_FILES]), 600.0)
        marks.append(time.thread_time())
        windows = speech_windows(Recording(waveform, SAMPLE_RATE), recognizer._detector)
        assert not isinstance(windows, str), "the files hold speech"
        listed = list(windows)
        marks.append(time.thread_time())
        recognizer._mean_probabilities(recognizer._run_windows(listed))
        marks.append(time.thread_time())
        if number >= 50:  # the first requests are slow
            for name, seconds in zip(part_ms, np.diff(marks).tolist(), strict=True):
                part_ms[name].append(1000 * seconds)
    means = {name: float(np.mean(values)) for name, values in part_ms.items()}
    means["the rest: HTTP, form, JSON, threads"] = whole_ms - sum(means.values())
    print(f"CPU time of a request to /v1/predict: {whole_ms:.2f} ms")
    print(f"{num_requests} requests of {LENGTH_S:g} s")
    print("| part | share |\n| --- | --- |")
    for name, mean_ms in means.items():
        print(f"| {name} | {mean_ms / whole_ms:.0%} |")


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["runs", "parts"])
    parser.add_argument("--threads", type=int, default=1, help="for runs: threads in all")
    parser.add_argument("--rounds", type=int, default=40, help="for runs")
    parser.add_argument("--requests", type=int, default=400, help="for parts")
    given = parser.parse_args()
    if given.what == "runs":
        runs(given.threads, given.rounds)
    else:
        parts(given.requests)


if __name__ == "__main__":
    main()
