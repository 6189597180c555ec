"""The wheel works in fresh environments without extras, on the lowest and on a new version of Python."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from factories_scripts import ROOT, load_script

from emodistill import Recognizer

lowest = load_script("lowest")
# What a start must not need: an import of emodistill alone, with warnings as errors.
START = "import emodistill, sys; print(sys.version_info[:2], emodistill.__version__)"


def pip(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run pip."""
    command = [sys.executable, "-m", "pip", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def interpreter(version: str) -> str:
    """The Python of this version. Skips the test if this machine has none."""
    if version == "{}.{}".format(*sys.version_info):
        return sys.executable
    own = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found = [
        shutil.which(f"python{version}"),
        *sorted(own.glob(f"versions/{version}.*/bin/python"), reverse=True),
    ]
    for path in filter(None, found):
        done = subprocess.run([str(path), "--version"], capture_output=True, text=True, check=False)
        if done.stdout.startswith(f"Python {version}."):  # a program of pyenv may be there without its Python
            return str(path)
    pytest.skip(f"this machine has no Python {version}")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout. Skips the test if pip reaches no package index."""
    folder = tmp_path_factory.mktemp("wheel")
    if pip("download", "--no-deps", "--dest", folder / "reachable", "hatchling").returncode:
        pytest.skip("pip reaches no package index")
    done = pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.mark.install
@pytest.mark.parametrize("version", ["3.11", "3.13"])
def test_the_wheel_runs_without_extras(wheel: Path, tmp_path: Path, version: str) -> None:
    folder = tmp_path / "light"
    subprocess.run([interpreter(version), "-m", "venv", "--without-pip", str(folder)], check=True)
    constraints = ROOT / "constraints.txt"
    done = pip("--python", folder / "bin/python", "install", "--constraint", constraints, wheel)
    assert done.returncode == 0, done.stderr
    assert set(lowest.NOT_IN_LIGHT) >= {"torch", "fastapi", "matplotlib"}
    there = lowest.Install(folder)
    there.environment["PYTHONWARNINGS"] = "error"
    assert there.python(START).startswith(f"({version.replace('.', ', ')})")
    assert "predict" in there.emodistill("--help")
    lowest.try_light(there)
    (row,) = json.loads(there.emodistill("predict", lowest.CLIP, "--format", "json"))
    here = Recognizer("bundled").predict(lowest.CLIP)
    assert row["emotion"] == here.emotion
    assert row["probabilities"] == pytest.approx(here.probabilities, abs=1e-5)
