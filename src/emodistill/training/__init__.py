"""From a recipe and a corpus to trained models, their predictions and their scores.

`crossval` trains a recipe fold by fold. `ablate` trains a recipe and variants of it that lack a part of the
method. `tune` searches the values of some fields on dev. `evaluate` scores any model on any corpus. All of
them need [train].
"""

from typing import TYPE_CHECKING

from emodistill.lazy import lazy_names

if TYPE_CHECKING:
    from emodistill.training.ablation import ablate
    from emodistill.training.artifact_cache import ArtifactCache
    from emodistill.training.checkpoint_inference import predict_checkpoint
    from emodistill.training.cross_validation import crossval
    from emodistill.training.evaluated_models import open_model
    from emodistill.training.evaluation_run import evaluate
    from emodistill.training.tuning import tune

__all__ = ["ArtifactCache", "ablate", "crossval", "evaluate", "open_model", "predict_checkpoint", "tune"]

__getattr__, __dir__ = lazy_names(
    "emodistill.training",
    {
        "ArtifactCache": "emodistill.training.artifact_cache",
        "ablate": "emodistill.training.ablation",
        "crossval": "emodistill.training.cross_validation",
        "evaluate": "emodistill.training.evaluation_run",
        "open_model": "emodistill.training.evaluated_models",
        "predict_checkpoint": "emodistill.training.checkpoint_inference",
        "tune": "emodistill.training.tuning",
    },
)
