"""Calibration of a run's student: each fold's temperature from its own dev speakers, judged on its test speakers.

python benchmarks/calibration.py RUN [--plot FILE.png]
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
from emodistill.evaluation.predictions import join_predictions, read_predictions


def main() -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    dev = read_predictions(given.run / "predictions-dev.csv").by_fold()
    test = read_predictions(given.run / "predictions.csv").by_fold()
    temperatures = {fold: fit_temperature(table) for fold, table in dev.items()}
    before = join_predictions(test.values())
    after = join_predictions(with_temperature(table, temperatures[fold]) for fold, table in test.items())
    shown = ", ".join_predictions(f"{value:.2f}" for value in temperatures.values())
    print(f"{given.run}: {len(before)} test utterances, {len(test)} folds, temperatures {shown}\n")
    print("| on test | as trained | with temperature |\n| --- | --- | --- |")
    for name, measure in CALIBRATION_MEASURES.items():
        print(f"| {name.upper()} | {measure(before):.4f} | {measure(after):.4f} |")
    answered = join_predictions(with_temperature(table, temperatures[fold]) for fold, table in dev.items())
    confidence, right = after.probabilities.max(axis=1), after.predicted == after.truth
    print("\n| asked for, by dev | answered on test | of these right |\n| --- | --- | --- |")
    for point in coverage_curve(answered, 5):
        sure = confidence >= point.min_confidence
        print(
            f"| {100 * point.coverage:.0f} % | {100 * np.mean(sure):.0f} % | {100 * right[sure].mean():.1f} % |"
        )
    if given.plot is not None:
        plot_reliability({"as trained": before, "with temperature": after}, given.plot)


if __name__ == "__main__":
    main()
