"""Inference beside the transformers `audio-classification` pipeline: same audio, same cores, one run.

    python benchmarks/inference.py [--model DIR] [--data DIR] [--files 24] [--rounds 3] [--plot FILE] [--quick]

The pipeline is HuBERT-base (random weights: speed does not care) in a folder, with its default settings on the
CPU, and is handed waveforms that our decoder made; decoding is inside every figure. Contenders take turns, a
process each, and all but the one at work wait; figures are medians over rounds. Measured are

* cold: wall time and peak memory of a fresh process that judges one file, from its start to its end;
* many files: seconds of audio per second, on one thread and on all, and milliseconds of CPU for a second of audio
  (which, unlike wall time, other work on the machine changes little). The pipeline's best of batches of 1 and 8 counts. Ours is `Recognizer.predict`, which
  looks for speech first; HuBERT-base, exported in fp32, fp16 and int8, is run on the very samples that the
  pipeline gets, nothing cut off;
* one long file: seconds and memory. The pipeline has no windows of its own: it is given 20 s at a time.

Without --model, ours is a compact student of width 192 and six layers, untrained. Without --data, the audio is the
demo corpus. Needs [train] and [plot].
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
    """Who is measured: a folder, who runs it, on how many threads."""

    name: str
    runner: str  # "predict", "model" (nothing but the graph) or "pipeline"
    folder: str
    threads: int = 1
    batch: int = 1  # the pipeline's


def main() -> None:
    """Prepare, measure, print a table in Markdown, and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="folder of an exported model; default: an untrained one")
    parser.add_argument("--data", type=Path, help="folder with recordings of single utterances")
    parser.add_argument("--files", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=10.0, help="of the long file")
    parser.add_argument("--plot", type=Path, help="a .svg or .png file")
    parser.add_argument("--quick", action="store_true", help="a look, no result: few files, one round")
    parser.add_argument("--work", help=argparse.SUPPRESS)  # what a process of ours is to do
    given = parser.parse_args()
    if given.work:
        _work(Contender(**json.loads(given.work)))
        return
    if given.quick:
        given.files, given.rounds, given.minutes = 6, 1, 1.0
    with tempfile.TemporaryDirectory() as folder:
        _measure(given, Path(folder))


def _measure(given: argparse.Namespace, folder: Path) -> None:
    print(
        f"{platform.processor() or platform.machine()}, {CORES} cores, load {os.getloadavg()[0]:.1f} at the start; "
        + ", ".join(
            f"{name} {version(name)}" for name in ("emodistill", "onnxruntime", "torch", "transformers")
        )
    )
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


# --- what is run ----------------------------------------------------------------------------------


def _audio(given: argparse.Namespace, folder: Path) -> tuple[list[str], str, float]:
    """Files of one utterance each, all with speech; a long file of them; how many seconds the first are."""
    import numpy as np
    import soundfile

    from emodistill.audio.waveform import SAMPLE_RATE, SUFFIXES, load

    root = given.data or Path(str(files("emodistill"))) / "demo" / "corpus"
    found = sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES)
    if len(found) < given.files:
        raise SystemExit(f"'{root}' holds {len(found)} recordings, expected at least {given.files}")
    chosen = found[:: len(found) // given.files][: given.files]
    waveforms = [load(path) for path in chosen]
    samples = np.resize(np.concatenate(waveforms), round(60 * given.minutes * SAMPLE_RATE))
    soundfile.write(folder / "long.wav", samples, SAMPLE_RATE)
    paths = []
    for number, waveform in enumerate(waveforms):
        paths.append(str(folder / f"{number}.wav"))
        soundfile.write(paths[-1], waveform, SAMPLE_RATE)
    return paths, str(folder / "long.wav"), sum(map(len, waveforms)) / SAMPLE_RATE


def _models(model: Path | None, folder: Path) -> tuple[Path, dict[str, Path], Path]:
    """Ours, HuBERT-base exported in three precisions, and the same architecture for the pipeline."""
    import torch
    from transformers import (
        HubertConfig,
        HubertForSequenceClassification,
        HubertModel,
        Wav2Vec2FeatureExtractor,
    )
    from transformers.utils import logging

    from emodistill.export.quantize import quantise, store_half
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
    for name, make in (("fp16", store_half), ("int8", quantise)):
        hubert[name] = folder / name
        hubert[name].mkdir()
        make(whole / "model.onnx", hubert[name] / "model.onnx")
        _write_card(hubert[name])
    pipeline = folder / "pipeline"
    HubertForSequenceClassification(HubertConfig(num_labels=8)).save_pretrained(pipeline)
    Wav2Vec2FeatureExtractor().save_pretrained(pipeline)
    return model, hubert, pipeline


def _write(folder: Path, backbone: Any) -> None:
    from emodistill.config import StudentConfig
    from emodistill.export.onnx import Exported, write_onnx
    from emodistill.models.student import Student

    folder.mkdir()
    student = Student(backbone.eval(), StudentConfig(), 8, {}).eval()
    write_onnx(Exported(student, {}).eval(), folder / "model.onnx")
    _write_card(folder)


def _write_card(folder: Path) -> None:
    from emodistill.inference.model_card import Card, file_sha256, write_card
    from emodistill.labels import EMOTIONS

    card = Card(
        name="untrained", emotions=EMOTIONS[:8], trim_db=None, sha256=file_sha256(folder / "model.onnx"),
        teachers=(), backbone="", num_parameters=0, corpus="", protocol="", fold="", scores={}, parity={}, versions={},
    )  # fmt: skip
    write_card(card, folder)


def _work(who: Contender) -> None:
    """A process: load, then for every line of paths on standard input do them all; answer with the seconds."""
    from emodistill.audio.waveform import load

    if who.runner == "pipeline":
        import torch
        from transformers import pipeline
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        torch.set_num_threads(who.threads)
        classify = pipeline("audio-classification", model=who.folder)

        def judge(paths: list[str]) -> None:
            cut = WINDOW_S * 16_000
            waves = [load(path) for path in paths]
            windows = [wave[start : start + cut] for wave in waves for start in range(0, len(wave), cut)]
            assert len(classify(windows, batch_size=who.batch)) == len(windows)

    else:
        from emodistill.inference.recognizer import Recognizer

        recognizer = Recognizer(who.folder, threads=1)

        def judge(paths: list[str]) -> None:
            if who.runner == "predict":
                found = list(recognizer.predict_all(paths, jobs=who.threads))
                assert all(row.error is None and row.reason is None for row in found), found
            else:
                with ThreadPoolExecutor(who.threads) as pool:
                    list(pool.map(lambda path: recognizer.run(load(path)), paths))

    print("ready", flush=True)
    for line in sys.stdin:
        started, worked = time.perf_counter(), time.process_time()
        judge(json.loads(line))
        took, worked = time.perf_counter() - started, time.process_time() - worked
        print(took, worked, _peak_mb(), flush=True)


# --- measuring ------------------------------------------------------------------------------------


def _cold(rounds: int, path: str, ours: Path, pipeline: Path) -> dict[str, tuple[float, float]]:
    """Seconds and MB of fresh processes, by turns, after one each that warms the disk cache."""
    commands = {
        "ours": [sys.executable, "-m", "emodistill", "predict", path, "--model", str(ours), "-f", "json"],
        "pipeline": [sys.executable, "-c", COLD_PIPELINE, str(pipeline), path],
    }
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for _ in range(1 + max(3, rounds)):
        for name, command in commands.items():
            started = time.perf_counter()
            with tempfile.TemporaryFile("w+") as said:
                child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
                peak = 0.0
                while child.poll() is None:
                    peak = max(peak, _peak_mb(child.pid))
                    time.sleep(0.005)
                taken[name].append((time.perf_counter() - started, peak))
                if child.returncode:
                    said.seek(0)
                    raise SystemExit(f"{' '.join(command)} failed:\n{said.read()}")
    medians = {
        name: [statistics.median(part) for part in zip(*rows[1:], strict=True)]
        for name, rows in taken.items()
    }
    return {name: (found[0], found[1]) for name, found in medians.items()}


def _peak_mb(process: int | str = "self") -> float:
    """A process's peak memory so far; `ru_maxrss` would count what its parent held when it was started."""
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    peaks = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
    return float(peaks[0]) / 1024 if peaks else 0.0  # one that has ended holds nothing


Taken = dict[Contender, list[tuple[float, float, float]]]


def _in_turn(
    contenders: list[Contender], paths: list[str], long_file: str, rounds: int
) -> tuple[Taken, Taken]:
    """Seconds, those of CPU, and MB so far of every contender, round by round, over the files, then (the main ones) the long file."""
    many: Taken = {who: [] for who in contenders}
    long: Taken = {
        who: [] for who in contenders if who.runner != "model" and (who.threads, who.batch) == (CORES, 1)
    }
    processes = {}
    for who in contenders:
        threads = str(who.threads if who.runner == "pipeline" else 1)
        processes[who] = subprocess.Popen(
            [sys.executable, __file__, "--work", json.dumps(asdict(who))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env={**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
        )  # fmt: skip
        _answer(processes[who])  # one loads at a time
        _ask(processes[who], paths[:2])  # first runs are slower
    try:
        for _ in range(rounds):
            for who, process in processes.items():
                many[who].append(_ask(process, paths))
        for who in long:
            long[who].append(_ask(processes[who], [long_file]))
    finally:
        for process in processes.values():
            process.communicate()
    return many, long


def _ask(process: "subprocess.Popen[str]", paths: list[str]) -> tuple[float, float, float]:
    assert process.stdin is not None
    process.stdin.write(json.dumps(paths) + "\n")
    process.stdin.flush()
    took, worked, megabytes = map(float, _answer(process).split())
    return took, worked, megabytes


def _answer(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"{process.args} ended early")
    return line


# --- telling --------------------------------------------------------------------------------------


def _report(
    cold: dict[str, tuple[float, float]], many: Taken, long: Taken, seconds: float, long_s: float,
    given: argparse.Namespace,
) -> None:  # fmt: skip
    rows: list[tuple[str, int, float, float]] = []
    cpu_ms: dict[tuple[str, int], float] = {}
    for threads in sorted({who.threads for who in many}):
        here = {who: [took for took, _, _ in found] for who, found in many.items() if who.threads == threads}
        reference = min(
            (who for who in here if who.runner == "pipeline"), key=lambda who: statistics.median(here[who])
        )
        for who, taken in here.items():
            ratio = statistics.median([a / b for a, b in zip(here[reference], taken, strict=True)])
            name = f"{who.name}, batches of {who.batch}" if who.runner == "pipeline" else who.name
            rows.append((name, threads, seconds / statistics.median(taken), ratio))
            cpu_ms[name, threads] = 1000 * statistics.median([worked for _, worked, _ in many[who]]) / seconds
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
    by_name = {who.name: found[0] for who, found in long.items()}
    (ours_s, _, ours_mb), (pipe_s, _, pipe_mb) = by_name["ours"], by_name["pipeline"]
    print(f"| {long_s / 60:g} minutes, s | {ours_s:.2f} | {pipe_s:.2f} | {pipe_s / ours_s:.1f} × |")
    print(f"| peak memory by then, MB | {ours_mb:.0f} | {pipe_mb:.0f} | {pipe_mb / ours_mb:.1f} × |")
    if given.plot:
        _draw(rows, given.plot)


def _draw(rows: list[tuple[str, int, float, float]], path: Path) -> None:
    """Bars of seconds of audio per second, on a logarithmic axis, a panel for each number of threads."""
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
