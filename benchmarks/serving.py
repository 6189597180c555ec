"""How much one server takes: requests a second and their latency, and how many real-time streams stay on time.

    python benchmarks/serving.py requests --clients 16 --requests 800
    python benchmarks/serving.py streams --streams 10 20 40 60
    python benchmarks/serving.py memory --requests 10000 --streams 1000

Each starts `emodistill serve` with the bundled model on this machine, and prints what it measured; the load generator
shares the machine's cores with it. Speech is the demo corpus. An event is late by the time from the end of the speech in the
audio, as it was sent, to its arrival.
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
ON_TIME_S = 0.7


def speech(length_s: float, seed: int = 0) -> np.ndarray:
    """Utterances one after another, with pauses: (samples,) int16."""
    paths = sorted(CORPUS.glob("audio/*/*"))
    order = np.random.default_rng(seed).permutation(len(paths))
    parts: list[np.ndarray] = []
    while sum(map(len, parts)) < length_s * SAMPLE_RATE:
        parts += [load(paths[order[len(parts) // 2]]), np.zeros(SAMPLE_RATE, dtype=np.float32)]
    return (np.concatenate(parts)[: round(length_s * SAMPLE_RATE)] * 32767).astype("<i2")


def wav(length_s: float, seed: int) -> bytes:
    """The same as a file."""
    file = io.BytesIO()
    soundfile.write(file, speech(length_s, seed), SAMPLE_RATE, format="WAV")
    return file.getvalue()


def resident_mb(process: int) -> float:
    """Memory that a process holds."""
    pages = int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def start(threads: int) -> "subprocess.Popen[bytes]":
    """A server that is ready."""
    command = [
        sys.executable,
        "-m",
        "emodistill",
        "serve",
        "--port",
        str(PORT),
        "--threads",
        str(threads),
    ]
    process = subprocess.Popen([*command, "--max-streams", "1000"], stderr=subprocess.DEVNULL)
    for _ in range(600):
        try:
            if httpx2.get(f"http://127.0.0.1:{PORT}/readyz").status_code == 200:
                return process
        except httpx2.TransportError:
            time.sleep(0.1)
    raise SystemExit("the server did not start")


async def requests(clients: int, total: int) -> dict[str, float]:
    """3-second files from so many clients at a time."""
    files = [wav(3.0, seed) for seed in range(16)]
    taken: list[float] = []
    errors = 0
    left = iter(range(total))

    async def client(http: httpx2.AsyncClient) -> None:
        nonlocal errors
        for number in left:
            began = time.perf_counter()
            said = await http.post("/v1/predict", files={"files": ("a.wav", files[number % 16])})
            taken.append(time.perf_counter() - began)
            errors += said.status_code != 200 or said.json()[0]["error"] is not None

    limits = httpx2.Limits(max_connections=clients)
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{PORT}", limits=limits, timeout=60) as http:
        await http.post("/v1/predict", files={"files": ("a.wav", files[0])})
        began = time.perf_counter()
        await asyncio.gather(*(client(http) for _ in range(clients)))
        lasted = time.perf_counter() - began
    ms = np.percentile(1000 * np.asarray(taken), [50, 95, 99])
    return {"per_s": total / lasted, "p50_ms": ms[0], "p95_ms": ms[1], "p99_ms": ms[2], "errors": errors}


async def one_stream(seed: int, length_s: float, real_time: bool = True) -> list[float]:
    """One speaker: how late each end of speech was told, in seconds."""
    sound = speech(length_s, seed)
    late: list[float] = []
    async with connect(f"ws://127.0.0.1:{PORT}/v1/stream", compression=None) as socket:
        await socket.send(json.dumps({"encoding": "pcm16", "rate": SAMPLE_RATE}))
        await socket.recv()
        began = time.perf_counter()

        async def listen() -> None:
            async for text in socket:
                event = json.loads(text)
                if event["event"] == "speech_ended":
                    late.append(time.perf_counter() - began - event["time_s"])
                if event["event"] == "summary":
                    return

        heard = asyncio.create_task(listen())
        size = round(CHUNK_S * SAMPLE_RATE)
        for number, at in enumerate(range(0, len(sound), size)):
            if real_time:  # a chunk is there when its last sample was spoken
                await asyncio.sleep(max(0.0, began + (number + 1) * CHUNK_S - time.perf_counter()))
            await socket.send(sound[at : at + size].tobytes())
        await socket.send('{"type": "end"}')
        await heard
    return late


async def streams(count: int, length_s: float) -> dict[str, float]:
    """So many speakers at once, begun one after another within a second."""

    async def later(seed: int) -> list[float]:
        await asyncio.sleep(seed / count)
        return await one_stream(seed, length_s)

    late = np.concatenate(await asyncio.gather(*(later(seed) for seed in range(count))))
    return {
        "streams": count, "events": len(late), "p50_s": float(np.median(late)),
        "p95_s": float(np.percentile(late, 95)), "latest_s": float(late.max()),
        "on_time": float(np.mean(late <= ON_TIME_S)),
    }  # fmt: skip


async def memory(process: int, num_requests: int, num_streams: int) -> None:
    """What the server holds after a warm-up, and at the end."""
    await requests(16, max(200, num_requests // 20))
    for seed in range(20):
        await one_stream(seed, 3.0, real_time=False)
    before = resident_mb(process)
    await requests(16, num_requests)
    for seed in range(num_streams):
        await one_stream(seed, 3.0, real_time=False)
    print(f"after warm-up {before:.1f} MB, at the end {resident_mb(process):.1f} MB")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["requests", "streams", "memory"])
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--requests", type=int, default=800)
    parser.add_argument("--streams", type=int, nargs="+", default=[10, 20, 40, 60])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    asked = parser.parse_args()
    process = start(asked.threads)
    try:
        if asked.what == "requests":
            print(json.dumps(asyncio.run(requests(asked.clients, asked.requests))))
        elif asked.what == "streams":
            for count in asked.streams:
                print(json.dumps(asyncio.run(streams(count, asked.seconds))), flush=True)
        else:
            asyncio.run(memory(process.pid, asked.requests, asked.streams[0]))
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
