"""Verbs about models: models lists them, fetch completes one with published weights."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from emodistill.cli.options import app
from emodistill.console import results, say
from emodistill.errors import ConfigError, ModelError

RUNS = "runs"  # the folder in which the verbs that train keep their runs


class ModelsFormat(StrEnum):
    """How the list of models is written."""

    table = "table"
    json = "json"


@dataclass(frozen=True)
class ModelRow:
    """One model of the list. A model that cannot be used has only `model` and `error`."""

    model: str  # what --model takes: bundled, a fetchable model, or a folder
    name: str | None = None
    emotions: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()  # of the training corpora, ISO 639-1; empty: the card does not know
    num_parameters: int | None = None
    size_bytes: int | None = None  # of model.onnx and of its external weights
    precision: str | None = None  # of the stored weights
    licence: str | None = None
    error: str | None = None
    fetched: bool | None = None  # None: it needs no `emodistill fetch`
    voices: bool | None = None  # whether it can compare a recording with a speaker's voice
    dimensions: tuple[str, ...] = ()  # that a head predicts; empty: computed from the emotions


@app.command("models")
def models(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FOLDER",
            help="Look in and below these folders. "
            f"Default: below ./{RUNS}, and one level below the current folder.",
        ),
    ] = None,
    format: Annotated[
        ModelsFormat, typer.Option("--format", "-f", help="table or json.")
    ] = ModelsFormat.table,
) -> None:
    """List the models at hand: the bundled one, fetchable ones and exported ones.

    Each has its emotions, languages, size and licence, and whether it can use voices (`emodistill enrol`).
    A model with a head for dimensions also has their names. The first column is what --model takes.

    Exit code 0: all models are usable. 1: a model is broken (its row says why), or a given folder has no
    model. 2: a given folder does not exist.

    Example: emodistill models runs/ --format json
    """
    from emodistill.inference.fetch import fetchable_models
    from emodistill.inference.model_card import BUNDLED

    rows = [read_row("bundled", BUNDLED), *map(fetchable_row, fetchable_models())]
    empty = False
    for folder, found in find_models(folders):
        rows += [read_row(str(path), path) for path in found]
        if folder is not None and not found:
            say(
                f"no exported model in or below '{folder}'; make one with: emodistill export RUN --out FOLDER"
            )
            empty = True
    if format is ModelsFormat.json:
        typer.echo(json.dumps([asdict(row) for row in rows], indent=1))
    else:
        results().print(models_table(rows))
    raise typer.Exit(1 if empty or any(row.error for row in rows) else 0)


@app.command("fetch")
def fetch(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="large, or another model that `emodistill models` lists.")
    ],
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Read the backbone's model.safetensors in this folder. "
            "Default: download it from the Hugging Face Hub, which needs [hub].",
        ),
    ] = None,
    revision: Annotated[str, typer.Option(help="Branch, tag or commit of the download.")] = "main",
) -> None:
    """Complete a model of the package with the published weights of its backbone.

    The package holds the graph and the trained head of the model. This command writes the weights of the
    backbone into the cache, as float16 and as int8, and checks their SHA-256. Then --model takes the name of
    the model, and it runs offline. The cache is EMODISTILL_CACHE, or the platform's cache folder.

    Example: emodistill fetch large --weights whisper-base/ && emodistill predict call.wav --model large
    """
    from emodistill.inference.fetch import fetch_model
    from emodistill.inference.model_card import model_bytes

    for name, folder in fetch_model(model, weights, revision).items():
        say(f"{name}: {model_bytes(folder) / 1e6:.1f} MB in {folder}; to use it: --model {name}")


def find_models(folders: Sequence[Path] | None) -> Iterator[tuple[Path | None, list[Path]]]:
    """Yield each given folder with the folders in and below it that hold a card.json, sorted.

    Without given folders, yield None with the models below ./runs and one level below the current folder. A
    search of everything below the current folder could take long. Raises `ConfigError` for a path that is
    not a folder.
    """
    if not folders:
        cards = {*Path().glob("*/card.json"), *Path(RUNS).rglob("card.json")}
        yield None, sorted(path.parent for path in cards)
        return
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"'{folder}' is not a folder: give folders that hold exported models")
        yield folder, sorted(path.parent for path in folder.rglob("card.json"))


def read_row(model: str, folder: Path) -> ModelRow:
    """The row of an exported model, after checking that its folder is complete and unchanged."""
    from emodistill.inference.model_card import licence_text, model_bytes, read_card

    try:
        card = read_card(folder)
    except ModelError as error:
        return ModelRow(model, error=str(error))
    return ModelRow(
        model, card.name, card.emotions, card.languages, card.num_parameters, model_bytes(folder),
        card.precision, licence_text(card), voices=card.voice_dim is not None, dimensions=card.dimensions,
    )  # fmt: skip


def fetchable_row(model: str) -> ModelRow:
    """The row of a model that `emodistill fetch` completes; its size is that of the complete model."""
    from emodistill.inference.fetch import ASSETS, fetched_path, weight_list
    from emodistill.inference.model_card import licence_text, model_bytes, read_unchecked_card

    try:
        if (folder := fetched_path(model)).is_dir():
            return replace(read_row(model, folder), fetched=True)
        card, size_bytes = read_unchecked_card(ASSETS / model), weight_list(model).size_bytes
    except ModelError as error:
        return ModelRow(model, error=str(error))
    return ModelRow(
        model, card.name, card.emotions, card.languages, card.num_parameters,
        model_bytes(ASSETS / model) + size_bytes, card.precision, licence_text(card), fetched=False,
        voices=card.voice_dim is not None, dimensions=card.dimensions,
    )  # fmt: skip


def models_table(rows: Sequence[ModelRow]) -> Table:
    """The rows as a table for a terminal."""
    table = Table(show_lines=True)
    predicted = "emotions and dimensions" if any(row.dimensions for row in rows) else "emotions"
    for column in ("model", predicted, "languages", "voices", "parameters", "size", "licence"):
        table.add_column(column, justify="right" if column in ("parameters", "size") else "left")
    for row in rows:
        if row.num_parameters is None or row.size_bytes is None:
            table.add_row(escape(row.model), "", "", "", "", "", escape(f"unusable: {row.error}"))
            continue
        size = f"{row.size_bytes / 1e6:.1f} MB\n{row.precision}"
        if row.fetched is not None:
            size += "\nfetched" if row.fetched else "\nnot fetched"
        table.add_row(
            escape(row.model), "\n".join(filter(None, (" ".join(row.emotions), " ".join(row.dimensions)))),
            " ".join(row.languages) or "not stated",
            "yes" if row.voices else "no", f"{row.num_parameters / 1e6:.2f} M", size,
            escape(row.licence or ""),
        )  # fmt: skip
    return table
