"""The app that every verb belongs to, and the options that several have."""

from pathlib import Path
from typing import Annotated

import typer

from emodistill.errors import MissingExtraError
from emodistill.version import __version__

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # paragraphs are wrapped as the terminal is wide
    help="Speech emotion recognition from the waveform alone, taught by models that know more.",
)
corpus_app = typer.Typer(
    no_args_is_help=True, help="Turn a corpus folder into utterances.csv; count it; audit its folds."
)
app.add_typer(corpus_app, name="corpus")

Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a recipe field, e.g. student.optim.epochs=3. Repeatable."
    ),
]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Run folder. Default: runs/RECIPE-seedN.")]
Paths = Annotated[
    list[Path],
    typer.Argument(metavar="PATH", help="Audio files or folders (every audio file below, sorted)."),
]
# Which model answers, and when it rather does not: the same for every verb that recognises.
Model = Annotated[
    str,
    typer.Option(
        "--model", "-m", envvar="EMODISTILL_MODEL",
        help="bundled, the folder of an exported model, or a hub id (organisation/name[@revision]).",
    ),
]  # fmt: skip
Emotions = Annotated[str | None, typer.Option(help="Consider only these, e.g. angry,happy,sad.")]
MinConfidence = Annotated[float | None, typer.Option(min=0, max=1, help="Abstain below this confidence.")]
Coverage = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="Abstain where unsure, so that about this share is answered."),
]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads of one model run.")]
Jobs = Annotated[
    int | None, typer.Option(min=1, help="Files judged at a time. Default: one for each CPU core.")
]


def _tell_version(asked: bool) -> None:
    if asked:
        typer.echo(f"emodistill {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Which version this is.")
    ] = False,
) -> None:
    pass


def need_training() -> None:
    """Raise `MissingExtraError` where what trains is not installed."""
    try:
        import lightning
        import torch
    except ImportError as error:
        raise MissingExtraError(error.name or "torch", "train") from error
    del lightning, torch


def names_in(listed: str | None) -> list[str] | None:
    """The names of a comma-separated list."""
    return None if listed is None else [name.strip() for name in listed.split(",") if name.strip()]
