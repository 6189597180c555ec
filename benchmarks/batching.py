"""Would it pay to judge several requests as one batch? Single runs of the model beside batches, in one run of this script.

    python benchmarks/batching.py runs --threads 1
    python benchmarks/batching.py runs --threads 2
    python benchmarks/batching.py parts

`runs`: 16 files of 3 s through the bundled model, one at a time on so many threads (each run on one thread, as the server
does) and as batches of 2, 4, 8 and 16 (each run on all of these threads). They are cut to one length here, which
real requests never have: what a batch would cost for padding, and for waiting until it is full, comes on top. Rounds
are interleaved, and the median of the ratios within a round is printed, so that other work on the machine weighs alike on all.

`parts`: where the CPU time of a request goes. The server's own time for a request (user and system, of its process) beside
the time for decoding, looking for speech and running the model, measured by thread in this process.
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

NUM_FILES = 16
LENGTH_S = 3.0


def session(threads: int) -> onnxruntime.InferenceSession:
    """The bundled model on so many threads a run."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry(
        "session.intra_op.allow_spinning", "0"
    )  # idle threads leave the cores to others
    return onnxruntime.InferenceSession(BUNDLED / "model.onnx", options, providers=["CPUExecutionProvider"])


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds of this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def runs(threads: int, rounds: int) -> None:
    """Throughput of batches over that of single runs."""
    waveforms = np.stack([speech(LENGTH_S, seed) for seed in range(NUM_FILES)]).astype(np.float32) / 32768
    single, batched = session(1), session(threads)
    pool = ThreadPoolExecutor(threads)

    def alone() -> None:
        list(pool.map(lambda row: single.run(None, {"waveform": row[None]}), waveforms))

    def together(size: int) -> Callable[[], None]:
        def work() -> None:
            for at in range(0, NUM_FILES, size):
                batched.run(None, {"waveform": waveforms[at : at + size]})

        return work

    ways = {1: alone, **{size: together(size) for size in (2, 4, 8, 16)}}
    taken: dict[int, list[tuple[float, float]]] = {size: [] for size in ways}
    for number in range(rounds + 2):
        order = np.random.default_rng(number).permutation(list(ways))
        for size in order.tolist():
            lasted = timed(ways[size])
            if number >= 2:  # the first runs of a graph are slow
                taken[size].append(lasted)
    base = np.asarray(taken[1])
    print(
        f"threads {threads}, {rounds} rounds of {NUM_FILES} files of {LENGTH_S:g} s; throughput over single runs, by the clock and by CPU time"
    )
    print(
        "| batch | clock: median | 25 to 75 % | CPU time: median | 25 to 75 % |\n| --- | --- | --- | --- | --- |"
    )
    for size in ways:
        wall, cpu = np.percentile(base / np.asarray(taken[size]), [25, 50, 75], axis=0).T
        print(
            f"| {size} | {wall[1]:.2f} | {wall[0]:.2f} to {wall[2]:.2f} | {cpu[1]:.2f} | {cpu[0]:.2f} to {cpu[2]:.2f} |"
        )


def cpu_s(process: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100  # clock ticks, 100 a second on Linux


def parts(num_requests: int) -> None:
    """The shares of a request's CPU time."""
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
        whole = 1000 * (cpu_s(process.pid) - before) / num_requests
    finally:
        process.terminate()
        process.wait()
    recognizer = Recognizer(threads=1)
    found: dict[str, list[float]] = {name: [] for name in ("decoding", "looking for speech", "the model")}
    for number in range(num_requests + 50):
        marks = [time.thread_time()]
        waveform = load_bounded(io.BytesIO(files[number % NUM_FILES]), 600.0)
        marks.append(time.thread_time())
        windows = list(recognizer._speech(Recording(waveform, SAMPLE_RATE)) or ())
        marks.append(time.thread_time())
        recognizer._averaged(windows)
        marks.append(time.thread_time())
        for name, lasted in zip(found, np.diff(marks), strict=True):
            found[name] += [1000 * lasted] * (number >= 50)
    means = {name: float(np.mean(values)) for name, values in found.items()}
    means["HTTP, form, JSON, threads: the rest"] = whole - sum(means.values())
    print(f"CPU time of a request to /v1/predict, {num_requests} requests of {LENGTH_S:g} s: {whole:.2f} ms")
    print("| part | share |\n| --- | --- |")
    for name, lasted in means.items():
        print(f"| {name} | {lasted / whole:.0%} |")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["runs", "parts"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--requests", type=int, default=400)
    asked = parser.parse_args()
    if asked.what == "runs":
        runs(asked.threads, asked.rounds)
    else:
        parts(asked.requests)


if __name__ == "__main__":
    main()
