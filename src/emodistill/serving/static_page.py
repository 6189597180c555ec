"""`emodistill export --web`: writes the recogniser as a static web page, which runs it with ONNX Runtime Web.

The page is the server's page (`serving/page`) with another `api.js`, which calls a recogniser in the browser
and not the server. This recogniser is also the npm package, which `scripts/npm_package.py` makes of the same
scripts. `export --web-model` writes the model for it.
"""

import gzip
import json
import shutil
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from types import ModuleType

import numpy as np

from emodistill.audio import recording, speech_activity, waveform
from emodistill.errors import ConfigError, ModelError
from emodistill.files import move_file
from emodistill.inference import (
    confidence,
    dimensions,
    recognizer,
    segmentation,
    segmentation_options,
    speech_windows,
    streaming,
    timelines,
    voices,
)
from emodistill.inference.formats import FORMATS, TimelineFormat
from emodistill.inference.model_card import HEAD, Card
from emodistill.inference.window_classifier import check_emotions
from emodistill.labels import COLOURS
from emodistill.partial_folders import atomic_folder, partial_folder

_PACKAGE = Path(str(files("emodistill")))
_SERVER_PAGE = _PACKAGE / "serving" / "page"
_BROWSER_RECOGNIZER = _PACKAGE / "assets" / "web"
# The modules whose constants the JavaScript reads, as `settings.NAME`.
_CONSTANT_MODULES = {
    "waveform": waveform, "recording": recording, "speech_activity": speech_activity,
    "speech_windows": speech_windows, "segmentation": segmentation,
    "segmentation_options": segmentation_options, "streaming": streaming,
    "timelines": timelines, "voices": voices, "confidence": confidence, "dimensions": dimensions,
}  # fmt: skip
FORMAT = 1  # of `model.json`; the JavaScript refuses any other
_SETTINGS_HEAD = """\
// Written by Python: constants of the Python modules that the scripts here translate.

export default """


def export_web(model: str | Path, out: Path) -> int:
    """Write a page that recognises emotions in its reader's browser, and return its size in bytes.

    `out` then holds `index.html`, the model and its head if it has voices, the speech detector, and in `page`
    the scripts and ONNX Runtime Web. Any file server can serve it.

    Raises `ModelError` if `model` is not a complete exported model, has no emotions or has external weights,
    and `ConfigError` if `out` holds other files.
    """
    loaded = _open(model, out)
    is_new = _is_new(out)
    with atomic_folder(out) if is_new else partial_folder(out) as folder:
        _write_page(folder)
        _write_model(loaded, folder)
        if not is_new:
            _replace(folder, out)
    return _total_bytes(out)


def _write_page(out: Path) -> None:
    """Write `index.html` and the folder `page` with what it loads."""
    page = out / "page"
    shutil.copytree(_SERVER_PAGE, page)
    shutil.copytree(_BROWSER_RECOGNIZER, page, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.gz"))
    for packed in _BROWSER_RECOGNIZER.rglob("*.gz"):  # packed to keep the wheel small
        unpacked = (page / packed.relative_to(_BROWSER_RECOGNIZER)).with_suffix("")
        unpacked.write_bytes(gzip.decompress(packed.read_bytes()))
    (page / "index.html").replace(out / "index.html")
    (page / "settings.js").write_text(settings_script(), encoding="utf-8")
    formats = formats_script(format for format in FORMATS.values() if format.in_static_page)
    (page / "formats.js").write_text(formats, encoding="utf-8")


def _is_new(out: Path) -> bool:
    return not out.is_dir() or not any(out.iterdir())


def _replace(written: Path, out: Path) -> None:
    """Move the files of the complete folder `written` into an earlier export."""
    if (out / "page").exists():  # it may hold files of another version
        (out / "page").rename(written / "old")
    if not (written / HEAD).exists():
        (out / HEAD).unlink(missing_ok=True)  # of another model
    for path in sorted(written.iterdir(), key=lambda path: path.name == "model.json"):  # it marks an export
        if path.is_file():
            move_file(path, out / path.name)
        elif path.name != "old":
            path.replace(out / path.name)


def export_web_model(model: str | Path, out: Path) -> int:
    """Write a model for the npm package `emodistill`, and return its size in bytes.

    `out` then holds the files of `export_web` without its page: `model.json`, `model.onnx`, the speech
    detector, and `head.onnx` if the model has voices.

    Raises what `export_web` raises.
    """
    loaded = _open(model, out)
    is_new = _is_new(out)
    with atomic_folder(out) if is_new else partial_folder(out) as folder:
        _write_model(loaded, folder)
        if not is_new:
            _replace(folder, out)
    return _total_bytes(out)


def _open(model: str | Path, out: Path) -> recognizer.Recognizer:
    """The model, after checking that a browser can run it and that `out` may be written."""
    loaded = recognizer.Recognizer(model)
    check_emotions(loaded)
    if loaded.card.external is not None:
        raise ModelError(
            f"'{model}' reads weights from a second file, which the page cannot: choose a model that has all "
            "weights in model.onnx, e.g. bundled"
        )
    if loaded.voice_dim is not None:  # raises an error for a missing or changed head
        loaded.student.run_head(np.zeros((1, loaded.voice_dim), dtype=np.float32))
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / "model.json").is_file())):
        raise ConfigError(
            f"'{out}' holds other files, expected a new folder, an empty one, or one of 'export --web' or "
            "'export --web-model'"
        )
    return loaded


def _write_model(loaded: recognizer.Recognizer, out: Path) -> None:
    shutil.copyfile(loaded.folder / "model.onnx", out / "model.onnx")
    if loaded.voice_dim is not None:
        shutil.copyfile(loaded.folder / HEAD, out / HEAD)
    for notice in loaded.folder.glob("*-LICENSE.txt"):  # of weights that the model contains
        shutil.copyfile(notice, out / notice.name)
    for name in ("vad.onnx", "vad.json"):
        shutil.copyfile(_PACKAGE / "assets" / name, out / name)
    info = json.dumps(_model_info(loaded.card), ensure_ascii=False, indent=1)
    (out / "model.json").write_text(f"{info}\n", encoding="utf-8")


def _total_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def settings_script() -> str:
    """The script `settings.js`: the constants of the Python modules that the JavaScript translates."""
    constants = {name: _constants(module) for name, module in _CONSTANT_MODULES.items()}
    return f"{_SETTINGS_HEAD}{json.dumps(constants, indent=1)};\n"


def formats_script(formats: Iterable[TimelineFormat]) -> str:
    """The script `formats.js`: the formats in which a page offers its timeline for download."""
    entries = [
        {
            "name": format.name,
            "title": format.title,
            "suffix": format.suffix,
            "mediaType": format.media_type,
        }
        for format in formats
    ]
    text = json.dumps(entries, indent=1)
    return f"// Written from the registry of timeline formats.\n\nexport default {text};\n"


def _constants(module: ModuleType) -> Mapping[str, object]:
    """The numbers of a module whose names are in capitals, without booleans, and its tables of numbers."""
    return {
        name: value
        for name, value in vars(module).items()
        if name.isupper() and (type(value) in (int, float) or isinstance(value, Mapping))
    }


def _model_info(card: Card) -> dict[str, object]:
    """The facts of a model that the page shows, or needs to run it."""
    return {
        "format": FORMAT, "name": card.name, "emotions": card.emotions, "dimensions": card.dimensions,
        "colours": {name: COLOURS[name] for name in card.emotions},
        "trim_db": card.trim_db, "temperature": card.temperature,
        "temperature_voice": card.temperature_voice, "voice_dim": card.voice_dim,
        "num_parameters": card.num_parameters,
        "accuracy": [point.model_dump() for point in card.accuracy],
        "accuracy_voice": [point.model_dump() for point in card.accuracy_voice],
        "licence": card.licence, "limits": card.limits, "intended_use": card.intended_use,
        "sha256": card.sha256,
    }  # fmt: skip
