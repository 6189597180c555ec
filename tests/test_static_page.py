"""The files that `export --web` writes. test_page.py compares their results with Python's in a browser."""

import hashlib
import json
import re
from importlib.resources import files
from pathlib import Path

import pytest
from factories_voices import DIM, model_without_voices, voice_model
from typer.testing import CliRunner

from emodistill.audio import recording, speech_activity, waveform
from emodistill.cli import app
from emodistill.errors import ConfigError, ModelError
from emodistill.inference import (
    confidence,
    dimensions,
    segmentation,
    segmentation_options,
    speech_windows,
    streaming,
    timelines,
    voices,
)
from emodistill.inference.model_card import BUNDLED
from emodistill.labels import COLOURS
from emodistill.serving.page_router import PAGE_FOLDER
from emodistill.serving.static_page import export_web


def test_a_page_is_complete_and_small(tmp_path: Path) -> None:
    folder = tmp_path / "page"
    result = CliRunner().invoke(app, ["export", "--web", str(folder)])
    assert result.exit_code == 0, result.output
    model = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    assert hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest() == model["sha256"]
    assert model["colours"] == {name: COLOURS[name] for name in model["emotions"]}
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 40e6
    requested: set[str] = set()
    for path in (*folder.glob("page/*.js"), folder / "index.html"):
        text = path.read_text(encoding="utf-8")
        for name in re.findall(r"""(?:from|src=|href=|URL\(|open\() ?['"]([^'"#]+\.[a-z]+)['"]""", text):
            assert not name.startswith(("http", "//")), f"{path.name} requests {name}"
            requested.add(name)
            if name == "head.onnx" and model["voice_dim"] is None:
                continue  # the page requests it only for a model with voices
            assert (path.parent / name).is_file() or (folder / name).is_file(), f"{path.name} requests {name}"
    assert {"page/app.js", "page/style.css", "./settings.js", "./vendor/ort.mjs", "model.onnx"} <= requested


def test_the_page_has_the_constants_of_the_python_modules(tmp_path: Path) -> None:
    export_web("bundled", tmp_path / "page")
    text = (tmp_path / "page" / "page" / "settings.js").read_text(encoding="utf-8")
    settings = json.loads(text.partition("export default ")[2].rstrip(";\n"))
    modules = {
        "waveform": waveform,
        "recording": recording,
        "speech_windows": speech_windows,
        "speech_activity": speech_activity,
        "segmentation": segmentation,
        "segmentation_options": segmentation_options,
        "streaming": streaming,
        "timelines": timelines,
        "voices": voices,
        "confidence": confidence,
        "dimensions": dimensions,
    }
    assert settings.keys() == modules.keys()
    for path in (tmp_path / "page" / "page").glob("*.js"):
        for names, module in re.findall(
            r"const \{ ([A-Z_, ]+) \} = settings\.(\w+);", path.read_text(encoding="utf-8")
        ):
            for name in names.split(", "):
                value = getattr(modules[module], name)
                assert settings[module][name] == json.loads(json.dumps(value))


def test_both_api_scripts_have_the_same_functions() -> None:
    """The `api.js` of the static page takes the place of the server's."""
    local = Path(str(files("emodistill"))) / "assets" / "web" / "api.js"
    exports, keys = (
        [
            set(re.findall(pattern, path.read_text(encoding="utf-8"), re.MULTILINE))
            for path in (PAGE_FOLDER / "api.js", local)
        ]
        for pattern in (r"^export const (\w+)", r"^  (privacy|links|token):")
    )
    assert exports[0] == exports[1]
    assert keys[0] == keys[1] == {"privacy", "links", "token"}


def test_a_page_replaces_a_page_and_no_other_files(tmp_path: Path) -> None:
    folder = tmp_path / "page"
    assert export_web("bundled", folder) == export_web(BUNDLED, folder)
    assert (folder / "WHISPER-LICENSE.txt").is_file()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ConfigError, match="holds other files"):
        export_web("bundled", tmp_path / "mine")


def test_a_page_of_a_model_with_voices_holds_its_head(tmp_path: Path) -> None:
    model, page = voice_model(tmp_path / "model"), tmp_path / "page"
    export_web(model, page)
    assert (page / "head.onnx").read_bytes() == (model / "head.onnx").read_bytes()
    info = json.loads((page / "model.json").read_text(encoding="utf-8"))
    assert (info["voice_dim"], info["temperature_voice"]) == (DIM, None)
    export_web(model_without_voices(tmp_path / "plain"), page)
    assert not (page / "head.onnx").exists()
    (model / "head.onnx").unlink()
    with pytest.raises(ModelError, match=r"has no head\.onnx"):
        export_web(model, page)


def test_export_without_an_output_names_the_options() -> None:
    result = CliRunner().invoke(app, ["export"])
    assert isinstance(result.exception, ConfigError)
    assert "--web DIR" in str(result.exception)


def test_the_page_of_the_server_is_complete_and_loads_nothing_from_other_places() -> None:
    text = (PAGE_FOLDER / "index.html").read_text(encoding="utf-8")
    for name in re.findall(r'(?:src|href)="(page/[^"]+)"', text):
        assert (PAGE_FOLDER / name.removeprefix("page/")).is_file()
    for path in (*PAGE_FOLDER.glob("*.js"), PAGE_FOLDER / "index.html", PAGE_FOLDER / "style.css"):
        assert not re.search(r"https?://(?!www\.w3\.org)", path.read_text(encoding="utf-8"))
