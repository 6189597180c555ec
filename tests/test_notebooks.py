"""Data frames against the CSV that the command line writes, and the views of notebooks in a browser."""

import sys
from html.parser import HTMLParser
from pathlib import Path

import factories as make
import numpy as np
import pandas
import pytest
import soundfile
from factories_page import CHROMIUM, open_browser
from hypothesis import given, settings
from hypothesis import strategies as st
from test_recording_page import EMOTIONS, HOSTILE, hostile_row, long_row, part, row_of
from typer.testing import CliRunner

from emodistill import MissingExtraError, Prediction, Recognizer, Timeline, cli, predictions_frame
from emodistill.inference import notebook

CALL = Path(make.__file__).parents[1] / "src" / "emodistill" / "demo" / "call.ogg"


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return Recognizer(threads=1)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The demo call, silence, and a file that is no audio."""
    folder = tmp_path_factory.mktemp("files")
    soundfile.write(folder / "silence.wav", np.zeros(16_000), 16_000)
    (folder / "broken.wav").write_text("no audio")
    return [str(CALL), str(folder / "silence.wav"), str(folder / "broken.wav")]


def read_like(path: Path, frame: pandas.DataFrame) -> pandas.DataFrame:
    """A CSV file, with the types of a frame."""
    return pandas.read_csv(path, dtype=frame.dtypes.to_dict())


def test_predictions_are_the_csv_of_predict(recognizer: Recognizer, files: list[str], tmp_path: Path) -> None:
    done = CliRunner().invoke(cli.app, ["predict", *files, "-o", str(tmp_path / "rows.csv")])
    assert done.exit_code == 1  # one of the files is no audio
    frame = predictions_frame(recognizer.predict_all(files))
    assert frame.shape[0] == 3
    assert frame.error.notna().tolist() == [False, False, True]
    pandas.testing.assert_frame_equal(frame, read_like(tmp_path / "rows.csv", frame), rtol=1e-12)


@pytest.mark.parametrize("channels", ["mix", "split"])
def test_segments_are_the_csv_of_timeline(recognizer: Recognizer, channels: str, tmp_path: Path) -> None:
    path = tmp_path / "segments.csv"
    done = CliRunner().invoke(cli.app, ["timeline", str(CALL), "--channels", channels, "-o", str(path)])
    assert done.exit_code == 0, done.output
    frame = recognizer.timeline(CALL, channels=channels).to_frame()  # type: ignore[arg-type]
    assert len(frame) > 5
    pandas.testing.assert_frame_equal(frame, read_like(path, frame), rtol=1e-12)


def test_a_list_and_a_voice_have_their_columns(tmp_path: Path) -> None:
    listed = Prediction("a.wav", "sad", 0.7, {"angry": 0.3, "sad": 0.7}, id="one", start_s=1.0, end_s=2.5)
    voiced = Prediction("b.wav", error="no such file", voice_utterances=4)
    frame = predictions_frame([listed, voiced])
    assert frame.voice_utterances.tolist() == [pandas.NA, 4]
    assert frame.end_s[0] == 2.5
    assert frame.p_sad.isna().tolist() == [False, True]
    assert frame.speaker.isna().all()


def test_frames_of_nothing_have_the_columns_and_types() -> None:
    assert list(predictions_frame([], EMOTIONS).filter(like="p_")) == [f"p_{name}" for name in EMOTIONS]
    frame = Timeline("a.wav", error="no such file").to_frame()
    assert frame.error.tolist() == ["no such file"]
    assert frame.start_s.dtype == "float64"


def test_without_pandas_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtraError, match=r"emodistill\[pandas\]"):
        predictions_frame([])


class Elements(HTMLParser):
    """The names of all elements, and the text that a reader sees."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.handlers: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.handlers += [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.text += data


ALLOWED = {"div", "b", "span", "svg", "rect", "path", "title", "audio"}


def test_hostile_names_stay_text() -> None:
    views = [hostile_row()._repr_html_(), Timeline(HOSTILE[1], error=HOSTILE[0])._repr_html_()]
    views += [Prediction(name, error=name)._repr_html_() for name in HOSTILE]
    for view in views:
        found = Elements(view)
        assert set(found.names) <= ALLOWED
        assert not found.handlers
        assert view.isascii()
    shown = Elements(views[0]).text
    assert all(name in shown for name in HOSTILE)


@given(st.text(max_size=40), st.text(max_size=20))
@settings(max_examples=50, deadline=None)
def test_any_name_stays_text(path: str, speaker: str) -> None:
    row = row_of(f"missing folder\0/{path}", 10.0, part(1, 3, "happy", speaker=speaker))
    assert set(Elements(row._repr_html_()).names) <= ALLOWED


def test_the_views_hold_sound_strip_and_probabilities(recognizer: Recognizer) -> None:
    prediction = recognizer.predict(CALL)
    found = Elements(prediction._repr_html_())
    assert found.names.count("audio") == 1
    assert all(f"{100 * value:.0f} %" in found.text for value in prediction.probabilities.values())
    timeline = recognizer.timeline(CALL, channels="split", names=["agent", "customer"])
    view = timeline._repr_html_()
    found = Elements(view)
    assert found.names.count("svg") == 2  # one lane for each speaker
    assert found.names.count("rect") == len(timeline.segments)
    assert found.names.count("path") == 2 * len(recognizer.emotions)
    assert ">agent<" in view
    assert ">customer<" in view


def test_a_part_of_a_recording_has_the_sound_of_this_part(recognizer: Recognizer) -> None:
    whole = notebook._player(str(CALL))
    listed = notebook._player(str(CALL), 2.0, 4.0)
    assert 0.05 < len(listed) / len(whole) < 0.2  # 2 s of 20 s


def test_a_long_recording_has_no_sound_and_a_bounded_view(tmp_path: Path) -> None:
    minutes = tmp_path / "minutes.wav"
    soundfile.write(minutes, np.zeros(int(notebook.MAX_SOUND_S + 1) * 8000, dtype=np.float32), 8000)
    assert "longer than 180 s" in Prediction(str(minutes))._repr_html_()
    row = long_row(duration_s=36_000.0)
    view = row._repr_html_()
    assert "longer than 180 s" in view
    assert "<audio" not in view
    assert len(row.segments) > 8000
    assert len(view) < 400_000
    crowd = row_of("", 100.0, *(part(n, n + 1, "sad", speaker=f"speaker {n}") for n in range(100)))
    assert "92 more speakers" in crowd._repr_html_()
    assert crowd._repr_html_().count("<svg") == notebook.MAX_LANES


def test_without_a_file_there_is_no_player() -> None:
    for path in ("", "-"):
        assert "<audio" not in Prediction(path, "sad", 1.0, {"sad": 1.0})._repr_html_()
    view = Prediction("gone.wav", "sad", 1.0, {"sad": 1.0})._repr_html_()
    assert "<audio" not in view
    assert "gone.wav: no such file" in view


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_browser_plays_the_sound_and_draws_the_strip(recognizer: Recognizer, tmp_path: Path) -> None:
    (tmp_path / "view.html").write_text(f"<!doctype html>{recognizer.timeline(CALL)._repr_html_()}")
    with open_browser(CALL) as browser:
        page = browser.new_page()
        page.goto((tmp_path / "view.html").as_uri())
        page.wait_for_function("document.querySelector('audio').readyState >= 1")
        assert page.evaluate("document.querySelector('audio').duration") == pytest.approx(20, abs=0.3)
        box = page.locator("svg").bounding_box()
        assert box is not None
        assert box["width"] > 500
        assert box["height"] > 30
