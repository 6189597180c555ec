"""`emodistill scale`: one row for each row of a manifest, whatever ends or fails on the way."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset
import pyarrow.parquet
import pytest
from factories_scripts import load_script
from factories_serving import free_port
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from emodistill import Recognizer
from emodistill.cli import app
from emodistill.errors import AudioError, ConfigError
from emodistill.inference.adaptation import predict_compared
from emodistill.inference.embedding_rows import to_parquet as embeddings_to_parquet
from emodistill.inference.input_lists import read_list
from emodistill.inference.inputs import Input, embed_inputs, predict_inputs
from emodistill.inference.prediction import Prediction
from emodistill.inference.prediction_rows import Columns
from emodistill.inference.voices import VoiceSums
from emodistill.scale import run as scale_run
from emodistill.scale import storage as storage_module
from emodistill.scale.engine import LATE, STARTS, load_ray
from emodistill.scale.engine import cluster as ray_cluster
from emodistill.scale.job import PART, Job, Plan
from emodistill.scale.manifest import read_batches, read_inputs, write_shards
from emodistill.scale.run import run
from emodistill.scale.storage import Storage, locate, may_pass, read_options
from emodistill.scale.tries import CAREFUL, ENDED, Tries
from emodistill.scale.voices import add_sums, sum_shards
from emodistill.scale.worker import ShardWorker, read_shard

DEMO = Path(scale_run.__file__).parents[1] / "demo" / "corpus"
UTTERANCES = DEMO / "utterances.csv"


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return Recognizer(threads=1)


def demo_rows(number: int | None = None) -> list[dict[str, str]]:
    """The path and the speaker of the first recordings of the demo corpus, or of all."""
    table = pyarrow.csv.read_csv(UTTERANCES).select(["path", "speaker"])
    return table.slice(0, number).to_pylist()


def write_manifest(file: Path, rows: list[dict[str, Any]]) -> Path:
    """Write a manifest; the suffix chooses CSV, TSV or Parquet."""
    table = pa.Table.from_pylist(rows)
    if file.suffix == ".parquet":
        pyarrow.parquet.write_table(table, file)
    else:
        options = pyarrow.csv.WriteOptions(delimiter="\t" if file.suffix == ".tsv" else ",")
        pyarrow.csv.write_csv(table, file, options)
    return file


def scale(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `emodistill scale` as a user does."""
    command = [sys.executable, "-m", "emodistill", "scale", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=300
    )


def parts(folder: Path) -> pa.Table:
    """The rows of all parts in the order of their names."""
    files = sorted(folder.glob("part-*.parquet"))
    return pa.concat_tables([pyarrow.parquet.read_table(file) for file in files])


def predicted(recognizer: Recognizer, rows: list[dict[str, Any]], root: Path = DEMO) -> list[Prediction]:
    """What `predict --from` gives for rows of a manifest."""
    inputs = [Input(row["path"], file=root / row["path"], speaker=row.get("speaker")) for row in rows]
    return [row for (row,) in predict_inputs(recognizer, inputs)]


def assert_equal(table: pa.Table, expected: list[Prediction], columns: Columns) -> None:
    """Assert that a table has these predictions in this order, and numbers its rows."""
    assert table.column_names == [*columns.names, "row"]
    assert table["row"].to_pylist() == list(range(len(expected)))
    for found, prediction in zip(table.to_pylist(), expected, strict=True):
        for name, value in zip(columns.names, columns.values(prediction), strict=True):
            assert found[name] == (pytest.approx(value, abs=1e-6) if isinstance(value, float) else value), (
                name
            )


def shard_worker(job: Job, rows: list[dict[str, Any]], shard_rows: int = 1000) -> ShardWorker:
    """A worker for rows that are cut into shards, without Ray."""
    names = ["path", "id", "start", "end", "speaker", "channel"]
    columns = {name: pa.array([row.get(name) for row in rows], pa.string()) for name in names}
    sizes = write_shards(iter([pa.table(columns)]), shard_rows, job.storage, job.shards, PART)
    return ShardWorker(job, Plan(tuple(sizes), {}))


# --- Ray ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A Ray cluster of two nodes with one CPU each."""
    load_ray()  # sets the environment of Ray's processes
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    for number in range(2):
        options = {"include_dashboard": False} if number == 0 else {}
        for tries_left in reversed(range(STARTS)):  # Ray gives a node 30 s, which is short on a busy machine.
            try:
                cluster.add_node(num_cpus=1, object_store_memory=150_000_000, **options)
                break
            except Exception as error:
                if LATE not in str(error) or not tries_left:
                    raise
    yield cluster
    cluster.shutdown()


def children_of(parent: int) -> list[Path]:
    """The folders in /proc of the processes that a process started."""
    threads = Path(f"/proc/{parent}/task").glob("*/children")
    return [Path("/proc") / child for thread in threads for child in thread.read_text().split()]


def runs(process: Path) -> bool:
    """Whether a process runs; one that ended may wait for its parent (a zombie)."""
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def workers_of(cluster: Any) -> list[int]:
    """The process ids of the actors that run shards."""
    raylets = {node.all_processes["raylet"][0].process.pid for node in cluster.list_all_nodes()}
    found = []
    for folder in Path("/proc").iterdir():
        try:
            command = (folder / "cmdline").read_text(errors="replace") if folder.name.isdigit() else ""
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1]) if command else 0
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent in raylets and command.startswith("ray::MapWorker"):
            found.append(int(folder.name))
    return found


def test_rows_are_those_of_predict_after_a_worker_was_killed(
    cluster: Any, recognizer: Recognizer, tmp_path: Path
) -> None:
    rows = demo_rows(300)
    rows += [rows[0], {"path": "missing.wav", "speaker": "nobody"}, rows[0]]  # copies have rows of their own
    manifest, out = write_manifest(tmp_path / "rows.csv", rows), tmp_path / "out"
    command = [
        sys.executable, "-m", "emodistill", "scale", "predict", "--manifest", str(manifest),
        "--root", str(DEMO), "--out", str(out), "--shard-rows", "30", "--workers", "2",
        "--address", cluster.address,
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as driver:
        for _ in range(2400):
            if len(list(out.glob("part-*"))) >= 2 or driver.poll() is not None:
                break
            time.sleep(0.05)
        alive = workers_of(cluster)
        assert len(alive) == 2
        os.kill(alive[0], signal.SIGKILL)
        _, errors = driver.communicate(timeout=200)
    assert driver.returncode == 1, errors
    assert errors.splitlines()[-1] == f"{out}: 303 rows, 1 failed"
    assert sorted(path.name for path in out.iterdir() if path.is_file()) == [
        "_scale.json", *(PART.format(shard) for shard in range(11)),
    ]  # fmt: skip
    table = parts(out)
    assert_equal(table, predicted(recognizer, rows), Columns(recognizer.emotions, listed=True))
    assert json.loads((out / "_scale.json").read_text())["result"] == {
        "rows": 303,
        "failed": 1,
        "missing": [],
    }


def test_a_killed_driver_is_continued(cluster: Any, recognizer: Recognizer, tmp_path: Path) -> None:
    rows = demo_rows(200)
    manifest, out = write_manifest(tmp_path / "rows.parquet", rows), tmp_path / "out"
    options = ["predict", "--manifest", manifest, "--root", DEMO, "--out", out, "--shard-rows", 20]
    # Ray on this machine: its ports need a token, and it must end with its driver.
    command = [sys.executable, "-m", "emodistill", "scale", *map(str, options), "--workers", "1"]
    driver = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    for _ in range(2400):
        if len(list(out.glob("part-*"))) >= 2:
            break
        time.sleep(0.05)
    rays = children_of(driver.pid)
    assert len(rays) >= 2
    assert all("RAY_AUTH_MODE=token" in (process / "environ").read_text().split("\0") for process in rays)
    started = [process for ray in rays for process in children_of(int(ray.name))]
    workers = [each for each in started if (each / "cmdline").read_text().startswith("ray::MapWorker")]
    assert workers
    driver.kill()
    driver.wait()
    for _ in range(600):
        if not any(map(runs, [*rays, *workers])):
            break
        time.sleep(0.1)
    assert not any(map(runs, [*rays, *workers]))
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("part-*")}
    assert 2 <= len(before) < 10
    again = scale(*options, "--workers", 2, "--address", cluster.address)
    assert (again.returncode, again.stderr.splitlines()[-1]) == (0, f"{out}: 200 rows, 0 failed")
    assert f"{len(before)} of 10 parts are there already" in again.stderr
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before
    assert_equal(parts(out), predicted(recognizer, rows), Columns(recognizer.emotions, listed=True))


@pytest.fixture(scope="module")
def s3() -> Iterator[tuple[str, Storage]]:
    """The address of an S3 server of this machine with the bucket `calls`, and its storage."""
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    storage = Storage(read_options([f"endpoint_url={url}", "key=any", "secret=any"]))
    for _ in range(100):
        try:
            storage._system("s3").mkdir("calls")
            break
        except Exception:
            time.sleep(0.2)
    try:
        yield url, storage
    finally:
        server.terminate()
        server.wait()


def test_voices_of_speakers_on_s3_are_those_of_predict(
    cluster: Any, s3: tuple[str, Storage], recognizer: Recognizer, tmp_path: Path
) -> None:
    url, storage = s3
    rows = demo_rows()
    edge = next(n for n, row in enumerate(rows) if row["speaker"] != rows[0]["speaker"])
    rows = rows[edge - 15 : edge + 25]
    assert len({row["speaker"] for row in rows}) == 2
    rows = [*rows, rows[0], {"path": "audio/none.ogg", "speaker": rows[0]["speaker"]}]
    rows = [{"path": row["path"], "who": row["speaker"]} for row in rows]
    rows += [{"path": rows[1]["path"], "who": None}, {"path": rows[2]["path"], "who": "alone"}]
    for path in {row["path"] for row in rows} - {"audio/none.ogg"}:
        storage.write(f"s3://calls/in/{path}", (DEMO / path).read_bytes())
    storage.write("s3://calls/in/rows.tsv", write_manifest(tmp_path / "rows.tsv", rows).read_bytes())
    done = scale(
        "predict", "--manifest", "s3://calls/in/rows.tsv", "--out", "s3://calls/out", "--speaker", "who",
        "--shard-rows", 12, "--workers", 2, "--address", cluster.address,
        "--storage-option", f"endpoint_url={url}", "--storage-option", "key=any",
        "--storage-option", "secret=any",
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[-1] == f"s3://calls/out: {len(rows)} rows, 1 failed"
    names = sorted(name for name in storage.names("s3://calls/out") if name.startswith("part"))
    table = pa.concat_tables(
        [pyarrow.parquet.read_table(io.BytesIO(storage.read(f"s3://calls/out/{name}"))) for name in names]
    )
    expected: list[Prediction | None] = [None] * len(rows)
    for speaker in {row["who"] for row in rows}:
        numbers = [number for number, row in enumerate(rows) if row["who"] == speaker]
        inputs = [Input(rows[n]["path"], file=DEMO / rows[n]["path"], speaker=speaker) for n in numbers]
        if speaker is None:
            found = predict_inputs(recognizer, inputs)
        else:
            found = predict_compared(recognizer, inputs, "together")
        for number, (row,) in zip(numbers, found, strict=True):
            expected[number] = row
    missing = expected[41]
    assert missing is not None
    expected[41] = replace(missing, error=table["error"][41].as_py())
    assert "s3://calls/in/audio/none.ogg" in str(table["error"][41])
    assert_equal(table, [row for row in expected if row], Columns(recognizer.emotions, True, listed=True))
    assert set(table["voice_utterances"].to_pylist()) == {14, 24, None}  # a copy counts once
    # Voices are personal data: nothing is left of them.
    assert not storage.names("s3://calls/out/_voices")
    assert not storage.names("s3://calls/out/_statistics")
    assert b"any" not in storage.read("s3://calls/out/_scale.json")  # no secret


# --- servers that fail --------------------------------------------------------------------------------


class Flaky(BaseHTTPRequestHandler):
    """Serves the demo corpus. The first requests of a path fail in a way that its number chooses."""

    seen: Counter[str]

    def do_GET(self) -> None:
        """Answer with 503, a connection that is cut, a slow body, 404, or the file."""
        self.seen[self.path] += 1
        path = self.path.partition("?")[0].lstrip("/")
        file = DEMO / path
        kind = sum(path.encode()) % 4
        if path.startswith("lost") or not file.is_file():
            self.send_error(404)
        elif kind == 0 and self.seen[self.path] <= 2:
            self.send_error(503)
        else:
            content = file.read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if kind == 1 and self.seen[self.path] == 1:
                self.wfile.write(content[: len(content) // 2])
                self.close_connection = True
                return
            if kind == 2:
                time.sleep(0.1)
            self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        """Write nothing."""


@pytest.fixture
def web() -> Iterator[tuple[str, Counter[str]]]:
    """The URL of a server that fails now and then, and how often each path was asked for."""
    seen: Counter[str] = Counter()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Flaky,), {"seen": seen}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_all_rows_are_right_with_a_server_that_fails_now_and_then(
    web: tuple[str, Counter[str]], recognizer: Recognizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, seen = web
    monkeypatch.setattr(storage_module, "FIRST_WAIT_S", 0.01)
    rows = [
        *demo_rows(24),
        {"path": "lost/a.ogg", "speaker": "x"},
        {"path": f"{url}/lost/b.ogg?token=secret"},
    ]
    worker = shard_worker(Job("predict", str(tmp_path / "out"), url), rows)
    assert worker({"shard": [0]}) == {"shard": [0], "rows": [26], "error": [""]}
    table = parts(tmp_path / "out")
    assert_equal(
        table.slice(0, 24), predicted(recognizer, rows[:24]), Columns(recognizer.emotions, listed=True)
    )
    assert {sum(path.lstrip("/").encode()) % 4 for path in seen} == {0, 1, 2, 3}
    for path, times in seen.items():
        expected = 1 if path.startswith("/lost") else {0: 3, 1: 2}.get(sum(path.lstrip("/").encode()) % 4, 1)
        assert times == expected, path
    first, second = table["error"].to_pylist()[24:]
    assert first == f"{url}/lost/a.ogg: cannot be read or written (no such file)"
    assert second == f"{url}/lost/b.ogg: cannot be read or written (no such file)"  # without the token


def test_a_manifest_may_be_on_a_server(web: tuple[str, Counter[str]]) -> None:
    url, _ = web
    table = pa.concat_tables(read_batches(f"{url}/utterances.csv?token=1", Storage()))
    assert [row["path"] for row in table.to_pylist()] == [row["path"] for row in demo_rows()]
    with pytest.raises(ConfigError, match=r"gone\.csv: cannot be read"):
        list(read_batches(f"{url}/gone.csv", Storage()))


@pytest.mark.parametrize(("url", "package"), [("gs://calls/a", "gcsfs"), ("az://calls/a", "adlfs")])
def test_a_cloud_without_its_package_is_named_early(url: str, package: str) -> None:
    assert find_spec(package) is None
    with pytest.raises(ConfigError, match=f"pip install {package}"):
        Storage().check(url)


def test_a_recording_over_the_limit_is_refused_while_it_is_read(
    web: tuple[str, Counter[str]], tmp_path: Path
) -> None:
    url, _ = web
    rows = demo_rows(4)
    job = Job("predict", str(tmp_path / "out"), url, storage=Storage(retries=8, max_bytes=100))
    shard_worker(job, rows)({"shard": [0]})
    assert all("more than 100 bytes" in error for error in parts(tmp_path / "out")["error"].to_pylist())


def test_a_server_that_always_fails_gives_rows_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_module, "FIRST_WAIT_S", 0.001)
    root = f"http://127.0.0.1:{free_port()}"
    job = Job("predict", str(tmp_path / "out"), root, storage=Storage(retries=2))
    shard_worker(job, demo_rows(2))({"shard": [0]})
    for error in parts(tmp_path / "out")["error"].to_pylist():
        assert error.startswith(root)
        assert "3 tries" in error


@pytest.mark.parametrize(
    ("status", "passes"), [(400, False), (403, False), (404, False), (408, True), (429, True), (503, True)]
)
def test_only_errors_that_may_pass_are_tried_again(status: int, passes: bool) -> None:
    error = OSError("refused")
    error.status = status  # type: ignore[attr-defined]
    assert may_pass(error) is passes
    response = OSError("refused")
    response.response = {"ResponseMetadata": {"HTTPStatusCode": status}}  # type: ignore[attr-defined]
    assert may_pass(response) is passes
    assert may_pass(ConnectionError())
    assert not may_pass(PermissionError())


# --- paths --------------------------------------------------------------------------------------------

names = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=8)


@given(st.lists(st.one_of(names, st.sampled_from(["..", ".", "", "/", "etc"])), max_size=8), st.booleans())
def test_no_path_of_a_manifest_leaves_the_root(listed: list[str], is_remote: bool) -> None:
    path, root = "/".join(listed), "s3://calls/in" if is_remote else "/data/in"
    try:
        place = locate(path, root)
    except AudioError:
        return
    if place.startswith(("s3://calls/in/", "/data/in/")):
        assert ".." not in place.split("/")
    else:  # another URL
        assert "://" in path


@pytest.mark.parametrize(
    "path",
    ["../a.wav", "x/../../a.wav", "/etc/passwd", "file:///etc/passwd", "", ".", "a\0b", "/data/inside/a.wav",
     "ftp://x/a.wav", "simplecache::s3://x/a.wav", "memory://a.wav", "github://x/a.wav"],
)  # fmt: skip
@pytest.mark.parametrize("root", ["/data/in", "s3://calls/in", "https://example.org/in"])
def test_hostile_paths_are_refused(path: str, root: str) -> None:
    if path.startswith("simplecache"):  # a file in the root, not an address in another file system
        assert locate(path, root).startswith(f"{root}/simplecache")
        return
    with pytest.raises(AudioError):
        locate(path, root)


def test_paths_are_found_below_the_root_and_what_is_allowed() -> None:
    assert locate("a/./b.wav", "/data") == "/data/a/b.wav"
    assert locate("/data/a.wav", "/data") == locate("file:///data/a.wav", "/data") == "/data/a.wav"
    assert locate("a/../b 1#.wav", "https://x.org/in/") == "https://x.org/in/b%201%23.wav"
    assert locate("a#1.wav", "s3://calls") == "s3://calls/a#1.wav"
    assert locate("/other/a.wav", "s3://calls", ["/other"]) == "/other/a.wav"
    assert locate("s3://elsewhere/a.wav", "/data") == "s3://elsewhere/a.wav"
    with pytest.raises(AudioError, match="leaves"):
        locate("s3://elsewhere/a.wav", "/data", ["s3://calls"])
    with pytest.raises(AudioError, match="leaves"):
        locate("s3://calls/../elsewhere/a.wav", "/data", ["s3://calls"])


def test_a_hostile_manifest_gives_rows_with_errors_and_reads_nothing(
    tmp_path: Path, recognizer: Recognizer
) -> None:
    secret = tmp_path / "secret.ogg"
    secret.write_bytes((DEMO / demo_rows(1)[0]["path"]).read_bytes())
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "noise.wav").write_bytes(b"RIFF nothing")
    (tmp_path / "root" / "ok.ogg").write_bytes(secret.read_bytes())
    (tmp_path / "root" / "link.ogg").symlink_to(secret)
    (tmp_path / "root" / "up").symlink_to(tmp_path)
    (tmp_path / "root" / "inside.ogg").symlink_to("ok.ogg")
    rows = [
        {"path": "link.ogg"}, {"path": "up/secret.ogg"},
        {"path": "../secret.ogg"}, {"path": str(secret)}, {"path": f"file://{secret}"}, {"path": ""},
        {"path": None}, {"path": "ok.ogg", "start": "soon"}, {"path": "ok.ogg", "start": "2", "end": "1"},
        {"path": "ok.ogg", "channel": "-1"}, {"path": "ok.ogg", "channel": "7"},
        {"path": "noise.wav"}, {"path": "-"}, {"path": "gone.wav"}, {"path": "x" * 5000},
        {"path": "ok.ogg", "id": "\x1b[31m"},
        {"path": "ok.ogg", "start": "0.1", "end": "99"}, {"path": "inside.ogg"},
    ]  # fmt: skip
    worker = shard_worker(Job("predict", str(tmp_path / "out"), str(tmp_path / "root")), rows)
    assert worker({"shard": [0]})["error"] == [""]
    table = parts(tmp_path / "out").to_pylist()
    assert [row["error"] is None for row in table] == [False] * 15 + [True] * 3
    for row in table[:5]:
        assert "leaves" in row["error"]
    assert table[15]["id"] == "?[31m"
    assert table[16]["start_s"] == 0.1
    assert table[16]["end_s"] < 30  # of the recording


# --- manifests ----------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 7), max_size=8), st.integers(1, 9))
def test_shards_hold_all_rows_in_order(batches: list[int], shard_rows: int) -> None:
    written: dict[str, bytes] = {}

    class Memory(Storage):
        def write(self, url: str, content: bytes) -> None:
            written[url] = content

    numbers = iter(range(1000))
    tables = (
        pa.table({"path": pa.array([str(next(numbers)) for _ in range(size)], pa.string())})
        for size in batches
    )
    sizes = write_shards(tables, shard_rows, Memory(), "out", PART)
    read = [pyarrow.parquet.read_table(io.BytesIO(written[name])) for name in sorted(written)]
    assert [len(table) for table in read] == sizes
    assert all(size == shard_rows for size in sizes[:-1])
    found = [value for table in read for value in table["path"].to_pylist()]
    assert found == [str(number) for number in range(sum(batches))]


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows.parquet", "folder"])
def test_every_kind_of_manifest_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    rows: list[dict[str, Any]] = [
        {"path": 'a,b\t"c"\n.wav', "start": 1.5, "who": "anna", "more": 7},
        {"path": "b.wav", "start": None, "who": None, "more": 8},
    ]
    if name == "folder":
        (tmp_path / name).mkdir()
        for number, row in enumerate(rows):
            schema = pa.schema({"path": pa.string(), "start": pa.float64(), "who": pa.string()})
            table = pa.Table.from_pylist([row], schema)
            pyarrow.parquet.write_table(table, tmp_path / name / f"{number}.parquet")
    else:
        write_manifest(tmp_path / name, rows)
    table = pa.concat_tables(read_batches(str(tmp_path / name), Storage(), "who"))
    assert table.schema.names == ["path", "id", "start", "end", "speaker", "channel"]
    (first, _), (second, _) = read_inputs(table, 0, "/data")
    assert (first.path, first.start_s, first.speaker) == (rows[0]["path"], 1.5, "anna")
    assert (second.path, second.start_s, second.speaker) == ("b.wav", None, None)


@pytest.mark.parametrize(
    "content",
    [
        b"path,speaker\na b.wav,anna\nc.wav,\n",
        b"\xef\xbb\xbfpath;speaker\r\na b.wav;anna\r\nc.wav;\r\n",  # as Excel writes it in Europe
        b"path, speaker\na b.wav, anna\nc.wav, \n",
        b"path\tspeaker\na b.wav\tanna\n\nc.wav\t\n\n",
    ],
)
def test_csv_is_read_as_predict_reads_a_list(tmp_path: Path, content: bytes) -> None:
    manifest = tmp_path / "rows.csv"
    manifest.write_bytes(content)
    table = pa.concat_tables(read_batches(str(manifest), Storage()))
    found = [(item.path, item.speaker) for item, _ in read_inputs(table, 0, "/data")]
    assert found == [("a b.wav", "anna"), ("c.wav", None)]
    assert found == [(item.path, item.speaker) for item in read_list(manifest)]


def not_utf8(column: str) -> bytes:
    """A Parquet manifest with a text that is no UTF-8."""
    broken = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff\xfe"]).buffers())
    table = pa.table({"path": pa.array(["a.wav"]), "id": pa.array(["a"])})
    stream = io.BytesIO()
    pa.parquet.write_table(table.set_column(table.column_names.index(column), column, broken), stream)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.csv", b"", "begins with no header"),
        ("rows.csv", b"\npath\na.wav\n", "begins with no header"),
        ("rows.csv", "path\na.wav\n".encode("utf-16"), "is UTF-16, expected UTF-8: save it again"),
        ("rows.csv", b"file,speaker\na,b\n", "needs the column 'path'"),
        ("rows.csv", b"path,path\na,b\n", "twice"),
        ("rows.csv", b"path,id,id\na,b,c\n", "has the column 'id' twice"),
        ("rows.csv", b"path, id,id\na,b,c\n", "has the column 'id' twice"),
        ("rows.parquet", not_utf8("path"), r"cannot be read.*UTF8"),
        ("rows.parquet", not_utf8("id"), r"cannot be read.*UTF8"),
        ("rows.csv", b"path,speaker\na.wav,x,y\n", "cannot be read"),
        ("rows.csv", b"path\n\xff\xfe.wav\n", "cannot be read"),
        ("rows.parquet", b"PAR1 nothing", "cannot be read"),
        ("rows.txt", b"a.wav\n", "no manifest"),
        ("rows.xlsx", None, "no manifest"),
        ("rows.csv", None, "no manifest"),
    ],
)
def test_a_damaged_manifest_is_refused_before_ray_starts(
    tmp_path: Path, name: str, content: bytes | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scale_run, "cluster", lambda *options: pytest.fail("Ray must not start"))
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        run(Job("predict", str(tmp_path / "out"), str(tmp_path)), str(tmp_path / name))
    assert not list((tmp_path / "out").glob("part*"))


def test_a_speaker_column_must_be_there(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path / "rows.csv", demo_rows(1))
    with pytest.raises(ConfigError, match=r"'speakr'.*did you mean 'speaker'"):
        run(
            Job("predict", str(tmp_path / "out"), str(DEMO), by_speaker=True), str(manifest), speaker="speakr"
        )


def test_an_empty_manifest_gives_no_rows(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("path,speaker\n")
    result = run(Job("predict", str(tmp_path / "out"), str(tmp_path)), str(tmp_path / "rows.csv"))
    assert (result.rows, result.written, result.failed, result.missing) == (0, 0, 0, ())


# --- continuing ---------------------------------------------------------------------------------------


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs shards in this process."""

    class NoCluster:
        def __enter__(self) -> None: ...
        def __exit__(self, *error: object) -> None: ...

    def in_process(
        ray: Any, worker: Callable[..., Any], arguments: Any, shards: list[int], *options: object
    ) -> Iterator[Any]:
        ready = worker(*arguments)
        for shard in shards:
            yield {name: value[0] for name, value in ready({"shard": [shard]}).items()}

    monkeypatch.setattr(scale_run, "cluster", lambda *options: NoCluster())
    monkeypatch.setattr(scale_run, "run_shards", in_process)


@pytest.mark.usefixtures("without_ray")
def test_a_row_whose_kind_of_url_has_no_package_gets_an_error_alone(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path / "rows.csv", [*demo_rows(2), {"path": "gs://bucket/a.wav"}])
    result = run(Job("predict", str(tmp_path / "out"), str(DEMO)), str(manifest))
    assert (result.written, result.failed, result.missing) == (3, 1, ())
    (error,) = pa.parquet.read_table(tmp_path / "out").column("error").drop_null().to_pylist()
    assert "gs:// URLs need 'gcsfs'" in error


@pytest.mark.usefixtures("without_ray")
@pytest.mark.parametrize("part", ["other columns", "no statistics", "no Parquet"])
def test_a_part_that_is_no_part_is_done_again(tmp_path: Path, part: str) -> None:
    manifest = write_manifest(tmp_path / "rows.csv", demo_rows(2))
    job, path = Job("predict", str(tmp_path / "out"), str(DEMO)), tmp_path / "out" / PART.format(0)
    run(job, str(manifest))
    expected = pa.parquet.read_table(path)
    if part == "other columns":
        pa.parquet.write_table(pa.table({"a": [1, 2]}), path)
    elif part == "no statistics":
        pa.parquet.write_table(expected, path, write_statistics=False)
    else:
        path.write_bytes(b"PAR1")
    assert run(job, str(manifest)).missing == ()
    assert pa.parquet.read_table(path).equals(expected)


@pytest.mark.usefixtures("without_ray")
def test_other_settings_and_other_manifests_are_refused(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path / "rows.csv", demo_rows(4))
    job = Job("predict", str(tmp_path / "out"), str(DEMO))
    run(job, str(manifest), shard_rows=2)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("part*")}
    assert len(before) == 2
    for other in (
        replace(job, emotions=("angry", "sad")),
        replace(job, channel=0),
        replace(job, verb="embed"),
    ):
        with pytest.raises(ConfigError, match="was begun with another"):
            run(other, str(manifest), shard_rows=2)
    with pytest.raises(ConfigError, match="shard rows"):
        run(job, str(manifest), shard_rows=3)
    write_manifest(manifest, demo_rows(5))
    with pytest.raises(ConfigError, match="another manifest"):
        run(job, str(manifest), shard_rows=2)
    write_manifest(manifest, demo_rows(4))
    assert run(job, str(manifest), shard_rows=2).reused == 2
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("part*")} == before


def test_a_folder_with_other_files_or_a_damaged_state_is_refused(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path / "rows.csv", demo_rows(1))
    job = Job("predict", str(tmp_path / "out"), str(DEMO))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"thesis\.txt"):
        run(job, str(manifest))
    for text in ("{}", "[" * 50_000, '{"format": 1, "shards": [1e999], "settings": {}}'):
        (tmp_path / "out" / "_scale.json").write_text(text)
        with pytest.raises(ConfigError, match="damaged"):
            run(job, str(manifest))


@pytest.mark.usefixtures("without_ray")
def test_failed_rows_are_tried_again_on_request(tmp_path: Path) -> None:
    rows = demo_rows(4)
    for row in rows[:3]:
        (tmp_path / row["path"]).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / row["path"]).write_bytes((DEMO / row["path"]).read_bytes())
    manifest = write_manifest(tmp_path / "rows.csv", rows)
    job = Job("predict", str(tmp_path / "out"), str(tmp_path))
    assert run(job, str(manifest), shard_rows=2).failed == 1
    (tmp_path / rows[3]["path"]).write_bytes((DEMO / rows[3]["path"]).read_bytes())
    assert run(job, str(manifest), shard_rows=2).failed == 1
    result = run(job, str(manifest), shard_rows=2, retry_failed=True)
    assert (result.failed, result.written, result.reused) == (0, 4, 1)


@pytest.mark.usefixtures("without_ray")
@pytest.mark.parametrize("damage", ["rows of another part", "half of the file"])
def test_a_part_without_its_rows_is_computed_again(damage: str, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path / "rows.csv", demo_rows(4))
    job = Job("predict", str(tmp_path / "out"), str(DEMO))
    run(job, str(manifest), shard_rows=2)
    first, second = ((tmp_path / "out" / PART.format(shard)).read_bytes() for shard in range(2))
    bad = first if damage == "rows of another part" else second[: len(second) // 2]
    (tmp_path / "out" / PART.format(1)).write_bytes(bad)
    result = run(job, str(manifest), shard_rows=2)
    assert (result.missing, result.written, result.reused) == ((), 4, 1)
    assert (tmp_path / "out" / PART.format(1)).read_bytes() == second


@pytest.mark.usefixtures("without_ray")
def test_a_worker_that_cannot_write_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = write_manifest(tmp_path / "rows.csv", demo_rows(3))

    def refuse(self: ShardWorker, *arguments: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(ShardWorker, "table", refuse)
    result = run(Job("predict", str(tmp_path / "out"), str(DEMO)), str(manifest), shard_rows=2)
    assert result.missing == (0, 1)
    assert "shard 1: OSError: no space left" in capsys.readouterr().err


def test_a_file_that_ends_every_worker_gets_an_error(tmp_path: Path) -> None:
    job = Job("predict", str(tmp_path / "out"), str(DEMO))
    worker = shard_worker(job, demo_rows(4))

    class Ended(BaseException):
        """Stands for SIGKILL: no code of the worker runs after it."""

    def killing() -> list[Input]:
        """The inputs of a try; the third row ends it."""
        tries = Tries(job, 0)
        done = []
        for number, item in enumerate(
            tries.watched(iter([i for i, _ in tries.guard(read_shard(job, worker.plan, 0))]))
        ):
            if number == 2 and item.error is None:
                raise Ended
            done.append(item)
        return done

    for _ in range(CAREFUL + 1):
        with pytest.raises(Ended):
            killing()
    done = killing()
    assert [item.error for item in done if item.error] == [f"{done[2].path}: {ENDED}"]
    worker({"shard": [0]})
    assert [error is None for error in parts(tmp_path / "out")["error"].to_pylist()] == [
        True,
        True,
        False,
        True,
    ]
    assert not list((tmp_path / "out" / "_tries").iterdir())


# --- rows ---------------------------------------------------------------------------------------------


def test_embeddings_are_those_of_embed(tmp_path: Path, recognizer: Recognizer) -> None:
    rows = [*demo_rows(3), {"path": "none.wav", "speaker": "x"}]
    job = Job("embed", str(tmp_path / "out"), str(DEMO))
    shard_worker(job, rows, 2)({"shard": [0, 1]})
    inputs = [Input(row["path"], file=DEMO / row["path"], speaker=row["speaker"]) for row in rows]
    expected = [row for (row,) in embed_inputs(recognizer, inputs)]
    content = embeddings_to_parquet(expected, recognizer.embedding_dims)
    table = parts(tmp_path / "out")
    assert table["row"].to_pylist() == [0, 1, 2, 3]
    assert table.drop_columns(["row"]).equals(pyarrow.parquet.read_table(io.BytesIO(content)))


def test_a_speaker_with_many_rows_needs_one_sum_for_each_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(7)
    rows = [
        {
            "voice": "anna" if n % 10 else "bert",
            "weighted": rng.normal(size=4),
            "shard": n // 50,
            "speech_s": 1.0 + n,
        }
        for n in range(200)
    ]

    def read(job: Job, shard: int) -> pa.Table:
        chosen = [(n, row) for n, row in enumerate(rows) if row["shard"] == shard]
        table = pa.table({name: pa.nulls(len(chosen), pa.string()) for name in ("path", "reason", "error")})
        for name, values in {
            "voice": [row["voice"] for _, row in chosen], "audio": [str(n) for n, _ in chosen],
            "row": [n for n, _ in chosen], "channel": pa.nulls(len(chosen), pa.int64()),
            "windows": pa.array(
                [row["weighted"].astype(np.float32) for _, row in chosen], pa.list_(pa.float32())
            ),
            "window_s": pa.array([[row["speech_s"]] for _, row in chosen], pa.list_(pa.float64())),
        }.items():  # fmt: skip
            table = table.append_column(name, values if isinstance(values, pa.Array) else pa.array(values))
        return table

    monkeypatch.setattr("emodistill.scale.voices.read_statistics", read)
    job = Job("predict", str(tmp_path), str(tmp_path))
    # Row 0 has a copy, row 1, which does not count.
    firsts = {"1": 0}
    sums = pa.concat_tables([sum_shards(pa.table({"shard": [shard]}), job, firsts) for shard in (3, 1, 0, 2)])
    assert len(sums) == 4 * 2
    for name in ("anna", "bert"):
        group = sums.filter(pa.compute.field("voice") == name)
        (found,) = add_sums(group).to_pylist()
        again = add_sums(group.take(pa.array([2, 0, 3, 1])))
        assert again.to_pylist() == [found]  # whatever order Ray gives them in
        members = [row for n, row in enumerate(rows) if row["voice"] == name and n != 1]
        assert found["utterances"] == len(members)
        expected = sum(row["speech_s"] * row["weighted"].astype(np.float32).astype(float) for row in members)
        np.testing.assert_allclose(found["weighted"], expected, rtol=1e-12)


def test_sums_of_voices_add_up() -> None:
    first, second = VoiceSums(np.ones(3), 2.0, 1), VoiceSums(np.full(3, 2.0), 3.0, 2)
    total = first + second
    assert ((total - second).speech_s, (total - second).num_utterances) == (2.0, 1)
    np.testing.assert_array_equal((total - second).weighted, first.weighted)


# --- figures and files for a cluster ------------------------------------------------------------------

ROOT = Path(__file__).parents[1]
JOB, SCHEMA = ROOT / "deploy" / "ray-job.yaml", ROOT / "deploy" / "ray-job.schema.json"


def test_the_ray_job_fits_its_schema_and_the_command() -> None:
    import yaml
    from jsonschema import Draft202012Validator

    schema = Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))
    text = JOB.read_text(encoding="utf-8")
    schema.validate(yaml.safe_load(text))
    for old, new in (("runAsNonRoot: true", "runAsNonRoot: false"), ("backoffLimit", "backofLimit"),
                     ("readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false"),
                     ("mode: token", "mode: disabled"),
                     ('rayVersion: "2.60.0"', "rayVersion: 2.6")):  # fmt: skip
        assert old in text
        assert not schema.is_valid(yaml.safe_load(text.replace(old, new))), old
    spec = yaml.safe_load(text)["spec"]
    cluster = spec["rayClusterSpec"]
    versions = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
    )
    assert cluster["rayVersion"] == versions["ray"]
    assert f"rayproject/ray:{versions['ray']}-" in (ROOT / "deploy" / "ray.Dockerfile").read_text()
    command = spec["entrypoint"].split()
    shown = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(app, [*command[1:3], "--help"]).output
    assert {part for part in command if part.startswith("--")} <= set(re.findall(r"--[a-z-]+", shown))
    (group,) = cluster["workerGroupSpecs"]
    workers = int(command[command.index("--workers") + 1])
    assert workers == group["replicas"] * int(group["rayStartParams"]["num-cpus"])
    for pods in (group, cluster["headGroupSpec"]):
        (container,) = pods["template"]["spec"]["containers"]
        assert container["resources"]["requests"] == container["resources"]["limits"]


simulation = load_script("scale_simulation")


@given(
    files=st.integers(1000, 50_000), workers=st.integers(1, 20), rows=st.sampled_from([100, 500, 3000]),
    failures=st.sampled_from([0.0, 5.0]),
)  # fmt: skip
def test_a_simulated_run_takes_at_least_its_work_and_at_most_one_worker(
    files: int, workers: int, rows: int, failures: float
) -> None:
    cluster = simulation.Cluster(files=files, workers=workers, failures=failures, slow=0.0, file_spread=0.01)
    span_s = simulation.makespan_s(cluster, rows, np.random.default_rng(files))
    shards = -(-files // rows)
    assert span_s > 0.99 * max(cluster.ideal_s, cluster.driver_s * shards)
    if not failures:
        longest_s = (
            shards * (1.01 * rows * cluster.file_s + cluster.gap_s + cluster.driver_s) + cluster.look_s
        )
        assert span_s < longest_s
        assert span_s == simulation.makespan_s(cluster, rows, np.random.default_rng(files))


def test_failures_and_slow_workers_make_large_shards_worse() -> None:
    cluster = simulation.Cluster(files=400_000, workers=20, failures=3.0)
    found = simulation.overheads(cluster, (100, 1000, 20_000), 5)
    assert found[20_000] > found[1000] > 1
    assert 1000 in simulation.good_sizes({100: 1.0, 1000: 1.01, 20_000: 1.5})
    assert simulation.good_sizes({100: 1.0, 1000: 1.05}) == [100]


def test_the_simulation_reads_the_figures_of_the_benchmark(tmp_path: Path) -> None:
    figures = {"rows of a shard": 50, "seconds of shards": [0.5, 0.5, 0.6], "ms between two shards": 20}
    (tmp_path / "b.json").write_text(json.dumps(figures))
    cluster = simulation.measured(tmp_path / "b.json", simulation.Cluster())
    assert (cluster.file_s, cluster.gap_s) == (pytest.approx(0.01), pytest.approx(0.02))
    assert 0 < cluster.file_spread < 2


def test_the_fields_of_the_state_are_documented(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("path\n")
    run(Job("predict", str(tmp_path / "out"), str(tmp_path)), str(tmp_path / "rows.csv"))
    state = json.loads((tmp_path / "out" / "_scale.json").read_text())
    section = (ROOT / "docs/reference/json.md").read_text(encoding="utf-8").partition("## Scale output")[2]
    first, _, second = section.partition("### Result of scale")
    assert re.findall(r"^\| `(\w+)`", first, re.MULTILINE) == list(state)
    assert re.findall(r"^\| `(\w+)`", second, re.MULTILINE) == list(state["result"])


def test_a_cluster_that_cannot_be_reached_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**options: object) -> None:
        raise ConnectionError("Could not find any running Ray instance.\nMore lines")

    monkeypatch.setattr(load_ray(), "init", refuse)
    with (
        pytest.raises(ConfigError, match=r"no Ray cluster at 'auto': Could not find .* instance\.$"),
        ray_cluster("auto", 1),
    ):
        pytest.fail("there is no cluster")


def test_ray_is_started_again_where_a_busy_machine_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[object] = []

    def late(**options: object) -> None:
        starts.append(options["num_cpus"])
        if len(starts) < STARTS:
            raise Exception(f"The current node {LATE}.")

    monkeypatch.setattr(load_ray(), "init", late)
    monkeypatch.setattr(load_ray(), "shutdown", lambda: None)
    with ray_cluster(None, 2):
        assert starts == [2] * STARTS


# --- the command --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--channels", "split"], "several rows"),
        (["--storage-option", "endpoint"], "KEY=VALUE"),
        (["--storage-option", "ftp.user=x"], "KEY=VALUE"),
        (["--out", "ftp://x/y"], "bad scheme 'ftp'"),
        (["--out", "https://x/y"], "bad scheme 'https'"),
        (["--voice", "a.json", "--speaker", "who"], "exclude each other"),
        (["--speaker", "who", "--retry-failed"], "exclude each other"),
        (["--model", "no-such-model"], "no-such-model"),
        (["--emotions", "angri"], "did you mean 'angry'"),
    ],
)
def test_a_bad_option_is_reported_without_ray(
    tmp_path: Path, options: list[str], message: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    from emodistill import cli

    monkeypatch.setattr(scale_run, "cluster", lambda *given: pytest.fail("Ray must not start"))
    manifest = write_manifest(tmp_path / "rows.csv", demo_rows(1))
    command = ["scale", "predict", "--manifest", str(manifest), "--out", str(tmp_path / "out"), *options]
    monkeypatch.setattr(sys, "argv", ["emodistill", *command])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert message in capsys.readouterr().err.replace("\n", " ")
