"""Models on the hub, tested against a small replacement of its HTTP interface on this machine.

The requests of huggingface_hub are real: list, resolve and download files, create a repository, commit files.
Large-file storage, rights and rate limits of the real hub are not tested.
"""

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import factories as make
import pytest
from factories_voices import voice_model

from emodistill.errors import MissingExtraError, ModelError
from emodistill.inference.card_writer import card_markdown
from emodistill.inference.hub import download_model, folder_name, is_hub_id, push_to_hub
from emodistill.inference.model_card import read_card
from emodistill.inference.recognizer import Recognizer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def commit_of(revision: str) -> str:
    """Return the commit of a branch or a tag; a commit is its own."""
    if len(revision) == len(COMMIT):
        return revision
    return COMMIT if revision == "main" else hashlib.sha1(revision.encode()).hexdigest()


class Hub(ThreadingHTTPServer):
    """Repositories in memory: id -> file name -> bytes."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.created: list[dict[str, Any]] = []
        self.requests: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            files = self.server.repositories.get("/".join(parts[2:4]))
            if files is None:
                return self._missing()
            if "tree" in parts:
                found: Any = [
                    {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for name, data in files.items()
                ]
            else:
                siblings = [{"rfilename": name} for name in files]
                revision = parts[5] if parts[4:5] == ["revision"] else "main"
                found = {"id": "/".join(parts[2:4]), "sha": commit_of(revision), "siblings": siblings}
            return self._send(json.dumps(found).encode())
        files = self.server.repositories.get("/".join(parts[:2]))
        if parts[2:3] != ["resolve"] or files is None:
            return self._missing()
        data = files.get("/".join(parts[4:]))
        if data is None:
            return self._missing("Entry")
        return self._send(
            data, {"X-Repo-Commit": commit_of(parts[3]), "ETag": f'"{hashlib.sha1(data).hexdigest()}"'}
        )

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if self.path == "/api/repos/create":
            repository = json.loads(body)
            self.server.created.append(repository)
            name = f"{repository['organization']}/{repository['name']}"
            self.server.repositories.setdefault(name, {})
            return self._send(json.dumps({"url": f"{self.server.url}/{name}"}).encode())
        if self.path == "/api/validate-yaml":
            return self._send(b'{"errors": [], "warnings": []}')
        parts = self.path.strip("/").split("/")
        if "preupload" in parts:
            files = [
                {"path": item["path"], "uploadMode": "regular", "shouldIgnore": False}
                for item in json.loads(body)["files"]
            ]
            return self._send(json.dumps({"files": files}).encode())
        if "commit" in parts:
            for line in body.splitlines():
                item = json.loads(line)
                if item["key"] == "file":
                    data = base64.b64decode(item["value"]["content"])
                    self.server.repositories["/".join(parts[2:4])][item["value"]["path"]] = data
            url = f"{self.server.url}/{'/'.join(parts[2:4])}/commit/{COMMIT}"
            return self._send(json.dumps({"success": True, "commitOid": COMMIT, "commitUrl": url}).encode())
        return self._missing()

    def _send(self, body: bytes, headers: dict[str, str] | None = None, status: int = 200) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _missing(self, what: str = "Repo") -> None:
        self._send(b'{"error": "not found"}', {"X-Error-Code": f"{what}NotFound"}, 404)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def python(code: str, home: Path, endpoint: str, offline: bool = False) -> subprocess.CompletedProcess[str]:
    """Run code in a process whose hub is the replacement."""
    settings = {
        "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_TOKEN": "hf_stand_in", "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "1" if offline else "0", "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1",
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **settings},
    )


def test_a_folder_is_named_by_model_and_revision() -> None:
    for model, name in (
        ("voices/tiny", "tiny"), ("voices/tiny@refs/pr/2", "tiny@refs-pr-2"), ("/models/own/", "own"),
        ("bundled", "bundled"),
    ):  # fmt: skip
        assert folder_name(model) == name


def test_a_model_is_published_downloaded_and_used_offline(
    hub: Hub, exported: Path, manifest: Path, tmp_path: Path
) -> None:
    published = python(
        f"from emodistill import push_to_hub; print(push_to_hub({str(exported)!r}, 'voices/tiny'))",
        tmp_path / "a", hub.url,
    )  # fmt: skip
    assert published.returncode == 0, published.stderr
    assert published.stdout.strip() == f"{hub.url}/voices/tiny"
    assert [(item["name"], item.get("private", item.get("visibility"))) for item in hub.created] in (
        [("tiny", True)], [("tiny", "private")],
    )  # fmt: skip
    there = hub.repositories["voices/tiny"]
    assert set(there) == {"LICENSE", "README.md", "card.json", "model.onnx"}
    assert there["model.onnx"] == (exported / "model.onnx").read_bytes()
    assert there["README.md"].decode() == card_markdown(read_card(exported))

    there["training.bin"] = b"a file that the recogniser does not need"
    wav = manifest.parent / make.read_rows(manifest)[0]["path"]
    code = (
        "from emodistill import Recognizer\n"
        f"print(Recognizer('voices/tiny', threads=1).predict({str(wav)!r}).as_dict())"
    )
    expected = str(Recognizer(exported, threads=1).predict(wav).as_dict())
    fetched = python(code, tmp_path / "b", hub.url)
    assert (fetched.stdout.strip(), fetched.returncode) == (expected, 0), fetched.stderr
    assert not any("training.bin" in line for line in hub.requests)
    num_requests = len(hub.requests)
    offline = python(code, tmp_path / "b", hub.url, offline=True)
    assert (offline.stdout.strip(), len(hub.requests)) == (expected, num_requests), offline.stderr

    revised = python(code.replace("voices/tiny", "voices/tiny@v2"), tmp_path / "b", hub.url)
    assert revised.stdout.strip() == expected, revised.stderr
    assert any("/api/models/voices/tiny/revision/v2" in line for line in hub.requests[num_requests:])


def test_a_model_with_voices_is_published_and_downloaded_with_its_head(hub: Hub, tmp_path: Path) -> None:
    folder = voice_model(tmp_path / "model")
    code = f"from emodistill import push_to_hub; push_to_hub({str(folder)!r}, 'voices/tiny')"
    published = python(code, tmp_path / "a", hub.url)
    assert published.returncode == 0, published.stderr
    assert hub.repositories["voices/tiny"].keys() == {
        "LICENSE", "README.md", "card.json", "head.onnx", "model.onnx",
    }  # fmt: skip
    code = (
        "import numpy as np; from emodistill import Recognizer; recognizer = Recognizer('voices/tiny')\n"
        "print(len(recognizer.student.run_head(np.zeros((2, 6), np.float32))))"
    )
    downloaded = python(code, tmp_path / "b", hub.url)
    assert downloaded.returncode == 0, downloaded.stderr
    assert downloaded.stdout.strip() == "2"


def test_a_model_that_the_hub_does_not_have_is_an_error_of_one_line(
    hub: Hub, exported: Path, tmp_path: Path
) -> None:
    hub.repositories["voices/half"] = {"card.json": b"{}"}
    for model, offline, message in (
        ("voices/none", False, "'voices/none' is no folder here, and could not be downloaded from the hub ("),
        ("voices/none", True, "check the name and the network, or give the folder of an exported model"),
        ("voices/half", False, "is not an exported model: it has no model.onnx"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "emodistill", "predict", "x.wav", "-m", model],
            capture_output=True, text=True, check=False,
            env={**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"),
                 "HF_HUB_OFFLINE": str(int(offline)), "NO_PROXY": "127.0.0.1"},
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert message in " ".join(done.stderr.split())
        assert "Traceback" not in done.stderr


def test_a_local_folder_is_preferred_to_a_hub_id(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "voices").mkdir()
    (tmp_path / "voices/tiny").symlink_to(exported)
    monkeypatch.chdir(tmp_path)
    assert Recognizer("voices/tiny").card == read_card(exported)


def test_hub_ids_differ_from_paths() -> None:
    for hub_id in ("voices/tiny-1.0_x", "voices/tiny@v1.0+cpu", "voices/tiny@refs/pr/2"):
        assert is_hub_id(hub_id)
    for path in (
        "tiny",
        "/voices/tiny",
        "voices/tiny/",
        "a/b/c",
        "./voices",
        "voices/tiny x",
        "..",
        "../tiny",
        "voices/tiny@",
        "voices@v1/tiny",
        "voices/tiny@../../tiny",
    ):
        assert not is_hub_id(path)
    with pytest.raises(
        ModelError,
        match=r"no model './nowhere': expected bundled, (.*, )?the folder of an exported model, or a hub id",
    ):
        Recognizer("./nowhere")


def test_the_error_names_the_missing_extra(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(
        MissingExtraError, match=r"'a/b' is no folder here, and to download.*emodistill\[hub\]"
    ):
        Recognizer("a/b")
    with pytest.raises(MissingExtraError, match=r"emodistill\[hub\]"):
        push_to_hub(exported, "a/b")


def test_an_incomplete_model_is_not_published(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"is not an exported model: it has no card\.json"):
        push_to_hub(tmp_path, "a/b")


@pytest.mark.parametrize("name", ["card.json", "head.onnx", "README.md", "LICENSE"])
def test_a_link_out_of_a_model_is_not_published(exported: Path, name: str, tmp_path: Path) -> None:
    """Its content would be published, and a README.md would replace the file that the link names."""
    folder, secret = tmp_path / "model", tmp_path / "secret"
    shutil.copytree(exported, folder)
    secret.write_text("secret")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(secret)
    with pytest.raises(ModelError, match=rf"'.*{re.escape(name)}' is a link that leaves the folder"):
        push_to_hub(folder, "a/b")
    assert secret.read_text() == "secret"


def test_a_card_that_is_a_link_to_another_file_shows_nothing_of_it(exported: Path, tmp_path: Path) -> None:
    folder, secret = tmp_path / "model", tmp_path / "secret.json"
    shutil.copytree(exported, folder)
    (folder / "card.json").unlink()
    (folder / "card.json").symlink_to(secret)
    for text in ('{"name": ["pa55word"], "user": "pa55word"}', "pa55word", '["pa55word"]'):
        secret.write_text(text)
        with pytest.raises(ModelError, match="is not a model card of this version") as caught:
            Recognizer(folder)
        assert "pa55word" not in str(caught.value)


def test_a_model_that_was_never_downloaded_is_an_error_offline() -> None:
    with pytest.raises(ModelError, match="could not be downloaded from the hub"):
        download_model("voices/never-seen")


def test_another_librarys_classifier_is_evaluated_at_a_revision(
    hub: Hub, manifest: Path, tmp_path: Path
) -> None:
    folder = make.classifier(tmp_path / "model")
    hub.repositories["voices/listener"] = {path.name: path.read_bytes() for path in folder.iterdir()}
    tables = []
    for model in (str(folder), "voices/listener@v2"):
        out = tmp_path / f"out-{len(tables)}"
        arguments = ["evaluate", model, str(manifest), "--map", "ang=angry,oth=-", "-o", str(out)]
        done = python(f"from emodistill.cli import app\napp({arguments})", tmp_path / "home", hub.url)
        assert done.returncode == 0, done.stderr
        tables.append((out / "predictions.csv").read_bytes())
    assert tables[0] == tables[1]
    fetched = {line.split("/resolve/")[1] for line in hub.requests if "/listener/resolve/" in line}
    commit = commit_of("v2")
    assert f"{commit}/model.safetensors" in fetched
    assert {line.split("/")[0] for line in fetched} == {commit}
