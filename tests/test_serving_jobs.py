"""Jobs: their states over several processes, their limits, and what is left of them."""

import io
import json
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import factories as make
import httpx2
import numpy as np
import pytest
from factories_serving import SPEECH, problem, serving, upload, wav
from factories_voices import voice_model
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from test_serving_process import children

from emodistill import Recognizer
from emodistill.audio.waveform import load
from emodistill.inference.formats import formats_without_source
from emodistill.inference.timelines import Timeline, timeline
from emodistill.serving import job_store, jobs
from emodistill.serving import service as service_module
from emodistill.serving.app import create_app
from emodistill.serving.job_store import MAX_WAITING, JobStore
from emodistill.serving.logs import JsonFormatter
from emodistill.serving.settings import Settings

SETTINGS = Settings(threads=2, max_seconds=120)
UNKNOWN = "0" * 32


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "BEAT_S", 0.05)


@pytest.fixture
def client() -> Iterator[TestClient]:
    with TestClient(create_app(SETTINGS)) as test_client:
        yield test_client


def long_speech(duration_s: float) -> bytes:
    """A recording of this length, full of speech."""
    sound = np.concatenate([load(path) for path in SPEECH])
    return wav(np.resize(sound, round(duration_s * make.RATE)))


def submit(client: Any, *files: Any, **options: Any) -> str:
    """The id of a new job."""
    response = client.post("/v1/jobs", files=list(files) or upload(SPEECH[0]), **options)
    assert response.status_code == 202, response.text
    body = response.json()
    assert body == {"id": body["id"], "state": "waiting"}
    assert response.headers["location"] == f"/v1/jobs/{body['id']}"
    return str(body["id"])


def wait_for(client: Any, job: str, *states: str, timeout_s: float = 60) -> dict[str, Any]:
    """The status of a job as soon as it has one of these states."""
    began = time.monotonic()
    while time.monotonic() - began < timeout_s:
        response = client.get(f"/v1/jobs/{job}")
        assert response.status_code == 200, response.text
        status: dict[str, Any] = response.json()
        if status["state"] in states:
            return status
        time.sleep(0.02)
    raise AssertionError(f"the job is {status}")


def block(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Make every timeline wait until the event is set."""
    proceed, real = threading.Event(), service_module.timeline

    def waiting(*arguments: Any, **options: Any) -> Timeline:
        assert proceed.wait(60)
        return real(*arguments, **options)

    monkeypatch.setattr(service_module, "timeline", waiting)
    return proceed


# --- results ---------------------------------------------------------------------------------------


def test_the_result_is_the_answer_of_the_timeline_endpoint(client: TestClient) -> None:
    files = [*upload(*SPEECH[:3]), ("files", ("broken.wav", b"no")), ("files", ("empty.wav", b""))]
    data = {"emotions": "angry,sad", "min_confidence": "0.4"}
    job = submit(client, *files, data=data)
    status = wait_for(client, job, "done")
    assert status["result"] == client.post("/v1/timeline", files=files, data=data).json()
    assert set(status) == {"id", "state", "result"}
    assert [row["error"] is None for row in status["result"]] == [True, True, True, False, False]


def test_the_result_comes_in_every_format_of_timelines(client: TestClient, bundled: Recognizer) -> None:
    job = submit(client)
    wait_for(client, job, "done")
    row = timeline(SPEECH[0], bundled)
    named = Timeline(SPEECH[0].name, row.duration_s, row.segments, row.summary)
    for format in formats_without_source():
        response = client.get(f"/v1/jobs/{job}/result", headers={"Accept": format.media_type})
        assert response.headers["content-type"].partition(";")[0] == format.media_type
        assert response.text == format.to_text([named], bundled.emotions)
    several = submit(client, *upload(*SPEECH[:2]))
    wait_for(client, several, "done")
    response = client.get(f"/v1/jobs/{several}/result", headers={"Accept": "application/x-subrip"})
    assert "can hold one file only" in problem(response, 406)["detail"]


def test_bad_forms_are_refused_as_by_the_timeline_endpoint(client: TestClient) -> None:
    for data in ({"emotions": "hapy"}, {"min_confidense": "1"}, {"adapt": "recording", "model": "x"}):
        sent = {"files": upload(SPEECH[0]), "data": data}
        refused = [problem(client.post(f"/v1/{path}", **sent), 422) for path in ("jobs", "timeline")]
        assert refused[0]["detail"] == refused[1]["detail"].replace("timeline", "jobs")
    problem(client.post("/v1/jobs"), 422)


def test_a_recording_that_is_too_long_makes_the_job_fail(client: TestClient) -> None:
    bomb = wav(np.zeros(16_000 * 150, dtype=np.int16), format="FLAC")
    job = submit(client, ("files", ("bomb.flac", bomb)))
    status = wait_for(client, job, "failed")
    expected = {"type": "urn:emodistill:too-long", "title": "Request Entity Too Large", "status": 413}
    assert status["problem"] == {
        **expected, "title": status["problem"]["title"],
        "detail": "longer than the limit of 120 s (150.0 s); cut it into parts",
    }  # fmt: skip
    assert problem(client.get(f"/v1/jobs/{job}/result"), 413)["detail"] == status["problem"]["detail"]


def test_an_internal_error_makes_the_job_fail_and_does_not_reach_the_client(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("the password is swordfish")

    with monkeypatch.context() as patch:
        patch.setattr(service_module, "timeline", broken)
        status = wait_for(client, submit(client), "failed")
    assert status["problem"]["status"] == 500
    assert "swordfish" not in json.dumps(status)
    wait_for(client, submit(client), "done")  # the next one is done


def test_voices_are_learned_and_used_and_the_file_has_only_those_of_the_result(tmp_path: Path) -> None:
    model = str(voice_model(tmp_path / "model"))
    file = tmp_path / "jobs.sqlite"
    with TestClient(create_app(Settings(threads=1, models=(model,), jobs_file=file))) as client:
        voice = client.post("/v1/voices", files=upload(*SPEECH[:2])).json()["voice"]
        sent = [*upload(SPEECH[2]), ("voice", ("voice.json", json.dumps(voice).encode()))]
        job = submit(client, *sent)
        assert wait_for(client, job, "done")["result"] == client.post("/v1/timeline", files=sent).json()
        content = b"".join(path.read_bytes() for path in tmp_path.glob("jobs.sqlite*"))
        assert b"voice_utterances" in content
        assert voice["sha256"].encode() not in content
        data = {"adapt": "recording", "return_voice": "true"}
        learned = submit(client, *upload(SPEECH[2]), data=data)
        expected = client.post("/v1/timeline", files=upload(SPEECH[2]), data=data).json()
        assert wait_for(client, learned, "done")["result"] == expected
        csv = client.get(f"/v1/jobs/{learned}/result", headers={"Accept": "text/csv"})
        assert csv.status_code == 200
        assert "sha256" not in csv.text


# --- states, limits ------------------------------------------------------------------------------------


def test_states_follow_each_other_and_progress_grows(client: TestClient) -> None:
    content = long_speech(100)
    job = submit(client, ("files", ("long.wav", content)))
    seen: list[str] = []
    progress: list[float] = []
    while (status := client.get(f"/v1/jobs/{job}").json())["state"] in ("waiting", "running"):
        seen.append(status["state"])
        progress.append(status.get("progress", 0.0))
        if status["state"] == "running":
            response = client.get(f"/v1/jobs/{job}/result")
            if response.status_code != 200:  # else it has ended in between
                assert problem(response, 409)["type"] == "urn:emodistill:not-done"
                assert response.headers["retry-after"] == "1"
        time.sleep(0.02)
    assert status["state"] == "done"
    assert sorted(seen, reverse=True) == seen  # waiting, then running
    assert sorted(progress) == progress
    assert 0 < progress[len(progress) // 2] < 1


def test_a_long_job_does_not_keep_requests_waiting() -> None:
    with TestClient(create_app(SETTINGS.model_copy(update={"threads": 1}))) as client:
        long = [submit(client, ("files", ("long.wav", long_speech(110)))) for _ in range(2)]
        wait_for(client, long[0], "running")
        answered_s = []
        for _ in range(3):
            began = time.perf_counter()
            assert client.post("/v1/predict", files=upload(SPEECH[0])).status_code == 200
            answered_s.append(time.perf_counter() - began)
        states = [client.get(f"/v1/jobs/{job}").json()["state"] for job in long]
        assert states == ["running", "waiting"]  # so the requests were answered during the job
        for job in long:
            client.delete(f"/v1/jobs/{job}")


def test_at_most_20_jobs_wait(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    proceed = block(monkeypatch)
    running = [submit(client) for _ in range(SETTINGS.threads)]
    for job in running:
        wait_for(client, job, "running")
    waiting = [submit(client) for _ in range(MAX_WAITING)]
    response = client.post("/v1/jobs", files=upload(SPEECH[0]))
    assert problem(response, 503)["detail"] == "20 jobs are waiting, the limit; try again in 30 s"
    assert response.headers["retry-after"] == "30"
    assert client.delete(f"/v1/jobs/{waiting[0]}").status_code == 204  # makes room
    another = submit(client)
    proceed.set()
    for job in [*running, *waiting[1:], another]:
        wait_for(client, job, "done")
    assert len({*running, *waiting, another}) == SETTINGS.threads + MAX_WAITING + 1


def test_a_removed_job_stops_and_is_gone(client: TestClient) -> None:
    job = submit(client, ("files", ("long.wav", long_speech(110))))
    wait_for(client, job, "running")
    assert client.delete(f"/v1/jobs/{job}").status_code == 204
    assert problem(client.get(f"/v1/jobs/{job}"), 410)["type"] == "urn:emodistill:gone"
    problem(client.get(f"/v1/jobs/{job}/result"), 410)
    problem(client.delete(f"/v1/jobs/{job}"), 410)
    for _ in range(200):
        if 'emodistill_jobs_total{outcome="cancelled"} 1.0' in client.get("/metrics").text:
            break
        time.sleep(0.02)
    else:
        raise AssertionError("the job goes on")


@pytest.mark.parametrize("job", ["x", "0" * 31, "G" * 32, "..%2Fmodels"])
def test_what_is_no_id_is_not_found(client: TestClient, job: str) -> None:
    problem(client.get(f"/v1/jobs/{job}"), 404)
    problem(client.delete(f"/v1/jobs/{job}"), 404)


def test_jobs_require_the_token() -> None:
    with TestClient(create_app(Settings(threads=1, token="s3cret"))) as client:  # type: ignore[arg-type]
        authorised = {"Authorization": "Bearer s3cret"}
        job = submit(client, headers=authorised)
        problem(client.post("/v1/jobs", files=upload(SPEECH[0])), 401)
        for path in (f"/v1/jobs/{job}", f"/v1/jobs/{job}/result"):
            problem(client.get(path), 401)
        problem(client.delete(f"/v1/jobs/{job}"), 401)
        assert client.get(f"/v1/jobs/{job}", headers=authorised).status_code == 200


def test_results_are_kept_for_an_hour(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    assert job_store.KEEP_S == 3600
    job = submit(client)
    wait_for(client, job, "done")
    now = time.monotonic()
    monkeypatch.setattr(job_store.time, "monotonic", lambda: now + 3590)
    assert client.get(f"/v1/jobs/{job}").status_code == 200
    monkeypatch.setattr(job_store.time, "monotonic", lambda: now + 3610)
    problem(client.get(f"/v1/jobs/{job}"), 410)


@pytest.mark.parametrize("outcome", ["done", "failed", "removed", "stopped"])
def test_the_upload_is_deleted_as_soon_as_the_job_ends(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, outcome: str
) -> None:
    uploads: list[BinaryIO] = []
    real = jobs._copy

    def recorded(files: Any) -> Any:
        copied = real(files)
        uploads.append(copied[0])
        return copied

    monkeypatch.setattr(jobs, "_copy", recorded)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    content = {"done": wav(make.speech(1)), "failed": wav(np.zeros(16_000 * 150, dtype=np.int16))}
    with TestClient(create_app(SETTINGS)) as client:
        job = submit(client, ("files", ("a.wav", content.get(outcome, long_speech(110)))))
        assert not [path for path in tmp_path.rglob("*") if path.is_file()]  # it has no name on the disk
        if outcome in content:
            wait_for(client, job, outcome)
            assert uploads[0].closed
        elif outcome == "removed":
            wait_for(client, job, "running")
            client.delete(f"/v1/jobs/{job}")
            for _ in range(200):
                if uploads[0].closed:
                    break
                time.sleep(0.02)
            assert uploads[0].closed
    assert uploads[0].closed
    assert len(uploads) == 1


def test_the_log_has_a_line_per_job_without_its_id_names_or_audio(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "emodistill.serving"):
        job = submit(client, ("files", ("private-name.wav", wav(make.speech(1)))))
        wait_for(client, job, "done")
        for _ in range(100):
            lines = [json.loads(JsonFormatter().format(record)) for record in caplog.records]
            if any(line["event"] == "job" for line in lines):
                break
            time.sleep(0.02)
    (line,) = [line for line in lines if line["event"] == "job"]
    (request,) = [line for line in lines if line.get("route") == "/v1/jobs"]
    assert (line["outcome"], line["id"]) == ("done", request["id"])
    assert min(line["ms"], line["waited_ms"]) >= 0
    assert job not in json.dumps(lines)
    assert "private" not in json.dumps(lines)


def test_a_full_disk_fails_one_job_and_not_the_server(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> bool:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(JobStore, "finish", full)
        submit(client)
        for _ in range(200):
            if 'emodistill_jobs_total{outcome="failed"} 1.0' in client.get("/metrics").text:
                break
            time.sleep(0.02)
        else:
            raise AssertionError("the job goes on")
        patch.setattr(JobStore, "num_waiting", full)
        assert problem(client.post("/v1/jobs", files=upload(SPEECH[0])), 503)["detail"].startswith(
            "the server cannot store its jobs"
        )
    wait_for(client, submit(client), "done")


# --- several processes, and the end of one ----------------------------------------------------------------


def test_another_worker_answers_about_a_job_and_cancels_it(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"jobs_file": tmp_path / "jobs.sqlite"})
    with TestClient(create_app(settings)) as first, TestClient(create_app(settings)) as second:
        job = submit(first)
        assert wait_for(second, job, "done")["result"] == first.get(f"/v1/jobs/{job}/result").json()
        long = submit(first, ("files", ("long.wav", long_speech(110))))
        assert wait_for(second, long, "running")["progress"] >= 0
        assert second.delete(f"/v1/jobs/{long}").status_code == 204
        problem(first.get(f"/v1/jobs/{long}"), 410)


def test_a_lost_job_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lost, other = JobStore(tmp_path / "jobs.sqlite"), JobStore(tmp_path / "jobs.sqlite")
    waiting, running, done = (lost.add(["sad"]) or UNKNOWN for _ in range(3))
    assert lost.start(running)
    assert lost.start(done)
    assert lost.finish(done, "[]")
    now = time.monotonic()
    monkeypatch.setattr(job_store.time, "monotonic", lambda: now + job_store.LOST_S + 1)
    assert [other.get(job) for job in (waiting, running)] == [None, None]
    assert other.num_waiting() == 0
    assert not other.remove(running)
    stored = other.get(done)
    assert stored is not None
    assert (stored.state, stored.result) == ("done", "[]")
    other.update({})
    assert lost.update({waiting: 0.5, running: 0.5}) == {waiting, running}  # it wakes up, too late
    assert not lost.finish(running, "[]")
    assert other.get(running) is None


@settings(max_examples=50, deadline=None)
@given(operations=st.lists(st.tuples(st.sampled_from("asfbr"), st.integers(0, 40)), max_size=120))
def test_a_job_reads_as_done_only_after_it_has_run(operations: list[tuple[str, int]]) -> None:
    """The store against a plain dictionary, for any order of operations."""
    store, states = JobStore(), dict[str, str]()
    for operation, index in operations:
        job = list(states)[index % len(states)] if states else UNKNOWN
        if operation == "a":
            added = store.add(["sad"])
            assert (added is None) == (sum(state == "waiting" for state in states.values()) == MAX_WAITING)
            if added is not None:
                states[added] = "waiting"
        elif operation == "s":
            assert store.start(job) == (states.get(job) == "waiting")
            if states.get(job) == "waiting":
                states[job] = "running"
        elif operation in "fb":
            result, problem_document = ("[1]", None) if operation == "f" else (None, {"status": 500})
            assert store.finish(job, result, problem_document) == (states.get(job) == "running")
            if states.get(job) == "running":
                states[job] = "done" if operation == "f" else "failed"
        else:
            assert store.remove(job) == (job in states)
            states.pop(job, None)
    for job, state in states.items():
        stored = store.get(job)
        assert stored is not None
        assert stored.state == state
        assert (stored.result is not None) == (state == "done")
        assert (stored.problem is not None) == (state == "failed")
        assert len(job) == 32


_ADDS = """
import sys
from pathlib import Path
from emodistill.serving.job_store import JobStore

store = JobStore(Path(sys.argv[1]))
print(sum(store.add(["sad"]) is not None for _ in range(15)))
"""


def test_a_worker_may_begin_the_file_while_another_one_does(tmp_path: Path) -> None:
    """SQLite does not wait for the other one by itself: it raises "database is locked" at once."""
    file = tmp_path / "jobs.sqlite"
    other = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    threading.Timer(0.3, other.execute, ["COMMIT"]).start()
    store = JobStore(file)
    assert store.add(["sad"]) is not None
    assert store._database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    other.close()


def test_processes_that_add_at_the_same_time_keep_the_limit(tmp_path: Path) -> None:
    file = tmp_path / "jobs.sqlite"
    command = [sys.executable, "-c", _ADDS, str(file)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert sum(int(process.communicate()[0]) for process in processes) == MAX_WAITING
    assert JobStore(file).num_waiting() == MAX_WAITING


_KILLED = """
import sys, time
from pathlib import Path
from emodistill.serving.job_store import JobStore

store = JobStore(Path(sys.argv[1]))
while True:
    job = store.add(["sad"])
    store.start(job)
    print(job, flush=True)
    store.finish(job, '["' + 300_000 * "x" + '"]')
"""


@pytest.mark.parametrize("turn", range(5))
def test_a_process_that_is_killed_leaves_only_complete_results(tmp_path: Path, turn: int) -> None:
    file = tmp_path / "jobs.sqlite"
    process = subprocess.Popen([sys.executable, "-c", _KILLED, str(file)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(20 + turn):
        process.stdout.readline()
    time.sleep(0.001 * turn)
    process.kill()
    ids = process.stdout.read().split()
    process.wait()
    process.stdout.close()
    store = JobStore(file)
    assert store._database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    rows = store._database.execute("SELECT id, state, result FROM jobs").fetchall()
    assert len(rows) >= 20
    assert all((state == "done") == (result is not None) for _, state, result in rows)
    assert all(len(json.loads(result)[0]) == 300_000 for _, state, result in rows if state == "done")
    assert sum(state != "done" for _, state, _ in rows) <= 1
    assert len(ids) <= len(rows)


def test_jobs_of_a_killed_worker_are_gone_and_results_stay(tmp_path: Path) -> None:
    with serving(tmp_path, "--workers", "2") as server:
        with httpx2.Client(base_url=server.url, timeout=60) as client:
            done = submit(client)
            wait_for(client, done, "done")
            long = submit(client, ("files", ("long.wav", long_speech(3000))))
            wait_for(client, long, "running")
        for worker in children(server.process.pid):
            os.kill(worker, signal.SIGKILL)
        began = time.monotonic()
        while time.monotonic() - began < 90:
            try:
                answers = [httpx2.get(f"{server.url}/v1/jobs/{job}", timeout=5) for job in (done, long)]
            except httpx2.TransportError:  # no worker runs yet
                time.sleep(0.1)
                continue
            assert answers[0].json()["state"] == "done"
            if answers[1].status_code == 410:
                break
            assert answers[1].json()["state"] == "running"
            time.sleep(0.2)
        assert problem(answers[1], 410)["type"] == "urn:emodistill:gone"


def test_after_a_restart_jobs_are_gone(tmp_path: Path) -> None:
    with serving(tmp_path) as server, httpx2.Client(base_url=server.url, timeout=60) as client:
        done = submit(client)
        wait_for(client, done, "done")
        running = submit(client, ("files", ("long.wav", long_speech(3000))))
        wait_for(client, running, "running")
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) in (0, -signal.SIGTERM)
        assert time.monotonic() - began < 10  # it does not wait for the job
    with serving(tmp_path) as server:
        for job in (done, running):
            problem(httpx2.get(f"{server.url}/v1/jobs/{job}"), 410)


def test_a_job_file_reads_like_a_file_of_its_part() -> None:
    parts = [b"first", b"", b"second part", b"x" * 3_000_000]
    upload_file, sizes = jobs._copy([(str(index), io.BytesIO(part)) for index, part in enumerate(parts)])

    class Always:
        def pause(self) -> None:
            """Nobody waits."""

    job = jobs._Job("id", "urn", upload_file, sizes, None, Always(), [0.25, 0.75])  # type: ignore[arg-type]
    progress = []
    for (name, file), part in zip(job.files(), parts, strict=True):
        assert file.read() == part
        assert (file.read(3), file.tell()) == (b"", len(part))
        for offset, whence in ((2, 0), (-1, 2), (0, 0), (-3, 0), (10, 2)):
            file.seek(max(offset, -len(part)) if whence == 2 else max(0, offset), whence)
            expected = io.BytesIO(part)
            expected.seek(max(offset, -len(part)) if whence == 2 else max(0, offset), whence)
            assert file.tell() == expected.tell()
            assert file.read(4) == expected.read(4)
        assert name in "0123"
        progress.append(job.progress)
        file.seek(0)
        file.read()
    assert sorted(progress) == progress
    assert progress[-1] == pytest.approx(0.25, abs=1e-4)
    assert job.progress == pytest.approx(1)
    upload_file.close()
