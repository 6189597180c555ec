"""`emodistill export --web`: the recogniser as a static page, which runs it in the browser by ONNX Runtime Web."""

import gzip
import json
import shutil
from pathlib import Path

from emodistill.errors import ConfigError
from emodistill.labels import COLOURS
from emodistill.recognizer import Recognizer

_PACKAGE = Path(__file__).parent
_OWN = _PACKAGE / "assets" / "web"
_SHARED = _PACKAGE / "serving" / "page"  # of the server's page, as plain files
_FROM_SHARED = (
    "style.css", "view.js", "sound.js", "recorder.js", "icon.svg",
    "vendor/wavesurfer.esm.js", "vendor/wavesurfer-LICENSE",
)  # fmt: skip


def export_web(model: str | Path, out: Path) -> int:
    """Write a page that judges recordings on its reader's own machine; returns its size in bytes.

    `out` holds `index.html`, the model, the speech detector, and the run time; any file server will do. Raises
    `ModelError` for what is no exported model, `ConfigError` where `out` is not empty and not such a page.
    """
    recognizer = Recognizer(model)
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / "model.json").is_file())):
        raise ConfigError(f"'{out}' holds other files: name a new folder, or an empty one")
    shutil.copytree(_OWN, out, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.gz"))
    for packed in _OWN.rglob(
        "*.gz"
    ):  # the run time is four times smaller so, and few installs ever write a page
        (out / packed.relative_to(_OWN)).with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
    for name in _FROM_SHARED:
        shutil.copyfile(_SHARED / name, out / name)
    shutil.copyfile(recognizer.folder / "model.onnx", out / "model.onnx")
    shutil.copyfile(_PACKAGE / "assets" / "vad.onnx", out / "vad.onnx")
    card = recognizer.card
    shown = {
        "name": card.name, "emotions": card.emotions, "colours": {name: COLOURS[name] for name in card.emotions},
        "trim_db": card.trim_db, "temperature": card.temperature, "num_parameters": card.num_parameters,
        "licence": card.licence, "limits": card.limits, "intended_use": card.intended_use, "sha256": card.sha256,
    }  # fmt: skip
    (out / "model.json").write_text(json.dumps(shown, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
