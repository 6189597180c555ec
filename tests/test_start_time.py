"""The command line reports a mistake before it loads torch, which takes seconds."""

import subprocess
import sys
from pathlib import Path

import factories as make
import pytest

from emodistill.config import recipe_toml

HEAVY = ("torch", "transformers", "lightning", "sklearn", "scipy", "matplotlib", "onnxruntime", "opensmile")
# Prints which heavy packages are loaded when the command ends.
PROGRAM = f"""
import atexit, sys
atexit.register(lambda: print("loaded:", [name for name in {HEAVY} if name in sys.modules]))
from emodistill.cli import main
main()
"""

MISTAKES = {
    "train, recipe": (["train", "ravdess-wisper"], "did you mean 'ravdess-whisper'"),
    "train, key": (["train", "demo", "--set", "student.widht=3"], "did you mean 'width'"),
    "train, choice": (["train", "demo", "--set", "protocol.kind=kfold"], "did you mean 'k-fold'"),
    "train, option": (["train", "demo", "--fild", "1"], "No such option"),
    "train, fold": (["train", "demo", "--fold", "77"], "bad fold '77'"),
    "train, init": (["train", "demo", "--init", "/no/such"], "student.init = '/no/such': no such folder"),
    "train, path": (["train", "ravdess-compact", "--set", "corpus.root=/no/such"], "no folder '/no/such'"),
    "train, corpus": (["train", "demo", "--set", "corpus.name=demoo"], "names no data for 'demoo'"),
    "train, manifest": (["train", "demo", "--set", "corpus.manifest=no.csv"], "no manifest 'no.csv'"),
    "train, two": (
        ["train", "demo", "--set", "corpus.manifest=a", "--set", "corpus.root=b"], "names two corpora",
    ),
    "crossval, recipe": (["crossval", "dmo"], "did you mean 'demo'"),
    "crossval, folder": (
        ["crossval", "demo", "--set", "student.backbone=/no/such"], "student.backbone = '/no/such': no such",
    ),
    "crossval, hub": (["crossval", "demo", "--set", "student.backbone=no/such"], "HF_HUB_OFFLINE"),
    "crossval, layers": (["crossval", "demo", "--set", "student.pool=[9]"], "student.pool = [9]"),
    "ablate, recipe": (["ablate", "dmo"], "did you mean 'demo'"),
    "ablate, seeds": (["ablate", "demo", "--seeds", "0,x"], "bad seed 'x'"),
    "ablate, sweep": (["ablate", "demo", "--sweep", "distillation.temprature=1"], "mean 'temperature'"),
    "ablate, cells": (["ablate", "demo", "--cells", "no-distilation"], "did you mean 'no-distillation'"),
    "tune, space": (
        ["tune", "demo", "--space", "student.dropuot=0.1..0.2"], "did you mean 'dropout'",
    ),
    "tune, recipe": (["tune", "dmo"], "did you mean 'demo'"),
    "tune, path": (
        ["tune", "demo", "--set", "corpus.manifest=no.csv", "--space", "student.dropout=0.1,0.2"],
        "no manifest 'no.csv'",
    ),
    "evaluate, corpus": (["evaluate", "bundled", "ravdes", "x"], "did you mean 'ravdess'"),
    "evaluate, folder": (["evaluate", "bundled", "ravdess", "/no/such"], "no folder '/no/such'"),
    "scores": (["scores", "/no/such"], "no run folder '/no/such'"),
    "compare": (["compare", "/no/such", "/no/such"], "no run folder '/no/such'"),
    "report": (["report", "/no/such"], "no run folder '/no/such'"),
    "export": (["export", "/no/such", "-o", "x"], "no run folder '/no/such'"),
    "export, to": (["export", "bundled", "--to", "transformer", "x"], "'transformer' is not"),
    "export, model": (["export", "bundeld", "--to", "transformers", "x"], "no model 'bundeld'"),
    "export, fold": (["export", "bundled", "--to", "transformers", "x", "--fold", "1"], "is for a run"),
    "audit": (["corpus", "audit", "dmo"], "did you mean 'demo'"),
}  # fmt: skip


def run_command(*arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, arguments)], capture_output=True, text=True, cwd=folder
    )


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_reported_without_heavy_imports(name: str, tmp_path: Path) -> None:
    arguments, message = MISTAKES[name]
    result = run_command(*arguments, folder=tmp_path)
    assert result.returncode == 2
    assert message in " ".join(result.stderr.replace("│", "").split())
    assert result.stdout == "loaded: []\n"
    assert list(tmp_path.iterdir()) == []


def test_a_corpus_that_does_not_fit_is_reported_without_heavy_imports(manifest: Path, tmp_path: Path) -> None:
    """All checks of folds, teachers and models come before torch, and so does the audit."""
    other = make.corpus_folder(tmp_path / "corpus", silent_words=1)
    for sections, message in (
        ({"corpus": {"manifest": str(other)}}, "the linguistic teacher has no input"),
        ({"protocol": {"folds": 9}}, "9 folds by speaker need as many speakers"),
        ({"linguistic": {"frozen": 3}}, "linguistic.frozen = 3, but 'scratch' has 2 layers"),
    ):
        path = tmp_path / "tiny.toml"
        path.write_text(recipe_toml(make.recipe(manifest, **sections)))
        for verb in ("train", "crossval", "ablate"):
            result = run_command(verb, path, folder=tmp_path)
            assert result.returncode == 2
            assert message in result.stderr
            assert result.stdout == "loaded: []\n"
