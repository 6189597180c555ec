"""emodistill models: the exported models at hand."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
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

    model: str  # what --model takes: bundled, or a folder
    name: str | None = None
    emotions: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()  # of the training corpora, ISO 639-1; empty: the card does not know
    num_parameters: int | None = None
    size_bytes: int | None = None  # of model.onnx
    precision: str | None = None  # of the stored weights
    licence: str | None = None
    error: str | None = None


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
    """List the models at hand: the bundled one and exported ones, with emotions, languages, size and licence.

    The first column is what --model takes.

    Exit code 0: all models are usable. 1: a model is broken (its row says why), or a given folder has no
    model. 2: a given folder does not exist.

    Example: emodistill models runs/ --format json
    """
    from emodistill.inference.model_card import BUNDLED

    rows = [read_row("bundled", BUNDLED)]
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
    from emodistill.inference.model_card import read_card

    try:
        card = read_card(folder)
    except ModelError as error:
        return ModelRow(model, error=str(error))
    return ModelRow(
        model, card.name, card.emotions, card.languages, card.num_parameters,
        (folder / "model.onnx").stat().st_size, card.precision, card.licence,
    )  # fmt: skip


def models_table(rows: Sequence[ModelRow]) -> Table:
    """The rows as a table for a terminal."""
    table = Table(show_lines=True)
    for column in ("model", "emotions", "languages", "parameters", "size", "licence"):
        table.add_column(column, justify="right" if column in ("parameters", "size") else "left")
    for row in rows:
        if row.num_parameters is None or row.size_bytes is None:
            table.add_row(escape(row.model), "", "", "", "", escape(f"unusable: {row.error}"))
            continue
        table.add_row(
            escape(row.model), " ".join(row.emotions), " ".join(row.languages) or "not stated",
            f"{row.num_parameters / 1e6:.2f} M", f"{row.size_bytes / 1e6:.1f} MB\n{row.precision}",
            escape(row.licence or ""),
        )  # fmt: skip
    return table
