"""Measures the speed of inference, compared to the `audio-classification` pipeline of transformers.

    python benchmarks/inference.py [--model DIR] [--data DIR] [--files 24] [--rounds 3] [--quick]

The pipeline runs HuBERT-base on the CPU with its default settings. Its weights are random, since speed does
not depend on them. The pipeline gets waveforms from our decoder, so all figures include decoding. Each
contender has a process of its own, and the contenders take turns. The figures are medians over the rounds.

* Cold: wall time and peak memory of a fresh process that classifies one file.
* Many files: seconds of audio per second, on one thread and on all, and CPU milliseconds for a second of
  audio. Other work on the machine changes CPU time less than wall time. The pipeline runs with batches of 1
  and of 8, and the reference is the faster of the two. "Ours" is `Recognizer.predict`, which detects speech
  first. HuBERT-base, exported in fp32, fp16 and int8, gets exactly the samples of the pipeline.
* One long file: seconds and memory. The pipeline does not split recordings, so it gets windows of 20 s.

Without --model, "ours" is an untrained compact student of width 192 with six layers. Without --data, the
audio is the demo corpus. Needs [train] and [plot].
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

CORES = len(os.sched_getaffinity(0))
WINDOW_S = 20
COLD_PIPELINE = """
import sys
from transformers import pipeline
from emodistill.audio.waveform import load
print(pipeline("audio-classification", model=sys.argv[1])(load(sys.argv[2]))[0])
"""


@dataclass(frozen=True)
class Contender:
    """One model, and how it is run."""

    name: str
    runner: str  # "predict" (`Recognizer.predict`), "model" (the graph alone) or "pipeline"
    folder: str
    threads: int = 1
    batch: int = 1  # of the pipeline


def main() -> None:
    """Prepare, measure, print tables in Markdown, and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="folder of an exported model; default: an untrained one")
    parser.add_argument("--data", type=Path, help="folder with recordings of single utterances")
    parser.add_argument("--files", type=int, default=24, help="number of files")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=10.0, help="length of the long file")
    parser.add_argument("--plot", type=Path, help="draw to this .svg or .png file")
    parser.add_argument("--quick", action="store_true", help="few files, one round: to try the script")
    parser.add_argument(
        "--contender", help=argparse.SUPPRESS
    )  # JSON; this process then serves that contender
    given = parser.parse_args()
    if given.contender:
        _serve_contender(Contender(**json.loads(given.contender)))
        return
    if given.quick:
        given.files, given.rounds, given.minutes = 6, 1, 1.0
    with tempfile.TemporaryDirectory() as folder:
        _measure(given, Path(folder))


def _measure(given: argparse.Namespace, folder: Path) -> None:
    versions = [f"{name} {version(name)}" for name in ("emodistill", "onnxruntime", "torch", "transformers")]
    machine = f"{platform.processor() or platform.machine()}, {CORES} cores"
    print(f"{machine}, load {os.getloadavg()[0]:.1f} at the start; {', '.join(versions)}")
    paths, long_file, seconds = _audio(given, folder)
    ours, hubert, pipeline = _models(given.model, folder)
    cold = _cold(given.rounds, paths[0], ours, pipeline)
    contenders = [
        Contender("ours", "predict", str(ours)),
        Contender("pipeline", "pipeline", str(pipeline)),
        *(Contender(f"HuBERT-base {name}", "model", str(path)) for name, path in hubert.items()),
    ]
    if CORES > 1:
        contenders += [
            Contender("ours", "predict", str(ours), CORES),
            *(Contender(f"HuBERT-base {name}", "model", str(path), CORES) for name, path in hubert.items()),
            *(Contender("pipeline", "pipeline", str(pipeline), CORES, batch) for batch in (1, 8)),
        ]
    many, long = _in_turn(contenders, paths, long_file, given.rounds)
    _report(cold, many, long, seconds, 60 * given.minutes, given)


# --- models and audio -----------------------------------------------------------------------------


def _audio(given: argparse.Namespace, folder: Path) -> tuple[list[str], str, float]:
    """Return files of one utterance each, one long file made of them, and the seconds of the first ones."""
    import numpy as np
    import soundfile

    from emodistill.audio.decoding import SUFFIXES
    from emodistill.audio.waveform import SAMPLE_RATE, load

    root = given.data or Path(str(files("emodistill"))) / "demo" / "corpus"
    recordings = sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES)
    if len(recordings) < given.files:
        raise SystemExit(f"'{root}' holds {len(recordings)} recordings, expected at least {given.files}")
    chosen = recordings[:: len(recordings) // given.files][: given.files]
    waveforms = [load(path) for path in chosen]
    samples = np.resize(np.concatenate(waveforms), round(60 * given.minutes * SAMPLE_RATE))
    soundfile.write(folder / "long.wav", samples, SAMPLE_RATE)
    paths = []
    for number, waveform in enumerate(waveforms):
        paths.append(str(folder / f"{number}.wav"))
        soundfile.write(paths[-1], waveform, SAMPLE_RATE)
    return paths, str(folder / "long.wav"), sum(map(len, waveforms)) / SAMPLE_RATE


def _models(model: Path | None, folder: Path) -> tuple[Path, dict[str, Path], Path]:
    """Return the folders of our model, of HuBERT-base exported in three precisions, and of the pipeline."""
    import torch
    from transformers import (
        HubertConfig,
        HubertForSequenceClassification,
        HubertModel,
        Wav2Vec2FeatureExtractor,
    )
    from transformers.utils import logging

    from emodistill.export.quantize import quantise_to_int8, store_in_fp16
    from emodistill.models.backbones import load_backbone
    from emodistill.models.wav2vec2 import Wav2Vec2

    logging.disable_progress_bar()
    torch.manual_seed(0)
    if model is None:
        model = folder / "ours"
        _write(model, load_backbone("compact", 6, 192))
    whole = folder / "fp32"
    backbone: Any = Wav2Vec2(HubertModel(HubertConfig()), None)
    _write(whole, backbone)
    hubert = {"fp32": whole}
    for name, make in (("fp16", store_in_fp16), ("int8", quantise_to_int8)):
        hubert[name] = folder / name
        hubert[name].mkdir()
        make(whole / "model.onnx", hubert[name] / "model.onnx")
        _write_card(hubert[name])
    pipeline = folder / "pipeline"
    shape: Any = HubertConfig
    HubertForSequenceClassification(shape(num_labels=8)).save_pretrained(pipeline)
    Wav2Vec2FeatureExtractor().save_pretrained(pipeline)
    return model, hubert, pipeline


def _write(folder: Path, backbone: Any) -> None:
    from emodistill.config import StudentConfig
    from emodistill.export.onnx import OnnxStudent, write_onnx
    from emodistill.models.student import Student

    folder.mkdir()
    student = Student(backbone.eval(), StudentConfig(), 8, {}).eval()
    write_onnx(OnnxStudent(student, {}).eval(), folder / "model.onnx")
    _write_card(folder)


def _write_card(folder: Path) -> None:
    from emodistill.inference.card_writer import write_card
    from emodistill.inference.model_card import Card, file_sha256
    from emodistill.labels import EMOTIONS

    card = Card(
        name="untrained", emotions=EMOTIONS[:8], trim_db=None, sha256=file_sha256(folder / "model.onnx"),
        teachers=(), backbone="", num_parameters=0, corpus="", protocol="", fold="",
        scores={}, parity={}, versions={},
    )  # fmt: skip
    write_card(card, folder)


def _serve_contender(contender: Contender) -> None:
    """Load a contender. Then, for each line of paths on standard input, classify them and print the times."""
    from emodistill.audio.waveform import load

    if contender.runner == "pipeline":
        import torch
        from transformers import pipeline
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        torch.set_num_threads(contender.threads)
        classifier: Any = pipeline("audio-classification", model=contender.folder)

        def classify(paths: list[str]) -> None:
            size = WINDOW_S * 16_000
            waves = [load(path) for path in paths]
            windows = [wave[start : start + size] for wave in waves for start in range(0, len(wave), size)]
            assert len(classifier(windows, batch_size=contender.batch)) == len(windows)

    else:
        from emodistill.inference.recognizer import Recognizer

        recognizer = Recognizer(contender.folder, threads=1)

        def classify(paths: list[str]) -> None:
            if contender.runner == "predict":
                rows = list(recognizer.predict_all(paths, jobs=contender.threads))
                assert all(row.error is None and row.reason is None for row in rows), rows
            else:
                with ThreadPoolExecutor(contender.threads) as pool:
                    list(pool.map(lambda path: recognizer.run(load(path)), paths))

    print("ready", flush=True)
    for line in sys.stdin:
        started, cpu_started = time.perf_counter(), time.process_time()
        classify(json.loads(line))
        wall_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu_started
        print(wall_s, cpu_s, _peak_mb(), flush=True)


# --- measuring ------------------------------------------------------------------------------------


def _cold(rounds: int, path: str, ours: Path, pipeline: Path) -> dict[str, tuple[float, float]]:
    """Return the wall seconds and the peak MB of fresh processes, as medians.

    The first round is not counted.
    """
    commands = {
        "ours": [sys.executable, "-m", "emodistill", "predict", path, "--model", str(ours), "-f", "json"],
        "pipeline": [sys.executable, "-c", COLD_PIPELINE, str(pipeline), path],
    }
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for _ in range(1 + max(3, rounds)):
        for name, command in commands.items():
            started = time.perf_counter()
            with tempfile.TemporaryFile("w+") as messages:
                child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=messages)
                peak = 0.0
                while child.poll() is None:
                    peak = max(peak, _peak_mb(child.pid))
                    time.sleep(0.005)
                measured[name].append((time.perf_counter() - started, peak))
                if child.returncode:
                    messages.seek(0)
                    raise SystemExit(f"{' '.join(command)} failed:\n{messages.read()}")
    return {
        name: (
            statistics.median(seconds for seconds, _ in rows[1:]),
            statistics.median(megabytes for _, megabytes in rows[1:]),
        )
        for name, rows in measured.items()
    }


def _peak_mb(process: int | str = "self") -> float:
    """Return the peak memory of a process so far. `ru_maxrss` would include memory of the parent process."""
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    peaks = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
    return float(peaks[0]) / 1024 if peaks else 0.0  # a process that has ended has no peak


Times = dict[
    Contender, list[tuple[float, float, float]]
]  # wall seconds, CPU seconds and peak MB of each round
Process = subprocess.Popen[str]


def _in_turn(
    contenders: list[Contender], paths: list[str], long_file: str, rounds: int
) -> tuple[Times, Times]:
    """Return the times of all contenders over the files, and of the main contenders over the long file."""
    many: Times = {contender: [] for contender in contenders}
    long: Times = {
        contender: []
        for contender in contenders
        if contender.runner != "model" and (contender.threads, contender.batch) == (CORES, 1)
    }
    processes: dict[Contender, Process] = {}
    for contender in contenders:
        threads = str(contender.threads if contender.runner == "pipeline" else 1)
        processes[contender] = subprocess.Popen(
            [sys.executable, __file__, "--contender", json.dumps(asdict(contender))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env={**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
        )  # fmt: skip
        _read_line(processes[contender])  # wait until it is loaded
        _run(processes[contender], paths[:2])  # the first runs are slower
    try:
        for _ in range(rounds):
            for contender, process in processes.items():
                many[contender].append(_run(process, paths))
        for contender in long:
            long[contender].append(_run(processes[contender], [long_file]))
    finally:
        for process in processes.values():
            process.communicate()
    return many, long


def _run(process: Process, paths: list[str]) -> tuple[float, float, float]:
    """Let a process classify files, and return its wall seconds, CPU seconds and peak MB."""
    assert process.stdin is not None
    process.stdin.write(json.dumps(paths) + "\n")
    process.stdin.flush()
    wall_s, cpu_s, megabytes = map(float, _read_line(process).split())
    return wall_s, cpu_s, megabytes


def _read_line(process: Process) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"{process.args!r} ended early")
    return line


# --- output ---------------------------------------------------------------------------------------


def _report(
    cold: dict[str, tuple[float, float]], many: Times, long: Times, seconds: float, long_s: float,
    given: argparse.Namespace,
) -> None:  # fmt: skip
    """Print the tables, and draw the plot if it is wanted."""
    rows: list[tuple[str, int, float, float]] = []
    cpu_ms: dict[tuple[str, int], float] = {}
    for threads in sorted({contender.threads for contender in many}):
        wall_s = {
            contender: [wall for wall, _, _ in times]
            for contender, times in many.items()
            if contender.threads == threads
        }
        pipelines = [contender for contender in wall_s if contender.runner == "pipeline"]
        reference = wall_s[min(pipelines, key=lambda contender: statistics.median(wall_s[contender]))]
        for contender, walls in wall_s.items():
            ratio = statistics.median([a / b for a, b in zip(reference, walls, strict=True)])
            batches = f", batches of {contender.batch}" if contender.runner == "pipeline" else ""
            name = contender.name + batches
            rows.append((name, threads, seconds / statistics.median(walls), ratio))
            cpu_s = statistics.median([cpu for _, cpu, _ in many[contender]])
            cpu_ms[name, threads] = 1000 * cpu_s / seconds
    print(
        f"\n| many files (median of {given.rounds}, {seconds:.0f} s of audio) | threads | s of audio per s "
        "| CPU ms per s of audio | × the pipeline's best |\n| --- | --- | --- | --- | --- |"
    )
    for name, threads, speed, ratio in rows:
        print(f"| {name} | {threads} | {speed:.1f} | {cpu_ms[name, threads]:.2f} | {ratio:.2f} |")
    print("\n| one file | ours | pipeline | ratio |\n| --- | --- | --- | --- |")
    (ours_s, ours_mb), (pipe_s, pipe_mb) = cold["ours"], cold["pipeline"]
    print(f"| cold, fresh process, s | {ours_s:.2f} | {pipe_s:.2f} | {pipe_s / ours_s:.1f} × |")
    print(f"| its peak memory, MB | {ours_mb:.0f} | {pipe_mb:.0f} | {pipe_mb / ours_mb:.1f} × |")
    by_name = {contender.name: times[0] for contender, times in long.items()}
    (ours_s, _, ours_mb), (pipe_s, _, pipe_mb) = by_name["ours"], by_name["pipeline"]
    print(f"| {long_s / 60:g} minutes, s | {ours_s:.2f} | {pipe_s:.2f} | {pipe_s / ours_s:.1f} × |")
    print(f"| its peak memory, MB | {ours_mb:.0f} | {pipe_mb:.0f} | {pipe_mb / ours_mb:.1f} × |")
    if given.plot:
        _draw(rows, given.plot)


def _draw(rows: list[tuple[str, int, float, float]], path: Path) -> None:
    """Draw seconds of audio per second as bars, on a logarithmic axis, in one panel for each thread count."""
    from matplotlib.figure import Figure

    counts = sorted({threads for _, threads, _, _ in rows})
    figure = Figure(figsize=(9, 1.2 + 0.42 * len(rows)), layout="constrained")
    shares = [sum(row[1] == threads for row in rows) for threads in counts]
    panels = figure.subplots(len(counts), 1, sharex=True, squeeze=False, height_ratios=shares)[:, 0]
    for axes, threads in zip(panels, counts, strict=True):
        here = sorted((row for row in rows if row[1] == threads), key=lambda row: row[2])
        colours = {"p": "#9a9a9a", "H": "#4c78a8", "o": "#e4572e"}
        bars = axes.barh(
            [row[0] for row in here], [row[2] for row in here], color=[colours[row[0][0]] for row in here]
        )
        axes.bar_label(bars, [f"{row[2]:.0f} ({row[3]:.1f} ×)" for row in here], padding=4, fontsize=9)
        axes.set_title(f"{threads} thread{'s' if threads > 1 else ''}", loc="left", fontsize=10)
        axes.set_xscale("log")
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.2)
    panels[-1].set_xlabel(
        "seconds of audio per second of computing, decoding included (× the pipeline's best)"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    print(f"\ndrawn: {path}")


if __name__ == "__main__":
    main()
