"""Both pages in a real browser: files, microphone, keyboard, phone. The static page equals Python."""

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import factories as make
import numpy as np
import pytest
import soundfile
from factories_page import (
    CHROMIUM,
    LOADED,
    Watched,
    as_base64,
    open_browser,
    serve_folder,
    until,
    wait_for_result,
    write_conversation,
)
from factories_serving import SPEECH, Running, serving

from emodistill import Recognizer
from emodistill.audio.speech_activity import SPEECH_FRAME_SAMPLES
from emodistill.audio.waveform import from_samples, load
from emodistill.corpora import DEMO_CORPUS as CORPUS
from emodistill.inference.emotion_path import EmotionPath
from emodistill.inference.formats import FORMATS
from emodistill.inference.segmentation import CHANGE_COST, MAX_UNDECIDED_CELLS, MIN_RUN_CELLS, Segment
from emodistill.inference.timelines import Timeline, timeline
from emodistill.labels import EMOTIONS
from emodistill.serving.static_page import export_web

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
FRAME_S = SPEECH_FRAME_SAMPLES / make.RATE


@pytest.fixture(scope="module")
def conversation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two utterances with a pause between them."""
    return write_conversation(tmp_path_factory.mktemp("conversation") / "two voices.wav", SPEECH[:2])


@pytest.fixture(scope="module")
def browser(conversation: Path) -> Iterator[Any]:
    """Chromium, whose microphone plays that file again and again."""
    with open_browser(conversation) as opened:
        yield opened


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="module")
def static(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an exported page, behind a plain file server."""
    folder = tmp_path_factory.mktemp("web") / "page"
    assert export_web("bundled", folder) < 40e6
    with serve_folder(folder) as url:
        yield url


@pytest.fixture(params=["server", "static"])
def address(request: pytest.FixtureRequest) -> str:
    """The address of each page in turn, so that a test runs with both."""
    value = request.getfixturevalue(request.param)
    return value.url if isinstance(value, Running) else str(value)


def test_dropping_a_file_shows_its_emotions(browser: Any, address: str, conversation: Path) -> None:
    with Watched(browser, address) as page:
        data = base64.b64encode(conversation.read_bytes()).decode()
        page.evaluate(
            """([data, name]) => {
              const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
              const dataTransfer = new DataTransfer();
              dataTransfer.items.add(new File([bytes], name, { type: 'audio/wav' }));
              const options = { bubbles: true, cancelable: true, dataTransfer };
              document.getElementById('drop').dispatchEvent(new DragEvent('drop', options));
            }""",
            [data, conversation.name],
        )
        wait_for_result(page)
        assert page.inner_text("#result-title") == conversation.name
        assert page.locator("#segments button").count() >= 2
        assert "Whole recording" in page.inner_text("#headline")
        page.locator("#segments button").first.click()
        assert page.locator("#bars tr").count() == 7
        page.wait_for_selector("#teachers table")
        assert page.locator("#segments button").first.get_attribute("aria-pressed") == "true"
        offered = page.locator("#downloads button").evaluate_all(
            "buttons => buttons.map((button) => button.dataset.format)"
        )
        assert {"json", "csv", "srt"} <= set(offered)
        for name in offered:
            with page.expect_download() as saved:
                page.click(f"[data-format={name}]")
            content = Path(saved.value.path()).read_text(encoding="utf-8")
            assert any(emotion in content for emotion in EMOTIONS)
            assert saved.value.suggested_filename == f"two voices{FORMATS[name].suffix}"


def test_a_file_that_cannot_be_read_shows_an_error(browser: Any, address: str) -> None:
    with Watched(browser, address) as page:
        page.set_input_files("#file", {"name": "no.wav", "mimeType": "audio/wav", "buffer": b"no sound"})
        page.wait_for_selector("#problem:not([hidden])")
        assert re.search("cannot (be )?decoded?", page.inner_text("#problem"))


def test_the_microphone_shows_emotions_live(browser: Any, address: str) -> None:
    with Watched(browser, address, permissions=["microphone"]) as page:
        page.click("#microphone")
        page.wait_for_selector("#live-bars table")
        assert page.inner_text("#microphone") == "Stop and analyse"
        until(page.locator("#status")).to_contain_text("Now: ")
        page.click("#microphone")
        wait_for_result(page)
        assert page.locator("#segments button").count() >= 1
        assert page.is_hidden("#live")


def test_the_page_works_with_the_keyboard(browser: Any, address: str, conversation: Path) -> None:
    with Watched(browser, address) as page:
        with page.expect_file_chooser() as choosing:
            for _ in range(10):
                page.keyboard.press("Tab")
                if page.evaluate("document.activeElement.id") == "choose":
                    break
            assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
            page.keyboard.press("Enter")
        choosing.value.set_files(conversation)
        wait_for_result(page)
        assert page.evaluate("document.activeElement.id") == "result"
        reached = set()
        for _ in range(16):
            page.keyboard.press("Tab")
            reached.add(
                page.evaluate(
                    """() => {
                      const { dataset } = document.activeElement;
                      return dataset.format || document.activeElement.closest('[id]')?.id || '';
                    }"""
                )
            )
        assert {"segments", "play", "zoom-in", "rows", "json", "textgrid"} <= reached
        for container, key in (("#segments", "ArrowRight"), ("#rows", "ArrowDown")):
            page.locator(f"{container} button").first.focus()
            page.keyboard.press(key)
            assert page.evaluate("document.activeElement.ariaLabel") == page.locator(
                f"{container} button"
            ).nth(1).get_attribute("aria-label")
            assert page.locator("#rows tr").nth(1).get_attribute("aria-current") == "true"
        names = page.locator("button").evaluate_all(
            "all => all.map((button) => button.ariaLabel || button.textContent.trim())"
        )
        assert all(names)


def test_the_waveform_shows_the_louder_channel(browser: Any, address: str) -> None:
    with Watched(browser, address) as page:
        heights = page.evaluate(
            """async () => {
              const { drawWave } = await import('./page/view.js');
              const heights = [];
              const context = {
                canvas: { width: 300, height: 100, style: {} }, beginPath() {}, fill() {},
                roundRect: (x, y, width, height) => heights.push(height),
              };
              const draw = drawWave(() => '#000', 0.5, (left) => left);
              draw([new Float32Array(900), new Float32Array(900).fill(-0.5)], context);
              return heights;
            }"""
        )
        assert heights
        assert min(heights) > 90


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone(browser: Any, address: str, conversation: Path, scheme: str) -> None:
    with Watched(browser, address, viewport={"width": 390, "height": 844}, color_scheme=scheme) as page:
        page.set_input_files("#file", conversation)
        wait_for_result(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, background[4:-1].split(","))) < 200) == (scheme == "dark")


# --- the static page ------------------------------------------------------------------------------------


def test_predictions_in_the_browser_equal_pythons(browser: Any, static: str) -> None:
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
            row = page.evaluate(
                f"async (data) => {{ {LOADED} return recognizer.predict(samples); }}", as_base64(sound)
            )
            own = recognizer.predict(sound, rate_hz=make.RATE)
            assert (row["emotion"], row["reason"]) == (own.emotion, own.reason)
            actual, expected = [row["probabilities"]], [own.probabilities]
            if own.teachers:
                actual += row["teachers"].values()
                expected += own.teachers.values()
            for mine, theirs in zip(actual, expected, strict=True):
                assert list(mine) == list(theirs)
                assert np.allclose(list(mine.values()), list(theirs.values()), atol=1e-3, rtol=0)


def conversations() -> dict[str, np.ndarray]:
    """Recordings of various lengths: utterances of several people, with and without pauses between them."""
    corpora = [
        paths
        for pattern in ("ravdess/Actor_2[34]/*", "nemo/samples/*", "ased/0*/*", "urdu/*/*")
        if (paths := sorted((make.DATA / "corpora").glob(pattern)))
    ] or [sorted(CORPUS.glob("audio/*/*"))]
    rng = np.random.default_rng(0)
    recordings: dict[str, np.ndarray] = {}
    for number, length_s in enumerate((3, 8, 15, 30, 60, 100)):
        parts: list[np.ndarray] = []
        while sum(map(len, parts)) < length_s * make.RATE:
            corpus = corpora[rng.integers(len(corpora))]
            spoken = load(corpus[rng.integers(len(corpus))])
            parts += [spoken, make.silence(float(rng.choice([0.0, 0.1, 0.3, 0.8, 1.5])))]
        sound = np.concatenate(parts) + 1e-4 * rng.standard_normal(sum(map(len, parts)))
        recordings[f"{number}: {length_s} s"] = sound.astype(np.float32)
    return {"silence": make.silence(2.0), "a click": make.silence(1.0)[:300], **recordings}


def test_timelines_in_the_browser_equal_pythons(browser: Any, static: str, tmp_path: Path) -> None:
    recognizer = Recognizer(threads=1)
    num_segments = 0
    noise = 0.1 * np.random.default_rng(0).standard_normal(make.RATE).clip(-3, 3)
    reasons = set()
    with Watched(browser, static) as page:
        for name, sound in {**conversations(), "noise": noise}.items():
            soundfile.write(tmp_path / "sound.wav", sound, make.RATE, subtype="FLOAT")
            own = timeline(tmp_path / "sound.wav", recognizer)
            row = page.evaluate(
                f"""async (data) => {{ {LOADED}
                  const {{ timeline }} = await import('./page/timelines.js');
                  return timeline(samples, recognizer);
                }}""",
                as_base64(np.clip(sound, -1, 1)),
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
                assert mine["dimensions"] == pytest.approx(theirs.dimensions, abs=1e-3)
                assert mine.get("surety") == theirs.surety
            assert row["summary"] == pytest.approx(own.summary, abs=FRAME_S * (1 + len(own.segments)))
            num_segments += len(own.segments)
    assert num_segments > 20
    assert reasons == {None, "silence", "too_short", "no_speech"}


def test_any_chunks_give_the_same_events_in_the_browser(browser: Any, static: str) -> None:
    sound = conversations()["2: 15 s"]
    with Watched(browser, static) as page:
        whole, cut = page.evaluate(
            f"""async (data) => {{ {LOADED}
              const {{ StreamingRecognizer }} = await import('./page/timelines.js');
              return Promise.all([samples.length, 1111].map(async (size) => {{
                const stream = new StreamingRecognizer(recognizer);
                const events = [];
                for (let at = 0; at < samples.length; at += size) {{
                  for await (const event of stream.push(samples.subarray(at, at + size))) events.push(event);
                }}
                for await (const event of stream.finish()) events.push(event);
                return events;
              }}));
            }}""",
            as_base64(sound),
        )
    assert whole == cut
    assert {event["event"] for event in whole} == {"speech_started", "update", "segment", "speech_ended"}


def test_the_path_of_emotions_in_the_browser_equals_pythons(browser: Any, static: str) -> None:
    """For clear and contradictory evidence, and for cells that stay undecided until MAX_UNDECIDED_CELLS."""
    rng = np.random.default_rng(0)
    stretches = [
        (scale * rng.standard_normal((length, 7))).tolist()
        for scale in (0.05, 0.5, 3.0)
        for length in (1, 2, 3, 40, 120)
    ]
    with Watched(browser, static) as page:
        answers = page.evaluate(
            """async ([stretches, cost, minCells, maxUndecided]) => {
              const { Path } = await import('./page/segmentation.js');
              return stretches.map((gains) => {
                const path = new Path(cost, minCells, maxUndecided);
                return [...gains.map((gain) => path.push(gain)), path.finish()];
              });
            }""",
            [stretches, CHANGE_COST, MIN_RUN_CELLS, MAX_UNDECIDED_CELLS],
        )
    for gains, decided in zip(stretches, answers, strict=True):
        path = EmotionPath(CHANGE_COST, MIN_RUN_CELLS, MAX_UNDECIDED_CELLS)
        assert decided == [*(path.push(np.array(gain)) for gain in gains), path.finish()]
    assert max(len(part) for decided in answers for part in decided[:-1]) > 1


@pytest.mark.parametrize("rate_hz", [8_000, 22_050, 44_100, 48_000])
def test_resampling_in_the_browser_is_close_to_pythons(browser: Any, static: str, rate_hz: int) -> None:
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
                for (let at = 0; at < samples.length; at += size) {{
                  parts.push(...resampler.push(samples.subarray(at, at + size)));
                }}
                return [...parts, ...resampler.finish()];
              }});
            }}""",
            [as_base64(sound), rate_hz],
        )
    expected = from_samples(sound, rate_hz)
    assert whole == cut
    assert len(whole) == len(expected)
    assert np.corrcoef(whole, expected)[0, 1] > 0.998  # they differ above 7.3 kHz, and at the ends


def test_the_downloads_of_the_static_page_equal_pythons(browser: Any, static: str) -> None:
    row = timeline(SPEECH[0], Recognizer(threads=1)).as_dict()
    (first,) = row["segments"][:1]
    names = list(first["probabilities"])
    row["path"] = 'a "name", with commas.wav'
    row["segments"] += [{**first, "start_s": 3601.5, "end_s": 3602.0, "emotion": None}]
    row["duration_s"] = 3603.0
    own = Timeline(**{**row, "segments": tuple(Segment(**part) for part in row["segments"])})
    silent = Timeline("b.wav", 2.5, (), dict.fromkeys(names, 0.0), "silence")
    speakers = ("anna", 'b "x" <y>\n & -- z, w', "anna")
    times = ((0.5, 2.0), (1.0, 3.0), (1.5, 2.5))
    spoken = tuple(
        replace(own.segments[0], start_s=start_s, end_s=end_s, speaker=name, channel=index, surety="likely")
        for index, (name, (start_s, end_s)) in enumerate(zip(speakers, times, strict=True))
    )
    call = Timeline("c.wav", 4.0, spoken, dict.fromkeys(names, 0.0), speakers={"anna": {"angry": 1.0}})
    with Watched(browser, static) as page:
        for format in (format for format in FORMATS.values() if format.in_static_page):
            for data, timeline_row in ((row, own), *((each.as_dict(), each) for each in (silent, call))):
                text = page.evaluate(
                    """async ([row, format, names]) => {
                      const { WRITERS } = await import('./page/writers.js');
                      return WRITERS[format](row, names);
                    }""",
                    [data, format.name, names],
                )
                expected = format.to_text([timeline_row], names)
                if format.name == "json":
                    assert json.loads(text) == json.loads(expected)
                else:
                    assert text == expected


def test_a_long_recording_neither_freezes_the_page_nor_blocks_the_next_one(
    browser: Any, static: str, conversation: Path, tmp_path: Path
) -> None:
    sound = np.tile(np.concatenate([load(SPEECH[0]), make.silence(0.8)]), 60)
    soundfile.write(tmp_path / "long.flac", sound, make.RATE)
    with Watched(browser, static) as page:
        page.evaluate(
            """() => {
              globalThis.shares = new Set();
              globalThis.timer = setInterval(() => {
                const bar = document.querySelector('#files progress:not([hidden])');
                if (bar?.hasAttribute('value')) shares.add(bar.value);
              }, 20);
            }"""
        )
        page.set_input_files("#file", tmp_path / "long.flac")
        wait_for_result(page)
        shares = page.evaluate("[...shares]")
        assert len(shares) > 20  # the progress bar moved, so the page did not freeze
        assert shares == sorted(shares)
        assert page.locator("#files progress:visible").count() == 0
        page.set_input_files("#file", tmp_path / "long.flac")
        page.locator("#files progress:visible").wait_for()
        page.set_input_files("#file", conversation)
        page.locator("#files .stop").nth(1).click()  # of the second recording
        wait_for_result(page)
        assert page.inner_text("#result-title") == conversation.name
        page.wait_for_timeout(500)
        assert page.locator("#files progress:visible").count() == 0
        assert page.locator("#files .state").nth(1).inner_text() == "cancelled"
        assert page.inner_text("#result-title") == conversation.name


def test_the_minimum_confidence_gives_no_answer(browser: Any, static: str, conversation: Path) -> None:
    with Watched(browser, static) as page:
        page.set_input_files("#file", conversation)
        wait_for_result(page)
        page.locator("#options summary").click()
        page.locator("#threshold").fill("95")
        until(page.locator("#headline")).to_have_text("Whole recording: no answer 100 % of the speech.")
        assert page.locator("#segments button", has_text="no answer").count() >= 1
        assert set(page.locator("#rows td:nth-child(2)").all_text_contents()) == {"no answer"}
        assert page.is_hidden("#token")
