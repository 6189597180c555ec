"""Measures the calibration of a run's student, and what abstaining brings.

    python benchmarks/calibration.py RUN [--plot FILE.png]

In each fold, the temperature is fitted on the dev speakers and the measures are computed on the test
speakers.
"""

import argparse
from pathlib import Path

import numpy as np

from emodistill.evaluation.calibration import (
    CALIBRATION_MEASURES,
    coverage_curve,
    fit_temperature,
    plot_reliability,
    with_temperature,
)
from emodistill.evaluation.predictions import Predictions, read_predictions


def main() -> None:
    """Print the tables, and draw the plot if it is wanted."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--plot", type=Path, help="draw reliability and risk to this file")
    given = parser.parse_args()
    dev = read_predictions(given.run / "predictions-dev.csv").by_fold()
    test = read_predictions(given.run / "predictions.csv").by_fold()
    temperatures = {fold: fit_temperature(table) for fold, table in dev.items()}
    before = Predictions.join(test.values())
    after = Predictions.join(with_temperature(table, temperatures[fold]) for fold, table in test.items())
    values = ", ".join(f"{value:.2f}" for value in temperatures.values())
    print(f"{given.run}: {len(before)} test utterances, {len(test)} folds, temperatures {values}\n")
    print("| on test | as trained | with temperature |\n| --- | --- | --- |")
    for name, measure in CALIBRATION_MEASURES.items():
        title = "calibration error" if name == "ece" else name.upper()
        print(f"| {title} | {measure(before):.4f} | {measure(after):.4f} |")
    answered = Predictions.join(with_temperature(table, temperatures[fold]) for fold, table in dev.items())
    confidence, right = after.probabilities.max(axis=1), after.predicted == after.truth
    print("\n| coverage on dev | coverage on test | accuracy of the answers on test |\n| --- | --- | --- |")
    for point in coverage_curve(answered, 5):
        sure = confidence >= point.min_confidence
        cells = (
            f"{100 * point.coverage:.0f} %",
            f"{100 * np.mean(sure):.0f} %",
            f"{100 * right[sure].mean():.1f} %",
        )
        print(f"| {' | '.join(cells)} |")
    if given.plot is not None:
        plot_reliability({"as trained": before, "with temperature": after}, given.plot)


if __name__ == "__main__":
    main()
