"""emodistill serve: the recogniser over HTTP and WebSocket, with a web page."""

from os import cpu_count, environ
from typing import Annotated

import typer

from emodistill.cli.options import Provider, app
from emodistill.errors import ConfigError, MissingExtraError, field_messages


# Long: Typer makes an option of each parameter, and each option has its help text beside it.
@app.command()
def serve(
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            envvar="EMODISTILL_MODEL",
            help="A model to serve: `bundled`, the folder of an exported model, or a hub id "
            "(organisation/name[@revision]). Repeatable: the first is the default. Default: bundled.",
        ),
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen at. 127.0.0.1 accepts this machine alone; 0.0.0.0 accepts every machine."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen at.")] = 8000,
    workers: Annotated[
        int, typer.Option(min=1, help="Number of processes; each loads its own copy of the model.")
    ] = 1,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Recordings processed at the same time, over all workers. Default: one for each CPU core.",
        ),
    ] = None,
    provider: Provider = "cpu",
    token: Annotated[
        str | None,
        typer.Option(
            envvar="EMODISTILL_TOKEN",
            help="Refuse requests without the header `Authorization: Bearer TOKEN`. Default: no token.",
        ),
    ] = None,
    cors: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORIGIN",
            help="A web origin whose pages may call this server, e.g. https://app.example. Repeatable. "
            "Default: none.",
        ),
    ] = None,
    rate: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Most requests of one client per minute, over all workers; the status for more is 429. "
            "Default: no limit.",
        ),
    ] = None,
    proxy: Annotated[
        list[str] | None,
        typer.Option(
            envvar="EMODISTILL_PROXY",
            metavar="ADDRESS",
            help="Trust the header X-Forwarded-For from this address or network. Repeatable. "
            "Default: no address.",
        ),
    ] = None,
    max_mb: Annotated[
        int, typer.Option(min=1, help="Most megabytes of one request; the status for more is 413.")
    ] = 250,
    max_seconds: Annotated[
        float,
        typer.Option(min=1, help="Longest recording for a timeline, in seconds; the status for more is 413."),
    ] = 3600,
    max_requests: Annotated[
        int,
        typer.Option(
            min=1,
            help="Most requests at the same time, over all workers; the status for more is 503.",
        ),
    ] = 64,
    max_streams: Annotated[
        int,
        typer.Option(
            min=1,
            help="Most streams at the same time, over all workers; the status for more is 503.",
        ),
    ] = 64,
    grace: Annotated[
        float,
        typer.Option(min=0, help="Seconds that running requests get to finish in when the server stops."),
    ] = 30,
    page: Annotated[bool, typer.Option(help="Serve the web page at /.")] = True,
) -> None:
    """Serve HTTP, WebSocket and a web page: http://127.0.0.1:8000/.

    Only this machine can reach the server unless you set --host. Then also set --token, and put a proxy with
    TLS before the server (docs/serving.md). The log goes to standard error, one line of JSON for each
    request. It contains no audio.

    Example: emodistill serve --port 8080

    Then: curl -F files=@call.wav http://127.0.0.1:8080/v1/predict
    """
    try:
        from pydantic import ValidationError

        from emodistill.serving.server import serve as run_server
        from emodistill.serving.settings import Settings
    except ImportError as error:
        raise MissingExtraError(error.name or "fastapi", "serve", "a server") from error

    try:
        settings = Settings(
            models=tuple(model or ("bundled",)),
            provider=provider,
            workers=workers,
            threads=max(1, (threads or cpu_count() or 1) // workers),
            # Typer ignores a variable that is set but empty. An empty token is a mistake, so pass it on.
            token=environ.get("EMODISTILL_TOKEN") if token is None else token,
            cors_origins=tuple(cors or ()),
            rate_per_minute=rate,
            max_bytes=1_000_000 * max_mb,
            max_seconds=max_seconds,
            max_requests=max_requests,
            max_streams=max_streams,
            grace_s=grace,
            page=page,
        )
    except ValidationError as error:
        raise ConfigError("; ".join(field_messages(error.errors()))) from error
    run_server(settings, host, port, proxy or ())
