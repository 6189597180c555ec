"""The loggers of a training: they get the rows of the CSV log, and a resumed training continues its run."""

import csv
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.loggers.logger import Logger
from test_fit import Killed, Sequences, train

from emodistill.config import RuntimeConfig
from emodistill.training import loggers

KINDS = ("wandb", "mlflow")
RECIPE = 'name = "tiny"\n[student]\nlora = 4\n'


def runtime(kind: str) -> RuntimeConfig:
    return RuntimeConfig.model_validate({"accelerator": "cpu", "devices": 1, "threads": 1, "logger": kind})


class Tracker:
    """A server of runs, in memory. It stands for both services."""

    def __init__(self) -> None:
        self.rows: dict[str, list[tuple[int, dict[str, float]]]] = {}  # by run
        self.settings: dict[str, dict[str, Any]] = {}  # by run
        self.recipes: dict[str, Any] = {}  # by run
        self.outcomes: list[int] = []  # exit codes of finished runs

    def make_logger(self, *args: Any, **settings: Any) -> Logger:
        return TrackerLogger(self, settings)

    def finish(self, exit_code: int = 0) -> None:
        self.outcomes.append(exit_code)


class TrackerLogger(Logger):
    def __init__(self, tracker: Tracker, settings: dict[str, Any]) -> None:
        super().__init__()
        self.tracker = tracker
        self.run_id = settings.get("id") or settings.get("run_id") or f"run-{len(tracker.rows)}"
        tracker.settings[self.run_id] = settings
        tracker.rows.setdefault(self.run_id, [])

    @property
    def name(self) -> str:
        return "tracker"

    @property
    def version(self) -> str:
        return self.run_id

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        assert step is not None
        self.tracker.rows[self.run_id].append((step, dict(metrics)))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        assert self.run_id not in self.tracker.recipes, "MLflow refuses a second value of a parameter"
        self.tracker.recipes[self.run_id] = params


@pytest.fixture
def tracker(monkeypatch: pytest.MonkeyPatch) -> Tracker:
    """A tracker in place of both services, without a login."""
    tracker = Tracker()
    monkeypatch.setattr(loggers, "WandbLogger", tracker.make_logger)
    monkeypatch.setattr(loggers, "MLFlowLogger", tracker.make_logger)
    monkeypatch.setattr(loggers, "_run_id", lambda logger: logger.run_id)
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(finish=tracker.finish))
    no_login(monkeypatch)
    return tracker


def no_login(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", "no-such-file")


def fold_folder(root: Path, fold: str = "1") -> Path:
    """The folder of a student's training in a run folder."""
    (root / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    return root / f"fold-{fold}" / "select" / "student"


def csv_rows(folder: Path) -> list[tuple[int, dict[str, float]]]:
    with (folder / "log" / "metrics.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [
        (int(row["step"]), {key: float(value) for key, value in row.items() if value and key != "step"})
        for row in rows
    ]


def stored_id(folder: Path, kind: str) -> str:
    return str(json.loads((folder / loggers.RUN_IDS).read_text(encoding="utf-8"))[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_a_logger_gets_the_rows_of_the_csv_log_and_the_recipe(
    kind: str, tracker: Tracker, tmp_path: Path
) -> None:
    folder = fold_folder(tmp_path)
    train(folder, runtime=runtime(kind))
    (rows,) = tracker.rows.values()
    assert len(rows) == 4
    for (step, values), (expected_step, expected) in zip(rows, csv_rows(folder), strict=True):
        assert (step, values) == (expected_step, pytest.approx(expected))
    assert list(tracker.recipes.values()) == [{"name": "tiny", "student": {"lora": 4}}]


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_training_continues_its_run_and_another_has_its_own(
    kind: str, tracker: Tracker, tmp_path: Path
) -> None:
    folder = fold_folder(tmp_path)
    sequences = Sequences(30)
    sequences.kill_at(2)
    with pytest.raises(Killed):
        train(folder, train=sequences, runtime=runtime(kind))
    run_id = stored_id(folder, kind)
    train(folder, runtime=runtime(kind))
    assert stored_id(folder, kind) == run_id
    assert [step for step, _ in tracker.rows[run_id]] == [0, 1, 2, 3]
    train(fold_folder(tmp_path, "2"), runtime=runtime(kind))
    assert set(tracker.rows) == {run_id, stored_id(fold_folder(tmp_path, "2"), kind)}
    assert len(tracker.rows) == 2
    if kind == "wandb":
        assert tracker.outcomes == [1, 0, 0], "each training closes its run, also the one that was killed"


def test_logs_stay_in_the_run_folder_unless_a_server_is_named(
    tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def settings(kind: str, fold: str) -> dict[str, Any]:
        train(fold_folder(tmp_path, fold), runtime=runtime(kind), epochs=1)
        return tracker.settings[stored_id(fold_folder(tmp_path, fold), kind)]

    name = f"{tmp_path.name}/fold-1/select/student"
    offline = settings("wandb", "1")
    assert (offline["offline"], offline["name"], offline["group"]) == (True, name, tmp_path.name)
    assert Path(offline["save_dir"]) == fold_folder(tmp_path)
    local = settings("mlflow", "2")
    assert local["run_name"] == name.replace("fold-1", "fold-2")
    assert local["tracking_uri"] == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("WANDB_API_KEY", "key")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    assert settings("wandb", "3")["offline"] is False
    assert settings("mlflow", "4")["tracking_uri"] == "http://localhost:5000"


def test_a_login_is_read_from_netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_login(monkeypatch)
    assert not loggers._has_wandb_login()
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password key\n", encoding="utf-8")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert loggers._has_wandb_login()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert not loggers._has_wandb_login()


# --- the real packages, where they are installed -------------------------------------------------


@pytest.mark.filterwarnings("default")
def test_mlflow_has_the_metrics_of_a_resumed_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking = pytest.importorskip("mlflow.tracking")
    pytest.importorskip("sqlalchemy")
    no_login(monkeypatch)
    monkeypatch.chdir(tmp_path)
    folder = fold_folder(tmp_path)
    sequences = Sequences(30)
    sequences.kill_at(2)
    with pytest.raises(Killed):
        train(folder, train=sequences, runtime=runtime("mlflow"))
    train(folder, runtime=runtime("mlflow"))
    client = tracking.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    history = client.get_metric_history(stored_id(folder, "mlflow"), "dev_ua")
    assert [(item.step, item.value) for item in history] == [
        (step, pytest.approx(values["dev_ua"])) for step, values in csv_rows(folder)
    ]
    run = client.get_run(stored_id(folder, "mlflow"))
    assert (run.info.status, run.data.params["student/lora"]) == ("FINISHED", "4")
    assert not (tmp_path / "mlruns").exists()


@pytest.mark.filterwarnings("default")
def test_wandb_writes_a_run_for_each_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    no_login(monkeypatch)
    monkeypatch.setenv("WANDB_MODE", "offline")
    for fold in ("1", "2"):
        train(fold_folder(tmp_path, fold), runtime=runtime("wandb"), epochs=1)
        assert wandb.run is None
        folder = fold_folder(tmp_path, fold)
        (written,) = (folder / "wandb").glob("offline-run-*")
        assert written.name.endswith(stored_id(folder, "wandb"))
