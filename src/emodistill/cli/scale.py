"""emodistill scale: millions of files, with Ray Data on this machine or on a cluster."""

from dataclasses import replace
from os import cpu_count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emodistill.cli.options import (
    ChannelsRead,
    Emotions,
    MinConfidence,
    Model,
    Provider,
    VoiceFile,
    app,
    channels_in,
    names_in,
    stoppable,
)
from emodistill.console import say, warn
from emodistill.errors import ConfigError
from emodistill.scale import MAX_MB, RETRIES, SHARD_ROWS

if TYPE_CHECKING:
    from emodistill.inference.voices import Voice
    from emodistill.scale.job import Job
    from emodistill.scale.storage import Storage

scale_app = typer.Typer(
    no_args_is_help=True,
    help="Recognise emotions in millions of files, with Ray Data, on this machine or on a cluster.",
)
app.add_typer(scale_app, name="scale")

Manifest = Annotated[
    str,
    typer.Option(
        "--manifest",
        metavar="FILE",
        help="The list of inputs, a path or a URL (s3://, gs://, az://, http://, https://): CSV with a "
        "header, TSV, Parquet, or a folder of Parquet files. It has the column `path`, and may have `id`, "
        "`start` and `end` (seconds or m:ss), `speaker` and `channel` (from 0).",
    ),
]
OutFolder = Annotated[
    str,
    typer.Option(
        "--out",
        "-o",
        metavar="DIR",
        help="The folder for the Parquet parts, a path or a URL (s3://, gs://, az://). A folder that an "
        "earlier run began is continued.",
    ),
]
Root = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="The folder or URL that the paths are relative to. Default: the folder of the manifest.",
    ),
]
Allow = Annotated[
    list[str] | None,
    typer.Option(
        metavar="URL",
        help="Also read audio below this folder or URL. A path that leaves the root is refused otherwise. "
        "With this option, URLs elsewhere are refused too. Repeatable.",
    ),
]
StorageOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--storage-option",
        metavar="[SCHEME.]KEY=VALUE",
        help="An option of fsspec's file system, e.g. endpoint_url=http://minio:9000. Give keys and "
        "passwords by environment variables or roles of the machine instead. Repeatable.",
    ),
]
Speaker = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        help="Compare each input with the usual of the other inputs of its speaker, who is in this "
        "column, as `predict --adapt together` does for the files of one speaker.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(min=1, help="Workers that run at a time. Default: one for each CPU core of this machine."),
]
WorkerThreads = Annotated[
    int, typer.Option("--threads", min=1, help="Threads for one run of the model in each worker.")
]
ShardRows = Annotated[int, typer.Option(min=1, help="Rows of the manifest for each part of the output.")]
Address = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="A Ray cluster, e.g. auto or ray://head:10001. Default: start Ray on this machine, and stop "
        "it at the end.",
    ),
]
Retries = Annotated[
    int,
    typer.Option(min=0, help="How often a read that fails is tried again, later and later each time."),
]
RetryFailed = Annotated[
    bool, typer.Option("--retry-failed", help="Do parts that hold rows with an error again.")
]
MaxMb = Annotated[int, typer.Option(min=1, metavar="MB", help="Refuse larger recordings from a URL.")]


# Long: Typer makes an option of each parameter.
@scale_app.command()
def predict(
    manifest: Manifest,
    out: OutFolder,
    root: Root = None,
    allow: Allow = None,
    model: Model = "bundled",
    emotions: Emotions = None,
    min_confidence: MinConfidence = None,
    voice: VoiceFile = None,
    speaker: Speaker = None,
    channels: ChannelsRead = "mix",
    provider: Provider = "cpu",
    threads: WorkerThreads = 1,
    workers: Workers = None,
    shard_rows: ShardRows = SHARD_ROWS,
    address: Address = None,
    storage_option: StorageOptions = None,
    retries: Retries = RETRIES,
    max_mb: MaxMb = MAX_MB,
    retry_failed: RetryFailed = False,
) -> None:
    """Recognise one emotion for each row of a manifest, and write Parquet parts.

    Each row of the manifest gives exactly one row, also where a path is there twice. An input that cannot be
    read gives a row with its `error`. The columns are those of `emodistill predict --from`, and `row`, the
    number of the row in the manifest from 0.

    To continue after a stop, run the same command again. Other options and another manifest need another
    --out.

    Exit code 0: all rows are there, and none has an error. 1: some rows have an error, or a part is missing.
    2: nothing was started, since an option, the manifest or the model is wrong. 130: you stopped it with
    Ctrl-C.

    Example: emodistill scale predict --manifest s3://calls/list.csv --out s3://calls/emotions
    """
    if voice is not None and speaker is not None:
        raise ConfigError(
            "--voice and --speaker exclude each other: an input is compared with a voice or with the other "
            "inputs of its speaker; give one of them"
        )
    job = _job("predict", manifest, out, root, allow, _storage(storage_option, retries, max_mb), channels)
    job = replace(
        job, model=model, emotions=None if (names := names_in(emotions)) is None else tuple(names),
        min_confidence=min_confidence, provider=provider, threads=threads, voice=_voice(voice),
        by_speaker=speaker is not None,
    )  # fmt: skip
    _run(job, manifest, speaker, shard_rows, workers, address, retry_failed)


# Long: Typer makes an option of each parameter.
@scale_app.command()
def embed(
    manifest: Manifest,
    out: OutFolder,
    root: Root = None,
    allow: Allow = None,
    model: Model = "bundled",
    voice: VoiceFile = None,
    channels: ChannelsRead = "mix",
    provider: Provider = "cpu",
    threads: WorkerThreads = 1,
    workers: Workers = None,
    shard_rows: ShardRows = SHARD_ROWS,
    address: Address = None,
    storage_option: StorageOptions = None,
    retries: Retries = RETRIES,
    max_mb: MaxMb = MAX_MB,
    retry_failed: RetryFailed = False,
) -> None:
    """Write the embeddings of each row of a manifest, as Parquet parts.

    The columns are those of `emodistill embed -o FILE.parquet`, and `row`, the number of the row in the
    manifest from 0. Rows, continuing and exit codes are those of `emodistill scale predict`.

    An embedding holds how a person sounds. It may serve to recognise the person, so it is personal data.

    Example: emodistill scale embed --manifest list.parquet --root s3://calls --out embeddings
    """
    job = _job("embed", manifest, out, root, allow, _storage(storage_option, retries, max_mb), channels)
    job = replace(job, model=model, provider=provider, threads=threads, voice=_voice(voice))
    _run(job, manifest, None, shard_rows, workers, address, retry_failed)


def _storage(options: list[str] | None, retries: int, max_mb: int) -> "Storage":
    from emodistill.scale.storage import Storage, read_options

    return Storage(read_options(options or []), retries, max_mb * 10**6)


def _job(
    verb: str,
    manifest: str,
    out: str,
    root: str | None,
    allow: list[str] | None,
    storage: "Storage",
    channels: str,
) -> "Job":
    """Return the job of the options that both verbs have. Local paths become absolute, for the workers."""
    from emodistill.scale.job import Job
    from emodistill.scale.storage import absolute, is_folder, parent

    channel = channels_in(channels)
    if channel == "split":
        raise ConfigError(
            "--channels split gives several rows for an input: write one row for each channel into the "
            "manifest, with the column channel"
        )
    if root is None:
        root = manifest if is_folder(manifest) else parent(manifest)
    return Job(
        verb, absolute(out), absolute(root), tuple(map(absolute, allow or ())), storage,
        channel=None if channel == "mix" else int(channel),
    )  # fmt: skip


def _voice(file: Path | None) -> "Voice | None":
    from emodistill.inference.voices import Voice

    return None if file is None else Voice.load(file)


def _run(
    job: "Job", manifest: str, speaker: str | None, shard_rows: int, workers: int | None, address: str | None,
    retry_failed: bool,
) -> None:  # fmt: skip
    from emodistill.inference.resume import CONTINUE
    from emodistill.scale.run import run, summary

    with stoppable(lambda: f"stopped: the parts that are done are in {job.out}; {CONTINUE}"):
        result = run(
            job, manifest, speaker=speaker, shard_rows=shard_rows,
            workers=workers or max(1, (cpu_count() or 1) // job.threads), address=address,
            retry_failed=retry_failed,
        )  # fmt: skip
    (warn if result.missing else say)(summary(result, job.out))
    raise typer.Exit(1 if result.failed or result.missing else 0)
