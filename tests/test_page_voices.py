"""The switch "Compared with this voice's usual" of both pages, and voices in the browser against Python's."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

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
from factories_voices import voice_model

from emodistill import Recognizer
from emodistill.audio.speech_activity import SPEECH_FRAME_SAMPLES
from emodistill.audio.waveform import SAMPLE_RATE, load
from emodistill.inference.formats import FORMATS
from emodistill.inference.model_card import AccuracyPoint
from emodistill.inference.timelines import Timeline, timeline
from emodistill.inference.voices import shrinkage
from emodistill.labels import DIMENSIONS
from emodistill.serving.static_page import export_web

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
FRAME_S = SPEECH_FRAME_SAMPLES / SAMPLE_RATE
HEADLINE = "Compared with this voice's usual ("


@pytest.fixture(scope="module")
def conversation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four utterances with a pause after each."""
    return write_conversation(tmp_path_factory.mktemp("conversation") / "talk.wav", SPEECH)


@pytest.fixture(scope="module")
def browser(conversation: Path) -> Iterator[Any]:
    with open_browser(conversation) as opened:
        yield opened


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, exported_voice: Path) -> Iterator[Running]:
    with serving(tmp_path_factory.mktemp("server"), "--model", str(exported_voice)) as running:
        yield running


@pytest.fixture(scope="module")
def static(tmp_path_factory: pytest.TempPathFactory, exported_voice: Path) -> Iterator[str]:
    """The address of a static page whose model has voices."""
    folder = tmp_path_factory.mktemp("web") / "page"
    export_web(exported_voice, folder)
    with serve_folder(folder) as url:
        yield url


@pytest.fixture(params=["server", "static"])
def address(request: pytest.FixtureRequest) -> str:
    """The address of each page in turn, so that a test runs with both."""
    value = request.getfixturevalue(request.param)
    return value.url if isinstance(value, Running) else str(value)


def test_the_switch_compares_a_recording_with_itself(
    browser: Any, address: str, conversation: Path, exported_voice: Path
) -> None:
    own = timeline(conversation, Recognizer(exported_voice, threads=1), adapt="recording")
    with Watched(browser, address) as page:
        assert not page.is_checked("#compared")
        page.set_input_files("#file", conversation)
        wait_for_result(page)
        assert "Whole recording" in page.inner_text("#headline")
        page.check("#compared")
        until(page.locator("#headline")).to_contain_text(HEADLINE)
        wait_for_result(page)
        rows = page.locator("#rows tr td:nth-child(2)").all_text_contents()
        assert rows == [f"{segment.emotion}{segment.surety or ''}" for segment in own.segments]
        page.locator("#segments button").first.click()
        assert page.locator("#bars tr").count() == len(own.summary)
        with page.expect_download() as saved:
            page.click("[data-format=json]")
        assert '"voice_utterances"' in Path(saved.value.path()).read_text(encoding="utf-8")
        page.uncheck("#compared")
        until(page.locator("#headline")).to_contain_text("Whole recording")


def test_the_microphone_compares_with_the_speech_so_far(browser: Any, address: str) -> None:
    with Watched(browser, address, permissions=["microphone"]) as page:
        page.check("#compared")
        page.click("#microphone")
        page.wait_for_selector("#live-bars table")
        until(page.locator("#status")).to_contain_text("Now: ")
        page.click("#microphone")
        wait_for_result(page)
        assert HEADLINE in page.inner_text("#headline")


def test_the_switch_fits_a_phone_and_has_a_description(browser: Any, address: str) -> None:
    with Watched(browser, address, viewport={"width": 390, "height": 844}) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        switch = page.get_by_role("switch", name="Compared with this voice's usual")
        assert switch.count() == 1
        help_text = page.inner_text(f"#{switch.get_attribute('aria-describedby')}")
        assert "one emotion only" in help_text
        assert "Nothing is stored" in help_text


def test_a_page_without_voices_has_no_switch(browser: Any, exported: Path, tmp_path: Path) -> None:
    export_web(exported, tmp_path / "page")
    with serve_folder(tmp_path / "page") as url, Watched(browser, url) as page:
        assert page.is_hidden("#comparison")


# --- the static page equals Python ---------------------------------------------------------------------


Adapt = Literal["none", "recording", "running"]


def long_recording() -> np.ndarray:
    """Samples of twelve utterances, with and without pauses between them."""
    rng = np.random.default_rng(0)
    parts = [load(SPEECH[at]) for at in rng.integers(len(SPEECH), size=12)]
    pauses = [np.zeros(round(pause_s * SAMPLE_RATE)) for pause_s in rng.choice([0.0, 0.1, 0.8], size=12)]
    sound = np.concatenate([part for pair in zip(parts, pauses, strict=True) for part in pair])
    noise = 1e-4 * rng.standard_normal(len(sound))
    return np.clip(sound + noise, -1, 1).astype(np.float32)


def timelines_of_both(
    page: Any, recognizer: Recognizer, samples: np.ndarray, adapt: Adapt, folder: Path
) -> tuple[dict[str, Any], Timeline]:
    """The timeline of samples in the browser, and Python's."""
    soundfile.write(folder / "sound.wav", samples, SAMPLE_RATE, subtype="FLOAT")
    row = page.evaluate(
        f"""async ([data, adapt]) => {{ {LOADED}
          const {{ timeline }} = await import('./page/timelines.js');
          return timeline(samples, recognizer, () => {{}}, adapt);
        }}""",
        [as_base64(samples), adapt],
    )
    return row, timeline(folder / "sound.wav", recognizer, adapt=adapt)


def check_equal(row: dict[str, Any], own: Timeline) -> None:
    assert row["reason"] == own.reason
    assert [part["emotion"] for part in row["segments"]] == [part.emotion for part in own.segments]
    for mine, theirs in zip(row["segments"], own.segments, strict=True):
        assert abs(mine["start_s"] - theirs.start_s) <= FRAME_S
        assert abs(mine["end_s"] - theirs.end_s) <= FRAME_S
        assert mine["probabilities"] == pytest.approx(theirs.probabilities, abs=1e-3)
        assert mine.get("voice_utterances") == theirs.voice_utterances
        assert mine.get("surety") == theirs.surety
        assert mine["dimensions"] == pytest.approx(theirs.dimensions, abs=1e-3)
        assert mine["dimensions_from"] == theirs.dimensions_from


@pytest.mark.parametrize("adapt", ["none", "recording", "running"])
def test_timelines_with_a_voice_in_the_browser_equal_pythons(
    browser: Any, static: str, exported_voice: Path, tmp_path: Path, adapt: Adapt
) -> None:
    recognizer = Recognizer(exported_voice, threads=1)
    sound = long_recording()
    with Watched(browser, static) as page:
        for samples in (sound, load(SPEECH[0]), sound[:4_000], np.zeros(32_000, dtype=np.float32)):
            check_equal(*timelines_of_both(page, recognizer, samples, adapt, tmp_path))


def test_the_temperature_with_a_voice_holds_in_the_browser(browser: Any, tmp_path: Path) -> None:
    model = voice_model(tmp_path / "model", temperature=2.0, temperature_voice=0.7)
    export_web(model, tmp_path / "page")
    recognizer = Recognizer(model, threads=1)
    with serve_folder(tmp_path / "page") as url, Watched(browser, url) as page:
        both = {
            adapt: timelines_of_both(page, recognizer, long_recording(), adapt, tmp_path)
            for adapt in ("none", "recording", "running")
        }
    for row, own in both.values():
        check_equal(row, own)
    confidences = [[segment.confidence for segment in own.segments[:5]] for _, own in both.values()]
    assert np.ptp(np.array(confidences), axis=0).max() > 0.1  # a voice changes the answers


def test_the_dimensions_of_a_head_in_the_browser_equal_pythons(browser: Any, tmp_path: Path) -> None:
    model = voice_model(tmp_path / "model", dimensions=DIMENSIONS)
    export_web(model, tmp_path / "page")
    recognizer = Recognizer(model, threads=1)
    with serve_folder(tmp_path / "page") as url, Watched(browser, url) as page:
        for adapt in ("none", "recording", "running"):
            row, own = timelines_of_both(page, recognizer, long_recording(), adapt, tmp_path)
            assert {part.dimensions_from for part in own.segments} == {"head"}
            check_equal(row, own)
        page.set_input_files("#file", SPEECH[0])
        wait_for_result(page)
        assert page.locator("#dimensions th").all_text_contents() == list(DIMENSIONS)
        assert page.locator("#curves-legend span").all_text_contents() == list(DIMENSIONS)


def test_the_page_of_a_model_with_dimensions_alone_says_so_at_once(browser: Any, tmp_path: Path) -> None:
    model = voice_model(tmp_path / "model", dimensions=("arousal",), emotions=(), teachers=())
    with serving(tmp_path, "--model", str(model)) as running, Watched(browser, running.url) as page:
        page.wait_for_selector("#problem:not([hidden])")
        assert "predicts dimensions alone" in page.locator("#problem").text_content()
        assert page.locator("#choose").is_disabled()
        assert page.locator("#microphone").is_disabled()


def test_surety_arousal_and_valence_in_the_browser_equal_pythons(browser: Any, tmp_path: Path) -> None:
    def table(*accuracies: float) -> tuple[AccuracyPoint, ...]:
        return tuple(
            AccuracyPoint(confidence=confidence, accuracy=accuracy)
            for confidence, accuracy in zip((0.3, 0.5, 0.9), accuracies, strict=True)
        )

    model = voice_model(
        tmp_path / "model", accuracy=table(0.2, 0.5, 1.0), accuracy_voice=table(0.35, 0.75, 0.76)
    )
    export_web(model, tmp_path / "page")
    recognizer = Recognizer(model, threads=1)
    shares = np.linspace(0.25, 1.0, 31)
    rows = [dict(zip(recognizer.emotions, [x, *[(1 - x) / 3] * 3], strict=True)) for x in shares.tolist()]
    sureties = set()
    with serve_folder(tmp_path / "page") as url, Watched(browser, url) as page:
        answers = page.evaluate(
            """async (rows) => {
              const { Recognizer } = await import('./page/recognizer.js');
              const recognizer = await Recognizer.load(new URL('./', location.href));
              return rows.map((row) => [false, true].map((hasVoice) => recognizer.answer(row, hasVoice)));
            }""",
            rows,
        )
        for row, pair in zip(rows, answers, strict=True):
            for has_voice, mine in zip((False, True), pair, strict=True):
                theirs = recognizer.answer(row, has_voice)
                sureties.add(theirs.surety)
                assert mine.pop("dimensions") == pytest.approx(theirs.dimensions)
                assert mine == {
                    "emotion": theirs.emotion, "confidence": theirs.confidence, "surety": theirs.surety,
                    "dimensions_from": "emotions",
                }  # fmt: skip
        for adapt in ("none", "recording"):
            check_equal(*timelines_of_both(page, recognizer, long_recording(), adapt, tmp_path))
        page.set_input_files("#file", SPEECH[0])
        wait_for_result(page)
        assert page.locator("#dimensions th").all_text_contents() == ["arousal", "valence"]
        assert any(str(word) in page.inner_text("#headline") for word in sureties)
    assert sureties == {"likely", "unsure", "no better than a guess"}


def test_the_csv_with_a_voice_in_the_browser_equals_pythons(
    browser: Any, static: str, exported_voice: Path, conversation: Path
) -> None:
    recognizer = Recognizer(exported_voice, threads=1)
    own = timeline(conversation, recognizer, adapt="recording")
    with Watched(browser, static) as page:
        text = page.evaluate(
            "async ([row, emotions]) => (await import('./page/writers.js')).WRITERS.csv(row, emotions)",
            [own.as_dict(), list(recognizer.emotions)],
        )
    assert text == FORMATS["csv"].to_text([own], recognizer.emotions)
    assert "voice_utterances" in text


def test_predictions_without_a_voice_in_the_browser_equal_pythons(
    browser: Any, static: str, exported_voice: Path
) -> None:
    recognizer = Recognizer(exported_voice, threads=1)
    with Watched(browser, static) as page:
        for path in SPEECH:
            sound = load(path)
            row = page.evaluate(
                f"async (data) => {{ {LOADED} return recognizer.predict(samples); }}", as_base64(sound)
            )
            assert row["probabilities"] == pytest.approx(
                recognizer.predict(sound, 16_000).probabilities, abs=1e-3
            )


def test_the_shrinkage_in_the_browser_equals_pythons(browser: Any, static: str) -> None:
    numbers = [0, 0.4, 1, 4.99, 5, 5.01, 20]
    with Watched(browser, static) as page:
        values = page.evaluate(
            "async (numbers) => numbers.map((await import('./page/voices.js')).shrinkage)", numbers
        )
    assert values == pytest.approx([shrinkage(number) for number in numbers])
