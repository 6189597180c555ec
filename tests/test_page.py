"""The pages in a real browser, the server's and the one that needs none: a file, a microphone, the keyboard alone, a phone."""

import base64
import json
import re
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
from emodistill.audio.speech_activity import SPEECH_FRAME_SAMPLES
from emodistill.audio.waveform import from_samples, load
from emodistill.corpora import DEMO_CORPUS as CORPUS
from emodistill.inference.formats import WRITERS
from emodistill.inference.segmentation import CHANGE_COST, Segment, _Path
from emodistill.inference.timelines import Timeline, timeline
from emodistill.serving.static_page import export_web

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
WAIT_MS = 90_000  # on a busy machine
FRAME_S = SPEECH_FRAME_SAMPLES / make.RATE


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


@pytest.fixture(params=["server", "static"])
def address(request: pytest.FixtureRequest) -> str:
    """Of each page in turn: what is asked of one is asked of the other."""
    found = request.getfixturevalue(request.param)
    return found.url if isinstance(found, Running) else str(found)


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


def test_a_file_is_dropped(browser: Any, address: str, talk: Path) -> None:
    with Watched(browser, address) as page:
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
        assert "Whole recording" in page.inner_text("#headline")
        assert page.locator("#bars tr").count() == 7
        page.locator("#segments button").first.click()
        page.wait_for_selector("#teachers table")
        assert page.get_attribute("#segments button:first-child", "aria-pressed") == "true"
        for kind, begins in (("json", b"["), ("csv", b"path,"), ("srt", b"1\n"), ("textgrid", b"File type")):
            with page.expect_download() as saved:
                page.click(f"[data-format={kind}]")
            assert Path(saved.value.path()).read_bytes().startswith(begins)
            assert saved.value.suggested_filename.startswith("two voices.")


def test_what_cannot_be_read_is_said(browser: Any, address: str) -> None:
    with Watched(browser, address) as page:
        page.set_input_files("#file", {"name": "no.wav", "mimeType": "audio/wav", "buffer": b"no sound"})
        page.wait_for_selector("#problem:not([hidden])")
        assert re.search("cannot (be )?decoded?", page.inner_text("#problem"))


def test_the_microphone_is_heard_live(browser: Any, address: str) -> None:
    with Watched(browser, address, permissions=["microphone"]) as page:
        page.click("#microphone")
        page.wait_for_selector("#live-bars table")
        assert page.inner_text("#microphone") == "Stop and analyse"
        until(page.locator("#status")).to_contain_text("%")  # a segment was told
        page.click("#microphone")
        judged(page)
        assert page.locator("#segments button").count() >= 1
        assert page.is_hidden("#live")


def test_the_keyboard_alone_will_do(browser: Any, address: str, talk: Path) -> None:
    with Watched(browser, address) as page:
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


def test_the_waveform_shows_the_louder_channel(browser: Any, address: str) -> None:
    with Watched(browser, address) as page:
        heights = page.evaluate(
            """async () => {
              const { drawWave } = await import('./page/view.js');
              const heights = [];
              const context = {
                canvas: { width: 300, height: 100 }, beginPath() {}, fill() {},
                roundRect: (x, y, width, height) => heights.push(height),
              };
              drawWave(() => '#000')([new Float32Array(900), new Float32Array(900).fill(-0.5)], context);
              return heights;
            }"""
        )
        assert heights
        assert min(heights) > 90


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_of_it(browser: Any, address: str, talk: Path, scheme: str) -> None:
    with Watched(browser, address, viewport={"width": 390, "height": 844}, color_scheme=scheme) as page:
        page.set_input_files("#file", talk)
        judged(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, ground[4:-1].split(","))) < 200) == (scheme == "dark")


# --- without a server ------------------------------------------------------------------------------------

LOADED = """
  globalThis.held ??= await (await import('./page/recognizer.js')).Recognizer.load();
  const samples = new Float32Array(Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0)).buffer);
"""


def sent(sound: np.ndarray) -> str:
    """Samples on their way into the page."""
    return base64.b64encode(sound.astype("<f4").tobytes()).decode()


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
            row = page.evaluate(f"async (data) => {{ {LOADED} return held.predict(samples); }}", sent(sound))
            own = recognizer.predict(sound)
            assert (row["emotion"], row["reason"]) == (own.emotion, own.reason)
            said, expected = [row["probabilities"]], [own.probabilities]
            if own.teachers:
                said += row["teachers"].values()
                expected += own.teachers.values()
            for mine, theirs in zip(said, expected, strict=True):
                assert list(mine) == list(theirs)
                assert np.allclose(list(mine.values()), list(theirs.values()), atol=1e-3, rtol=0)


def conversations() -> dict[str, np.ndarray]:
    """Recordings of various lengths: utterances of several people with pauses between, and some with none."""
    corpora = [
        found
        for pattern in ("ravdess/Actor_2[34]/*", "nemo/samples/*", "ased/0*/*", "urdu/*/*")
        if (found := sorted((make.DATA / "corpora").glob(pattern)))
    ] or [sorted(CORPUS.glob("audio/*/*"))]
    rng = np.random.default_rng(0)
    made: dict[str, np.ndarray] = {}
    for number, length_s in enumerate((3, 8, 15, 30, 60, 100)):
        parts: list[np.ndarray] = []
        while sum(map(len, parts)) < length_s * make.RATE:
            corpus = corpora[rng.integers(len(corpora))]
            spoken = load(corpus[rng.integers(len(corpus))])
            parts += [spoken, make.silence(float(rng.choice([0.0, 0.1, 0.3, 0.8, 1.5])))]
        sound = np.concatenate(parts) + 1e-4 * rng.standard_normal(sum(map(len, parts)))
        made[f"{number}: {length_s} s"] = sound.astype(np.float32)
    return {"nothing": make.silence(2.0), "a click": make.silence(1.0)[:300], **made}


def test_the_browsers_timeline_is_pythons(browser: Any, static: str, tmp_path: Path) -> None:
    recognizer = Recognizer(threads=1)
    num_segments = 0
    noise = 0.1 * np.random.default_rng(0).standard_normal(make.RATE).clip(-3, 3)
    reasons = set()
    with Watched(browser, static) as page:
        for name, sound in {**conversations(), "noise": noise}.items():
            soundfile.write(tmp_path / "sound.wav", sound, make.RATE, subtype="FLOAT")
            own = timeline(tmp_path / "sound.wav", recognizer)
            row = page.evaluate(
                f"async (data) => {{ {LOADED} return (await import('./page/timelines.js')).timeline(samples, held); }}",
                sent(np.clip(sound, -1, 1)),
            )
            assert (row["duration_s"], row["reason"]) == (own.duration_s, own.reason)
            reasons.add(own.reason)
            assert [part["emotion"] for part in row["segments"]] == [part.emotion for part in own.segments], (
                name
            )
            for mine, theirs in zip(row["segments"], own.segments, strict=True):
                assert abs(mine["start_s"] - theirs.start_s) <= FRAME_S
                assert abs(mine["end_s"] - theirs.end_s) <= FRAME_S
                assert abs(mine["confidence"] - (theirs.confidence or 0.0)) <= 1e-3
                assert mine["probabilities"] == pytest.approx(theirs.probabilities, abs=1e-3)
            assert row["summary"] == pytest.approx(own.summary, abs=FRAME_S * (1 + len(own.segments)))
            num_segments += len(own.segments)
    assert num_segments > 20
    assert reasons == {None, "silence", "too_short", "no_speech"}


def test_chunks_leave_no_trace_in_the_browser_either(browser: Any, static: str) -> None:
    sound = conversations()["2: 15 s"]
    with Watched(browser, static) as page:
        whole, cut = page.evaluate(
            f"""async (data) => {{ {LOADED}
              const {{ StreamingRecognizer }} = await import('./page/timelines.js');
              return Promise.all([samples.length, 1111].map(async (size) => {{
                const stream = new StreamingRecognizer(held);
                const events = [];
                for (let at = 0; at < samples.length; at += size) {{
                  for await (const event of stream.push(samples.subarray(at, at + size))) events.push(event);
                }}
                for await (const event of stream.finish()) events.push(event);
                return events;
              }}));
            }}""",
            sent(sound),
        )
    assert whole == cut
    assert {event["event"] for event in whole} == {"speech_started", "update", "segment", "speech_ended"}


def test_the_course_of_emotions_is_found_alike(browser: Any, static: str) -> None:
    """By Viterbi's algorithm, whatever the evidence: clear, contradictory, and none for so long that doubt has to end."""
    rng = np.random.default_rng(0)
    stretches = [
        (scale * rng.standard_normal((length, 7))).tolist()
        for scale in (0.05, 0.5, 3.0)
        for length in (1, 2, 3, 40, 120)
    ]
    with Watched(browser, static) as page:
        said = page.evaluate(
            """async (stretches) => {
              const { Path } = await import('./page/segmentation.js');
              return stretches.map((gains) => {
                const path = new Path();
                return [...gains.map((gain) => path.push(gain)), path.finish()];
              });
            }""",
            stretches,
        )
    for gains, decided in zip(stretches, said, strict=True):
        path = _Path(CHANGE_COST)
        assert decided == [*(path.push(np.array(gain)) for gain in gains), path.finish()]
    assert max(len(part) for decided in said for part in decided[:-1]) > 1


@pytest.mark.parametrize("rate_hz", [8_000, 22_050, 44_100, 48_000])
def test_the_browser_resamples_as_python_does(browser: Any, static: str, rate_hz: int) -> None:
    rng = np.random.default_rng(rate_hz)
    tones = np.sin(2 * np.pi * np.arange(rate_hz)[:, None] / rate_hz * [150.0, 1100.0, 3300.0]).sum(axis=1)
    sound = (0.1 * tones + 0.02 * rng.standard_normal(rate_hz)).astype(np.float32)
    with Watched(browser, static) as page:
        whole, cut = page.evaluate(
            f"""async ([data, rate]) => {{ {LOADED}
              const {{ Resampler }} = await import('./page/decode.js');
              return [samples.length, 777].map((size) => {{
                const resampler = new Resampler(rate);
                const parts = [];
                for (let at = 0; at < samples.length; at += size) parts.push(...resampler.push(samples.subarray(at, at + size)));
                return [...parts, ...resampler.finish()];
              }});
            }}""",
            [sent(sound), rate_hz],
        )
    expected = from_samples(sound, rate_hz)
    assert whole == cut
    assert len(whole) == len(expected)
    assert np.corrcoef(whole, expected)[0, 1] > 0.998  # they differ above 7.3 kHz, and at the ends


def test_the_browsers_files_are_pythons(browser: Any, static: str) -> None:
    row = timeline(SPEECH[0], Recognizer(threads=1)).as_dict()
    (first,) = row["segments"][:1]
    names = list(first["probabilities"])
    row["path"] = 'a "name", with commas.wav'
    row["segments"] += [{**first, "start_s": 3601.5, "end_s": 3602.0, "emotion": None}]
    row["duration_s"] = 3603.0
    own = Timeline(**{**row, "segments": tuple(Segment(**part) for part in row["segments"])})
    silent = Timeline("b.wav", 2.5, (), dict.fromkeys(names, 0.0), "silence")
    with Watched(browser, static) as page:
        for format in ("json", "csv", "srt", "textgrid"):
            for asked, written in ((row, own), (silent.as_dict(), silent)):
                said = page.evaluate(
                    "async ([row, format, names]) => (await import('./page/writers.js')).WRITERS[format](row, names)",
                    [asked, format, names],
                )
                text = WRITERS[format].text([written], names)
                assert json.loads(said) == json.loads(text) if format == "json" else said == text


def test_a_long_recording_neither_freezes_the_page_nor_has_to_be_waited_for(
    browser: Any, static: str, talk: Path, tmp_path: Path
) -> None:
    sound = np.tile(np.concatenate([load(SPEECH[0]), make.silence(0.8)]), 60)
    soundfile.write(tmp_path / "long.flac", sound, make.RATE)
    with Watched(browser, static) as page:
        page.evaluate(
            """() => {
              globalThis.shares = new Set();
              const bar = document.getElementById('progress');
              globalThis.looking = setInterval(() => bar.hidden || shares.add(bar.value), 20);
            }"""
        )
        page.set_input_files("#file", tmp_path / "long.flac")
        judged(page)
        shares = page.evaluate("[...shares]")
        assert len(shares) > 20  # the page went on meanwhile, and said how far it was
        assert shares == sorted(shares)
        assert page.is_hidden("#progress")
        page.set_input_files("#file", tmp_path / "long.flac")
        page.wait_for_selector("#progress:not([hidden])")
        page.set_input_files("#file", talk)
        judged(page)
        assert page.inner_text("#result-title") == talk.name
        page.wait_for_timeout(500)
        assert page.is_hidden("#progress")
        assert page.inner_text("#result-title") == talk.name


def test_the_threshold_makes_segments_unsure_without_judging_again(
    browser: Any, static: str, talk: Path
) -> None:
    with Watched(browser, static) as page:
        page.set_input_files("#file", talk)
        judged(page)
        page.locator("#options summary").click()
        page.locator("#threshold").fill("95")
        until(page.locator("#headline")).to_contain_text("below your minimum confidence")
        assert page.locator("#segments button", has_text="unsure").count() >= 1
        assert page.is_hidden("#token")
