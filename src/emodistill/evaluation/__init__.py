"""Scores of predictions: metrics, intervals, calibration, comparison of runs, and the tables of all these."""

from typing import TYPE_CHECKING

from emodistill.lazy import lazy_names

if TYPE_CHECKING:
    from emodistill.evaluation.ablation_systems import System
    from emodistill.evaluation.ablation_table import AblationTable, make_ablation_table
    from emodistill.evaluation.bootstrap import Estimate, bootstrap_interval
    from emodistill.evaluation.calibration import (
        area_under_risk,
        brier_score,
        calibration_error,
        fit_temperature,
        negative_log_likelihood,
        plot_reliability,
        reliability,
        risk_coverage,
        with_temperature,
    )
    from emodistill.evaluation.compare import Comparison, compare_runs, holm, mcnemar
    from emodistill.evaluation.differences import Difference, make_difference
    from emodistill.evaluation.groups import RunGroup, group_runs, ungrouped
    from emodistill.evaluation.metrics import (
        Scores,
        score,
        unweighted_accuracy,
        weighted_accuracy,
        weighted_f1,
    )
    from emodistill.evaluation.predictions import (
        Predictions,
        read_predictions,
        write_predictions,
    )
    from emodistill.evaluation.run import Run, read_run
    from emodistill.evaluation.scores import RunScores, score_run
    from emodistill.evaluation.tables import show_comparisons, show_scores

__all__ = [
    "AblationTable",
    "Comparison",
    "Difference",
    "Estimate",
    "Predictions",
    "Run",
    "RunGroup",
    "RunScores",
    "Scores",
    "System",
    "area_under_risk",
    "bootstrap_interval",
    "brier_score",
    "calibration_error",
    "compare_runs",
    "fit_temperature",
    "group_runs",
    "holm",
    "make_ablation_table",
    "make_difference",
    "mcnemar",
    "negative_log_likelihood",
    "plot_reliability",
    "read_predictions",
    "read_run",
    "reliability",
    "risk_coverage",
    "score",
    "score_run",
    "show_comparisons",
    "show_scores",
    "ungrouped",
    "unweighted_accuracy",
    "weighted_accuracy",
    "weighted_f1",
    "with_temperature",
    "write_predictions",
]

__getattr__, __dir__ = lazy_names(
    "emodistill.evaluation",
    {
        "AblationTable": "emodistill.evaluation.ablation_table",
        "Comparison": "emodistill.evaluation.compare",
        "Difference": "emodistill.evaluation.differences",
        "Estimate": "emodistill.evaluation.bootstrap",
        "Predictions": "emodistill.evaluation.predictions",
        "Run": "emodistill.evaluation.run",
        "RunGroup": "emodistill.evaluation.groups",
        "RunScores": "emodistill.evaluation.scores",
        "Scores": "emodistill.evaluation.metrics",
        "System": "emodistill.evaluation.ablation_systems",
        "area_under_risk": "emodistill.evaluation.calibration",
        "bootstrap_interval": "emodistill.evaluation.bootstrap",
        "brier_score": "emodistill.evaluation.calibration",
        "calibration_error": "emodistill.evaluation.calibration",
        "compare_runs": "emodistill.evaluation.compare",
        "fit_temperature": "emodistill.evaluation.calibration",
        "group_runs": "emodistill.evaluation.groups",
        "holm": "emodistill.evaluation.compare",
        "make_ablation_table": "emodistill.evaluation.ablation_table",
        "make_difference": "emodistill.evaluation.differences",
        "mcnemar": "emodistill.evaluation.compare",
        "negative_log_likelihood": "emodistill.evaluation.calibration",
        "plot_reliability": "emodistill.evaluation.calibration",
        "read_predictions": "emodistill.evaluation.predictions",
        "read_run": "emodistill.evaluation.run",
        "reliability": "emodistill.evaluation.calibration",
        "risk_coverage": "emodistill.evaluation.calibration",
        "score": "emodistill.evaluation.metrics",
        "score_run": "emodistill.evaluation.scores",
        "show_comparisons": "emodistill.evaluation.tables",
        "show_scores": "emodistill.evaluation.tables",
        "ungrouped": "emodistill.evaluation.groups",
        "unweighted_accuracy": "emodistill.evaluation.metrics",
        "weighted_accuracy": "emodistill.evaluation.metrics",
        "weighted_f1": "emodistill.evaluation.metrics",
        "with_temperature": "emodistill.evaluation.calibration",
        "write_predictions": "emodistill.evaluation.predictions",
    },
)
