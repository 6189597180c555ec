"""`emodistill export --web`: the recogniser as a static page, which runs it in the browser by ONNX Runtime Web.

The page is the server's own (`serving/page`) with another `api.js`: it asks this device in the place of a server.
"""

import gzip
import json
import shutil
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from types import ModuleType

from emodistill.audio import recording, speech_activity, waveform
from emodistill.errors import ConfigError
from emodistill.inference import recognizer, segmentation, streaming
from emodistill.inference.model_card import Card
from emodistill.labels import COLOURS

_PACKAGE = Path(str(files("emodistill")))
_OWN = _PACKAGE / "assets" / "web"
_PAGE = _PACKAGE / "serving" / "page"  # plain files; they need no server
# The Python modules whose constants JavaScript reads, by the names that it reads them under.
_FOLLOWED = {
    "waveform": waveform, "recording": recording, "speech_activity": speech_activity,
    "recognizer": recognizer, "segmentation": segmentation, "streaming": streaming,
}  # fmt: skip
_SETTINGS = "// Written by `emodistill export --web`: the constants of the Python that the files beside this one follow.\n\nexport default "


def export_web(model: str | Path, out: Path) -> int:
    """Write a page that judges recordings on its reader's own machine; returns its size in bytes.

    `out` holds `index.html`, the model, the speech detector, and in `page` the scripts and the run time; any
    file server will do. Raises `ModelError` for what is no exported model, `ConfigError` where `out` is not empty
    and not such a page.
    """
    loaded = recognizer.Recognizer(model)
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / "model.json").is_file())):
        raise ConfigError(f"'{out}' holds other files: name a new folder, or an empty one")
    page = out / "page"
    shutil.rmtree(page, ignore_errors=True)  # of another version, perhaps
    shutil.copytree(_PAGE, page)
    shutil.copytree(_OWN, page, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.gz"))
    for packed in _OWN.rglob("*.gz"):  # a quarter of the size, and few installs ever write a page
        (page / packed.relative_to(_OWN)).with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
    (page / "index.html").replace(out / "index.html")
    constants = {name: _constants(module) for name, module in _FOLLOWED.items()}
    (page / "settings.js").write_text(f"{_SETTINGS}{json.dumps(constants, indent=1)};\n", encoding="utf-8")
    shutil.copyfile(loaded.folder / "model.onnx", out / "model.onnx")
    for name in ("vad.onnx", "vad.json"):
        shutil.copyfile(_PACKAGE / "assets" / name, out / name)
    described = json.dumps(_described(loaded.card), ensure_ascii=False, indent=1)
    (out / "model.json").write_text(f"{described}\n", encoding="utf-8")
    return sum(path.stat().st_size for path in out.rglob("*") if path.is_file())


def _constants(module: ModuleType) -> Mapping[str, float]:
    """The numbers of a module by their names, truth values not counted."""
    return {
        name: value for name, value in vars(module).items() if name.isupper() and type(value) in (int, float)
    }


def _described(card: Card) -> dict[str, object]:
    """What the page shows of a model, and needs to run it."""
    return {
        "name": card.name, "emotions": card.emotions, "colours": {name: COLOURS[name] for name in card.emotions},
        "trim_db": card.trim_db, "temperature": card.temperature, "num_parameters": card.num_parameters,
        "licence": card.licence, "limits": card.limits, "intended_use": card.intended_use, "sha256": card.sha256,
    }  # fmt: skip
