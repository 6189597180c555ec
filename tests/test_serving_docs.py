"""`/docs`: the interface as a page, without any other server."""

import re
from pathlib import Path

import factories as make
import httpx2
import pytest
import soundfile
from factories_page import CHROMIUM, Watched, open_browser, until, wait_until
from factories_serving import SPEECH, in_thread
from fastapi.testclient import TestClient

from emodistill.serving.app import create_app
from emodistill.serving.docs_router import DOCS_FOLDER
from emodistill.serving.settings import Settings


def test_the_page_and_its_files_come_from_this_server() -> None:
    with TestClient(create_app(Settings(threads=1, page=False))) as client:
        page = client.get("/docs")
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        names = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert {"docs/vendor/swagger-ui-bundle.js", "docs/vendor/swagger-ui.css", "openapi.json"} <= set(
            names
        )
        for name in names:
            assert "//" not in name
            if not name.startswith("data:"):
                assert client.get(f"/{name}").status_code == 200
        script = client.get("/docs/docs.js").text
        assert not re.findall(r"https?:|[\"'`]//", page.text + script)
        policy = page.headers["content-security-policy"]
        assert "unsafe" not in policy
        assert "http" not in policy
        for name in ("/docs/nothing.js", "/docs/../app.py", "/docs/vendor/swagger-ui.css.gz.gz"):
            assert client.get(name).status_code == 404


def test_packed_files_are_sent_packed_or_not() -> None:
    with TestClient(create_app(Settings(threads=1))) as client:
        for name, kind in {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}.items():
            texts = []
            for encoding in ("gzip", "identity"):
                response = client.get(f"/docs/vendor/{name}", headers={"Accept-Encoding": encoding})
                assert response.headers["content-type"].startswith(kind)
                assert response.headers.get("content-encoding") == ("gzip" if encoding == "gzip" else None)
                texts.append(response.text)
            assert texts[0] == texts[1]
            assert len(texts[0]) > 100_000


def test_the_licences_of_the_library_are_there() -> None:
    vendor = DOCS_FOLDER / "vendor"
    assert "Apache License" in (vendor / "swagger-ui-LICENSE").read_text(encoding="utf-8")
    assert "SmartBear" in (vendor / "swagger-ui-NOTICE").read_text(encoding="utf-8")
    assert sum(path.stat().st_size for path in vendor.iterdir()) < 600_000


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_the_page_shows_the_interface_and_tries_it_out_within_its_policy(tmp_path: Path) -> None:
    sound = tmp_path / "sound.wav"
    soundfile.write(sound, make.speech(1.0), make.RATE)
    with open_browser(sound) as browser, in_thread(Settings(threads=1)) as port:
        url = f"http://127.0.0.1:{port}"
        with Watched(browser, url) as page:
            page.goto(f"{url}/docs")
            paths = httpx2.get(f"{url}/openapi.json").json()["paths"]
            until(page.locator(".opblock").first).to_be_visible()
            assert page.locator(".opblock").count() == sum(len(operations) for operations in paths.values())
            for scheme, is_dark in (("light", False), ("dark", True)):
                page.emulate_media(color_scheme=scheme)
                wait_until(
                    page,
                    "dark => document.documentElement.classList.contains('dark-mode') === dark",
                    is_dark,
                )
                colours = page.evaluate(
                    "[document.documentElement, document.querySelector('.swagger-ui')]"
                    ".map((part) => getComputedStyle(part).backgroundColor)"
                )
                dark = [sum(map(int, each[4:-1].split(","))) < 200 for each in colours if "rgba" not in each]
                assert set(dark) <= {is_dark}
                assert len(dark) == 2 or not is_dark
            operation = page.locator("#operations-files-predict_v1_predict_post")
            operation.locator(".opblock-summary-control").click()
            operation.get_by_text("Try it out").click()
            operation.locator("[data-property-name=files] input[type=file]").set_input_files(SPEECH[0])
            operation.get_by_text("Execute").click()
            code = operation.locator(".live-responses-table .response-col_status").last
            until(code).to_contain_text("200")
