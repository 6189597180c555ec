"""The verb that exports: a model for ONNX Runtime, for a web page, or for transformers."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emodistill.cli.options import Model, app, need_training
from emodistill.console import say
from emodistill.errors import ConfigError

if TYPE_CHECKING:
    from emodistill.inference.model_card import Card


class Precision(StrEnum):
    """The numbers of an exported model."""

    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"


class Target(StrEnum):
    """The program that the exported folder is for."""

    transformers = "transformers"


# Long: its signature holds the options and their help.
@app.command()
def export(
    run: Annotated[
        Path | None,
        typer.Argument(
            metavar="RUN",
            help="A run folder of train or crossval. With --to, also bundled, or the folder of an exported "
            "model.",
        ),
    ] = None,
    folder: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="The folder that --to writes, in place of --out.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for model.onnx, card.json and README.md."),
    ] = None,
    to: Annotated[
        Target | None,
        typer.Option(
            help="Write a folder for another program: transformers of Hugging Face. Default: ONNX Runtime."
        ),
    ] = None,
    web: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Also write a static web page that recognises in the browser. "
            "Without RUN, its model is --model.",
        ),
    ] = None,
    web_model: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Also write the model for programs of JavaScript with the npm package emodistill. "
            "Without RUN, it is --model.",
        ),
    ] = None,
    model: Model = "bundled",
    fold: Annotated[
        str | None, typer.Option(help="The fold whose student is exported. Default: the run's first fold.")
    ] = None,
    precision: Annotated[
        Precision,
        typer.Option(
            help="fp32; fp16: half the size, the same speed; int8: a third of the size, about twice as fast."
        ),
    ] = Precision.fp32,
    check: Annotated[
        Path | None,
        typer.Option(
            help="Manifest of labelled utterances to compare int8 with fp32 on. Default: the test split."
        ),
    ] = None,
    texts: Annotated[
        Path | None,
        typer.Option(
            help="TOML file with texts for the model card: name, backbone, licence, limits, intended_use."
        ),
    ] = None,
    unheard: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="RUN",
            help="A run of the same recipe that left out a corpus; may be given several times. The "
            "temperatures are fitted on these corpora. Default: on the dev speakers of RUN.",
        ),
    ] = None,
) -> None:
    """Export the student of a run as an ONNX model with its card. It then runs without torch.

    The exported model is compared with the trained one on real utterances. The export is refused, with the
    figures, where

    * fp32: an output differs from torch by more than 1e-4;
    * fp16: a probability or a dimension differs from fp32 by more than 1e-2, or any emotion changes;
    * int8: UA (mean recall of the emotions) falls by more than one point, more than 2 % of the emotions
      change, or a dimension differs by more than 0.02 (root mean square).

    Then the recogniser classifies the fold's test files with the exported model. These differences from
    crossval also refuse the export, the first two only if chance does not explain them:
    * UA is more than 1 point lower;
    * fewer than 95 % of the emotions are equal;
    * a dimension differs by more than 0.05 on average.

    Example: emodistill export runs/ravdess-whisper-seed0 -o exported --precision int8

    A web page: emodistill export --web page && python -m http.server --directory page

    For transformers: emodistill export bundled --to transformers DIR
    """
    if to is not None:
        refused = {
            "--web": web,
            "--web-model": web_model,
            "--check": check,
            "--precision": precision is not Precision.fp32 or None,
        }
        _export_transformers(run, folder, out, refused, fold, texts, unheard or ())
        return
    if folder is not None:
        raise ConfigError(f"unexpected '{folder}': give one RUN and --out DIR, or --to transformers DIR")
    if run is None and unheard:
        raise ConfigError("--unheard is for the export of a RUN: give its folder and --out")
    if run is None and out is None and (web or web_model):
        _export_web(model, web, web_model)
        return
    if run is None or out is None:
        raise ConfigError(
            "expected RUN and --out DIR, or --web DIR alone for a web page that runs --model, or "
            "--web-model DIR alone for a JavaScript program that runs it"
        )
    need_training()
    from emodistill.corpora import read_manifest
    from emodistill.evaluation.run import read_run

    check_corpus = None if check is None else read_manifest(check)
    opened = read_run(run, needs_scores=False)
    opened.checkpoint_folder(fold)
    folds = opened.scores["folds"]
    if fold is None and opened.all_data is None and len(folds) > 1:
        say(
            f"of {len(folds)} folds the student of fold {folds[0]} is exported: --fold chooses another one, "
            "and 'emodistill train --all' makes one of all data"
        )
    for other in unheard or ():
        read_run(other)

    from emodistill.export import export_run, read_card_texts  # it loads torch, so it comes last

    card_texts = None if texts is None else read_card_texts(texts)
    card = export_run(run, out, fold, precision.value, check_corpus, card_texts, unheard or ())
    say(_describe_export(card, out))
    _export_web(str(out), web, web_model)


# Long: the options of `export` that --to accepts.
def _export_transformers(
    model: Path | None,
    folder: Path | None,
    out: Path | None,
    refused: Mapping[str, object],
    fold: str | None,
    texts: Path | None,
    unheard: Sequence[Path],
) -> None:
    """Write a folder for transformers. Raises `ConfigError` for options that belong to other exports."""
    from emodistill.inference.model_card import licence_text
    from emodistill.integrations.transformers_export import export_transformers, find_source

    target = folder or out
    if model is None or target is None or (folder is not None and out is not None):
        raise ConfigError("expected MODEL --to transformers DIR, e.g. bundled --to transformers emotions")
    for option, value in refused.items():
        if value is not None:
            raise ConfigError(f"{option} has no meaning with --to transformers: leave it out")
    source = find_source(str(model), target, fold)
    of_run = {"--fold": fold, "--texts": texts, "--unheard": unheard or None}
    for option, value in of_run.items():
        if value is not None and source.card is not None:
            raise ConfigError(f"{option} is for a run, but '{model}' is an exported model: leave it out")
    card_texts = None
    if source.card is None:
        need_training()
        from emodistill.evaluation.run import read_run

        for other in unheard:
            read_run(other)
        if texts is not None:
            from emodistill.export import read_card_texts

            card_texts = read_card_texts(texts)
    written = export_transformers(str(model), target, fold, card_texts, unheard)
    size_mb = (target / "model.safetensors").stat().st_size / 1e6
    difference = f"{written.largest_difference:.1e} over {written.num_waveforms} waveforms"
    say(
        f"{target}: {size_mb:.1f} MB, emotions {list(written.card.emotions)}; its answers differ from those "
        f"of the ONNX model by at most {difference}, alone and in a padded batch. "
        f"Licence: {licence_text(written.card)}"
    )


def _describe_export(card: "Card", out: Path) -> str:
    size_mb = (out / "model.onnx").stat().st_size / 1e6
    figures, through = card.quantisation, card.through_recogniser
    tested = card.scores_note
    if "ua_recogniser" in through:
        tested = (
            f"through the recogniser it has UA {100 * through['ua_recogniser']:.1f} % on "
            f"{through['utterances']:.0f} test utterances, where crossval had "
            f"{100 * through['ua_crossval']:.1f} %"
        )
    test = card.scores.get("test", {})
    cccs = [f"{name} {test[f'ccc_{name}']:.3f}" for name in card.dimensions if f"ccc_{name}" in test]
    tested = "; ".join(filter(None, (tested, f"CCC on test: {', '.join(cccs)}" if cccs else "")))
    difference = max(card.parity["alone"], card.parity["batched"])
    predicted = [f"emotions {list(card.emotions)}"] if card.emotions else []
    predicted += [f"dimensions {list(card.dimensions)}"] if card.dimensions else []
    what = " or a ".join(
        name for name, present in (("probability", card.emotions), ("dimension", card.dimensions)) if present
    )
    kept = (
        [f"{100 * figures['agreement']:.1f} % of {figures['utterances']:.0f} utterances keep their emotion"]
        if "agreement" in figures
        else []
    )
    kept += (
        [f"a dimension differs by {figures['dimension_rmse']:.3f} (root mean square)"]
        if "dimension_rmse" in figures
        else []
    )
    fewer_bits = {
        "fp32": "",
        "fp16": f"; in fp16 a {what} differs from fp32 by at most {figures.get('difference', 0):.1e}",
        "int8": f"; in int8 {', '.join(kept)}, at {figures.get('speed_ratio', 0):.2f} × the speed of fp32",
    }
    return (
        f"{out}: {size_mb:.1f} MB, {card.num_parameters / 1e6:.2f} M parameters, "
        f"{', '.join(predicted)}; its outputs differ from torch by at most {difference:.1e} over "
        f"{card.parity['utterances']:.0f} utterances{fewer_bits[card.precision]}; {tested}"
    )


def _export_web(model: str, page: Path | None, web_model: Path | None) -> None:
    """Write a model as a page, as a folder for the npm package, as both, or as none."""
    from emodistill.serving.static_page import export_web, export_web_model

    if page is not None:
        size = export_web(model, page)
        say(f"{page}: {size / 1e6:.1f} MB; to open the page: python -m http.server --directory {page}")
    if web_model is not None:
        size = export_web_model(model, web_model)
        say(f"{web_model}: {size / 1e6:.1f} MB; serve this folder, and load it with Recognizer.load(its URL)")
