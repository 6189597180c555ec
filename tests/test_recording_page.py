"""The page of one recording: what it holds, what it must not hold, and how it behaves in a real browser."""

import base64
import hashlib
import html
import io
import json
import re
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import factories as make
import numpy as np
import pytest
import soundfile
import soxr
from factories_page import CHROMIUM, WAIT_MS, open_browser, page_data, until, wait_until
from hypothesis import given, settings
from hypothesis import strategies as st

from emodistill import Recognizer
from emodistill.audio.encoding import PEAKS_PER_S, Envelope, write_playable
from emodistill.audio.waveform import SAMPLE_RATE
from emodistill.errors import AudioError
from emodistill.inference import batch
from emodistill.inference.formats import FORMATS, WriterContext, write
from emodistill.inference.formats.html_page import to_html, to_parts
from emodistill.inference.segmentation import Segment
from emodistill.inference.timelines import Timeline, seconds_by_emotion
from emodistill.labels import COLOURS

in_browser = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
CALL = Path(make.__file__).parents[1] / "src" / "emodistill" / "demo" / "call.ogg"
EMOTIONS = ("angry", "happy", "sad", "neutral")
HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<!--<script>",
    "\"'><svg onload=alert(1)>",
    "&lt;b&gt; <!--style--> {{title}} \u2028 \U0001f600 مرحبا",
]


def part(start_s: float, end_s: float, emotion: str | None, **more: Any) -> Segment:
    probabilities = {name: 0.7 if name == emotion else 0.1 for name in EMOTIONS}
    return Segment(start_s, end_s, emotion, 0.7, probabilities, **more)


def row_of(path: Path | str, duration_s: float, *segments: Segment) -> Timeline:
    return Timeline(str(path), duration_s, segments, seconds_by_emotion(segments, EMOTIONS))


def hostile_row(path: Path | str = "<img src=x onerror=alert(1)>.wav") -> Timeline:
    """A short timeline whose names and words try to leave their place."""
    segments = [
        part(
            2 * place, 2 * place + 1.5, EMOTIONS[place % 4], speaker=text, text=f"{text} said",
            surety="likely",
        )
        for place, text in enumerate(HOSTILE)
    ]  # fmt: skip
    return row_of(path, 12.0, *segments)


def long_row(path: Path | str = "long.wav", duration_s: float = 5400.0) -> Timeline:
    """A timeline of two speakers with a segment every four seconds, words, arousal and valence."""
    random = np.random.default_rng(0)
    segments = [
        part(
            start_s, start_s + 3.5, EMOTIONS[random.integers(4)], speaker=("agent", "customer")[place % 2],
            channel=place % 2, text="one two three four five six seven eight nine ten",
            dimensions={"arousal": float(random.uniform()), "valence": float(random.uniform())},
            dimensions_from="emotions", surety=("likely", "unsure", "no better than a guess")[place % 3],
        )
        for place, start_s in enumerate(np.arange(0.0, duration_s - 4, 4.0).tolist())
    ]  # fmt: skip
    return row_of(path, duration_s, *segments)


def page_of(row: Timeline, context: WriterContext | None = None) -> str:
    return "".join(to_parts([row], EMOTIONS, context or WriterContext()))


def sound_of(page: str) -> bytes | None:
    """The MP3 in a page; None without one."""
    found = re.search(r'<audio[^>]* src="data:audio/mpeg;base64,([^"]*)"', page)
    return None if found is None else base64.b64decode(found[1], validate=True)


@pytest.fixture(scope="module")
def call() -> Timeline:
    return replace(Recognizer("bundled").timeline(CALL, channels="split", names=["agent", "customer"]))


BIT_RATE = 32_000  # of the sound


def write_mp3(path: Path, out: Any) -> np.ndarray:
    """Write the MP3 of a page, and return its envelope."""
    envelope = Envelope()
    write_playable(path, out, "MP3", kbit_s=BIT_RATE // 1000, envelope=envelope)
    return envelope.peaks()


# --- the sound ------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate_hz", [8000, 16000, 44100])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_the_sound_decodes_back_at_its_place(tmp_path: Path, rate_hz: int, channels: int) -> None:
    path, out = tmp_path / "a.wav", io.BytesIO()
    speech = soxr.resample(make.speech(5.0), make.RATE, rate_hz)
    soundfile.write(path, speech[:, None] * np.linspace(0.8, 0.4, channels), rate_hz)
    envelope = write_mp3(path, out)
    out.seek(0)
    decoded, decoded_hz = soundfile.read(out, always_2d=True)
    num_channels = 2 if channels == 2 else 1
    assert (decoded_hz, decoded.shape[1]) == (SAMPLE_RATE, num_channels)
    assert envelope.shape == (5 * PEAKS_PER_S, num_channels)
    wanted = soxr.resample(speech, rate_hz, SAMPLE_RATE)
    assert len(decoded) >= len(wanted)
    middle = slice(SAMPLE_RATE, 4 * SAMPLE_RATE)
    for channel in decoded.T:
        assert np.corrcoef(channel[middle], wanted[middle])[0, 1] > 0.95


def test_the_envelope_has_the_peaks_of_each_channel(tmp_path: Path) -> None:
    samples = np.zeros((3 * SAMPLE_RATE, 2), dtype=np.float32)
    samples[SAMPLE_RATE : 2 * SAMPLE_RATE, 0] = 0.5
    samples[-10:, 1] = -0.01
    soundfile.write(tmp_path / "a.wav", samples, SAMPLE_RATE, subtype="FLOAT")
    envelope = write_mp3(tmp_path / "a.wav", None)
    assert envelope[:, 0].tolist() == [0.0] * 20 + [0.5] * 20 + [0.0] * 20
    assert envelope[:, 1] == pytest.approx([0.0] * 59 + [0.01])


def test_the_sound_has_32_kilobits_and_90_minutes_fit_into_35_megabytes(tmp_path: Path) -> None:
    out = io.BytesIO()
    length_s = 30.0
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (round(length_s * SAMPLE_RATE), 2))
    soundfile.write(tmp_path / "a.wav", noise, SAMPLE_RATE)
    write_mp3(tmp_path / "a.wav", out)
    bytes_per_s = len(out.getvalue()) / length_s
    assert bytes_per_s == pytest.approx(BIT_RATE / 8, rel=0.01)
    without_sound = len(page_of(long_row()))
    envelope = 5400 * PEAKS_PER_S * 2
    assert without_sound + 4 / 3 * (5400 * bytes_per_s + envelope) < 35e6


def test_memory_does_not_grow_with_the_recording(tmp_path: Path) -> None:
    peaks = []
    for minutes in (2, 5):
        path = tmp_path / f"{minutes}.flac"
        soundfile.write(path, np.tile(make.speech(60.0), minutes), make.RATE)
        row = row_of(path, 60.0 * minutes, part(0, 1, "angry"))
        tracemalloc.start()
        num_letters = sum(map(len, to_parts([row], EMOTIONS, WriterContext())))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert num_letters > minutes * 60 * BIT_RATE / 8
    assert peaks[1] - peaks[0] < 300_000, "three minutes of MP3 in Base64 are 960 kB"


def test_a_page_without_sound_says_so(call: Timeline) -> None:
    page = page_of(call, WriterContext(audio=False))
    assert sound_of(page) is None
    assert "audio/mpeg;base64" not in page
    assert "The page was made without it." in page
    facts = page_data(page, "facts")
    assert facts["sound"] is False
    assert len(facts["envelope"]) == 2


def test_a_recording_that_cannot_be_read_gives_a_page_without_sound(tmp_path: Path) -> None:
    row = row_of(tmp_path / "gone.wav", 3.0, part(0, 1, "angry"))
    page = page_of(row)
    assert "no such file" in page
    assert sound_of(page) is None
    assert page_data(page, "timeline-data") == row.as_dict()
    with pytest.raises(AudioError, match="no such file"):
        write_mp3(tmp_path / "gone.wav", io.BytesIO())


# --- what the page holds --------------------------------------------------------------------------


def test_the_page_holds_the_timeline_its_sound_and_the_card(call: Timeline) -> None:
    card = Recognizer("bundled").card
    page = page_of(call, WriterContext(card=card))
    assert page_data(page, "timeline-data") == json.loads(json.dumps(call.as_dict()))
    sound = sound_of(page)
    assert sound is not None
    decoded, rate_hz = soundfile.read(io.BytesIO(sound))
    assert len(decoded) / rate_hz == pytest.approx(20.0, abs=0.2)
    visible = html.unescape(page)
    for text in (card.intended_use, card.limits, card.licence, card.name, "Whole recording", "agent"):
        assert text in visible


def test_the_page_states_how_sure_and_how_often_right(call: Timeline) -> None:
    card = Recognizer("bundled").card
    assert "By time: likely 100 %." in page_of(hostile_row())
    assert "How sure it is" not in page_of(row_of("a.wav", 3.0, part(0, 1, "angry")))
    text = html.unescape(page_of(call, WriterContext(card=card, audio=False)))
    everything = card.coverage[0]
    assert everything.coverage == 1
    assert f"right in {100 * everything.accuracy:.0f} % of all answers" in text
    assert "computed from the probabilities of the emotions" in text
    assert "without the card of the model" in page_of(call, WriterContext(audio=False))


def test_the_page_holds_no_voice(call: Timeline) -> None:
    adapted = Recognizer("bundled").timeline(CALL, adapt="recording")
    page = page_of(adapted)
    assert adapted.segments[0].voice_utterances is not None
    facts = page_data(page, "facts")
    assert facts.keys() == {"emotions", "envelope", "step_s", "trend", "dimensions", "sound"}
    assert all(channel.keys() == {"largest", "peaks"} for channel in facts["envelope"])
    data = page_data(page, "timeline-data")
    assert data.keys() <= {"path", "duration_s", "segments", "summary", "reason", "error", "speakers"}
    fields = {name for segment in data["segments"] for name in segment}
    assert not fields & {"statistics", "embedding", "voice"}
    numbers = [value for segment in data["segments"] for value in segment.values() if isinstance(value, list)]
    assert numbers == []
    assert len(page_of(call, WriterContext(audio=False))) < 100_000, "there is no room for vectors"


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_stay_texts(text: str) -> None:
    row = hostile_row(f"{text}.wav")
    page = page_of(row)
    page.encode("ascii")
    assert page_data(page, "timeline-data") == row.as_dict()
    plain = page_of(replace(row, path="a.wav", segments=tuple(
        replace(segment, speaker=str(number), text="words") for number, segment in enumerate(row.segments)
    )))  # fmt: skip
    tags = re.compile(r"<[a-z!/][^>]*>", re.IGNORECASE)
    assert tags.findall(page) == tags.findall(plain), "the texts add no element"


@given(st.text(max_size=30), st.text(max_size=30), st.text(max_size=30))
@settings(max_examples=30, deadline=None)
def test_any_text_is_read_back(path: str, speaker: str, text: str) -> None:
    row = row_of(f"\x00{path}", 3.0, part(0, 1, "angry", speaker=speaker, text=text))
    page = to_html([row], EMOTIONS)
    page.encode("ascii")
    assert page_data(page, "timeline-data") == row.as_dict()


def test_the_content_policy_permits_the_script_and_the_style_of_the_page_alone() -> None:
    page = page_of(hostile_row())
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    allowed = dict(item.split(" ", 1) for item in policy.split("; "))
    assert allowed["default-src"] == "'none'"
    assert allowed["media-src"] == "data: blob:"
    for directive, pattern in (
        ("script-src", r"<script>(.*?)</script>"),
        ("style-src", r"<style>(.*?)</style>"),
    ):
        (content,) = re.findall(pattern, page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert allowed[directive] == f"'sha256-{digest}'"
    assert re.findall(r"https?://[^\s\"'<)]+", re.sub(r"<script.*?</script>", "", page, flags=re.S)) == []
    assert "unsafe" not in policy


def test_each_emotion_has_its_colour() -> None:
    page = page_of(hostile_row())
    for place, name in enumerate(EMOTIONS):
        assert f".e{place} {{ --own: {COLOURS[name]}; }}" in page


def test_the_step_of_the_trend_can_be_chosen() -> None:
    row = long_row(duration_s=600.0)
    assert page_data(page_of(row), "facts")["step_s"] == 10
    facts = page_data(page_of(row, WriterContext(trend_s=120)), "facts")
    assert facts["step_s"] == 120
    assert len(facts["trend"]) == 5 * 3


# --- in a browser ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser(CALL) as opened:
        yield opened


@contextmanager
def opened(browser: Any, path: Path, **options: Any) -> Iterator[Any]:
    """A page of a file. Its errors, its dialogs and its requests to any address fail the test."""
    context = browser.new_context(**options)
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("dialog", lambda dialog: (problems.append(dialog.message), dialog.dismiss()))
    page.on(
        "request",
        lambda request: (
            None
            if request.url == path.as_uri() or request.url.startswith(("blob:", "data:"))
            else problems.append(request.url)
        ),
    )
    page.goto(path.as_uri())
    yield page
    context.close()
    assert problems == []


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, call: Timeline) -> dict[str, Path]:
    """The page of the call, a hostile one with the sound of the call, and one of 90 minutes without sound."""
    folder = tmp_path_factory.mktemp("pages")
    sound = folder / "'><img src=x onerror=alert(1)>.ogg"
    sound.write_bytes(CALL.read_bytes())
    context = WriterContext(card=Recognizer("bundled").card)
    found = {"call": call, "hostile": hostile_row(sound), "long": long_row()}
    for name, row in found.items():
        write([row], "html", folder / f"{name}.html", EMOTIONS, context)
    return {name: folder / f"{name}.html" for name in found}


def position(page: Any) -> float:
    return float(page.get_attribute("#strip", "aria-valuenow"))


@in_browser
def test_a_click_on_a_segment_plays_from_there(browser: Any, pages: dict[str, Path], call: Timeline) -> None:
    with opened(browser, pages["call"]) as page:
        wait_until(page, "document.getElementById('audio').duration > 0")
        duration = page.evaluate("document.getElementById('audio').duration")
        assert duration == pytest.approx(20.0, abs=0.2)
        for place in (3, 5):
            page.locator("#strip .tint").nth(place).click()
            wait_until(page, "!document.getElementById('audio').paused")
            page.click("#play")
            index = int(page.locator("#strip .tint").nth(place).get_attribute("data-index"))
            start_s = call.segments[index].start_s
            assert (
                start_s - 0.05 <= page.evaluate("document.getElementById('audio').currentTime") < start_s + 5
            )
        page.locator("#segments button").last.click()
        wait_until(page, "!document.getElementById('audio').paused")
        assert position(page) >= call.segments[-1].start_s - 0.05
        wait_until(page, "document.getElementById('play').textContent === 'Pause'")
        assert page.locator("#segments tr[aria-current]").count() >= 1


@in_browser
def test_hostile_texts_run_nothing_and_are_shown(browser: Any, pages: dict[str, Path]) -> None:
    with opened(browser, pages["hostile"]) as page:
        assert page.inner_text("h1") == "'><img src=x onerror=alert(1)>.ogg"
        assert page.title() == "'><img src=x onerror=alert(1)>.ogg"
        shown = page.inner_text("#segments")
        assert all(text.split("\u2028")[0].strip() in shown for text in HOSTILE)
        assert page.locator("img").count() == 0
        assert page.locator("#segments tr").count() == len(HOSTILE)
        page.locator("#strip .tint").nth(1).click()
        until(page.locator("#now")).to_contain_text(HOSTILE[1])


@in_browser
def test_the_keyboard_moves_plays_and_zooms(browser: Any, pages: dict[str, Path], call: Timeline) -> None:
    with opened(browser, pages["call"]) as page:
        wait_until(page, "document.getElementById('audio').duration > 0")
        reached = []
        for _ in range(12):
            page.keyboard.press("Tab")
            reached.append(page.evaluate("document.activeElement.id"))
            if reached[-1] == "strip":
                break
        assert {"play", "strip"} <= set(reached)
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
        assert position(page) == 0
        page.keyboard.press("ArrowRight")
        assert position(page) == 5
        page.keyboard.press("PageDown")
        assert position(page) == pytest.approx(
            min(one.start_s for one in call.segments if one.start_s > 5), abs=0.06
        )
        page.keyboard.press("End")
        assert position(page) == pytest.approx(20.0, abs=0.2)
        page.keyboard.press("Home")
        assert position(page) == 0
        page.keyboard.press("+")
        assert page.is_enabled("#zoom-out")
        page.keyboard.press("-")
        assert page.is_disabled("#zoom-out")
        page.keyboard.press(" ")
        wait_until(page, "!document.getElementById('audio').paused")
        page.keyboard.press(" ")
        wait_until(page, "document.getElementById('audio').paused")
        page.keyboard.press("Home")
        page.keyboard.press("PageDown")
        first = min(call.segments, key=lambda segment: segment.start_s)
        assert f"{first.speaker}, {first.emotion}" in page.get_attribute("#strip", "aria-valuetext")


@in_browser
@pytest.mark.parametrize("name", ["call", "long"])
def test_controls_have_names(browser: Any, pages: dict[str, Path], name: str) -> None:
    with opened(browser, pages[name]) as page:
        unnamed = page.evaluate(
            """() => [...document.querySelectorAll('button, select, input, [tabindex]')].filter(
              (control) => !(
              control.textContent.trim() || control.getAttribute('aria-label')
              || control.getAttribute('aria-labelledby') || control.closest('label')?.textContent.trim()
            )).map((control) => control.outerHTML)"""
        )
        assert unnamed == []
        levels = page.locator("h1, h2, h3").evaluate_all("all => all.map((one) => Number(one.tagName[1]))")
        assert levels[0] == 1
        assert all(after <= before + 1 for before, after in pairwise(levels))


@in_browser
def test_90_minutes_have_an_overview_and_a_short_list(browser: Any, pages: dict[str, Path]) -> None:
    with opened(browser, pages["long"]) as page:
        assert page.is_visible("#overview")
        assert page.locator("#overview .fill").count() <= 90 * 2 * 4
        assert page.locator("#strip .tint").count() <= 20, "the zoomed view shows a minute"
        assert page.locator("#segments tr").count() == 50
        assert page.inner_text("#range") == "1 to 50 of 1349"
        page.focus("#strip")
        page.keyboard.press("End")
        assert position(page) == 5400
        assert page.locator("#strip .tint").count() >= 5
        page.keyboard.press("PageUp")
        assert position(page) == 5392
        assert page.inner_text("#range") == "1301 to 1349 of 1349"
        assert page.locator("#segments tr[aria-current]").count() == 1
        page.select_option("#speaker", label="agent")
        assert "of 675" in page.inner_text("#range")
        page.click("#overview", position={"x": 10, "y": 30})
        assert position(page) < 120
        assert page.evaluate("document.querySelectorAll('*').length") < 6000


@in_browser
def test_a_segment_of_a_long_page_is_chosen_without_sound(browser: Any, pages: dict[str, Path]) -> None:
    with opened(browser, pages["long"]) as page:
        assert page.is_hidden("#play")
        page.locator("#strip .tint").nth(3).click()
        until(page.locator("#now")).to_contain_text("one two three")
        page.select_option("#curves", "emotions")
        assert page.locator("#strip .curve.e0").count() == 2
        page.select_option("#curves", "dimensions")
        assert page.locator("#strip .curve.arousal").count() == 2


@in_browser
@pytest.mark.parametrize("name", ["call", "hostile", "long"])
def test_a_phone_shows_the_page_without_scrolling_sideways(
    browser: Any, pages: dict[str, Path], name: str
) -> None:
    with opened(browser, pages[name], viewport={"width": 390, "height": 800}, has_touch=True) as page:
        assert page.evaluate("document.scrollingElement.scrollWidth") <= 390
        sizes = page.locator("button:visible, select:visible").evaluate_all(
            "all => all.map((one) => one.getBoundingClientRect().height)"
        )
        assert min(sizes) >= 32


@in_browser
def test_dark_screens_and_paper(browser: Any, pages: dict[str, Path]) -> None:
    light, dark = "rgb(244, 245, 248)", "rgb(16, 20, 29)"
    for scheme, colour in (("light", light), ("dark", dark)):
        with opened(browser, pages["call"], color_scheme=scheme) as page:
            assert page.evaluate("getComputedStyle(document.body).backgroundColor") == colour
    with opened(browser, pages["call"], color_scheme="dark") as page:
        page.emulate_media(media="print", color_scheme="dark")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert page.is_hidden("#play")
        assert page.is_visible("dl.trust")


@in_browser
def test_a_print_opens_the_trend_and_restores_the_page(browser: Any, pages: dict[str, Path]) -> None:
    for name in ("call", "long"):
        with opened(browser, pages[name]) as page:
            page.evaluate("dispatchEvent(new Event('beforeprint'))")
            assert page.evaluate("document.getElementById('trend').open")
            assert page.is_hidden("#rows") == (name == "long")
            assert page.is_visible("#not-printed") == (name == "long")
            page.evaluate("dispatchEvent(new Event('afterprint'))")
            assert not page.evaluate("document.getElementById('trend').open")
            assert page.is_visible("#rows")
            assert page.pdf().startswith(b"%PDF")


@in_browser
def test_without_javascript_the_summary_and_the_limits_are_there(
    browser: Any, pages: dict[str, Path]
) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(pages["call"].as_uri())
    assert "Whole recording" in page.inner_text(".summary")
    assert "Not for use at work" in page.inner_text(".trust")
    assert "need JavaScript" in page.inner_text("noscript")
    context.close()


def test_the_format_needs_the_recording() -> None:
    assert FORMATS["html"].needs_source
    assert FORMATS["html"].media_type == "text/html"


def test_a_hint_names_pages_that_are_too_large_for_mail(
    emodistill: make.CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soundfile.write(tmp_path / "a.wav", make.speech(2.0), make.RATE)
    hint = "the page has 0 MB, most of it sound; --no-audio makes a small page"
    monkeypatch.setattr(batch, "LARGE_PAGE_BYTES", 20_000)
    for output in (tmp_path / "a.html", tmp_path / "pages"):
        done = emodistill("timeline", tmp_path / "a.wav", "-f", "html", "-o", output)
        assert (done.code, hint in " ".join(done.err.split())) == (0, True)
    monkeypatch.undo()
    assert batch.LARGE_PAGE_BYTES == 35_000_000
    done = emodistill("timeline", tmp_path / "a.wav", "-o", tmp_path / "b.html")
    assert (done.code, done.err) == (0, "")
