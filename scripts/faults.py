"""Disturb each stage of `emodistill` at random points, run the same command again, and compare the outputs.

    python scripts/faults.py --kills 200 --out DIR
    python scripts/faults.py --kills 200 --out DIR --only export timeline
    python scripts/faults.py --out DIR --only export --number 3
    python scripts/faults.py --limits 3 --out DIR  # full disks, read-only disks, little memory

Every kill is a SIGKILL of the whole process group. One half of them comes at a random time of the stage. The
other half is spread over the points where the stage writes, renames or deletes a file. After the kill, no
file under its final name may be incomplete. Then the same command runs to its end. Its folder and the cache
must be those of a run that nobody disturbed, byte for byte, and no file may be left over, in the folder for
temporary files too. `without_times` names what is left out, and why.

With --limits, the folders of a stage lie on a disk of their own, which is smaller than what the stage writes,
or read-only. Or the process may have little more memory than at its start. Without space the stage must end
with one line that says so. The rest is as after a kill. This needs root, because it mounts the disks.

DIR/faults.jsonl has a line for each kill and each limit. Kills that a stage has survived are not repeated,
so a loop of kills that was stopped continues. DIR/faults.md has the table. A failure is printed with the
command that repeats it.
"""

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CHILD = "child"  # the first argument of a process that runs one command of `emodistill`
SERVE = "serve-a-job"  # in place of a verb: a server, and a client that waits for the result of a job
LIMIT_S = 300.0
FULL_DISK, READ_ONLY, LITTLE_MEMORY = KINDS = ("full disk", "read-only disk", "little memory")
PAGE = 4096  # bytes; disks have whole pages
DISK = "1g"  # size of a disk that is not full
TRAINING = ("train", "crossval", "ablate")
WRITES = {
    "open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate", "os.chmod",
    "os.utime", "shutil.rmtree", "shutil.copyfile", "shutil.move", "tempfile.mkstemp", "tempfile.mkdtemp",
}  # fmt: skip
WORK = ("out", "cache", "tmp")  # folders that a stage may write to

Arguments = Callable[[Path, Path], list[object]]  # the folder of the material, the folder `out` -> arguments


@dataclass(frozen=True)
class Stage:
    """One command, and how it is checked.

    Attributes:
        arguments: of `emodistill`.
        share: how many kills it gets, relative to the other stages of inference.
        growing: patterns of files that are extended or replaced while the stage runs. They must be readable
            after a kill, but need not be equal to those at the end.
        complete: what the command says where its output is complete already, if it refuses to replace it.
        at_writes: whether the process counts its writes. A server and its workers do not.
        forked: whether the process is a fork of this one, which has imported torch already. So the kills do
            not fall into the seconds that the import takes.
    """

    name: str
    arguments: Arguments
    share: int = 1
    growing: tuple[str, ...] = ()
    complete: str = ""
    at_writes: bool = True
    forked: bool = False


FIT = ("*/best.safetensors", "*/last.ckpt", "*/log/metrics.csv", "*/tables.json", "tables.json")
# Temporary files of other packages; Python's `tempfile` tries a folder with a file of eight letters.
OF_OTHERS = r"\.ses|torchinductor_|joblib|loky|pymp-|[a-z0-9_]{8}$"


def _stages() -> dict[str, Stage]:
    def training(verb: str, *more: str) -> Arguments:
        return lambda material, out: [verb, material / "recipe.toml", *more, "--out", out / "run"]

    def inference(verb: str, output: str, *more: str) -> Arguments:
        return lambda material, out: [verb, material / "clips", *more, "-o", out / output]

    stages = [
        Stage("train", training("train"), growing=FIT, forked=True),
        Stage("crossval", training("crossval"), growing=FIT, forked=True),
        Stage("ablate", training("ablate", "--cells", "no-distillation"), growing=FIT, forked=True),
        Stage(
            "tune", training("tune", "--space", "student.dropout=0.1,0.2,0.3", "--trials", "2"), 4,
            (*FIT, "*/study.journal*", "*/trials.csv", "*/best.toml", "*/tune.png"), forked=True,
        ),
        Stage(
            "states", lambda m, out: ["train", m / "frozen.toml", "--out", out / "run"], 8, FIT, forked=True,
        ),
        Stage("export", lambda m, out: ["export", m / "run", "-o", out / "model"], 12, forked=True),
        Stage("export --web", lambda m, out: ["export", "--web", out / "page"], 4),
        Stage(
            "export --to transformers",
            lambda m, out: ["export", m / "run", "--to", "transformers", "-o", out / "model"], 4, forked=True,
        ),
        Stage("predict to CSV", inference("predict", "rows.csv"), 10),
        Stage("predict to JSON lines", inference("predict", "rows.jsonl", "--jobs", "1"), 16, ("*.jsonl",)),
        Stage("predict to Parquet", inference("predict", "rows.parquet"), 8),
        Stage("predict to JSON", inference("predict", "rows.json", "--jobs", "2"), 6),
        Stage("timeline to a folder", inference("timeline", "rows", "-f", "json", "--jobs", "1"), 14),
        Stage("timeline to a page", inference("timeline", "page", "-f", "html", "--jobs", "1"), 6),
        Stage("enrol", inference("enrol", "anna.voice.json"), 10),
        Stage("embed", inference("embed", "rows.parquet"), 8),
        Stage("fetch", lambda m, out: ["fetch", "large", "--weights", m / "whisper-base"], 10),
        Stage(
            "jobs of the server", lambda m, out: [SERVE, m / "clips", out / "job.json"], 8, at_writes=False,
        ),
        Stage(
            "corpus prepare", lambda m, out: ["corpus", "prepare", "csv", m / "corpus" / "utterances.csv",
                                              "-o", out / "utterances.csv"], 6,
        ),
        Stage(
            "corpus write", lambda m, out: ["corpus", "write", m / "corpus" / "utterances.csv",
                                            "--to", "csv", out / "corpus"], 8, complete="has files",
        ),
    ]  # fmt: skip
    return {stage.name: stage for stage in stages}


STAGES = _stages()


# --- the process that is killed ------------------------------------------------------------------


class CountWrites:
    """An audit hook that counts changes of files below some folders, and kills the process at one of them."""

    def __init__(self, roots: Sequence[str], counter: Path, kill_at: int, delay_s: float) -> None:
        self.roots, self.kill_at, self.delay_s = tuple(roots), kill_at, delay_s
        self.counter = os.open(counter, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        self.count = 0

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Count an audit event of Python, if it is about a change of a file."""
        if event not in WRITES or not arguments:
            return
        if event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        if not any(isinstance(item, str | os.PathLike) and self._is_inside(item) for item in arguments[:2]):
            return
        self.count += 1
        os.pwrite(self.counter, str(self.count).encode(), 0)
        if self.count == self.kill_at:
            if self.delay_s:
                threading.Thread(target=self._kill, daemon=True).start()
            else:
                self._kill()

    def _is_inside(self, path: Any) -> bool:
        text = os.fspath(path)  # the working folder is one of the roots
        return isinstance(text, str) and (not text.startswith("/") or text.startswith(self.roots))

    def _kill(self) -> None:
        time.sleep(self.delay_s)
        os.killpg(os.getpgid(0), signal.SIGKILL)


def run_child(arguments: Sequence[str]) -> None:
    """Run one command line in this process; the environment says where it is killed."""
    fault = json.loads(os.environ["EMODISTILL_FAULT"])
    os.chdir(fault["roots"][0])
    if fault["memory_mb"] is not None:
        limit_memory(fault["memory_mb"])
    if fault["kill_at"] is not None:
        sys.addaudithook(
            CountWrites(fault["roots"], Path(fault["counter"]), fault["kill_at"], fault["delay_s"])
        )
    if arguments[0] == SERVE:
        serve_a_job(Path(arguments[1]), Path(arguments[2]))
        return
    from emodistill.cli import main

    sys.argv = ["emodistill", *arguments]
    main()


def limit_memory(more_mb: float) -> None:
    """Let this process and those that it starts have little more address space than it has now."""
    import resource

    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + int(more_mb * 1e6)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def serve_a_job(clips: Path, out: Path) -> None:
    """Start a server of two workers, give it a job, write the result, and stop the server."""
    import socket

    import httpx2

    from emodistill.files import atomic_write

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "emodistill", "serve", "--port", str(port), "--workers", "2"]
    environment = {name: value for name, value in os.environ.items() if name != "EMODISTILL_FAULT"}
    server, problem = subprocess.Popen(command, env=environment), ""
    try:
        while True:
            if (code := server.poll()) is not None:
                sys.exit(code)
            try:
                httpx2.get(f"{url}/health", timeout=10)
                break
            except httpx2.TransportError:
                time.sleep(0.1)
        files = [("files", (path.name, path.read_bytes())) for path in sorted(clips.iterdir())]
        job = httpx2.post(f"{url}/v1/jobs", files=files, timeout=60).raise_for_status().json()["id"]
        while httpx2.get(f"{url}/v1/jobs/{job}", timeout=60).raise_for_status().json()["state"] != "done":
            time.sleep(0.05)
        result = httpx2.get(f"{url}/v1/jobs/{job}/result", timeout=60).raise_for_status().content
        with atomic_write(out) as partial:
            partial.write_bytes(result)
    except OSError as error:  # of the client's disk
        problem = str(error)
    finally:
        server.terminate()
        server.wait(60)
    if problem:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(2)


# --- comparing -----------------------------------------------------------------------------------

_MEASURED = ("seconds", "latency_ms", "extraction_ms", "peak_memory_bytes", "training_s", "repetitions")


def without_times(path: Path) -> bytes:
    """Return the content of a file without what a run measures, which differs between any two runs.

    - `cost.json` and the tables of an ablation: seconds, milliseconds and the peak of memory. `shared` of a
      cost is kept.
    - `.safetensors`: the entries of the metadata in any order, since the library writes them in random order.
    - the journal of `tune` has dates: it is the log of the search, and no result. `trials.csv`: seconds.

    Raises `ValueError` for JSON that is incomplete.
    """
    data = path.read_bytes()
    name = path.name
    if name.endswith("cost.json") or name == "ablation.json":
        return json.dumps(_drop_measured(json.loads(data)), sort_keys=True).encode()
    if name.endswith(".json"):
        json.loads(data)
        return data
    if name in ("ablation.md", "ablation.tex"):
        lines = data.decode().splitlines()
        return "\n".join(
            re.sub(r"[0-9.]+", "0", line) if _has_cost(line) else line for line in lines
        ).encode()
    if name in ("ablation.csv", "trials.csv"):
        return _drop_columns(data, _MEASURED)
    if name == "study.journal":
        return b""
    if name.endswith(".safetensors"):
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        return json.dumps(header, sort_keys=True).encode() + data[8 + length :]
    return data


def _has_cost(line: str) -> bool:
    return re.search(r"[0-9] (s|min|h) (\||\\\\)|[0-9] ms for", line) is not None


def _drop_measured(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _drop_measured(item) for name, item in value.items() if name not in _MEASURED}
    if isinstance(value, list):
        return [_drop_measured(item) for item in value]
    return re.sub(r"[0-9.]+ ms", "0 ms", value) if isinstance(value, str) else value


def _drop_columns(data: bytes, names: Iterable[str]) -> bytes:
    import csv
    import io

    rows = list(csv.DictReader(io.StringIO(data.decode())))
    return json.dumps([{k: v for k, v in row.items() if k not in set(names)} for row in rows]).encode()


def tree(folder: Path) -> dict[str, str]:
    """Return a SHA-256 of each file below a folder, and "folder" for each folder, by relative path."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name.startswith("tmp/"):
            if path.parent.name == "tmp" and not re.match(OF_OTHERS, path.name):
                found[name] = "temporary"
        elif path.is_dir():
            found[name] = "folder"
        else:
            found[name] = hashlib.sha256(without_times(path)).hexdigest()
    return found


def incomplete_files(folder: Path, reference: Mapping[str, str], growing: Sequence[str]) -> list[str]:
    """Return the files with final names that are neither those of the reference nor readable and growing."""
    found = []
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.is_dir() or any(part.startswith(".") or ".partial" in part for part in relative.parts):
            continue
        if relative.parts[0] == "tmp":
            continue
        try:
            digest = hashlib.sha256(without_times(path)).hexdigest()
        except ValueError as error:
            found.append(f"{relative}: {error}")
            continue
        if digest == reference.get(relative.as_posix()):
            continue
        if not any(path.match(pattern) for pattern in growing):
            what = "differs from the final file" if relative.as_posix() in reference else "is unknown"
            found.append(f"{relative}: {what}")
    return found


def differences(found: Mapping[str, str], reference: Mapping[str, str]) -> list[str]:
    """Return what differs between two trees, as lines of text."""
    lines = [f"missing: {name}" for name in sorted(reference.keys() - found.keys())]
    lines += [f"left over: {name}" for name in sorted(found.keys() - reference.keys())]
    return lines + [
        f"other content: {name}" for name in sorted(reference.keys() & found.keys())
        if reference[name] != found[name]
    ]  # fmt: skip


# --- the loop ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reference:
    """What an undisturbed run of a stage wrote, how long it took and how often it wrote."""

    seconds: float
    num_writes: int
    num_bytes: int  # on disk, at the end
    tree: dict[str, str]


@dataclass(frozen=True)
class Fault:
    """One kill or one limit, and what was found afterwards. Each is a line of faults.jsonl."""

    stage: str
    number: int
    seed: int
    at: str  # "write 12 + 3 ms" or "1.25 s"
    incomplete: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    code: int | None = None  # exit code of the same command afterwards
    message: str = ""
    version: str = ""

    @property
    def is_survived(self) -> bool:
        """Whether the same command ended well, and with the same output."""
        return self.code == 0 and not self.incomplete and not self.differences


class Loop:
    """Faults of several stages in one folder."""

    def __init__(self, out: Path, seed: int) -> None:
        self.out, self.seed = out.resolve(), seed
        self.material = self.out / "material"
        self.log = self.out / "faults.jsonl"
        self.version = subprocess.run(
            ["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True, text=True
        ).stdout.strip()

    def run(self, stages: Mapping[Stage, int], numbers: Sequence[int] | None = None) -> list[Fault]:
        """Kill each stage as often as asked, and return the kills of all of them."""
        make_material(self.material, any(stage.forked for stage in stages))
        done = {(kill.stage, kill.number): kill for kill in self.read() if kill.seed == self.seed}
        for stage, count in stages.items():
            self.reference(stage)
            for number in range(count) if numbers is None else numbers:
                before = done.get((stage.name, number))
                if before is not None and before.is_survived and numbers is None:
                    continue
                done[stage.name, number] = self._noted(self.kill(stage, number, count))
                self.write_table(done.values())
        return list(done.values())

    def run_limits(self, stages: Sequence[Stage], count: int) -> list[Fault]:
        """Run each stage with each kind of limit, one of them `count` times, and return what was found."""
        make_material(self.material, any(stage.forked for stage in stages))
        found = []
        for stage in stages:
            for kind in KINDS:
                for number in range(1 if kind == READ_ONLY else count):
                    found.append(self._noted(self.limit(stage, kind, number)))
                    self.write_table(found)
        return found

    def _noted(self, fault: Fault) -> Fault:
        """Write a line to the log, and print what was found."""
        with self.log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(fault)) + "\n")
        print(
            f"{fault.stage}, {fault.number}: at {fault.at}: {'ok' if fault.is_survived else 'FAILED'}",
            flush=True,
        )
        if not fault.is_survived:
            self._explain(fault)
        return fault

    def read(self) -> list[Fault]:
        """Return all kills so far; of one that was repeated the last."""
        if not self.log.is_file():
            return []
        lines = self.log.read_text(encoding="utf-8").split("\n")[:-1]
        return [Fault(**json.loads(line)) for line in lines]

    def kill(self, stage: Stage, number: int, count: int) -> Fault:
        """Run a stage, kill it, look at its files, run it again and compare."""
        reference = self.reference(stage)
        draw = random.Random(f"{self.seed}/{stage.name}/{number}")
        at_write = stage.at_writes and number % 2 == 0
        while True:
            if at_write:
                # One write of each equal part of all writes, so that the kills are spread over the stage.
                share = (number + 2 * draw.random()) / max(2, count + count % 2)
                kill_at = 1 + int(min(share, 0.9999) * reference.num_writes)
                delay_s = draw.choice((0.0, 0.0, 0.001, 0.005))
                at = f"write {kill_at} of {reference.num_writes} + {1000 * delay_s:g} ms"
                killed = self._start(stage, kill_at=kill_at, delay_s=delay_s)
            else:
                kill_s = draw.uniform(0, reference.seconds)
                at = f"{kill_s:.2f} s of {reference.seconds:.2f} s"
                killed = self._start(stage, kill_s=kill_s)
            if killed[0] == -signal.SIGKILL:
                break
        work = self._work(stage)
        incomplete = incomplete_files(work, reference.tree, stage.growing)
        code, _, message = self._start(stage, fresh=False)
        if code == 2 and stage.complete and stage.complete in message:
            code = 0  # the output is complete, and the command says so
        found = differences(tree(work), reference.tree)
        text = "" if code == 0 else message[-1500:]
        return Fault(stage.name, number, self.seed, at, incomplete, found, code, text, self.version)

    def limit(self, stage: Stage, kind: str, number: int) -> Fault:
        """Run a stage on a bad disk or with little memory; then go on as after a kill."""
        reference = self.reference(stage)
        draw = random.Random(f"{self.seed}/{stage.name}/{kind}/{number}")
        work = self._work(stage)
        with ExitStack() as stack:
            if kind == LITTLE_MEMORY:
                memory_mb = draw.uniform(0, 150 if stage.forked else 400)
                at = f"{memory_mb:.0f} MB more"
                code, _, said = self._start(stage, memory_mb=memory_mb)
            else:
                shutil.rmtree(work, ignore_errors=True)
                size = max(PAGE, int(draw.random() * reference.num_bytes))
                disk = stack.enter_context(mounted_disk(work))
                make_folders(work)
                at = f"{size} of {reference.num_bytes} bytes" if kind == FULL_DISK else kind
                disk(f"size={size}" if kind == FULL_DISK else "ro")
                code, _, said = self._start(stage, fresh=False)
                disk(f"rw,size={DISK}")
            incomplete = incomplete_files(work, reference.tree, stage.growing)
            if kind != LITTLE_MEMORY and code:
                incomplete += unclear(code, said, "no space left" if kind == FULL_DISK else "ead-only")
            code, _, message = self._start(stage, fresh=False)
            if code == 2 and stage.complete and stage.complete in message:
                code = 0
            found = differences(tree(work), reference.tree)
        text = "" if code == 0 else message[-1500:]
        name = f"{stage.name}: {kind}"
        return Fault(name, number, self.seed, at, incomplete, found, code, text, self.version)

    def reference(self, stage: Stage) -> Reference:
        """Return what an undisturbed run writes, from disk if it was measured before."""
        path = self.out / "references" / f"{stage.name.replace(' ', '_')}.json"
        if path.is_file():
            return Reference(**json.loads(path.read_text(encoding="utf-8")))
        trees, seconds, num_writes = [], 0.0, 0
        for _ in range(2):
            begun = time.monotonic()
            code, num_writes, message = self._start(stage)
            seconds = time.monotonic() - begun
            if code != 0:
                raise RuntimeError(f"{stage.name} fails without any kill: {message}")
            trees.append(tree(self._work(stage)))
        if lines := differences(*trees):
            raise RuntimeError(f"two undisturbed runs of {stage.name} differ: {lines}")
        used = sum(512 * path.stat().st_blocks for path in self._work(stage).rglob("*") if path.is_file())
        found = Reference(seconds, num_writes, used, trees[0])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(found)), encoding="utf-8")
        return found

    def write_table(self, faults: Iterable[Fault]) -> None:
        """Write faults.md: a row for each stage."""
        by_stage: dict[str, list[Fault]] = {}
        for fault in faults:
            by_stage.setdefault(fault.stage, []).append(fault)
        lines = ["| stage | times | ended well | identical |", "| --- | ---: | ---: | ---: |"]
        total = [0, 0, 0]
        for name in sorted(by_stage, key=lambda name: list(STAGES).index(name.partition(":")[0])):
            own = by_stage[name]
            counts = [len(own), sum(k.code == 0 for k in own), sum(k.is_survived for k in own)]
            total = [a + b for a, b in zip(total, counts, strict=True)]
            lines.append(f"| {name} | {' | '.join(map(str, counts))} |")
        lines.append(f"| all | {' | '.join(map(str, total))} |")
        (self.out / "faults.md").write_text("\n".join([*lines, ""]), encoding="utf-8")

    def _work(self, stage: Stage) -> Path:
        return self.out / "work" / stage.name.replace(" ", "_")

    def _start(
        self, stage: Stage, kill_at: int = -1, delay_s: float = 0.0, kill_s: float | None = None,
        memory_mb: float | None = None, fresh: bool = True,
    ) -> tuple[int, int, str]:  # fmt: skip
        """Run a stage; returns the exit code, how often it wrote, and what it printed."""
        work = self._work(stage)
        if fresh:
            shutil.rmtree(work, ignore_errors=True)
            make_folders(work)
        counter = self.out / "work" / "writes"
        fault = {
            "roots": [str(work)], "counter": str(counter), "delay_s": delay_s,
            "kill_at": kill_at if stage.at_writes else None, "memory_mb": memory_mb,
        }  # fmt: skip
        environment = {
            **os.environ, "EMODISTILL_CACHE": str(work / "cache"), "TMPDIR": str(work / "tmp"),
            "EMODISTILL_FAULT": json.dumps(fault), "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1", "PYTHONHASHSEED": "0", "MPLCONFIGDIR": str(self.out / "matplotlib"),
        }  # fmt: skip
        arguments = list(map(str, stage.arguments(self.material, work / "out")))
        printed = self.out / "work" / "printed"
        start = start_fork if stage.forked else start_process
        with printed.open("wb") as file:
            process = start(arguments, environment, file.fileno())
        code = None
        try:
            code = wait(process, LIMIT_S if kill_s is None else kill_s)
        finally:
            code = end_group(process, code)
        num_writes = int(counter.read_text() or 0) if stage.at_writes and counter.is_file() else 0
        return code, num_writes, printed.read_text(encoding="utf-8", errors="replace")

    def _explain(self, fault: Fault) -> None:
        for line in [*fault.incomplete, *fault.differences[:12], *fault.message.splitlines()[-6:]]:
            print(f"    {line}")
        stage, _, kind = fault.stage.partition(": ")
        again = f"--limits {fault.number + 1}" if kind else f"--number {fault.number}"
        print(
            f"    exit code {fault.code}; to repeat: python scripts/faults.py --out {self.out} --seed "
            f"{self.seed} --only '{stage}' {again}",
            flush=True,
        )


def make_folders(work: Path) -> None:
    """Make the folders that a stage may write to."""
    for name in WORK:
        (work / name).mkdir(parents=True)


@contextmanager
def mounted_disk(folder: Path) -> Iterator[Callable[[str], None]]:
    """Mount an empty disk in memory at a folder; gives a function that mounts it again with other options."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "faults", str(folder)], check=True)

    def remount(options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)

    try:
        yield remount
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def unclear(code: int, said: str, reason: str) -> list[str]:
    """Return what is wrong with the end of a command that had no disk to write to."""
    last = (said.strip().splitlines() or [""])[-1]
    if code == 2 and last.startswith("error: ") and reason in last and "Traceback" not in said:
        return []
    return [f"exit code {code}, expected 2 and one line with '{reason}', but it said: {said[-1500:]}"]


def start_process(arguments: Sequence[str], environment: Mapping[str, str], output: int) -> int:
    """Start a command in a process group of its own, and return its id."""
    command = [sys.executable, str(Path(__file__).resolve()), CHILD, *arguments]
    actions = [(os.POSIX_SPAWN_DUP2, output, 1), (os.POSIX_SPAWN_DUP2, output, 2)]
    return os.posix_spawn(sys.executable, command, environment, file_actions=actions, setsid=True)


def start_fork(arguments: Sequence[str], environment: Mapping[str, str], output: int) -> int:
    """Do the same in a fork of this process, after the imports that take seconds."""
    import tempfile

    import emodistill.export
    import emodistill.training.cross_validation
    import emodistill.training.tuning  # noqa: F401

    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        os.setsid()
        os.dup2(output, 1)
        os.dup2(output, 2)
        for name, descriptor in (("stdout", 1), ("stderr", 2)):  # pytest replaces them
            setattr(sys, name, os.fdopen(descriptor, "w", encoding="utf-8", closefd=False))
        os.environ.clear()
        os.environ.update(environment)
        tempfile.tempdir = None
        run_child(arguments)
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(process: int, limit_s: float) -> int | None:
    """Return the exit code of a process, negative after a signal; None if it still runs."""
    end = time.monotonic() + limit_s
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            return None
        time.sleep(0.002)


def end_group(process: int, code: int | None) -> int:
    """Kill all that is left of a process group; returns the exit code of its first process.

    `code` is this exit code, or None if the process was not waited for.
    """
    if code is None:
        os.kill(process, signal.SIGKILL)
    while True:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process, signal.SIGKILL)
            if code is not None:
                time.sleep(0.01)
                continue
        if code is not None:
            return code
        code = wait(process, LIMIT_S)


def make_material(folder: Path, training: bool = True) -> None:
    """Make what the stages read: a corpus and recordings; for `training` also recipes and a finished run."""
    complete = folder / "complete"
    if complete.is_file():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    sys.path.insert(0, str(ROOT / "tests"))
    import factories as make  # type: ignore[import-not-found]

    from emodistill.corpora import DEMO_CORPUS

    manifest = make.corpus_folder(folder / "corpus", speakers=6, each=2)
    (folder / "clips").mkdir()
    for path in sorted(DEMO_CORPUS.glob("audio/*/*"))[:24:2]:
        shutil.copyfile(path, folder / "clips" / path.name)
    published = make.DATA / "models" / "whisper-base"
    if published.is_dir():
        (folder / "whisper-base").symlink_to(published)
    if training:
        _make_run(folder, manifest)
    complete.touch()


def _make_run(folder: Path, manifest: Path) -> None:
    import factories as make
    import torch

    from emodistill.config import recipe_toml

    torch.set_num_threads(1)  # A fork of this process would wait for ever for threads that it lacks.
    short = {"protocol": {"folds": 3, "refit": False}}
    make.PRETRAINED["whisper"](folder / "whisper")
    student = {"backbone": str(folder / "whisper"), "layers": 2, "frozen": 1}
    frozen = {**short, "distillation": {"teachers": []}, "student": student}
    for name, sections in (("recipe", short), ("frozen", frozen)):
        (folder / f"{name}.toml").write_text(recipe_toml(make.recipe(manifest, **sections)), encoding="utf-8")
    environment = {**os.environ, "EMODISTILL_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "emodistill", "crossval", str(folder / "recipe.toml")]
    command += ["--out", str(folder / "run")]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)


def share_out(kills: int, names: Sequence[str]) -> dict[Stage, int]:
    """Return the kills of each stage: a tenth of all for each training stage, the rest by `Stage.share`."""
    counts = {STAGES[name]: kills // 10 for name in names if name in TRAINING}
    others = [stage for name, stage in STAGES.items() if name not in TRAINING]
    rest, shares = kills - len(TRAINING) * (kills // 10), sum(stage.share for stage in others)
    exact = {stage: rest * stage.share / shares for stage in others}
    whole = {stage: int(value) for stage, value in exact.items()}
    for stage in sorted(exact, key=lambda item: whole[item] - exact[item])[: rest - sum(whole.values())]:
        whole[stage] += 1
    return {**counts, **{stage: count for stage, count in whole.items() if stage.name in names}}


def main() -> int:
    """Run the loop; returns 1 if a fault was not survived."""
    if sys.argv[1:2] == [CHILD]:
        run_child(sys.argv[2:])
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=list(STAGES), default=list(STAGES))
    parser.add_argument("--number", type=int, nargs="+", help="repeat these kills alone")
    parser.add_argument("--limits", type=int, metavar="COUNT", help="instead of kills: see above")
    options = parser.parse_args()
    loop = Loop(options.out, options.seed)
    if options.limits is not None:
        kills = loop.run_limits([STAGES[name] for name in options.only], options.limits)
    else:
        kills = loop.run(share_out(options.kills, options.only), options.number)
    print((loop.out / "faults.md").read_text(encoding="utf-8"))
    return int(not all(kill.is_survived for kill in kills))


if __name__ == "__main__":
    sys.exit(main())
