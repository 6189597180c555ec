"""The MCP server, in a process of its own, against the client of the official SDK."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from mcp import Client, StdioServerParameters
from test_recording_page import CALL, long_row
from typer.testing import CliRunner

from emodistill import ConfigError, MissingExtraError, Recognizer, Voice, cli
from emodistill.integrations import mcp


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Folders `calls` and `voices`, and a secret beside them with links to it."""
    calls = tmp_path / "calls"
    (calls / "deep").mkdir(parents=True)
    (tmp_path / "voices").mkdir()
    shutil.copy(CALL, calls / "call.ogg")
    shutil.copy(CALL, calls / "deep" / "other.ogg")
    shutil.copy(CALL, tmp_path / "secret.ogg")
    soundfile.write(calls / "silence.wav", np.zeros(16_000), 16_000)
    (calls / "notes.txt").write_text("no audio")
    (calls / "link.ogg").symlink_to(tmp_path / "secret.ogg")
    (calls / "inner.ogg").symlink_to(calls / "call.ogg")
    (calls / "out").symlink_to(tmp_path)
    (tmp_path / "voices" / "elsewhere").symlink_to(tmp_path)
    (tmp_path / "voices" / "link.voice.json").symlink_to(tmp_path / "stolen.voice.json")
    return tmp_path


def talk(place: Path, dialogue: Callable[[Client], Coroutine[Any, Any, None]], *options: str) -> None:
    """Start the server as a desktop program does, and hold a dialogue with it."""
    folder = ["--folder", str(place / "calls")]
    server = StdioServerParameters(
        command=sys.executable,
        args=["-m", "emodistill", "mcp", *folder, "--threads", "1", *options],
        env={name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ},
        cwd=place,
    )

    async def run() -> None:
        async with Client(server, read_timeout_seconds=120) as client:
            await dialogue(client)

    asyncio.run(run())


async def refused(client: Client, tool: str, **arguments: Any) -> str:
    """The message of a call that the server must refuse."""
    answer = await client.call_tool(tool, arguments)
    assert answer.is_error
    return str(answer.content[0].text)


async def result(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """The structured answer of a call; its text is the same."""
    answer = await client.call_tool(tool, arguments)
    assert not answer.is_error, answer.content
    assert answer.structured_content == json.loads(answer.content[0].text)
    return dict(answer.structured_content)


def test_the_tools_answer_as_the_recogniser_does(place: Path) -> None:
    recognizer = Recognizer(threads=1)
    prediction = recognizer.predict(CALL)
    timeline = recognizer.timeline(CALL)

    async def dialogue(client: Client) -> None:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(tools) == {"predict", "timeline"}
        assert all(tool.output_schema and tool.description for tool in tools.values())
        assert tools["predict"].annotations.read_only_hint
        assert str(place / "calls") in client.instructions

        answer = await result(client, "predict", path="call.ogg")
        assert answer["emotion"] == prediction.emotion
        assert answer["mixed_channels"] == prediction.mixed_channels == 2
        assert answer["probabilities"] == pytest.approx(prediction.probabilities, abs=1e-3)
        assert await result(client, "predict", path=str(place / "calls" / "call.ogg")) == {
            **answer, "path": str(place / "calls" / "call.ogg"),
        }  # fmt: skip
        assert (await result(client, "predict", path="silence.wav"))["reason"] == "silence"
        assert (await result(client, "predict", path="inner.ogg"))["emotion"] == prediction.emotion

        answer = await result(client, "timeline", path="deep/other.ogg", max_segments=200)
        assert answer["summary"] == pytest.approx(timeline.summary, abs=1e-3)
        assert answer["cut"] is None
        assert [part["emotion"] for part in answer["segments"]] == [one.emotion for one in timeline.segments]

        seen: list[dict[str, Any]] = []
        start_s = 0.0
        while True:  # page by page
            part = await result(client, "timeline", path="call.ogg", max_segments=5, start_s=start_s)
            seen += part["segments"]
            if part["cut"] is None:
                break
            start_s = float(part["cut"].split("start_s=")[1].split(",")[0])
        assert seen == answer["segments"]

    talk(place, dialogue)


def test_files_outside_of_the_folders_are_refused(place: Path) -> None:
    async def dialogue(client: Client) -> None:
        for path in ("../secret.ogg", "deep/../../secret.ogg", "link.ogg", "out/secret.ogg"):
            message = await refused(client, "predict", path=path)
            assert "outside of" in message or "without '..'" in message
        elsewhere = [str(place / "secret.ogg"), str(place / "no such file.ogg"), "/etc/passwd"]
        messages = [(await refused(client, "timeline", path=path)).replace(path, "") for path in elsewhere]
        assert len(set(messages)) == 1  # a message does not say whether a file exists
        assert "no such file" in await refused(client, "predict", path="missing.ogg")
        assert "no file" in await refused(client, "predict", path="deep")
        assert "notes.txt" in await refused(client, "predict", path="notes.txt")
        assert "no folder for voices" in await refused(
            client, "predict", path="call.ogg", voice="a.voice.json"
        )
        assert "bad path" in await refused(client, "predict", path="call.ogg\0.txt")

    talk(place, dialogue)


def test_links_say_nothing_of_files_elsewhere(place: Path) -> None:
    (place / "calls" / "circle.ogg").symlink_to(place / "calls" / "circle.ogg")
    (place / "named").symlink_to(place / "calls")
    folders = mcp.Folders([place / "named"])
    assert folders.file(str(place / "named" / "call.ogg")) == (place / "calls" / "call.ogg").resolve()
    messages = set()
    for path in ("out/secret.ogg", "out/missing.ogg", "circle.ogg"):
        with pytest.raises(ConfigError) as error:
            folders.file(path)
        messages.add(str(error.value).replace(path, ""))
    assert len(messages) == 1
    for path in ("out/secret.voice.json", "out/missing/a.voice.json", "circle.ogg"):
        with pytest.raises(ConfigError, match="outside of"):
            folders.new_file(path)


def test_a_voice_is_written_below_its_folder_and_used(place: Path) -> None:
    async def dialogue(client: Client) -> None:
        paths = ["call.ogg", "deep/other.ogg"]
        made = await result(client, "enrol", paths=paths, output="anna.voice.json")
        voice = Voice.load(place / "voices" / "anna.voice.json")
        assert (made["utterances"], made["warnings"]) == (voice.utterances, [])
        answer = await result(client, "predict", path="call.ogg", voice="anna.voice.json")
        assert answer["voice_utterances"] == voice.utterances
        assert "exists" in await refused(client, "enrol", paths=paths, output="anna.voice.json")
        await result(client, "enrol", paths=paths[:1], output="anna.voice.json", replace=True)
        for output in (
            "../stolen.voice.json", str(place / "stolen.voice.json"), "elsewhere/stolen.voice.json",
            str(place / "calls" / "stolen.voice.json"), "link.voice.json", "anna.txt", "missing/a.voice.json",
        ):  # fmt: skip
            await refused(client, "enrol", paths=paths, output=output, replace=True)
        assert "no recording" in await refused(
            client, "enrol", paths=["silence.wav"], output="silence.voice.json"
        )

    talk(place, dialogue, "--voices", str(place / "voices"))
    assert not list(place.rglob("stolen*"))
    assert [path.name for path in (place / "voices").glob("[!l]*.json")] == ["anna.voice.json"]


def test_an_hour_does_not_fill_the_context() -> None:
    row = long_row(duration_s=36_000.0)
    answer = mcp._timeline_answer("long.wav", row, 0.0, mcp.NUM_SEGMENTS, None)
    assert len(answer.segments) == mcp.NUM_SEGMENTS
    assert answer.num_segments == len(row.segments) > 8000
    assert f"{len(row.segments) - mcp.NUM_SEGMENTS} segments from 80.00 s on" in str(answer.cut)
    assert len(answer.model_dump_json()) < 10_000
    answer = mcp._timeline_answer("long.wav", row, 0.0, 0, 60.0)
    assert len(answer.trend or []) == mcp.MAX_STEPS
    better_s = float(str(answer.cut).rpartition("trend_s=")[2])
    answer = mcp._timeline_answer("long.wav", row, 0.0, 0, better_s)
    assert "trend" not in str(answer.cut).replace("or with trend_s", "")
    assert len(mcp._timeline_answer("long.wav", row, 0.0, 200, 1.0).model_dump_json()) < 60_000


def test_standard_output_holds_the_protocol_alone(place: Path) -> None:
    command = [sys.executable, "-m", "emodistill", "mcp", "--folder", str(place / "calls")]
    first = {
        "jsonrpc": "2.0", "id": 1, "method": "initialize",
        "params": {
            "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "a", "version": "1"},
        },
    }  # fmt: skip
    done = subprocess.run(
        command, input=json.dumps(first) + "\n", capture_output=True, text=True, timeout=120, cwd=place
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["id"] for line in lines] == [1]
    assert lines[0]["result"]["serverInfo"]["name"] == "emodistill"


def test_bad_folders_are_refused_at_once(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli.app, ["mcp", "--folder", str(tmp_path / "missing"), "--model", "missing"])
    assert isinstance(done.exception, ConfigError)
    assert "--folder" in str(done.exception)
    options = ["mcp", "--folder", str(tmp_path), "--voices", str(tmp_path / "missing")]
    assert "--voices" in str(CliRunner().invoke(cli.app, options).exception)


def test_without_the_sdk_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "mcp.server.mcpserver", None)
    with pytest.raises(MissingExtraError, match=r"emodistill\[mcp\]"):
        mcp.build_server(Recognizer(threads=1), [tmp_path])
