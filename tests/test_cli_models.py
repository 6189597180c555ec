"""`emodistill models`: which models it lists, in a table and as JSON, and its exit codes."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from emodistill import cli
from emodistill.inference import fetch
from emodistill.inference.model_card import BUNDLED, read_card

KEYS = [
    "model", "name", "emotions", "languages", "num_parameters", "size_bytes", "precision", "licence", "error",
    "fetched", "voices", "dimensions",
]  # fmt: skip


def call(*arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `emodistill models`."""
    result = CliRunner().invoke(cli.app, ["models", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, and no model that `fetch` completes (`test_fetch.py` has them)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fetch, "ASSETS", tmp_path / "assets")
    return tmp_path


def test_json_lists_the_bundled_model(here: Path) -> None:
    code, out, _ = call("--format", "json")
    assert code == 0
    (row,) = json.loads(out)
    card = read_card(BUNDLED)
    assert list(row) == KEYS
    assert row["model"] == "bundled"
    assert row["emotions"] == list(card.emotions)
    assert row["languages"] == ["en", "pl", "am", "ur"]
    assert row["num_parameters"] == card.num_parameters
    assert row["size_bytes"] == sum((BUNDLED / name).stat().st_size for name in ("model.onnx", "head.onnx"))
    assert row["licence"] == card.licence
    assert row["error"] is None
    assert row["voices"] is True


def test_models_below_runs_and_one_level_below_the_current_folder_are_listed(here: Path) -> None:
    for folder in ("exported", "runs/demo/exported", "other/deep/exported"):
        shutil.copytree(BUNDLED, here / folder)
    code, out, _ = call("--format", "json")
    assert code == 0
    assert [row["model"] for row in json.loads(out)] == ["bundled", "exported", "runs/demo/exported"]


def test_given_folders_are_searched_instead(here: Path) -> None:
    for folder in ("exported", "other/deep/exported"):
        shutil.copytree(BUNDLED, here / folder)
    code, out, _ = call("other", here / "exported", "--format", "json")
    assert code == 0
    listed = [row["model"] for row in json.loads(out)]
    assert listed == ["bundled", "other/deep/exported", str(here / "exported")]


def test_a_broken_model_is_a_row_with_its_error(here: Path) -> None:
    shutil.copytree(BUNDLED, here / "exported")
    (here / "exported/model.onnx").unlink()
    code, out, _ = call("--format", "json")
    assert code == 1
    broken = json.loads(out)[1]
    assert broken["model"] == "exported"
    assert "has no model.onnx" in broken["error"]
    assert broken["name"] is None
    code, out, _ = call()
    assert code == 1
    assert "unusable" in out


def test_a_folder_without_models_is_reported(here: Path) -> None:
    (here / "empty").mkdir()
    code, out, err = call("empty", "--format", "json")
    assert code == 1
    assert [row["model"] for row in json.loads(out)] == ["bundled"]
    assert "no exported model in or below 'empty'" in " ".join(err.split())


def test_a_folder_that_does_not_exist_is_an_error(here: Path) -> None:
    result = CliRunner().invoke(cli.app, ["models", "missing"])
    assert "'missing' is not a folder: give folders that hold exported models" in str(result.exception)


def test_the_table_shows_size_languages_and_licence(here: Path) -> None:
    code, out, _ = call()
    assert code == 0
    for text in ("bundled", "6.75 M", "15.2 MB", "en pl am ur", "CC BY-NC-SA 4.0"):
        assert text in out
