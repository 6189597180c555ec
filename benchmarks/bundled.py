"""Measures the bundled model: scores by corpus, calibration, and scores on a corpus that it did not learn
from.

    python benchmarks/bundled.py RUN [--unheard RUN] [--plot FILE] [--through MODEL --data DIR]

RUN is the run folder of `emodistill train bundled`. --unheard names the run folder of the same recipe with
`--set protocol.fixed=five-corpora-unheard-ravdess`. --through also scores the exported model as users run it:
on the files, with `Recognizer` and its speech detector. Intervals are 95 % intervals by bootstrap over
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
    calibration_error_interval,
    fit_temperature,
    plot_reliability,
    with_temperature,
)
from emodistill.evaluation.metrics import unweighted_accuracy, weighted_accuracy
from emodistill.evaluation.predictions import Predictions, read_predictions
from emodistill.labels import LABEL_MAPS, LabelSet

MODELS = ("student", "acoustic", "prosodic")


def main() -> None:
    """Print the tables, and draw the plot if it is wanted."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="run folder of the recipe `bundled`")
    parser.add_argument("--unheard", type=Path, help="run folder of the recipe trained without RAVDESS")
    parser.add_argument("--plot", type=Path, help="draw reliability and risk to this file")
    parser.add_argument("--through", type=Path, help="folder of the exported model")
    parser.add_argument("--data", type=Path, help="with --through: folder with the corpora")
    given = parser.parse_args()
    models = [name for name in MODELS if _table(given.run, name).is_file()]
    tables = {name: read_predictions(_table(given.run, name)) for name in models}
    print("| corpus | utterances | model | UA, all seven | UA, the corpus's own emotions | WA |")
    print("| --- | ---: | --- | ---: | ---: | ---: |")
    for corpus in _corpora(tables["student"]):
        for name, table in tables.items():
            _row(corpus, name, _of(table, corpus))
    dev, test = read_predictions(_table(given.run, "student", "-dev")), tables["student"]
    _calibration(dev, test, given.plot)
    if given.unheard:
        print("\nRAVDESS, by a model trained without it, four emotions:\n")
        print("| model | utterances | UA | WA |\n| --- | ---: | ---: | ---: |")
        for name in models:
            four = _four(_of(read_predictions(_table(given.unheard, name)), "ravdess"))
            print(f"| {name} | {len(four)} | {_with_interval(four)} | {100 * _wa(four):.1f} |")
    if given.through:
        _through(given.through, given.data, test)


def _table(run: Path, model: str, suffix: str = "") -> Path:
    return run / f"predictions{'' if model == 'student' else f'-{model}'}{suffix}.csv"


def _corpora(table: Predictions) -> list[str]:
    return sorted({name.partition("/")[0] for name in table.utterances})


def _of(table: Predictions, corpus: str) -> Predictions:
    return table.select([name.startswith(f"{corpus}/") for name in table.utterances])


def _within(table: Predictions, names: Sequence[str]) -> Predictions:
    """Return the table over these emotions alone: other utterances removed, probabilities renormalised."""
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
    cells = (corpus, len(table), name, _with_interval(table), _with_interval(own), f"{100 * _wa(table):.1f}")
    print(f"| {' | '.join(map(str, cells))} |")


def _wa(table: Predictions) -> float:
    return weighted_accuracy(table.truth, table.predicted)


def _with_interval(table: Predictions) -> str:
    interval = bootstrap_interval(table, lambda part: unweighted_accuracy(part.truth, part.predicted))
    ua = f"{100 * unweighted_accuracy(table.truth, table.predicted):.1f}"
    return ua if interval is None else f"{ua} ({100 * interval[0]:.1f} … {100 * interval[1]:.1f})"


def _calibration(dev: Predictions, test: Predictions, plot: Path | None) -> None:
    temperature = fit_temperature(dev)
    scaled = with_temperature(test, temperature)
    print(f"\nTemperature, from dev: {temperature:.3f}. Calibration error on all test speakers pooled:")
    for name, table in (("before", test), ("after", scaled)):
        low, high = calibration_error_interval(table)
        print(f"  {name}: {calibration_error(table):.4f} ({low:.4f} … {high:.4f})")
    for corpus in _corpora(test):
        print(f"  after, {corpus}: {calibration_error(_of(scaled, corpus)):.4f}")
    if plot is not None:
        plot_reliability({"before scaling": test, "after scaling": scaled}, plot)


def _through(model: Path, data: Path, test: Predictions) -> None:
    """Print scores of the exported model on the test files, run with `Recognizer`."""
    from emodistill.config import load_recipe
    from emodistill.corpora.load import open_corpus
    from emodistill.inference.recognizer import Recognizer

    recognizer = Recognizer(model)
    corpus = open_corpus(load_recipe("bundled", [f"corpus.root={data}"]).corpus, lambda _: None)
    paths = {utterance.id: utterance.path for utterance in corpus}
    sources = [path for name in test.utterances if (path := paths[name]) is not None]
    predictions = list(recognizer.predict_all(sources, jobs=2))
    reasons = [item.reason for item in predictions if item.emotion is None]
    print(f"\nWith Recognizer: {len(reasons)} of {len(predictions)} without an emotion", reasons[:5])
    uniform = dict.fromkeys(recognizer.emotions, 1 / len(recognizer.emotions))
    rows = [[(item.probabilities or uniform)[name] for name in test.labels] for item in predictions]
    table = replace(test, probabilities=np.array(rows))
    for name in _corpora(test):
        print(f"  {name}: UA {_with_interval(_of(table, name))}")
    low, high = calibration_error_interval(table)
    print(f"  calibration error {calibration_error(table):.4f} ({low:.4f} … {high:.4f})")


if __name__ == "__main__":
    main()
