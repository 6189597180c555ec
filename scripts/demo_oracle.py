"""Compare the predicted dimensions of a run on the demo corpus with those of an oracle.

    python scripts/demo_oracle.py RUN

RUN is a run with dimensions on the packaged demo corpus, such as one of the recipe demo-dimensions. The
oracle knows the drawn prosody, the speaker's usual voice and the emotion of the words. It predicts the
expected mean of the raters, `emodistill.demo.ratings.expected_ratings`. What remains between its CCC and 1 is
the noise of the raters. No model can be expected to have a lower RMSE than the oracle, or a CCC above its
Pearson r. The scores are over all test utterances of the run, pooled.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from rich.table import Table

from emodistill.console import results
from emodistill.demo.generate import plan
from emodistill.demo.ratings import SCALE, expected_ratings
from emodistill.errors import EmodistillError, ModelError
from emodistill.evaluation.dimension_predictions import DimensionPredictions, read_dimensions
from emodistill.evaluation.dimension_scores import measure_pairs
from emodistill.labels import scale_text


def oracle_predictions(table: DimensionPredictions) -> np.ndarray:
    """Return the oracle's predictions (utterances, dimensions), from 0 to 1, for the rows of a table.

    Raises `ModelError` where an utterance or a dimension is not of the demo corpus.
    """
    planned = {item.id: item for item in plan()}
    low, high = SCALE
    predicted = np.zeros(table.truth.shape)
    for row, name in enumerate(table.utterances):
        if name not in planned:
            raise ModelError(f"'{name}' is no utterance of the demo corpus; expected a run on it")
        expected = expected_ratings(planned[name].true_dimensions())
        for column, dimension in enumerate(table.dimensions):
            if dimension not in expected:
                raise ModelError(f"the demo corpus has no {dimension}, only {', '.join(expected)}")
            predicted[row, column] = (expected[dimension] - low) / (high - low)
    return predicted


def rows_of(run: Path) -> list[tuple[str, str, float | None, float | None, float | None]]:
    """Return dimension, model, CCC, Pearson's r and RMSE of the oracle, the run and its teachers, on test."""
    tables = {"run": read_dimensions(run / "dimensions.csv")}
    for path in sorted(run.glob("dimensions-*.csv")):
        name = path.stem.removeprefix("dimensions-")
        if name.split("-")[-1] != "dev":
            tables[name] = read_dimensions(path)
    first = tables["run"]
    predictions = {"oracle": (first.truth, oracle_predictions(first))}
    predictions |= {name: (table.truth, table.predicted) for name, table in tables.items()}
    rows = []
    for column, dimension in enumerate(first.dimensions):
        for name, (truth, predicted) in predictions.items():
            scores = measure_pairs(truth[:, column], predicted[:, column])
            rows.append((dimension, name, scores["ccc"], scores["pearson"], scores["rmse"]))
    return rows


def main() -> int:
    """Return the exit code: 2 for a folder that is no run on the demo corpus."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder, with dimensions.csv")
    options = parser.parse_args()
    try:
        rows = rows_of(options.run)
    except EmodistillError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    table = Table(title=f"{options.run}: test utterances, from 0 to 1; ratings are {scale_text(SCALE)}")
    for title in ("dimension", "model", "CCC", "Pearson r", "RMSE"):
        table.add_column(title, justify="left" if title in ("dimension", "model") else "right")
    last = ""
    for dimension, name, *scores in rows:
        if last and dimension != last:
            table.add_section()
        cells = ["–" if score is None else f"{score:.3f}" for score in scores]
        table.add_row(dimension if dimension != last else "", name, *cells)
        last = dimension
    results().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
