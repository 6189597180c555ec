"""The wheel works in a fresh environment without extras: predict, timeline and export --web."""

import subprocess
import sys
from pathlib import Path

import pytest
from factories_scripts import ROOT, load_script

lowest = load_script("lowest")


def pip(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run pip."""
    command = [sys.executable, "-m", "pip", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout. Skips the test if pip reaches no package index."""
    folder = tmp_path_factory.mktemp("wheel")
    if pip("download", "--no-deps", "--dest", folder / "reachable", "hatchling").returncode:
        pytest.skip("pip reaches no package index")
    done = pip("wheel", "--no-deps", "--wheel-dir", folder, ROOT)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.mark.install
def test_the_wheel_runs_without_extras(wheel: Path, tmp_path: Path) -> None:
    folder = tmp_path / "light"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    constraints = ROOT / "constraints.txt"
    done = pip("--python", folder / "bin/python", "install", "--constraint", constraints, wheel)
    assert done.returncode == 0, done.stderr
    assert set(lowest.NOT_IN_LIGHT) >= {"torch", "fastapi", "matplotlib"}
    lowest.try_light(lowest.Install(folder))
