"""The loggers of a training: CSV always, and TensorBoard, Weights & Biases or MLflow where a recipe asks.

All of them get the rows of the CSV log: the losses and dev scores of each epoch. Weights & Biases and MLflow
get one run for each training. Its id is kept in the training's folder, so a resumed training continues it.
"""

import json
import logging
import netrc
import os
import secrets
import tomllib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger

from emodistill.config import RuntimeConfig
from emodistill.console import say
from emodistill.files import atomic_write

PROJECT = "emodistill"  # the project of Weights & Biases and the experiment of MLflow
RUN_IDS = Path("log/run-ids.json")  # in the folder of a training


@contextmanager
def open_loggers(folder: Path, runtime: RuntimeConfig) -> Iterator[list[Any]]:
    """Give the Lightning loggers of a training, and close its run of Weights & Biases at the end.

    `folder` is that of the training. `runtime.logger` needs its package, see `packages.check_packages`.
    """
    loggers: list[Any] = [CSVLogger(folder, name="log", version="")]
    if runtime.tensorboard:
        loggers.append(TensorBoardLogger(folder, name="tensorboard", version=""))
    if runtime.logger is None:
        yield loggers
        return
    run_folder = _run_folder(folder)
    name = "/".join((run_folder.name, *folder.relative_to(run_folder).parts))
    ids = json.loads((folder / RUN_IDS).read_text("utf-8")) if (folder / RUN_IDS).is_file() else {}
    known = ids.get(runtime.logger)
    make = _wandb_logger if runtime.logger == "wandb" else _mlflow_logger
    logger = make(folder, run_folder, name, known)
    loggers.append(logger)
    if known is None:
        # The id is stored before the first epoch, so that a training that is killed later has it.
        (folder / RUN_IDS).parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder / RUN_IDS) as partial:
            partial.write_text(json.dumps({**ids, runtime.logger: _run_id(logger)}) + "\n", encoding="utf-8")
        if (run_folder / "recipe.toml").is_file():
            logger.log_hyperparams(tomllib.loads((run_folder / "recipe.toml").read_text(encoding="utf-8")))
    failed = True
    try:
        yield loggers
        failed = False
    finally:
        if runtime.logger == "wandb":  # a run that stays open would take the epochs of the next training too
            import wandb

            wandb.finish(exit_code=int(failed))


def _wandb_logger(folder: Path, run_folder: Path, name: str, known: str | None) -> Any:
    """The logger of Weights & Biases. Without a login, and with WANDB_MODE unset, it writes files alone."""
    is_offline = "WANDB_MODE" not in os.environ and not _has_wandb_login()
    if is_offline:
        say(f"wandb: no login, so the log stays in '{folder / 'wandb'}'; send it with wandb sync")
    (folder / "wandb").mkdir(parents=True, exist_ok=True)
    return WandbLogger(
        name=name, save_dir=folder, project=os.environ.get("WANDB_PROJECT", PROJECT), group=run_folder.name,
        id=known or secrets.token_hex(4), offline=is_offline,
    )  # fmt: skip


def _has_wandb_login() -> bool:
    """Whether a key is in the environment, or in the file .netrc, where `wandb login` writes it."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _mlflow_logger(folder: Path, run_folder: Path, name: str, known: str | None) -> Any:
    """The logger of MLflow. Without MLFLOW_TRACKING_URI it writes `mlflow.db` in the run folder."""
    del folder
    experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
    uri, artifacts = os.environ.get("MLFLOW_TRACKING_URI"), None
    if not uri:  # MLflow no longer writes a plain folder
        uri = f"sqlite:///{(run_folder / 'mlflow.db').resolve().as_posix()}"
        artifacts = (run_folder / "mlartifacts").resolve().as_uri()
    return MLFlowLogger(
        experiment, run_name=name, tracking_uri=uri, artifact_location=artifacts, run_id=known
    )


def _run_id(logger: Any) -> str:
    """The id of a logger's run, which MLflow gives and Weights & Biases gets from here."""
    return str(logger.run_id if isinstance(logger, MLFlowLogger) else logger.version)


def _run_folder(folder: Path) -> Path:
    """The folder with `recipe.toml` around the folder of a training; the latter itself where none has it."""
    return next((parent for parent in folder.parents if (parent / "recipe.toml").is_file()), folder)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Hide Lightning's advice on hardware and loader processes; its errors and other warnings stay."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        for advice in (
            "does not have many workers", "Checkpoint directory", "No `?val_dataloader", "Found .* eval mode",
            "You defined a `validation", "Experiment logs directory", ".*LeafSpec",
        ):  # fmt: skip
            warnings.filterwarnings("ignore", message=f".*{advice}")
        try:
            yield
        except SystemExit as stop:
            raise KeyboardInterrupt from stop  # Lightning ends so after Ctrl-C
        finally:
            logger.setLevel(level)
