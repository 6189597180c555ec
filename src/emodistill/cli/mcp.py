"""emodistill mcp: tools for an assistant, by the Model Context Protocol."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from emodistill.cli.options import Emotions, MinConfidence, Model, Provider, Threads, app, names_in
from emodistill.errors import MissingExtraError


@app.command("mcp")
def mcp(
    folder: Annotated[
        list[Path],
        typer.Option(metavar="DIR", help="A folder of recordings that the tools may read. Repeatable."),
    ],
    voices: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The folder that the tool `enrol` may write voices to. Default: there is no such tool.",
        ),
    ] = None,
    model: Model = "bundled",
    emotions: Emotions = None,
    min_confidence: MinConfidence = None,
    threads: Threads = None,
    provider: Provider = "cpu",
) -> None:
    """Give an assistant tools for recordings on this machine, by the Model Context Protocol (MCP).

    A desktop program starts this command and talks to it over standard input and output. The tools are
    `predict`, `timeline` and, with --voices, `enrol`. They read files below --folder and no other file. The
    recordings stay on this machine, but the answers go to the assistant.

    Example: emodistill mcp --folder calls/ --voices voices/
    """
    if find_spec("mcp") is None:
        raise MissingExtraError("mcp", "mcp", "an MCP server")
    from emodistill.inference.recognizer import Recognizer
    from emodistill.integrations.mcp import Folders, build_server

    Folders(folder)  # A typo should not wait for the model.
    if voices is not None:
        Folders([voices], "--voices")
    recognizer = Recognizer(
        model, emotions=names_in(emotions), min_confidence=min_confidence, threads=threads, provider=provider
    )
    build_server(recognizer, folder, voices).run("stdio")
