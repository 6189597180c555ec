"""The files for deployment: image, systemd unit and nginx configuration. Their own tools check them."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import numpy as np
import pytest
from factories_serving import PROBLEM, SPEECH, Running, free_port, serving, upload
from typer.testing import CliRunner
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from emodistill.audio.waveform import load
from emodistill.cli import app

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"


def tool(name: str) -> str:
    """The path of a program of this environment or this machine. Skips the test if there is none."""
    path = shutil.which(
        name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin"])
    )
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def output_of(*command: str) -> str:
    """The output of a program, which must succeed."""
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def serve_options() -> set[str]:
    """The options of `emodistill serve`."""
    shown = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(app, ["serve", "--help"]).output
    return set(re.findall(r"--[a-z][a-z-]+", shown))


# --- the image ----------------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile in order, with continued lines joined."""
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines)]


@pytest.mark.parametrize("name", ["Dockerfile", "ray.Dockerfile"])
def test_hadolint_accepts_the_dockerfile(name: str) -> None:
    assert output_of(tool("hadolint"), str(DEPLOY / name)) == ""


def test_the_image_pins_its_base_runs_without_root_and_starts_the_server() -> None:
    lines = instructions()
    for image in (rest for name, rest in lines if name == "FROM"):
        assert re.match(r"\S+:\d[\w.-]+( AS \w+)?$", image), image
    users = [rest for name, rest in lines if name == "USER"]
    assert users
    assert users[-1] not in ("root", "0")
    (health,) = (rest for name, rest in lines if name == "HEALTHCHECK")
    assert "/readyz" in health
    entry = json.loads(dict(lines)["ENTRYPOINT"])
    assert entry[:2] == ["emodistill", "serve"]
    assert {part for part in entry if part.startswith("--")} <= serve_options()
    assert "CMD" not in dict(lines)


def test_the_image_installs_and_builds_with_the_pinned_versions() -> None:
    lines = instructions()
    (install,) = (at for at, (name, rest) in enumerate(lines) if name == "RUN" and "pip install" in rest)
    variables = [pair for name, rest in lines[:install] if name == "ENV" for pair in rest.split()]
    (folder,) = (rest for name, rest in lines[:install] if name == "WORKDIR")
    for name in ("PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT"):
        assert f"{name}={folder}/constraints.txt" in variables
    assert any(name == "COPY" and "constraints.txt" in rest for name, rest in lines[:install])
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    for package in ("hatchling", "uvicorn", "starlette", "h11"):
        assert re.search(rf"^{package}==\d", pinned, flags=re.M), package


def test_the_copied_files_exist_and_dockerignore_lets_them_through() -> None:
    ignore = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    copied = [
        rest.split()[:-1] for name, rest in instructions() if name == "COPY" and not rest.startswith("--from")
    ]
    assert copied
    for source in (Path(part) for parts in copied for part in parts):
        assert (ROOT / source).exists()
        assert f"!{source}" in ignore


# --- the unit -----------------------------------------------------------------------------------------


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    analyze = tool("systemd-analyze")
    text = (DEPLOY / "emodistill.service").read_text(encoding="utf-8")
    (command,) = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
    assert command.split()[1] == "serve"
    assert set(re.findall(r"--[a-z-]+", command)) <= serve_options()
    unit = tmp_path / "emodistill.service"
    unit.write_text(
        text.replace(command.split()[0], sys.executable), encoding="utf-8"
    )  # a program that exists
    assert output_of(analyze, "verify", str(unit)) == ""


def test_systemd_rates_the_exposure_of_the_unit_as_low() -> None:
    analyze = tool("systemd-analyze")
    version = int(output_of(analyze, "--version").split()[1])
    if version < 252:
        pytest.skip(f"systemd {version} cannot rate a unit that is not loaded")
    shown = output_of(
        analyze,
        "security",
        "--offline=yes",
        "--no-pager",
        "--threshold=15",
        str(DEPLOY / "emodistill.service"),
    )
    assert float(re.findall(r"exposure level for \S+: ([\d.]+)", shown)[0]) <= 1.5


# --- nginx --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, int]]:
    """A server, and the port of an nginx before it: deploy/nginx.conf with a test port and certificate."""
    nginx, openssl, folder = tool("nginx"), tool("openssl"), tmp_path_factory.mktemp("nginx")
    key, certificate, port = folder / "key.pem", folder / "certificate.pem", free_port()
    output_of(openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-keyout", str(key),
              "-out", str(certificate), "-subj", "/CN=emotions.example")  # fmt: skip
    with serving(folder, "--proxy", "127.0.0.1", "--rate", "20", "--max-mb", "3") as server:
        text = (DEPLOY / "nginx.conf").read_text(encoding="utf-8")
        for old, new in {
            "listen 443 ssl": f"listen 127.0.0.1:{port} ssl", "127.0.0.1:8000": f"127.0.0.1:{server.port}",
            "/etc/ssl/emotions.pem": str(certificate), "/etc/ssl/emotions.key": str(key),
        }.items():  # fmt: skip
            assert text.count(old) == (2 if "8000" in old and text.count(old) == 2 else 1)
            text = text.replace(old, new)
        main = folder / "main.conf"
        temporary = "".join(
            f"{kind}_temp_path {folder}/{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        main.write_text(
            f"daemon off; pid {folder}/pid; error_log {folder}/error.log; events {{}}\n"
            f"http {{ access_log off; {temporary}\n{text}\n}}\n",
            encoding="utf-8",
        )
        folder.chmod(0o755)  # nginx started by root runs its workers as another user
        output_of(nginx, "-t", "-q", "-c", str(main))
        process = subprocess.Popen([nginx, "-c", str(main)], stderr=subprocess.DEVNULL)
        try:
            for _ in range(100):
                with socket.socket() as tried:
                    if tried.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.1)
            yield server, port
        finally:
            process.terminate()
            process.wait()


def test_files_and_streams_pass_through_nginx(behind: tuple[Running, int]) -> None:
    server, port = behind
    with httpx2.Client(base_url=f"https://127.0.0.1:{port}", verify=False, timeout=60) as proxied:
        for path in ("/v1/predict", "/v1/timeline"):
            direct = httpx2.post(server.url + path, files=upload(SPEECH[0]), timeout=60)
            assert proxied.post(path, files=upload(SPEECH[0])).json() == direct.json()
        assert proxied.get("/metrics").status_code == 403
    sound = (np.concatenate([load(SPEECH[0]), np.zeros(16_000)]) * 32767).astype("<i2").tobytes()
    streams = [
        stream_events(f"ws://127.0.0.1:{server.port}", sound),
        stream_events(f"wss://127.0.0.1:{port}", sound),
    ]
    assert streams[0] == streams[1]
    assert "segment" in [event["event"] for event in streams[1]]


def stream_events(url: str, sound: bytes) -> list[dict[str, object]]:
    """The events of a stream from a page of the same site, without the id of the stream."""
    context = None
    if url.startswith("wss"):
        import ssl

        context = ssl._create_unverified_context()
    origin = url.replace("ws", "http", 1)
    with connect(f"{url}/v1/stream", ssl=context, origin=origin, compression=None) as stream:  # type: ignore[arg-type]
        stream.send('{"rate": 16000}')
        for at in range(0, len(sound), 20_000):
            stream.send(sound[at : at + 20_000])
        stream.send('{"type": "end"}')
        events = [json.loads(stream.recv())]
        while events[-1]["event"] != "summary":
            events.append(json.loads(stream.recv()))
    del events[0]["id"]
    return events


def test_the_servers_answer_to_too_many_bytes_passes_through_nginx(behind: tuple[Running, int]) -> None:
    _, port = behind

    def chunks() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.wav"\r\n\r\n'
        for _ in range(200):
            yield bytes(100_000)

    headers = {"content-type": "multipart/form-data; boundary=x"}
    for content in (b"".join(chunks()), chunks()):  # with and without Content-Length
        # Each on its own connection: nginx closes a connection whose upload was not read to the end.
        with httpx2.Client(base_url=f"https://127.0.0.1:{port}", verify=False, timeout=60) as proxied:
            response = proxied.post("/v1/predict", content=content, headers=headers)
            assert (response.status_code, response.headers["content-type"]) == (413, PROBLEM)


def test_the_rate_limit_counts_the_real_address_of_the_client(behind: tuple[Running, int]) -> None:
    server, port = behind
    forged = {"X-Forwarded-For": "192.0.2.77, 10.0.0.1"}
    with httpx2.Client(base_url=f"https://127.0.0.1:{port}", verify=False, timeout=60) as proxied:
        assert proxied.get("/v1/models", headers=forged).status_code in (200, 429)
    for _ in range(100):
        clients = {line["client"] for line in server.lines() if line.get("route") == "/v1/models"}
        if clients:
            break
        time.sleep(0.05)
    assert clients == {"127.0.0.1"}
    with httpx2.Client(base_url=server.url, timeout=60) as proxy:  # with the header that the proxy sets
        responses = (proxy.get("/v1/models", headers={"X-Forwarded-For": "192.0.2.1"}) for _ in range(200))
        assert any(response.status_code == 429 for response in responses)
        assert proxy.get("/v1/models", headers={"X-Forwarded-For": "192.0.2.2"}).status_code == 200


def test_a_stopping_server_behind_nginx_finishes_its_streams(behind: tuple[Running, int]) -> None:
    """This test must be the last one: it stops the server."""
    server, port = behind
    import ssl

    with connect(
        f"wss://127.0.0.1:{port}/v1/stream", ssl=ssl._create_unverified_context(), compression=None
    ) as stream:
        stream.send('{"rate": 16000}')
        assert json.loads(stream.recv())["event"] == "started"
        stream.send((load(SPEECH[0]) * 32767).astype("<i2").tobytes())
        assert json.loads(stream.recv())["event"] == "speech_started"
        server.process.send_signal(signal.SIGTERM)
        events = [json.loads(text) for text in stream]  # up to the close
    assert events[-1]["event"] == "summary"
    assert events[-1]["duration_s"] > 1
    assert server.process.wait(60) in (0, -signal.SIGTERM)
    with pytest.raises(InvalidStatus):
        connect(f"wss://127.0.0.1:{port}/v1/stream", ssl=ssl._create_unverified_context())
