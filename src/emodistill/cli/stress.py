"""The verb that changes recordings and compares the answers: stress."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emodistill.cli.options import (
    Force,
    Jobs,
    MapEmotions,
    Provider,
    TableColumns,
    app,
    names_in,
    number_of_jobs,
    read_renaming,
    stoppable,
)
from emodistill.cli.scoring import SeenRule
from emodistill.console import results, say
from emodistill.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from emodistill.corpora.load import CorpusSource

NEEDED = {"av": "av", "jinja2": "jinja2", "scipy": "scipy", "swift_f0": "swift-f0"}  # of the extra `stress`


# Long: Typer makes an option of each parameter, and each option has its help text beside it.
@app.command()
def stress(
    model: Annotated[
        str | None,
        typer.Argument(
            help="bundled, a fetched model, an exported folder, a checkpoint or run folder, a Hugging Face "
            "audio classifier, the hub id of one (organisation/name[@revision]), or a bare .onnx file."
        ),
    ] = None,
    corpus: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=DIR",
            help="A known corpus and its folder, as its authors distribute it; demo needs no "
            "folder. Repeatable.",
        ),
    ] = None,
    manifest: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="A table of your own recordings (.csv, .tsv, .parquet). With a column split, its rows of "
            "test are used. Repeatable.",
        ),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder that holds the audio of the manifests. Default: the folder of each manifest. Paths "
            "that lead elsewhere are refused.",
        ),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Use the test speakers of this list alone. five-corpora has those of the bundled model.",
        ),
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="Label map of the corpora: own, four, seven, all, or a list a,b,c.")
    ] = None,
    columns: TableColumns = None,
    map_emotions: MapEmotions = None,
    emotions: Annotated[
        str | None,
        typer.Option(help="The emotions of a bare .onnx file, in the order of its probabilities."),
    ] = None,
    map: Annotated[
        str | None,
        typer.Option(
            help="The emotion of each of the model's names, e.g. ang=angry,hap=happy; oth=- leaves oth out."
        ),
    ] = None,
    seen: Annotated[
        SeenRule,
        typer.Option(
            help="What to do with speakers that the model was trained or chosen on: refuse the corpus, leave "
            "them out, or allow them and mark the result."
        ),
    ] = SeenRule.refuse,
    utterances: Annotated[
        int,
        typer.Option(
            min=0, help="Utterances of each corpus, drawn evenly from its emotions and speakers. 0: all."
        ),
    ] = 300,
    only: Annotated[
        str | None,
        typer.Option(help="Run only these changes or groups, e.g. small,babble-10db,fairness."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the draw of utterances and of all changes.")] = 0,
    music: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Mix in the music of this folder, in place of that of Debian packages."
        ),
    ] = None,
    ambience: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Mix in the ambience of this folder, in place of that of Debian packages."
        ),
    ] = None,
    audio: Annotated[
        bool, typer.Option(help="Put sounds of one utterance into the page. It may be personal data.")
    ] = True,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder. Default: runs/stress-MODEL.")
    ] = None,
    jobs: Jobs = None,
    provider: Provider = "cpu",
    force: Force = False,
    list_changes: Annotated[
        bool, typer.Option("--list", help="Print each change with its marks, and run nothing.")
    ] = False,
) -> None:
    """Change recordings in many ways, and check that a model keeps its answers.

    Small changes must not change an answer: a little gain, silence around the speech, another cut, a codec.
    Sounds may change some: babble, music, telephone lines, rooms. Fairness compares groups of speakers. Each
    change has marks, which were fixed before any model was measured; --list shows them. Where ser-tests of
    audEERING has a mark for the same change, it is that one.

    A model with voices runs twice: without a voice, and compared with up to ten other utterances of the
    speaker. These have the same change.

    Recordings need no labels. With labels, the change of accuracy is checked too.

    Writes stress.json, stress.html and junit.xml into the folder. A run that was stopped continues with the
    same command. Needs the extra [stress], and [train] for models that torch runs.

    Exit code 0: enough cells of each group pass. 1: some group fails, a change was not run, or nothing was
    checked. 2: nothing was run.

    Examples:

    emodistill stress bundled --corpus demo --only small --utterances 20

    emodistill stress bundled --corpus ravdess=RAVDESS --protocol five-corpora

    emodistill stress model.onnx --emotions angry,happy,sad --manifest calls.csv
    """
    from emodistill.stress.base import check_names, read_marks

    for module, package in NEEDED.items():
        if find_spec(module) is None:
            raise MissingExtraError(package, "stress", "the stress suite")
    marks = read_marks()
    if list_changes:
        from emodistill.stress.changes import CHANGES
        from emodistill.stress.outputs import show_changes

        show_changes(CHANGES, {**marks["small"], **marks["sounds"]}, results())
        return
    if model is None:
        raise ConfigError("name a model, such as bundled; emodistill stress --list shows the changes")
    names = names_in(only)
    if names is not None:
        check_names(names)
    sources = _sources(corpus or (), manifest or (), root, columns, map_emotions)
    from emodistill.inference.hub import folder_name
    from emodistill.stress.data import check_protocol, licences, read_backgrounds, read_corpora
    from emodistill.stress.models import answered_emotions, open_any_model
    from emodistill.training.evaluation_run import read_mapping

    mapping = read_mapping(map)
    check_protocol(protocol)
    evaluated, sha256 = open_any_model(model, names_in(emotions), provider)
    # Only now, because they load scipy.
    from emodistill.stress.answers import Options
    from emodistill.stress.changes import chosen_changes
    from emodistill.stress.outputs import show_result, write_json, write_junit
    from emodistill.stress.page import write_page
    from emodistill.stress.suite import run_suite

    changes, with_fairness = chosen_changes(names), names is None or "fairness" in names
    options = Options(utterances, seed, seen.value, answered_emotions(evaluated, mapping))
    corpora = read_corpora(sources, labels, protocol)
    background = read_backgrounds(changes, music, ambience)
    folder = out or Path("runs") / f"stress-{folder_name(model)}"
    num_jobs = number_of_jobs(jobs, max(len(item) for item in corpora))
    with stoppable(lambda: "stopped; to continue, run the same command again"):
        result = run_suite(
            evaluated, model, sha256, corpora, changes, with_fairness, folder, options, num_jobs,
            background, force,
        )  # fmt: skip
    write_json(result, folder / "stress.json")
    write_junit(result, folder / "junit.xml")
    write_page(
        result, changes, marks, folder / "stress.html", result.example if audio else None,
        licences([change for change in changes if change.needs not in background.missing], music, ambience),
    )  # fmt: skip
    show_result(result, results())
    say(f"folder: {folder}")
    raise typer.Exit(0 if result.passed else 1)


def _sources(
    corpora: Sequence[str],
    manifests: Sequence[Path],
    root: Path | None,
    columns: list[str] | None,
    map_emotions: list[str] | None,
) -> "list[CorpusSource]":
    """Return the corpora of --corpus and --manifest. Raises `ConfigError` for none, and for bad text."""
    from emodistill.corpora.load import CorpusSource
    from emodistill.corpora.manifest import check_manifest
    from emodistill.corpora.readers import READERS

    renamed, emotions = read_renaming(columns, map_emotions)
    sources = []
    for text in corpora:
        name, _, folder = text.partition("=")
        packaged = READERS[name].packaged if name in READERS else None
        if not folder and packaged is None and name in READERS:
            raise ConfigError(f"bad --corpus '{text}', expected NAME=DIR, e.g. {name}=FOLDER")
        sources.append(CorpusSource(name, Path(folder) if folder else packaged))
    for path in manifests:
        check_manifest(path)
        sources.append(CorpusSource(str(path), root, renamed, emotions))
    if not sources:
        raise ConfigError(
            "no recordings: name a known corpus with --corpus NAME=DIR, a table with --manifest FILE, or try "
            "--corpus demo"
        )
    return sources
