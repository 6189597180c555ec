"""emodistill cache: what the cache folder holds, and how old files of it are deleted."""

import json
import time
from dataclasses import asdict
from enum import StrEnum
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from emodistill.cached_files import COMPUTED, KINDS, cache_use, clean_cache, parse_age
from emodistill.cli.options import app
from emodistill.console import results, say
from emodistill.files import cache_folder, format_bytes

cache_app = typer.Typer(
    help="""Show the cache folder: where it is, and files, size and last use by kind.

    A training computes the descriptors of recordings and the states of frozen layers once, and keeps them
    here for later runs. `emodistill fetch` keeps its models here. The folder is EMODISTILL_CACHE, or
    `emodistill` in the platform's cache folder. Backbones from the Hugging Face Hub are not here: see its
    command `hf cache`.

    Example: emodistill cache clean --older-than 30d""",
)
app.add_typer(cache_app, name="cache")


class CacheFormat(StrEnum):
    """How the content of the cache is written."""

    table = "table"
    json = "json"


@cache_app.callback(invoke_without_command=True)
def show(
    context: typer.Context,
    format: Annotated[CacheFormat, typer.Option("--format", "-f", help="table or json.")] = CacheFormat.table,
) -> None:
    # Without a docstring: Typer would show it instead of the help of `cache_app`.
    if context.invoked_subcommand is not None:
        return
    folder = cache_folder()
    kinds = cache_use(folder)
    total = sum(kind.size_bytes for kind in kinds)
    if format is CacheFormat.json:
        data = {"folder": str(folder), "size_bytes": total, "kinds": [asdict(kind) for kind in kinds]}
        typer.echo(json.dumps(data, indent=1))
        return
    table = Table(title=escape(f"{folder}: {format_bytes(total)}"))
    table.add_column("kind")
    for column in ("files", "size", "oldest use", "newest use"):
        table.add_column(column, justify="right")
    table.add_column("what it is")
    for kind in kinds:
        table.add_row(
            escape(kind.kind), str(kind.num_files), format_bytes(kind.size_bytes), _day(kind.oldest_use),
            _day(kind.newest_use), KINDS.get(kind.kind, "unknown to this version"),
        )  # fmt: skip
    results().print(table)


@cache_app.command("clean")
def clean(
    older_than: Annotated[
        str,
        typer.Option(
            metavar="AGE",
            help="Delete what was not used for this long: hours, days or weeks, as in 12h, 30d, 8w. "
            "0d deletes all.",
        ),
    ],
    kind: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Delete only this kind: {', '.join(KINDS)}. Repeatable. Default: {' and '.join(COMPUTED)}, "
            "which a training computes again."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be deleted.")] = False,
) -> None:
    """Delete old files of the cache.

    A training marks the files that it uses, at most once an hour. So you may clean beside a training that
    runs: ages of a day or more do not touch its files. If a file of a training is deleted all the same, the
    training stops with a message. The same command then computes what is missing, and continues.

    Exit code 0: done. 1: the system refused to delete some files. 2: a bad age or kind.

    Example: emodistill cache clean --older-than 30d --kind states --dry-run
    """
    folder = cache_folder()
    cleaned = clean_cache(folder, parse_age(older_than), kind or COMPUTED, dry_run)
    verb = "would delete" if dry_run else "deleted"
    say(f"{folder}: {verb} {_files(cleaned.num_files)}, {format_bytes(cleaned.size_bytes)}")
    if cleaned.num_refused:
        say(f"{_files(cleaned.num_refused)} could not be deleted; another program may have them open")
        raise typer.Exit(1)


def _files(number: int) -> str:
    return f"{number} file{'' if number == 1 else 's'}"


def _day(time_s: float | None) -> str:
    return "–" if time_s is None else time.strftime("%Y-%m-%d", time.localtime(time_s))
