"""How good the bundled model is: scores by corpus, calibration, and the corpus that it never heard.

    python benchmarks/bundled.py RUN [--unheard RUN] [--plot FILE] [--through MODEL --data DIR]

RUN is the folder of `emodistill train bundled`; --unheard that of the same recipe with
`--set protocol.fixed=bundled-unheard-ravdess`. --through scores the exported model again as its users hear
it: from the files, through the recogniser with its speech detector. Intervals are 95 %, by bootstrap over
speakers.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from emodistill.evaluation.bootstrap import bootstrap_interval
from emodistill.evaluation.calibration import (
    calibration_error,
    fit_temperature,
    plot_reliability,
    with_temperature,
)
from emodistill.evaluation.metrics import unweighted_accuracy, weighted_accuracy
from emodistill.evaluation.predictions import Predictions, read_predictions
from emodistill.labels import LABEL_MAPS, LabelSet

MODELS = ("student", "acoustic", "prosodic")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--unheard", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--through", type=Path)
    parser.add_argument("--data", type=Path)
    chosen = parser.parse_args()
    tables = {name: read_predictions(_table(chosen.run, name)) for name in MODELS}
    print("| corpus | utterances | model | UA, all seven | UA, the corpus's own emotions | WA |")
    print("| --- | ---: | --- | ---: | ---: | ---: |")
    for corpus in _corpora(tables["student"]):
        for name, table in tables.items():
            _row(corpus, name, _of(table, corpus))
    dev, test = read_predictions(_table(chosen.run, "student", "-dev")), tables["student"]
    _calibration(dev, test, chosen.plot)
    if chosen.unheard:
        print("\nRAVDESS never heard, four emotions:\n")
        print("| model | utterances | UA | WA |\n| --- | ---: | ---: | ---: |")
        for name in MODELS:
            four = _four(_of(read_predictions(_table(chosen.unheard, name)), "ravdess"))
            print(f"| {name} | {len(four)} | {_with_interval(four)} | {100 * _wa(four):.1f} |")
    if chosen.through:
        _through(chosen.through, chosen.data, test)


def _table(run: Path, model: str, suffix: str = "") -> Path:
    return run / f"predictions{'' if model == 'student' else f'-{model}'}{suffix}.csv"


def _corpora(table: Predictions) -> list[str]:
    return sorted({name.partition("/")[0] for name in table.utterances})


def _of(table: Predictions, corpus: str) -> Predictions:
    return table.select([name.startswith(f"{corpus}/") for name in table.utterances])


def _within(table: Predictions, names: Sequence[str]) -> Predictions:
    """Over these emotions alone, renormalised; utterances of others are left out."""
    kept = table.select([emotion in names for emotion in table.emotions])
    columns = [table.labels.index(name) for name in names]
    values = kept.probabilities[:, columns]
    return replace(
        kept, labels=LabelSet(tuple(names)), probabilities=values / values.sum(axis=1, keepdims=True)
    )


def _four(table: Predictions) -> Predictions:
    kept = LABEL_MAPS["four"].keep
    assert kept is not None
    return _within(table, kept)


def _row(corpus: str, name: str, table: Predictions) -> None:
    own = _within(table, [emotion for emotion in table.labels if emotion in table.emotions])
    print(
        f"| {corpus} | {len(table)} | {name} | {_with_interval(table)} | {_with_interval(own)} | {100 * _wa(table):.1f} |"
    )


def _wa(table: Predictions) -> float:
    return weighted_accuracy(table.truth, table.predicted)


def _with_interval(table: Predictions) -> str:
    low, high = bootstrap_interval(table, lambda part: unweighted_accuracy(part.truth, part.predicted))
    return (
        f"{100 * unweighted_accuracy(table.truth, table.predicted):.1f} ({100 * low:.1f} … {100 * high:.1f})"
    )


def _calibration(dev: Predictions, test: Predictions, plot: Path | None) -> None:
    temperature = fit_temperature(dev)
    scaled = with_temperature(test, temperature)
    print(f"\nTemperature, from dev: {temperature:.3f}. Calibration error on all test speakers pooled:")
    for name, table in (("before", test), ("after", scaled)):
        low, high = bootstrap_interval(table, calibration_error)
        print(f"  {name}: {calibration_error(table):.4f} ({low:.4f} … {high:.4f})")
    for corpus in _corpora(test):
        print(f"  after, {corpus}: {calibration_error(_of(scaled, corpus)):.4f}")
    if plot is not None:
        plot_reliability({"before scaling": test, "after scaling": scaled}, plot)


def _through(model: Path, data: Path, test: Predictions) -> None:
    """The exported model on the test files as they are, speech detection, trimming and temperature included."""
    from emodistill.config import load_recipe
    from emodistill.corpora.load import open_corpus
    from emodistill.inference.recognizer import Recognizer

    recognizer = Recognizer(model)
    corpus = open_corpus(load_recipe("bundled", [f"corpus.root={data}"]).corpus, lambda _: None)
    paths = {utterance.id: utterance.path for utterance in corpus}
    said = list(
        recognizer.predict_all([paths[name] for name in test.utterances if paths[name] is not None], jobs=2)
    )
    refused = [item for item in said if item.emotion is None]
    print(
        f"\nThrough the recogniser: {len(refused)} of {len(said)} without an emotion",
        [r.reason for r in refused][:5],
    )
    even = dict.fromkeys(recognizer.emotions, 1 / len(recognizer.emotions))
    rows = [[(item.probabilities or even)[name] for name in test.labels] for item in said]
    heard = replace(test, probabilities=np.array(rows))
    for name in _corpora(test):
        print(f"  {name}: UA {_with_interval(_of(heard, name))}")
    low, high = bootstrap_interval(heard, calibration_error)
    print(f"  calibration error {calibration_error(heard):.4f} ({low:.4f} … {high:.4f})")


if __name__ == "__main__":
    main()
