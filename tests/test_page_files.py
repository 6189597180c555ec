"""Both pages with several files, long files and channels, and what they say about a recording as a whole."""

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import factories as make
import numpy as np
import pytest
import soundfile
from factories_page import (
    CHROMIUM,
    Watched,
    open_browser,
    serve_folder,
    until,
    wait_for_result,
    write_conversation,
)
from factories_serving import SPEECH, Running, serving

from emodistill import Recognizer
from emodistill.audio.speech_activity import SPEECH_FRAME_SAMPLES
from emodistill.audio.waveform import load
from emodistill.inference.timelines import timeline
from emodistill.serving.static_page import export_web

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
FRAME_S = SPEECH_FRAME_SAMPLES / make.RATE
OVERFLOW = """() => {
  const card = document.getElementById('result').getBoundingClientRect();
  const all = [...document.querySelectorAll('#result *:not(#segments span)')];
  const boxes = all.map((part) => [part, part.getBoundingClientRect()]);
  const parts = boxes.filter(([, box]) => box.width > 0);
  const outside = parts.filter(([, box]) => box.left < card.left - 1 || box.right > card.right + 1);
  return [document.documentElement.scrollWidth, outside.map(([part]) => part.outerHTML.slice(0, 80))];
}"""


@pytest.fixture(scope="module")
def conversation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_conversation(tmp_path_factory.mktemp("conversation") / "talk.wav", SPEECH)


@pytest.fixture(scope="module")
def hour(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of 60 minutes that is mostly silent, with utterances in each minute."""
    path = tmp_path_factory.mktemp("hour") / "hour.flac"
    minute = np.zeros(60 * make.RATE, dtype=np.float32)
    for at, utterance in enumerate(SPEECH):
        waveform = load(utterance)
        minute[at * 4 * make.RATE :][: len(waveform)] = waveform
    soundfile.write(path, np.tile(minute, 60), make.RATE)
    return path


@pytest.fixture(scope="module")
def browser(conversation: Path) -> Iterator[Any]:
    with open_browser(conversation) as opened:
        yield opened


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="module")
def static(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("web") / "page"
    export_web("bundled", folder)
    with serve_folder(folder) as url:
        yield url


@pytest.fixture(params=["server", "static"])
def address(request: pytest.FixtureRequest) -> str:
    """The address of each page in turn, so that a test runs with both."""
    value = request.getfixturevalue(request.param)
    return value.url if isinstance(value, Running) else str(value)


# --- as a whole -----------------------------------------------------------------------------------------


def test_both_pages_say_the_same_about_a_recording_as_a_whole(
    browser: Any, server: Running, static: str, conversation: Path, tmp_path: Path
) -> None:
    """For one segment, for several, for none, and for a recording that is too long for one prediction.

    The files are WAV at 16 kHz, which the browser and the server decode to the same samples.
    """
    soundfile.write(tmp_path / "one.wav", load(SPEECH[0]), make.RATE)
    soundfile.write(tmp_path / "silent.wav", make.silence(2.0), make.RATE)
    soundfile.write(
        tmp_path / "long.wav", np.concatenate([load(conversation), make.silence(700.0)]), make.RATE
    )
    paths = [tmp_path / "one.wav", conversation, tmp_path / "long.wav", tmp_path / "silent.wav"]
    sentences: list[list[str]] = []
    for url in (server.url, static):
        with Watched(browser, url) as page:
            sentences.append([])
            for number, path in enumerate(paths):
                page.set_input_files("#file", path)
                until(page.locator("#files li").nth(number)).to_have_attribute("data-state", "done")
                sentences[-1].append(page.inner_text("#headline"))
    assert sentences[0] == sentences[1]
    one, several, long, silent = sentences[0]
    (segment,) = timeline(paths[0], Recognizer(threads=1)).segments
    assert segment.confidence is not None
    confidence = round(100 * segment.confidence)
    assert one.startswith(f"Whole recording: {segment.emotion}, with a confidence of {confidence} %")
    own = timeline(conversation, Recognizer(threads=1))
    most = max(own.summary, key=own.summary.__getitem__)
    share = round(100 * own.summary[most] / sum(own.summary.values()))
    assert several.startswith(f"Whole recording: {most} {share} % of the speech")
    assert long == several
    assert silent == "The recording is silent."


# --- several files --------------------------------------------------------------------------------------


def test_several_files_make_a_list_and_one_failure_stops_nothing(
    browser: Any, address: str, conversation: Path
) -> None:
    files = [SPEECH[0], conversation]
    with Watched(browser, address) as page:
        page.set_input_files(
            "#file",
            [
                {"name": "no.wav", "mimeType": "audio/wav", "buffer": b"no sound"},
                *({"name": path.name, "mimeType": "", "buffer": path.read_bytes()} for path in files),
            ],
        )
        rows = page.locator("#files li")
        for number, state in enumerate(("failed", "done", "done")):
            until(rows.nth(number)).to_have_attribute("data-state", state)
        assert "decode" in rows.nth(0).inner_text()
        assert "no.wav" in page.inner_text("#problem")
        assert page.is_hidden("#result")
        for number, path in enumerate(files, start=1):
            rows.nth(number).locator(".file").click()
            wait_for_result(page)
            assert page.inner_text("#result-title") == path.name
            assert page.is_hidden("#problem")
            assert rows.nth(number).locator(".file").get_attribute("aria-pressed") == "true"
            emotions = page.locator("#rows td:nth-child(2)").all_text_contents()
            assert rows.nth(number).locator(".chip").inner_text() in " ".join(emotions)
            assert page.inner_text("#status").startswith(f"{path.name}: ")


def test_files_can_be_removed_from_the_list(
    browser: Any, address: str, conversation: Path, hour: Path
) -> None:
    with Watched(browser, address) as page:
        page.set_input_files("#file", [SPEECH[0], conversation, hour])
        rows = page.locator("#files li")
        until(rows.nth(1)).to_have_attribute("data-state", "done")
        rows.nth(2).locator("progress").wait_for()
        rows.nth(2).get_by_label(f"Remove {hour.name}").click()  # while it is being analysed
        until(rows).to_have_count(2)
        rows.nth(0).locator(".file").click()
        wait_for_result(page)
        rows.nth(0).locator(".remove").click()
        wait_for_result(page)
        assert page.inner_text("#result-title") == conversation.name
        assert page.evaluate("document.activeElement.className") == "file"
        page.wait_for_timeout(500)
        assert rows.count() == 1
        rows.nth(0).locator(".remove").click()
        until(page.locator("#files")).to_be_hidden()
        assert page.is_hidden("#result")
        assert page.inner_text("#status") == "Ready."
        page.set_input_files("#file", conversation)
        wait_for_result(page)
        assert rows.count() == 1


def test_an_analysis_shows_its_progress_and_can_be_cancelled(browser: Any, address: str, hour: Path) -> None:
    with Watched(browser, address) as page:
        page.evaluate(
            """() => {
              globalThis.texts = new Set();
              const watch = () => texts.add(document.querySelector('#files .state')?.textContent);
              new MutationObserver(watch).observe(document.getElementById('files'), {
                childList: true, subtree: true,
              });
            }"""
        )
        page.set_input_files("#file", [hour, SPEECH[0]])
        row = page.locator("#files li").first
        row.locator("progress").wait_for()
        until(row.locator(".state")).to_contain_text("windows" if api_is_local(page) else "working:")
        row.locator(".stop").click()
        until(row).to_have_attribute("data-state", "cancelled")
        until(page.locator("#files li").nth(1)).to_have_attribute("data-state", "done")
        texts = page.evaluate("[...texts]")
        wanted = ("decoding", "windows") if api_is_local(page) else ("uploading", "the server is working: ")
        for part in wanted:
            assert any(part in text for text in texts if text), texts
        assert row.get_attribute("data-state") == "cancelled"


def api_is_local(page: Any) -> bool:
    """Whether the page is the static one, which asks for no token."""
    page.locator("#options").evaluate("part => { part.open = true; }")
    return bool(page.is_hidden("#token"))


# --- long files -----------------------------------------------------------------------------------------


def test_the_strip_never_leaves_the_card(browser: Any, server: Running, hour: Path) -> None:
    with Watched(browser, server.url) as page:
        for path in (SPEECH[0], hour):
            page.set_input_files("#file", path)
            until(page.locator("#result-title")).to_have_text(path.name)
            wait_for_result(page)
            for width in (390, 1280):
                page.set_viewport_size({"width": width, "height": 844})
                for button in (None, "#zoom-in", "#zoom-in", "#zoom-all"):
                    if button is not None:
                        page.click(button)
                    page.wait_for_timeout(150)
                    assert page.evaluate(OVERFLOW) == [width, []]
                    strip, wave = (page.locator(part).bounding_box() for part in ("#segments", "#wave"))
                    assert abs(strip["x"] - wave["x"]) <= 1
                    assert abs(strip["width"] - wave["width"]) <= 1


def is_in_view(locator: Any) -> bool:
    box = locator.bounding_box()
    return box is not None and 0 <= box["x"] < locator.page.viewport_size["width"]


def test_a_long_recording_has_zoom_a_small_copy_and_a_list(browser: Any, server: Running, hour: Path) -> None:
    with Watched(browser, server.url) as page:
        page.set_input_files("#file", hour)
        wait_for_result(page)
        total = page.locator("#rows tr").count()
        assert total >= 120
        page.wait_for_timeout(200)
        visible = page.locator("#segments button").count()
        assert 0 < visible < total / 10  # the first part
        page.click("#zoom-out")
        page.wait_for_timeout(200)
        assert visible < page.locator("#segments button").count() < total
        page.click("#zoom-all")
        page.wait_for_timeout(200)
        assert page.locator("#segments button").count() == total
        for _ in range(6):
            page.click("#zoom-in")
        page.wait_for_timeout(200)
        assert 0 < page.locator("#segments button").count() < total / 10
        notches = page.locator("#wave [part~=timeline-notch]").all()
        assert sum(bool(notch.inner_text()) and is_in_view(notch) for notch in notches) >= 2
        box = page.locator("#minimap").bounding_box()
        page.mouse.click(box["x"] + box["width"] * 0.75, box["y"] + 10)
        until(page.locator("#clock")).to_have_text(re.compile(r"^4[45]:\d\d"))
        page.locator("#rows button").last.click()
        until(page.locator("#segments button[aria-pressed=true]")).to_have_count(1)
        assert page.locator("#segments button[aria-pressed=true]").get_attribute("data-index") == str(
            total - 1
        )
        sent: list[str] = []
        page.on("request", lambda request: sent.append(request.url))
        with page.expect_download() as saved:
            page.click("[data-format=srt]")
        assert Path(saved.value.path()).read_text(encoding="utf-8").count("-->") == total
        assert not any("/v1/timeline" in url for url in sent)  # the result is not computed again


def test_a_segment_says_that_it_keeps_the_emotion_around_it(browser: Any, server: Running) -> None:
    row = timeline(SPEECH[0], Recognizer(threads=1)).as_dict()
    for segment in row["segments"]:
        segment["emotion"] = min(segment["probabilities"], key=segment["probabilities"].get)
    with Watched(browser, server.url) as page:
        page.route("**/v1/timeline", lambda route: route.fulfill(json=[row]))
        page.set_input_files("#file", SPEECH[0])
        wait_for_result(page)
        page.locator("#rows button").first.click()
        assert "The segment keeps the emotion of the speech around it" in page.inner_text("#bars")


# --- channels -------------------------------------------------------------------------------------------


def write_call(path: Path, rate_hz: int = make.RATE) -> Path:
    """A stereo call: two utterances on each channel, the second channel 40 dB below the first."""
    length = 12 * make.RATE
    channels = np.zeros((length, 2), dtype=np.float32)
    for number, utterance in enumerate(SPEECH):
        waveform = load(utterance)
        start = number * 3 * make.RATE
        channels[start : start + len(waveform), number % 2] = waveform * (0.01 if number % 2 else 1.0)
    soundfile.write(path, channels, rate_hz, subtype="FLOAT")
    return path


@pytest.mark.parametrize("num_channels", [1, 2, 3])
def test_channels_are_mixed_in_the_browser_as_in_python(
    browser: Any, static: str, tmp_path: Path, num_channels: int
) -> None:
    """A channel counts throughout if it makes a sound anywhere, and a dead channel never."""
    frames = np.zeros((make.RATE, num_channels), dtype=np.float32)
    frames[:, 0] = 0.5
    if num_channels > 1:
        frames[make.RATE // 2 :, 1] = 0.1
        frames[make.RATE * 3 // 4 :, 1] = 0.0
    soundfile.write(tmp_path / "late.wav", frames, make.RATE, subtype="FLOAT")
    with Watched(browser, static) as page:
        mixed = page.evaluate(
            """async (data) => {
              const { decode } = await import('./page/decode.js');
              const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
              return (await decode(new Blob([bytes]))).map((waveform) => [...waveform]);
            }""",
            base64.b64encode((tmp_path / "late.wav").read_bytes()).decode(),
        )
    assert np.array(mixed) == pytest.approx(load(tmp_path / "late.wav")[None], abs=1e-6)


def test_each_channel_needs_another_name_in_the_browser(browser: Any, static: str) -> None:
    with Watched(browser, static) as page:
        message = page.evaluate(
            """async () => {
              const { timelineOfChannels } = await import('./page/timelines.js');
              return timelineOfChannels([[0], [0]], ['a', 'a'], null).catch((error) => error.message);
            }"""
        )
    assert message == "expected another name for each channel, got a, a"


@pytest.mark.parametrize("names", [None, ["agent", "customer"]])
def test_each_channel_by_itself_in_the_browser_equals_python(
    browser: Any, static: str, tmp_path: Path, names: list[str] | None
) -> None:
    call = write_call(tmp_path / "call.wav")
    own = timeline(call, Recognizer(threads=1), channels="split", names=names)
    assert own.speakers is not None
    with Watched(browser, static) as page:
        row = page.evaluate(
            """async ([data, names]) => {
              const { decode } = await import('./page/decode.js');
              const { Recognizer } = await import('./page/recognizer.js');
              const { timelineOfChannels } = await import('./page/timelines.js');
              const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
              const channels = await decode(new Blob([bytes]), true);
              return timelineOfChannels(channels, names, await Recognizer.load(new URL('./', location.href)));
            }""",
            [base64.b64encode(call.read_bytes()).decode(), names],
        )
    assert (row["duration_s"], row["reason"]) == (own.duration_s, own.reason)
    assert len(row["segments"]) == len(own.segments) >= 4
    for mine, theirs in zip(row["segments"], own.segments, strict=True):
        assert (mine["emotion"], mine["speaker"], mine["channel"]) == (
            theirs.emotion,
            theirs.speaker,
            theirs.channel,
        )
        assert mine["start_s"] == pytest.approx(theirs.start_s, abs=FRAME_S)
        assert mine["probabilities"] == pytest.approx(theirs.probabilities, abs=1e-3)
    assert list(row["speakers"]) == list(own.speakers)
    for name, summary in own.speakers.items():
        assert row["speakers"][name] == pytest.approx(summary, abs=0.1)


def test_stereo_has_two_lanes_and_a_switch_for_each_channel_by_itself(
    browser: Any, address: str, tmp_path: Path
) -> None:
    call = write_call(tmp_path / "call.wav")
    with Watched(browser, address, viewport={"width": 390, "height": 844}) as page:
        page.set_input_files("#file", SPEECH[0])
        wait_for_result(page)
        assert page.is_hidden("#channels")
        assert page.locator("#lane-names li").count() == 0
        page.set_input_files("#file", call)
        until(page.locator("#result-title")).to_have_text(call.name)
        wait_for_result(page)
        assert page.locator("#lane-names li").all_text_contents() == ["channel 0", "channel 1"]
        assert page.locator("#segments > div").count() == 1
        page.fill("#names", "agent,customer")
        page.check("#split")
        until(page.locator("#speakers li")).to_have_count(2)
        wait_for_result(page)
        assert page.locator("#lane-names li").all_text_contents() == ["agent", "customer"]
        assert page.locator("#segments > div").count() == 2
        speakers = page.locator("#speakers li strong").all_text_contents()
        assert speakers == ["agent", "customer"]
        assert "customer" in page.locator("#rows").inner_text()
        second = page.locator("#segments > div").nth(1).locator("button")
        assert second.count() >= 2
        assert "customer" in str(second.first.get_attribute("aria-label"))
        drawn = page.locator("#segments path").evaluate_all(
            "all => all.map((path) => path.getAttribute('d'))"
        )
        assert len(drawn) == 4  # arousal and valence of each channel
        assert all(path.count("M") >= 2 for path in drawn)
        assert page.evaluate(OVERFLOW) == [390, []]
        with page.expect_download() as saved:
            page.click("[data-format=json]")
        (row,) = json.loads(Path(saved.value.path()).read_text(encoding="utf-8"))
        assert list(row["speakers"]) == ["agent", "customer"]
        page.fill("#names", "agent,customer,third")
        page.locator("#names").blur()
        until(page.locator("#problem")).to_contain_text("give one for each channel")


# --- what the browser cannot play -----------------------------------------------------------------------


def write_aiff(path: Path) -> Path:
    """A file that Chromium cannot decode."""
    soundfile.write(path, load(SPEECH[0]), make.RATE, format="AIFF")
    return path


def test_the_server_decodes_for_playing_what_the_browser_cannot(
    browser: Any, server: Running, tmp_path: Path
) -> None:
    sound = write_aiff(tmp_path / "call.aiff")
    with Watched(browser, server.url) as page:
        page.set_input_files("#file", sound)
        wait_for_result(page)
        page.locator("#segments button").first.click()
        until(page.locator("#clock")).to_contain_text(" of ")
        page.wait_for_selector("#teachers table")


def test_the_static_page_says_that_the_browser_cannot_decode(
    browser: Any, static: str, tmp_path: Path
) -> None:
    sound = write_aiff(tmp_path / "call.aiff")
    with Watched(browser, static) as page:
        page.set_input_files("#file", sound)
        until(page.locator("#problem")).to_contain_text("call.aiff: this browser cannot decode it as audio")
        assert "Convert it to WAV" in page.inner_text("#problem")


# --- live -----------------------------------------------------------------------------------------------


def test_strip_chip_and_text_of_the_live_view_have_the_same_emotion(browser: Any, static: str) -> None:
    """For the newest speech: after an update, a segment that reaches as far, and one that ends before."""
    with Watched(browser, static) as page:
        steps = page.evaluate(
            """async () => {
              const { LiveView } = await import('./page/live.js');
              const colours = { angry: '#d00000', happy: '#e0a000', sad: '#0000d0' };
              const view = new LiveView(document.getElementById('live'), colours);
              view.addSamples(new Float32Array(10 * 1000).fill(0.5), 1000);
              const event = (kind, start_s, end_s, probabilities, emotion) =>
                ({ event: kind, start_s, end_s, probabilities, emotion });
              const events = [
                event('update', 0, 2, { angry: 0.7, happy: 0.2, sad: 0.1 }, 'angry'),
                event('update', 1, 3, { angry: 0.6, happy: 0.3, sad: 0.1 }, 'happy'),
                event('segment', 0, 2, { angry: 0.6, happy: 0.3, sad: 0.1 }, 'angry'),
                event('segment', 2, 3, { angry: 0.1, happy: 0.2, sad: 0.7 }, 'sad'),
                event('update', 4, 6, { angry: 0.34, happy: 0.33, sad: 0.33 }),
                event('segment', 4, 6, { angry: 0.35, happy: 0.33, sad: 0.32 }, null),
              ];
              const named = { ...Object.fromEntries(Object.entries(colours).map(([k, v]) => [v, k])) };
              let said = null;
              return events.map((each) => {
                said = view.showEvent(each) ?? said;
                const newest = view.spans.reduce((last, span) => (span.end >= last.end ? span : last));
                const chip = document.querySelector('#live-emotion .chip').textContent;
                return [said, chip, named[newest.colour] ?? 'no answer'];
              });
            }"""
        )
    assert steps == [
        [f"Now: {emotion}", emotion, emotion]
        for emotion in ("angry", "happy", "happy", "sad", "no answer", "no answer")
    ]
