"""Measures the load that one server can take.

    python benchmarks/serving.py requests --clients 16 --requests 800     # requests a second, and latency
    python benchmarks/serving.py streams --streams 10 20 40 60            # latency of real-time streams
    python benchmarks/serving.py memory --requests 10000 --streams 1000   # memory before and after

Each command starts `emodistill serve` with the bundled model on this machine. The load generator runs on the
same cores. The speech is the demo corpus. The latency of an event is the time from the end of speech, as it
was sent, to the arrival of the event.
"""

import argparse
import asyncio
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import numpy as np
import soundfile
from websockets.asyncio.client import connect

from emodistill.audio.waveform import SAMPLE_RATE, load
from emodistill.corpora import DEMO_CORPUS as CORPUS

PORT = 8765
CHUNK_S = 0.1
ON_TIME_S = 0.7  # an event with at most this latency is on time


def speech(length_s: float, seed: int = 0) -> np.ndarray:
    """Return utterances with pauses between them, (samples,) int16."""
    paths = sorted(CORPUS.glob("audio/*/*"))
    order = np.random.default_rng(seed).permutation(len(paths))
    parts: list[np.ndarray] = []
    while sum(map(len, parts)) < length_s * SAMPLE_RATE:
        parts += [load(paths[order[len(parts) // 2]]), np.zeros(SAMPLE_RATE, dtype=np.float32)]
    return (np.concatenate(parts)[: round(length_s * SAMPLE_RATE)] * 32767).astype("<i2")


def wav(length_s: float, seed: int) -> bytes:
    """Return the same as a WAV file."""
    file = io.BytesIO()
    soundfile.write(file, speech(length_s, seed), SAMPLE_RATE, format="WAV")
    return file.getvalue()


def resident_mb(process: int) -> float:
    """Return the resident memory of a process, in MB."""
    pages = int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def start(threads: int) -> "subprocess.Popen[bytes]":
    """Start a server, and return its process when it is ready."""
    options = ["--port", str(PORT), "--threads", str(threads), "--max-streams", "1000"]
    command = [sys.executable, "-m", "emodistill", "serve", *options]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    for _ in range(600):
        try:
            if httpx2.get(f"http://127.0.0.1:{PORT}/readyz").status_code == 200:
                return process
        except httpx2.TransportError:
            time.sleep(0.1)
    raise SystemExit("the server did not start within 60 s")


async def requests(clients: int, total: int) -> dict[str, float]:
    """Send `total` files of 3 s from this number of clients, and return the measures."""
    files = [wav(3.0, seed) for seed in range(16)]
    latencies_s: list[float] = []
    errors = 0
    numbers = iter(range(total))

    async def client(http: httpx2.AsyncClient) -> None:
        nonlocal errors
        for number in numbers:
            began = time.perf_counter()
            response = await http.post("/v1/predict", files={"files": ("a.wav", files[number % 16])})
            latencies_s.append(time.perf_counter() - began)
            errors += response.status_code != 200 or response.json()[0]["error"] is not None

    limits = httpx2.Limits(max_connections=clients)
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{PORT}", limits=limits, timeout=60) as http:
        await http.post("/v1/predict", files={"files": ("a.wav", files[0])})
        began = time.perf_counter()
        await asyncio.gather(*(client(http) for _ in range(clients)))
        seconds = time.perf_counter() - began
    ms = np.percentile(1000 * np.asarray(latencies_s), [50, 95, 99])
    return {"per_s": total / seconds, "p50_ms": ms[0], "p95_ms": ms[1], "p99_ms": ms[2], "errors": errors}


async def one_stream(seed: int, length_s: float, real_time: bool = True) -> list[float]:
    """Stream one speaker, and return the latency of each end of speech in seconds."""
    samples = speech(length_s, seed)
    latencies_s: list[float] = []
    async with connect(f"ws://127.0.0.1:{PORT}/v1/stream", compression=None) as socket:
        await socket.send(json.dumps({"encoding": "pcm16", "rate": SAMPLE_RATE}))
        await socket.recv()
        began = time.perf_counter()

        async def listen() -> None:
            async for text in socket:
                event = json.loads(text)
                if event["event"] == "speech_ended":
                    latencies_s.append(time.perf_counter() - began - event["time_s"])
                if event["event"] == "summary":
                    return

        listener = asyncio.create_task(listen())
        size = round(CHUNK_S * SAMPLE_RATE)
        for number, first in enumerate(range(0, len(samples), size)):
            if real_time:  # send a chunk at the time of its last sample
                await asyncio.sleep(max(0.0, began + (number + 1) * CHUNK_S - time.perf_counter()))
            await socket.send(samples[first : first + size].tobytes())
        await socket.send('{"type": "end"}')
        await listener
    return latencies_s


async def streams(count: int, length_s: float) -> dict[str, float]:
    """Stream `count` speakers at once, and return the measures. They start within one second."""

    async def later(seed: int) -> list[float]:
        await asyncio.sleep(seed / count)
        return await one_stream(seed, length_s)

    latencies_s = np.concatenate(await asyncio.gather(*(later(seed) for seed in range(count))))
    return {
        "streams": count, "events": len(latencies_s), "p50_s": float(np.median(latencies_s)),
        "p95_s": float(np.percentile(latencies_s, 95)), "latest_s": float(latencies_s.max()),
        "on_time": float(np.mean(latencies_s <= ON_TIME_S)),
    }  # fmt: skip


async def memory(process: int, num_requests: int, num_streams: int) -> None:
    """Print the server's memory after a warm-up, and after all requests and streams."""
    await requests(16, max(200, num_requests // 20))
    for seed in range(20):
        await one_stream(seed, 3.0, real_time=False)
    before = resident_mb(process)
    await requests(16, num_requests)
    for seed in range(num_streams):
        await one_stream(seed, 3.0, real_time=False)
    print(f"after warm-up {before:.1f} MB, at the end {resident_mb(process):.1f} MB")


def main() -> None:
    """Start a server and measure what the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["requests", "streams", "memory"])
    parser.add_argument("--clients", type=int, default=16, help="clients at a time")
    parser.add_argument("--requests", type=int, default=800, help="number of requests")
    parser.add_argument("--streams", type=int, nargs="+", default=[10, 20, 40, 60], help="streams at a time")
    parser.add_argument("--seconds", type=float, default=20.0, help="length of a stream")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads of the server")
    given = parser.parse_args()
    process = start(given.threads)
    try:
        if given.what == "requests":
            print(json.dumps(asyncio.run(requests(given.clients, given.requests))))
        elif given.what == "streams":
            for count in given.streams:
                print(json.dumps(asyncio.run(streams(count, given.seconds))), flush=True)
        else:
            asyncio.run(memory(process.pid, given.requests, given.streams[0]))
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
