"""The pages in a real browser: a file, a microphone, the keyboard alone, a phone; and the one that needs no server."""

import base64
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import factories as make
import numpy as np
import pytest
import soundfile
from factories_serving import SPEECH, Running, serving

from emodistill import Recognizer
from emodistill.audio import load
from emodistill.web import export_web

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
WAIT_MS = 90_000  # on a busy machine


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two utterances with a pause between, 44.1 kHz."""
    path = tmp_path_factory.mktemp("talk") / "two voices.wav"
    sound = np.concatenate([load(SPEECH[0]), make.silence(0.8), load(SPEECH[1]), make.silence(0.8)])
    soundfile.write(path, sound, make.RATE)
    return path


@pytest.fixture(scope="module")
def browser(talk: Path) -> Iterator[Any]:
    """Chromium whose microphone hears that file, over and over."""
    playwright = pytest.importorskip("playwright.sync_api")
    options = [
        "--no-sandbox", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={talk}",
    ]  # fmt: skip
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=options)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="module")
def static(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an exported page, behind a plain file server."""
    folder = tmp_path_factory.mktemp("web") / "page"
    assert export_web("bundled", folder) < 40e6
    handler = partial(_Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as files:
        threading.Thread(target=files.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{files.server_address[1]}"
        files.shutdown()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


class Watched:
    """A page whose complaints and requests to elsewhere are errors."""

    def __init__(self, browser: Any, url: str, **options: Any) -> None:
        self.context = browser.new_context(accept_downloads=True, **options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(WAIT_MS)
        self.wrong: list[str] = []
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("console", lambda said: self.wrong.append(said.text) if said.type == "error" else None)
        self.page.on(
            "request",
            lambda sent: (
                None if sent.url.startswith((url, "blob:", "data:")) else self.wrong.append(sent.url)
            ),
        )
        self.page.goto(f"{url}/")
        until(self.page.locator("#model")).not_to_have_text("…")

    def __enter__(self) -> Any:
        return self.page

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.context.close()
        if kind is None:
            assert self.wrong == []


def until(locator: Any) -> Any:
    """Wait for it. (Functions that are polled in the page would be refused by its content policy.)"""
    from playwright.sync_api import expect

    expect.set_options(timeout=WAIT_MS)
    return expect(locator)


def judged(page: Any) -> None:
    page.wait_for_selector("#result:not([hidden])")
    page.wait_for_selector("#play:not([disabled])")


def test_a_file_is_dropped(browser: Any, server: Running, talk: Path) -> None:
    with Watched(browser, server.url) as page:
        data = base64.b64encode(talk.read_bytes()).decode()
        page.evaluate(
            """([data, name]) => {
              const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
              const dataTransfer = new DataTransfer();
              dataTransfer.items.add(new File([bytes], name, { type: 'audio/wav' }));
              document.getElementById('drop').dispatchEvent(new DragEvent('drop', { bubbles: true, cancelable: true, dataTransfer }));
            }""",
            [data, talk.name],
        )
        judged(page)
        assert page.inner_text("#result-title") == talk.name
        assert page.locator("#segments button").count() >= 2
        assert "As a whole" in page.inner_text("#headline")
        assert page.locator("#bars tr").count() == 7
        page.locator("#segments button").first.click()
        page.wait_for_selector("#teachers table")
        assert page.get_attribute("#segments button:first-child", "aria-pressed") == "true"
        for kind, begins in (("json", b"["), ("csv", b"path,"), ("srt", b"1\n"), ("textgrid", b"File type")):
            with page.expect_download() as saved:
                page.click(f"[data-format={kind}]")
            assert Path(saved.value.path()).read_bytes().startswith(begins)
            assert saved.value.suggested_filename.startswith("two voices.")


def test_what_cannot_be_read_is_said(browser: Any, server: Running) -> None:
    with Watched(browser, server.url) as page:
        page.set_input_files("#file", {"name": "no.wav", "mimeType": "audio/wav", "buffer": b"no sound"})
        page.wait_for_selector("#problem:not([hidden])")
        assert "cannot be decoded" in page.inner_text("#problem")


def test_the_microphone_is_heard_live(browser: Any, server: Running) -> None:
    with Watched(browser, server.url, permissions=["microphone"]) as page:
        page.click("#microphone")
        page.wait_for_selector("#live-bars table")
        assert page.inner_text("#microphone") == "Stop and judge"
        until(page.locator("#status")).to_contain_text("%")  # a segment was told
        page.click("#microphone")
        judged(page)
        assert page.locator("#segments button").count() >= 1
        assert page.is_hidden("#live")


def test_the_keyboard_alone_will_do(browser: Any, server: Running, talk: Path) -> None:
    with Watched(browser, server.url) as page:
        with page.expect_file_chooser() as choosing:
            for _ in range(10):
                page.keyboard.press("Tab")
                if page.evaluate("document.activeElement.id") == "choose":
                    break
            assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
            page.keyboard.press("Enter")
        choosing.value.set_files(talk)
        judged(page)
        assert page.evaluate("document.activeElement.id") == "result"
        reached = set()
        for _ in range(14):
            page.keyboard.press("Tab")
            reached.add(
                page.evaluate(
                    "document.activeElement.id || document.activeElement.dataset.format || document.activeElement.parentElement.id"
                )
            )
        assert {"segments", "play", "json", "textgrid"} <= reached
        names = page.locator("button").evaluate_all(
            "all => all.map((one) => one.ariaLabel || one.textContent.trim())"
        )
        assert all(names)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_of_it(browser: Any, server: Running, talk: Path, scheme: str) -> None:
    with Watched(browser, server.url, viewport={"width": 390, "height": 844}, color_scheme=scheme) as page:
        page.set_input_files("#file", talk)
        judged(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, ground[4:-1].split(","))) < 200) == (scheme == "dark")


# --- without a server ------------------------------------------------------------------------------------


def test_the_browser_says_what_python_says(browser: Any, static: str) -> None:
    recognizer = Recognizer(threads=1)
    rng = np.random.default_rng(0)
    long = np.tile(np.concatenate([load(SPEECH[0]), make.silence(0.5), load(SPEECH[1])]), 7)
    assert len(long) > 20 * make.RATE
    sounds = [
        *(load(path) for path in SPEECH), long, make.speech(0.9), make.speech(2.0)[:160], make.silence(1.0),
        (0.1 * rng.standard_normal(32_000)).astype(np.float32), 0.3 * load(SPEECH[2]) + np.float32(0.1),
    ]  # fmt: skip
    with Watched(browser, static) as page:
        for sound in sounds:
            sent = base64.b64encode(sound.astype("<f4").tobytes()).decode()
            row = page.evaluate(
                """async (data) => {
                  const { Recognizer } = await import('./recognizer.js');
                  globalThis.held ??= await Recognizer.load();
                  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
                  return globalThis.held.predict(new Float32Array(bytes.buffer));
                }""",
                sent,
            )
            own = recognizer.predict(sound)
            assert (row["emotion"], row["reason"]) == (own.emotion, own.reason)
            said, expected = [row["probabilities"]], [own.probabilities or {}]
            if own.teachers:
                said += row["teachers"].values()
                expected += own.teachers.values()
            for mine, theirs in zip(said, expected, strict=True):
                assert list(mine) == list(theirs)
                assert np.allclose(list(mine.values()), list(theirs.values()), atol=1e-3, rtol=0)


def test_the_static_page_judges_a_file_and_the_microphone(browser: Any, static: str) -> None:
    expected = Recognizer().predict(SPEECH[0]).emotion
    with Watched(browser, static, permissions=["microphone"]) as page:
        page.set_input_files("#file", SPEECH[0])
        page.wait_for_selector("#result:not([hidden])")
        assert str(expected) in page.inner_text("#headline")
        assert page.locator("#teachers table").count() == 1
        page.click("#microphone")
        page.wait_for_timeout(3000)
        page.click("#microphone")
        until(page.locator("#result-title")).to_have_text("recording.wav")
