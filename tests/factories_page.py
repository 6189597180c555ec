"""Chromium, the static page behind a file server, and a page whose errors fail the test."""

import base64
import json
import re
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import factories as make
import numpy as np
import pytest
import soundfile

from emodistill.audio.waveform import load

CHROMIUM = shutil.which("chromium")
WAIT_MS = 90_000  # enough for a busy machine

# Loads the recogniser of the static page, and the samples in `data`.
LOADED = """
  const { Recognizer } = await import('./page/recognizer.js');
  globalThis.recognizer ??= await Recognizer.load(new URL('./', location.href));
  const samples = new Float32Array(Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0)).buffer);
"""


def page_data(page: str, name: str) -> Any:
    """What the page of a recording holds as JSON, in the script element of this id."""
    (text,) = re.findall(rf'<script type="application/json" id="{name}">(.*?)</script>', page, re.DOTALL)
    return json.loads(text)


@contextmanager
def open_browser(heard: Path) -> Iterator[Any]:
    """Chromium, whose microphone plays a sound file again and again."""
    playwright = pytest.importorskip("playwright.sync_api")
    options = [
        "--no-sandbox", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={heard}",
    ]  # fmt: skip
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=options)
        yield opened
        opened.close()


@contextmanager
def serve_folder(folder: Path) -> Iterator[str]:
    """The address of a plain file server."""
    handler = partial(_Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as files:
        threading.Thread(target=files.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{files.server_address[1]}"
        files.shutdown()


def write_conversation(path: Path, utterances: Sequence[Path]) -> Path:
    """A sound file of utterances with a pause after each; returns its path."""
    parts = [part for utterance in utterances for part in (load(utterance), make.silence(0.8))]
    soundfile.write(path, np.concatenate(parts), make.RATE)
    return path


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Write no log."""


class Watched:
    """A page. Its errors and its requests to other addresses fail the test."""

    def __init__(self, browser: Any, url: str, **options: Any) -> None:
        self.context = browser.new_context(accept_downloads=True, **options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(WAIT_MS)
        self.problems: list[str] = []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on(
            "console", lambda message: self.problems.append(message.text) if message.type == "error" else None
        )
        self.page.on(
            "request",
            lambda request: (
                None if request.url.startswith((url, "blob:", "data:")) else self.problems.append(request.url)
            ),
        )
        self.page.goto(f"{url}/")
        until(self.page.locator("#model")).not_to_have_text("…")

    def __enter__(self) -> Any:
        return self.page

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.context.close()
        if kind is None:
            assert self.problems == []


def until(locator: Any) -> Any:
    """Wait for a locator. (The page's content policy forbids functions that Playwright polls in the page.)"""
    from playwright.sync_api import expect

    expect.set_options(timeout=WAIT_MS)
    return expect(locator)


def wait_until(page: Any, expression: str, arg: Any = None) -> None:
    """Wait until an expression is true in the page.

    Python asks again and again, since the page's content policy forbids Playwright's `wait_for_function`
    whenever the expression is not true at once.
    """
    give_up_s = time.monotonic() + WAIT_MS / 1000
    while not page.evaluate(expression, arg):
        assert time.monotonic() < give_up_s, (
            f"after {WAIT_MS / 1000:g} s this is still not true: {expression}"
        )
        page.wait_for_timeout(20)


def wait_for_result(page: Any) -> None:
    page.wait_for_selector("#result:not([hidden])")
    page.wait_for_selector("#play:not([disabled])")


def as_base64(sound: np.ndarray) -> str:
    """Samples as float32 in Base64, to send them to the page."""
    return base64.b64encode(sound.astype("<f4").tobytes()).decode()
