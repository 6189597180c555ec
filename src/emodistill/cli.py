"""The command line: one verb per function, thin. Heavy imports happen inside the verb that needs them."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from io import TextIOWrapper
from os import cpu_count
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from emodistill.console import UNENCODABLE, console, results, say, tracked
from emodistill.errors import ConfigError, EmodistillError, MissingExtraError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Speech emotion recognition from the waveform alone, taught by models that know more.",
)
corpus_app = typer.Typer(
    no_args_is_help=True, help="Turn a corpus folder into utterances.csv; count it; audit its folds."
)
app.add_typer(corpus_app, name="corpus")


class Format(StrEnum):
    """How predictions are written."""

    table = "table"
    json = "json"
    jsonl = "jsonl"
    csv = "csv"


class Tabular(StrEnum):
    """How scores are written."""

    table = "table"
    json = "json"
    csv = "csv"


class HeardRule(StrEnum):
    """What `evaluate` does with utterances that a model learned from."""

    refuse = "refuse"
    leave_out = "leave-out"
    allow = "allow"


class Precision(StrEnum):
    """How a model is exported."""

    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"


class TimelineFormat(StrEnum):
    """How timelines are written: `table`, or one of `emodistill.writers`."""

    table = "table"
    json = "json"
    csv = "csv"
    srt = "srt"
    rttm = "rttm"
    audacity = "audacity"
    textgrid = "textgrid"


Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a recipe field, e.g. student.optim.epochs=3. Repeatable."
    ),
]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Run folder. Default: runs/RECIPE-seedN.")]
# Which model answers, and when it rather does not: the same for every verb that recognises.
Model = Annotated[
    str,
    typer.Option(
        "--model", "-m", envvar="EMODISTILL_MODEL",
        help="bundled, the folder of an exported model, or a hub id (organisation/name).",
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


@app.command()
def predict(
    paths: Annotated[
        list[Path], typer.Argument(help="Audio files or folders (every audio file below, sorted).")
    ],
    model: Model = "bundled",
    format: Annotated[
        Format, typer.Option("--format", "-f", help="table, json, jsonl or csv.")
    ] = Format.table,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write here; a jsonl is resumed, its failed rows tried again."),
    ] = None,
    emotions: Emotions = None,
    min_confidence: MinConfidence = None,
    coverage: Coverage = None,
    teachers: Annotated[
        bool, typer.Option("--teachers", help="Also what each teacher would say (json and jsonl).")
    ] = False,
    threads: Threads = None,
    jobs: Jobs = None,
) -> None:
    """One emotion per audio file.

    Exit code 0: all done; 1: some inputs could not be read (their rows say why) or a folder holds no audio,
    the rest is done; 2: nothing was done.

    Example: emodistill predict call.wav clips/ --format json
    """
    from emodistill.recognizer import Recognizer
    from emodistill.rows import audio_files, rows_there, told, write_rows, written

    if teachers and format not in (Format.json, Format.jsonl):
        raise ConfigError(
            f"--teachers is written to json and jsonl alone, not to {format}: add --format json"
        )
    files, empty = audio_files(paths)
    jobs = min(jobs or cpu_count() or 1, max(1, len(files)))
    recognizer = Recognizer(
        model,
        emotions=_names(emotions),
        min_confidence=min_confidence,
        coverage=coverage,
        threads=threads or (1 if jobs > 1 else None),
    )
    resumed = format is Format.jsonl and output is not None
    done = rows_there(output, set(map(str, files)), recognizer) if output is not None and resumed else set()
    todo = [file for file in files if str(file) not in done]
    rows = told(tracked(recognizer.predict_all(todo, jobs=jobs), "predict", len(todo)))
    shown = rows if teachers else (replace(row, teachers=None) for row in rows)
    with written(output, resumed) as stream:
        failed = write_rows(shown, format, stream, recognizer.emotions)
    if done:
        say(f"{len(done)} rows were there already, {len(todo)} added to {output}")
    raise typer.Exit(1 if failed or empty else 0)


@app.command()
def timeline(
    paths: Annotated[
        list[Path], typer.Argument(help="Audio files or folders (every audio file below, sorted).")
    ],
    model: Model = "bundled",
    format: Annotated[
        TimelineFormat,
        typer.Option("--format", "-f", help="table, json, csv, srt, rttm, audacity or textgrid."),
    ] = TimelineFormat.table,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="A file, or a folder with one for each recording; that is resumed."
        ),
    ] = None,
    segments: Annotated[
        Path | None,
        typer.Option(help="Judge these instead of the speech found: RTTM, or a CSV start_s,end_s[,speaker]."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Also draw: a .png or .svg file, or a folder for one each.")
    ] = None,
    emotions: Emotions = None,
    min_confidence: MinConfidence = None,
    coverage: Coverage = None,
    jobs: Jobs = None,
) -> None:
    """Emotion over time: segments with start, end, emotion and confidence.

    Exit code 0: all done; 1: some inputs could not be read or a folder holds no audio, the rest is done;
    2: nothing was done. A segment below the asked-for confidence has no emotion.

    Example: emodistill timeline call.wav --format srt -o call.srt --plot call.png
    """
    from emodistill import batch
    from emodistill.recognizer import Recognizer
    from emodistill.rows import audio_files
    from emodistill.timeline import read_segments

    files, empty = audio_files(paths)
    outputs = batch.plan(files, paths, format, output, plot)
    given = read_segments(segments, len(files)) if segments is not None else None
    recognizer = Recognizer(
        model, emotions=_names(emotions), min_confidence=min_confidence, coverage=coverage, threads=1
    )
    outputs.claim(recognizer, given)
    todo = outputs.todo(files)
    jobs = min(jobs or cpu_count() or 1, max(1, len(todo)))
    rows = list(tracked(batch.run(recognizer, todo, outputs, given, jobs), "timeline", len(todo)))
    batch.finish(rows, outputs, recognizer.emotions)
    failed = [row for row in rows if row.error is not None]
    for row in failed:
        console.print(f"failed: {row.error}", style="red", markup=False)
    if len(todo) < len(files):
        say(f"{len(files) - len(todo)} were there already, {len(todo) - len(failed)} added to {output}")
    raise typer.Exit(1 if failed or empty else 0)


@app.command()
def listen(
    source: Annotated[
        str | None, typer.Argument(help="- for a pipe of raw 16-bit PCM or WAV. Default: the microphone.")
    ] = None,
    model: Model = "bundled",
    rate: Annotated[int, typer.Option(min=1, help="Of a raw pipe, in Hz.")] = 16_000,
    channels: Annotated[int, typer.Option(min=1, help="Of a raw pipe.")] = 1,
    device: Annotated[
        str | None, typer.Option(help="Which microphone: part of its name, or its number.")
    ] = None,
    emotions: Emotions = None,
    min_confidence: MinConfidence = None,
    coverage: Coverage = None,
) -> None:
    """Emotion while it is spoken: a display in a terminal, otherwise one line of JSON for each event.

    Ctrl-C, or the end of the pipe, ends it with a summary.

    Example: ffmpeg -i call.mp4 -f s16le -ar 16000 -ac 1 - | emodistill listen - --rate 16000
    """
    from emodistill import live
    from emodistill.recognizer import Recognizer

    if source not in (None, "-"):
        raise ConfigError(f"bad source '{source}', expected - for a pipe, or nothing for the microphone")
    if source and sys.stdin.isatty():
        raise ConfigError("nothing is piped in: put a command and | before it, or leave the - away")
    recognizer = Recognizer(
        model, emotions=_names(emotions), min_confidence=min_confidence, coverage=coverage, threads=1
    )
    opened = live.pipe(sys.stdin.buffer, rate, channels) if source else live.microphone(device)
    with opened as sound:
        summary = live.listen(recognizer, sound, sys.stdout, results())
    say(summary)


@app.command()
def serve(
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            envvar="EMODISTILL_MODEL",
            help="bundled, the folder of an exported model, or a hub id. Repeatable: the first is the default.",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Where to listen. Only this machine reaches 127.0.0.1; all others: 0.0.0.0.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="Processes, each with its own copy of the model.")] = 1,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Recordings judged at a time, in all. Default: one for each CPU core."),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(envvar="EMODISTILL_TOKEN", help="Want Authorization: Bearer TOKEN of everyone."),
    ] = None,
    cors: Annotated[
        list[str] | None, typer.Option(help="An origin whose pages may call this server. Repeatable.")
    ] = None,
    rate: Annotated[
        int | None, typer.Option(min=1, help="Requests of one client in a minute; more: 429.")
    ] = None,
    max_mb: Annotated[int, typer.Option(min=1, help="Of one request; more: 413.")] = 100,
    max_seconds: Annotated[float, typer.Option(min=1, help="Of one recording over time; more: 413.")] = 3600,
    max_requests: Annotated[int, typer.Option(min=1, help="At a time, for each worker; more: 503.")] = 64,
    max_streams: Annotated[int, typer.Option(min=1, help="At a time, for each worker; more: 503.")] = 64,
    grace: Annotated[float, typer.Option(min=0, help="Seconds to finish in when told to stop.")] = 30,
    page: Annotated[bool, typer.Option(help="The web page at /.")] = True,
) -> None:
    """Emotions over HTTP and WebSocket, and a web page: http://127.0.0.1:8000/.

    Only this machine can reach it unless --host says otherwise; then give --token, and put TLS before it
    (docs/serving.md). The log goes to standard error, one line of JSON for each request, without audio.

    Example: emodistill serve --port 8080
    Then: curl -F files=@call.wav http://127.0.0.1:8080/v1/predict
    """
    try:
        from emodistill.serving.server import serve as run
        from emodistill.serving.settings import Settings
    except ImportError as error:
        raise MissingExtraError(error.name or "fastapi", "serve", "a server") from error

    settings = Settings(
        models=tuple(model or ("bundled",)), threads=max(1, (threads or cpu_count() or 1) // workers), token=token,
        cors_origins=tuple(cors or ()), rate_per_minute=rate, max_bytes=1_000_000 * max_mb, max_seconds=max_seconds,
        max_requests=max_requests, max_streams=max_streams, grace_s=grace, page=page,
    )  # fmt: skip
    run(settings, host, port, workers)


@corpus_app.command("prepare")
def prepare(
    name: Annotated[str, typer.Argument(help="A known corpus, e.g. ravdess, iemocap, nemo.")],
    folder: Annotated[Path, typer.Argument(help="The corpus as its authors distribute it.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="utterances.csv, .tsv or .parquet")],
    labels: Annotated[
        str | None, typer.Option(help="Label map: own, four, seven, iemocap-4, all, or a list a,b,c.")
    ] = None,
) -> None:
    """Read a corpus folder and write its manifest; whatever is dropped or merged is counted."""
    from emodistill.corpora import drop_bad_audio, read_corpus, write_manifest
    from emodistill.corpora.opening import tell_left_out

    corpus, problems = drop_bad_audio(read_corpus(name, folder, labels))
    tell_left_out(corpus, problems, say)
    write_manifest(corpus, output)
    say(f"{len(corpus)} utterances, {len(corpus.speakers)} speakers, {list(corpus.labels)} -> {output}")
    raise typer.Exit(1 if problems else 0)


@corpus_app.command("stats")
def stats(
    manifest: Annotated[Path, typer.Argument(help="utterances.csv, .tsv or .parquet")],
    plot: Annotated[Path | None, typer.Option(help="Also draw it: a .png or .svg file.")] = None,
) -> None:
    """Utterances per emotion and speaker, and hours."""
    from emodistill.corpora import read_manifest
    from emodistill.corpora.stats import draw, summarise

    found = summarise(read_manifest(manifest))
    table = Table(
        title=f"{manifest}: {found.num_utterances} utterances, {found.num_speakers} speakers, {found.hours:.2f} h"
    )
    table.add_column("speaker")
    for emotion in (*found.emotions, "all", "minutes"):
        table.add_column(emotion, justify="right")
    for speaker, counts in found.by_speaker.items():
        row = [str(counts.get(emotion, 0)) for emotion in found.emotions]
        table.add_row(escape(speaker), *row, str(sum(counts.values())), f"{found.minutes[speaker]:.1f}")
    totals = [
        str(sum(counts.get(emotion, 0) for counts in found.by_speaker.values())) for emotion in found.emotions
    ]
    table.add_section()
    table.add_row("all", *totals, str(found.num_utterances), f"{60 * found.hours:.1f}")
    results().print(table)
    if plot is not None:
        draw(found, plot)
        say(f"drawn: {plot}")


@corpus_app.command("audit")
def audit(
    recipe: Annotated[str, typer.Argument(help="Recipe whose corpus and folds are to be audited.")],
    set: Set = None,
) -> None:
    """Check the folds of a recipe for leaks: speakers, utterances or identical recordings in two splits."""
    from emodistill.config import load_recipe
    from emodistill.corpora.opening import open_corpus
    from emodistill.protocol import audit as check
    from emodistill.protocol import build_protocol

    loaded = load_recipe(recipe, set or ())
    corpus = open_corpus(loaded.corpus, say)
    protocol = build_protocol(corpus, loaded.protocol)
    found = check(corpus, protocol, loaded.runtime.workers)
    table = Table(title=f"{corpus.name}, {protocol.description}, hash {protocol.stamp}: no leak")
    for column in ("fold", "train", "dev", "test", "test transcripts also in training"):
        table.add_column(column, justify="right")
    for fold in protocol.folds:
        share = found.shared_transcripts.get(fold.name)
        shown = "–" if share is None else f"{100 * share:.1f} %"
        table.add_row(fold.name, str(len(fold.train)), str(len(fold.dev)), str(len(fold.test)), shown)
    results().print(table)
    for one, two in found.duplicates:
        results().print(f"identical recordings, always in one split: {one} = {two}")


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe or the path of a TOML file.")],
    fold: Annotated[str | None, typer.Option(help="Which fold; default: the first.")] = None,
    init: Annotated[
        str | None,
        typer.Option(help="Start the student from a model: bundled, an exported folder, or a checkpoint."),
    ] = None,
    out: Out = None,
    set: Set = None,
) -> None:
    """One fold: teachers, their targets, student, predictions, scores. Resumes where it was stopped.

    Example: emodistill train ravdess-whisper --set corpus.root=RAVDESS --set student.backbone=DIR
    """
    started = [] if init is None else [f"student.init={init}"]
    _run(recipe, [*(set or ()), *started], out, one_fold=True, fold=fold)


@app.command()
def crossval(recipe: Annotated[str, typer.Argument(help="A shipped recipe or the path of a TOML file.")],
             out: Out = None, set: Set = None) -> None:  # fmt: skip
    """Every fold of a recipe, teachers trained inside the fold; then one table. Resumes where it was stopped.

    Example: emodistill crossval ravdess-whisper --set corpus.root=RAVDESS --set seed=1
    """
    _run(recipe, set or (), out, one_fold=False, fold=None)


@app.command()
def ablate(
    recipe: Annotated[
        str, typer.Argument(help="A shipped recipe or the path of a TOML file: the full method.")
    ],
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD=VALUE,…",
            help="Also this field of the recipe at these values, e.g. distillation.temperature=1,2,4,8, "
            "student.backbone=compact,DIR or student.layers=2,3,4. Repeatable.",
        ),
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Run every cell with these, e.g. 0,1,2.")] = None,
    cells: Annotated[
        str | None,
        typer.Option(help="Only these cells beside the full method, e.g. no-distillation,prosodic-only."),
    ] = None,
    parts: Annotated[
        bool, typer.Option(help="Take parts of the method away; --no-parts for a sweep alone.")
    ] = True,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder. Default: runs/RECIPE-ablation.")
    ] = None,
    set: Set = None,
) -> None:
    """What does each part of the method give? A grid of runs, and one table with intervals.

    Beside the full method: no distillation; each teacher alone; the embedding level alone; the logit level alone;
    no hard label; and whatever is swept. Cells without the input they need (no transcripts: no linguistic teacher)
    are left out, and it is said. Teachers, targets, features and frozen layers are made once for all cells; each
    cell predicts what crossval of its recipe would. Stop it at any time and run it again, also with more seeds
    or sweeps. Writes ablation.md, ablation.csv and ablation.png.

    Example: emodistill ablate ravdess-whisper --set corpus.root=RAVDESS --seeds 0,1,2
    --sweep distillation.temperature=1,2,4,8
    """
    _need_training()
    from emodistill.config import load_recipe
    from emodistill.evaluation.ablation import show as show_ablation
    from emodistill.training.ablate import ablate as run_grid

    loaded = load_recipe(recipe, set or ())
    folder = out or Path("runs") / f"{loaded.name}-ablation"
    chosen = None if seeds is None else [_whole_number(text) for text in _names(seeds) or ()]
    found = run_grid(loaded, folder, chosen, sweep or (), parts, _names(cells))
    show_ablation(found, results())
    say(f"{folder}: ablation.md, ablation.csv, ablation.png; every run is in {folder / 'cells'}")


@app.command()
def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            help="bundled, an exported folder, a checkpoint or run folder, or a Hugging Face audio classifier."
        ),
    ],
    corpus: Annotated[
        str, typer.Argument(help="A manifest (.csv, .tsv, .parquet), or a known corpus by name.")
    ],
    folder: Annotated[
        Path | None, typer.Argument(help="Of a known corpus, as its authors distribute it.")
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="Label map of the corpus: own, four, seven, all, or a list a,b,c.")
    ] = None,
    map: Annotated[
        str | None,
        typer.Option(help="What the model's names mean: ang=angry,hap=happy; oth=- leaves one out."),
    ] = None,
    emotions: Annotated[
        str | None, typer.Option(help="Score these alone, where model and corpus know different ones.")
    ] = None,
    heard: Annotated[
        HeardRule,
        typer.Option(
            help="What the model learned from, and its speakers: refuse, leave-out, or allow and stamp."
        ),
    ] = HeardRule.refuse,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder. Default: runs/evaluate-MODEL-CORPUS.")
    ] = None,
    format: Annotated[Tabular, typer.Option("--format", "-f", help="table, json or csv.")] = Tabular.table,
) -> None:
    """Scores of any model on any corpus, with predictions.csv, in a folder that compare and report read.

    Exported models are asked through the recogniser, as their users hear them. A model that lists what it learned
    from is refused on a corpus with these utterances or speakers in it, unless told otherwise.

    Exit code 0: all judged; 1: some audio could not be read, the rest is done; 2: nothing was done.

    Example: emodistill evaluate bundled ravdess RAVDESS --labels seven --heard leave-out
    """
    _need_training()
    from emodistill.evaluate import evaluate as run
    from emodistill.evaluate import open_judge, open_labelled, read_mapping
    from emodistill.evaluation.run import read_run
    from emodistill.evaluation.scores import full_scores
    from emodistill.evaluation.tables import show_scores

    mapping = read_mapping(map)
    labelled, lacking = open_labelled(corpus, folder, labels)
    judge, digest = open_judge(model)
    there = out or Path("runs") / f"evaluate-{Path(model).name}-{labelled.name}"
    failed = run(judge, labelled, there, model, mapping, _names(emotions), heard.value, digest)
    show_scores(full_scores(read_run(there)), format, results())
    say(f"folder: {there}")
    raise typer.Exit(1 if failed or lacking else 0)


@app.command()
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Two or more run folders under one protocol; the first is the reference."),
    ],
    format: Annotated[Tabular, typer.Option("--format", "-f", help="table, json or csv.")] = Tabular.table,
    every_pair: Annotated[
        bool, typer.Option("--every-pair", help="Also the others with each other.")
    ] = False,
    resamples: Annotated[int, typer.Option(min=100, help="Draws of the bootstrap.")] = 10_000,
) -> None:
    """Paired differences of runs on the same test utterances: is one better, or was it luck?

    UA and WA by bootstrap over speakers, with 95 % intervals and p-values; McNemar's test counts the utterances
    that one run alone got right. "Holm" is the p-value corrected for all the comparisons in the table. Runs whose
    protocols differ are refused, with the first difference.

    Example: emodistill compare runs/plain runs/prosodic runs/both
    """
    _need_training()
    from emodistill.evaluation.compare import compare_all
    from emodistill.evaluation.tables import show_comparisons

    show_comparisons(compare_all(runs, every_pair, resamples), format, results())


@app.command()
def scores(
    run: Annotated[Path, typer.Argument(help="A run folder of train, crossval or evaluate.")],
    format: Annotated[Tabular, typer.Option("--format", "-f", help="table, json or csv.")] = Tabular.table,
) -> None:
    """All that a run's test predictions say, with 95 % intervals by bootstrap over speakers.

    UA, WA, macro and weighted F1, recall and confusion of the student and each teacher; calibration before and
    after scaling by a temperature fitted on each fold's dev speakers; scores by speaker, gender, language, duration
    and corpus; agreement with the teachers; what a single listener achieves, where a corpus has listeners' votes.

    Example: emodistill scores runs/ravdess-whisper-seed0 --format json
    """
    _need_training()
    from emodistill.evaluation.run import read_run
    from emodistill.evaluation.scores import full_scores
    from emodistill.evaluation.tables import show_scores

    with console.status("drawing speakers"):
        found = full_scores(read_run(run))
    show_scores(found, format, results())


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders; several are compared with the first.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The page.")] = Path("report.html"),
    errors: Annotated[int, typer.Option(min=0, help="How many of the most confident errors are shown.")] = 12,
    audio: Annotated[
        bool, typer.Option(help="Put the sound of these errors into the page; mind who may hear it.")
    ] = True,
    fold: Annotated[
        str | None, typer.Option(help="Whose student's embeddings are mapped; default: the first's.")
    ] = None,
) -> None:
    """Runs as one HTML page that needs no network: scores, curves, calibration, and errors to listen to.

    What a run folder no longer holds (checkpoints, audio) is left out, and the page says so.

    Example: emodistill report runs/plain runs/taught -o report.html
    """
    _need_training()
    from emodistill.report.build import write_report

    with console.status("gathering"):
        notes = write_report(runs, out, errors, audio, fold)
    for note in notes:
        say(note)
    say(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


@app.command()
def export(
    run: Annotated[Path | None, typer.Argument(help="A run folder of train or crossval.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for model.onnx and card.json.")
    ] = None,
    web: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Also, or alone: a static page that runs the model in the browser. Without RUN, that of --model.",
        ),
    ] = None,
    model: Model = "bundled",
    fold: Annotated[str | None, typer.Option(help="Whose student; default: the run's first fold.")] = None,
    precision: Annotated[
        Precision, typer.Option(help="fp32; fp16: half the size, same speed; int8: a quarter, and faster.")
    ] = Precision.fp32,
    check: Annotated[
        Path | None,
        typer.Option(
            help="Manifest of labelled utterances that int8 is judged by; default: the fold's test."
        ),
    ] = None,
    texts: Annotated[
        Path | None,
        typer.Option(help="TOML of what no figure can say in the card: name, licence, limits, intended_use."),
    ] = None,
) -> None:
    """Export a student as ONNX with its card, behind a gate.

    Refused, with the figures, is an fp32 model that differs from torch by over 1e-4, an fp16 one that differs
    from it by over 1e-2 or in an emotion, and an int8 one that loses over a point of UA or changes over 2 %
    of the emotions.

    Example: emodistill export runs/ravdess-whisper-seed0 -o exported --precision int8
    A page: emodistill export --web page && python -m http.server --directory page
    """
    if run is None and web is not None and out is None:
        _export_web(model, web)
        return
    if run is None or out is None:
        raise ConfigError("expected RUN and --out FOLDER; or --web DIR alone, for a page with --model")
    _need_training()
    from emodistill.corpora import read_manifest
    from emodistill.export import export_run, read_texts

    judged = None if check is None else read_manifest(check)
    words = None if texts is None else read_texts(texts)
    with console.status("exporting, and comparing with torch"):
        card = export_run(run, out, fold, precision.value, judged, words)
    size = (out / "model.onnx").stat().st_size / 1e6
    figures = card.quantisation
    moved = {
        "fp32": "",
        "fp16": f"; stored in fp16 a probability moves by at most {figures.get('difference', 0):.1e}",
        "int8": f"; int8 gives {100 * figures.get('agreement', 0):.1f} % of {figures.get('utterances', 0):.0f} utterances "
        f"the same emotion at {figures.get('speed_ratio', 0):.2f} × the speed",
    }
    say(
        f"{out}: {size:.1f} MB, {card.num_parameters / 1e6:.2f} M parameters, emotions {list(card.emotions)}; differs from "
        f"torch by at most {max(card.parity['alone'], card.parity['batched']):.1e} over {card.parity['utterances']:.0f} "
        f"utterances{moved[card.precision]}"
    )
    if web is not None:
        _export_web(str(out), web)


@app.command()
def demo(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Where runs and the exported model are kept.")
    ] = Path("runs/demo"),
) -> None:
    """The whole method on the embedded synthetic corpus, in minutes, offline: teachers, student, export, predict."""
    _need_training()
    from emodistill.story import tell

    tell(out, results())


def _export_web(model: str, out: Path) -> None:
    from emodistill.web import export_web

    size = export_web(model, out)
    say(f"{out}: {size / 1e6:.1f} MB; to look at it: python -m http.server --directory {out}")


def _run(recipe: str, overrides: Sequence[str], out: Path | None, one_fold: bool, fold: str | None) -> None:
    _need_training()
    from emodistill.config import load_recipe
    from emodistill.training.crossval import crossval as run_all
    from emodistill.training.crossval import show

    loaded = load_recipe(recipe, overrides)
    folder = out or Path("runs") / f"{loaded.name}-seed{loaded.seed}"
    only, limit = ([fold], None) if fold else (None, 1 if one_fold else None)
    scores = run_all(loaded, folder, only, limit)
    show(scores, results())
    say(f"run folder: {folder}\nnext: emodistill export {folder} -o exported")


def _need_training() -> None:
    try:
        import lightning
        import torch
    except ImportError as error:
        raise MissingExtraError(error.name or "torch", "train") from error
    del lightning, torch


def _whole_number(text: str) -> int:
    if not text.isdecimal():
        raise ConfigError(f"bad seed '{text}', expected whole numbers with commas between, such as 0,1,2")
    return int(text)


def _names(listed: str | None) -> list[str] | None:
    """The names of a comma-separated list."""
    return None if listed is None else [name.strip() for name in listed.split(",") if name.strip()]


def main() -> None:
    """The entry point: what a user can mend is one message on standard error and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors=UNENCODABLE)
    try:
        app()
    except (EmodistillError, OSError) as error:
        text = " ".join(str(error).split()) if isinstance(error, OSError) else str(error)
        console.print(f"error: {text}", style="bold red", markup=False)
        sys.exit(2)


if __name__ == "__main__":
    main()
