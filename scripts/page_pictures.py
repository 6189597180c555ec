"""Take the pictures of both pages for the documentation. Needs Chromium and playwright.

python scripts/page_pictures.py
"""

import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import soundfile
from playwright.sync_api import Page, sync_playwright

from emodistill.audio.waveform import SAMPLE_RATE, load
from emodistill.serving.static_page import export_web

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
CALL = ROOT / "src" / "emodistill" / "demo" / "call.ogg"  # stereo, a synthetic voice on each channel
CHROMIUM = shutil.which("chromium")
LIVE_S = 12.0  # of the microphone in the picture
DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}


def main() -> None:
    """Write the pictures into the folder `docs`."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        talk = Path(folder) / "call.wav"
        soundfile.write(talk, load(CALL), SAMPLE_RATE)  # Chromium's microphone plays WAV only
        export_web("bundled", Path(folder) / "page")
        options = [
            "--no-sandbox", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream",
            f"--use-file-for-fake-audio-capture={talk}",
        ]  # fmt: skip
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        with serve_model() as url:
            with opened(browser, url, viewport=DESKTOP) as page:
                show(page, CALL)
                split(page)
                page.screenshot(path=DOCS / "page.png", full_page=True)
            with opened(browser, url, viewport=DESKTOP, permissions=["microphone"]) as page:
                page.click("#microphone")
                page.wait_for_timeout(1000 * LIVE_S)
                page.screenshot(path=DOCS / "page_live.png", full_page=True)
        with serve_folder(Path(folder) / "page") as url:
            with opened(browser, url, viewport={**DESKTOP, "width": 1000}) as page:
                show(page, CALL)
                page.screenshot(path=DOCS / "page_static.png", full_page=True)
            phone = {"viewport": PHONE, "color_scheme": "dark", "device_scale_factor": 1.5}
            with opened(browser, url, **phone) as page:
                show(page, CALL)
                page.screenshot(path=DOCS / "page_static_phone.png", full_page=True)
        browser.close()


def show(page: Page, recording: Path) -> None:
    """Open a recording, and play its third segment."""
    page.set_input_files("#file", recording)
    page.wait_for_selector("#play:not([disabled])")
    page.locator("#segments button").nth(2).click()
    page.wait_for_selector("#teachers table")
    page.wait_for_timeout(3000)  # until the segment has been played


def split(page: Page) -> None:
    """Recognise each channel by itself."""
    page.fill("#names", "agent,customer")
    page.check("#split")
    page.locator("#speakers li").first.wait_for()
    page.wait_for_selector("#play:not([disabled])")
    page.locator("#segments button").nth(2).click()
    page.wait_for_timeout(3000)


@contextmanager
def opened(browser: Any, url: str, **options: Any) -> Iterator[Page]:
    """A page whose model is loaded."""
    context = browser.new_context(**options)
    page = context.new_page()
    page.goto(f"{url}/")
    page.wait_for_selector("#status:has-text('Ready.')")
    yield page
    context.close()


@contextmanager
def serve_model() -> Iterator[str]:
    """The address of `emodistill serve`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "emodistill", "serve", "--port", str(port)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(300):
                try:
                    urllib.request.urlopen(f"{url}/readyz").close()
                    break
                except OSError:
                    time.sleep(0.1)
            yield url
        finally:
            process.terminate()


@contextmanager
def serve_folder(folder: Path) -> Iterator[str]:
    """The address of a file server."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


if __name__ == "__main__":
    main()
