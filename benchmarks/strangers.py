"""Scores a model on corpora that it never heard, by default those that no model of ours learns from: EMOVO
(Italian) and Spanish.

    python benchmarks/strangers.py MODEL CORPORA -o FOLDER
    python benchmarks/strangers.py MODEL CORPORA --only ravdess [--ids emobox_cross_ravdess.csv] -o FOLDER

CORPORA has a folder for each corpus. --ids scores the utterances of a list alone. Scored are utterances that
are angry, happy, sad or neutral, and answers are restricted to these four. Known utterances are drawn from
all emotions of the speaker. FOLDER is a folder of `emodistill evaluate` over these corpora. The curve is also
printed, with the mean of the corpora and 95 % intervals by bootstrap over the speakers of each corpus. So is
the calibration error over all.

Each run is a look at these corpora: choose nothing by it, and log it in docs/results.md.
"""

import argparse
import csv
from dataclasses import replace
from pathlib import Path

from emodistill.corpora import Corpus, Utterance
from emodistill.corpora.load import CorpusSource
from emodistill.evaluation.calibration import calibration_error, calibration_error_interval, plot_reliability
from emodistill.evaluation.known import COUNTS, KNOWN_CSV, KNOWN_PREDICTIONS, read_known
from emodistill.evaluation.known_scores import MEAN_OF_CORPORA, score_known
from emodistill.evaluation.predictions import Predictions, read_predictions
from emodistill.evaluation.tables import format_estimate
from emodistill.labels import LABEL_MAPS
from emodistill.training.evaluated_models import open_model, voice_model
from emodistill.training.evaluation_run import (
    KnownUtterances,
    evaluate,
    open_labelled_corpus,
    read_every_utterance,
)


def main() -> None:
    """Evaluate, and print the curve and the calibration error."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="bundled, large, or the folder of an exported model")
    parser.add_argument("corpora", type=Path, help="folder with emovo and spanish")
    parser.add_argument("--out", "-o", type=Path, required=True, help="folder of the evaluation")
    parser.add_argument("--plot", type=Path, help="draw reliability and risk to this file")
    parser.add_argument("--only", default="emovo,spanish", help="the corpora, of emovo, spanish, ravdess")
    parser.add_argument("--ids", type=Path, help="CSV with the column id: the utterances to score")
    given = parser.parse_args()
    places: dict[str, tuple[str, Path | None]] = {
        name: (name, given.corpora / name) for name in given.only.split(",")
    }
    if "spanish" in places:
        places["spanish"] = (str(given.corpora / "spanish" / "utterances.csv"), None)
    scored: list[Utterance] = []
    everyone: list[Utterance] = []
    for name, (source, folder) in places.items():
        scored += _named(name, open_labelled_corpus(CorpusSource(source, folder), "four")[0])
        everyone += _named(name, read_every_utterance(CorpusSource(source, folder)))
    if given.ids is not None:
        with given.ids.open(newline="", encoding="utf-8") as file:
            ids = {row["id"] for row in csv.DictReader(file)}
        scored = [item for item in scored if item.id.partition("/")[2] in ids]
        if len(scored) < len(ids):
            parser.error(
                f"{len(ids) - len(scored)} of {len(ids)} ids of '{given.ids}' are not in the corpora"
            )
    evaluated, digest = open_model(given.model)
    known = None
    if evaluated.has_voices:
        voice_model(evaluated)
        known = KnownUtterances(COUNTS, Corpus("strangers", tuple(everyone)))
    corpus = Corpus("strangers", tuple(scored))
    four = LABEL_MAPS["four"].keep
    evaluate(evaluated, corpus, given.out, given.model, emotions=four, sha256=digest, known=known)
    plain = read_predictions(given.out / "predictions.csv")
    if known is not None:
        curve = read_known(given.out / KNOWN_CSV, plain.labels)
        print("| corpus | known | UA |\n| --- | ---: | ---: |")
        for score in score_known(curve, ""):
            if not score.is_stress_test and score.group in (*places, MEAN_OF_CORPORA):
                print(f"| {score.group} | {score.known} | {format_estimate(score.ua)} |")
    print("\n| calibration error | |\n| --- | ---: |")
    tables: dict[str, Predictions] = {}
    for name, path in (("as it is", "predictions.csv"), ("10 known", KNOWN_PREDICTIONS)):
        if (given.out / path).is_file():
            table = tables[name] = read_predictions(given.out / path)
            low, high = calibration_error_interval(table)
            print(f"| {name} | {calibration_error(table):.3f} ({low:.3f} … {high:.3f}) |")
    if given.plot is not None:
        plot_reliability(tables, given.plot)


def _named(name: str, corpus: Corpus) -> list[Utterance]:
    """The utterances with the name of their corpus, also in ids and speakers."""
    return [
        replace(item, id=f"{name}/{item.id}", speaker=f"{name}/{item.speaker}", corpus=name)
        for item in corpus
    ]


if __name__ == "__main__":
    main()
