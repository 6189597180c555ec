"""Write the folder of the npm package `emodistill`: the recogniser of the static page, with types.

    python scripts/npm_package.py dist/npm
    npm pack ./dist/npm        # emodistill-VERSION.tgz
    npm publish ./dist/npm

The scripts are those of the static page, so the repository has each of them once. The package's own files are
in `js`. It has no model: `emodistill export --web-model DIR` writes one.
"""

import argparse
import json
import shutil
from pathlib import Path

from emodistill.serving.static_page import settings_script
from emodistill.version import __version__

ROOT = Path(__file__).parents[1]
SOURCES = {
    "src/emodistill/assets/web": (
        "index.js", "decode.js", "network.js", "recognizer.js", "segmentation.js", "speech_activity.js",
        "timelines.js", "voices.js",
    ),
    "src/emodistill/serving/page": ("microphone.js", "recorder.js"),
    "js": ("index.d.ts", "runtime.js", "README.md"),
    ".": ("LICENSE",),
}  # fmt: skip
GENERATED = ("package.json", "settings.js")


def write(out: Path) -> None:
    """Write the package into a folder, which must be new, empty, or of this script."""
    expected = {*GENERATED, *(name for names in SOURCES.values() for name in names)}
    if out.exists() and (others := {path.name for path in out.iterdir()} - expected):
        raise SystemExit(f"'{out}' holds other files: {', '.join(sorted(others))}; expected a new folder")
    out.mkdir(parents=True, exist_ok=True)
    for folder, names in SOURCES.items():
        for name in names:
            shutil.copyfile(ROOT / folder / name, out / name)
    (out / "settings.js").write_text(settings_script(), encoding="utf-8")
    package = json.loads((ROOT / "js" / "package.json").read_text(encoding="utf-8"))
    text = json.dumps({"name": package.pop("name"), "version": __version__, **package}, indent=2)
    (out / "package.json").write_text(f"{text}\n", encoding="utf-8")


def main() -> None:
    """Read the command line, and write the package."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, metavar="DIR")
    out = parser.parse_args().out
    write(out)
    print(f"{out}: emodistill {__version__}, {len(list(out.iterdir()))} files")


if __name__ == "__main__":
    main()
