"""Teachers, student and speech backbones; each model maps (inputs, lengths) to an `Output`."""

from typing import TYPE_CHECKING

from emodistill.lazy import lazy_names

if TYPE_CHECKING:
    from emodistill.models.backbones import FAMILIES, load_backbone, rebuild_backbone
    from emodistill.models.base import Backbone
    from emodistill.models.checkpoint import Checkpoint, load_checkpoint, load_initial, save_checkpoint
    from emodistill.models.layers import Output
    from emodistill.models.linguistic import LinguisticTeacher
    from emodistill.models.prosodic import ProsodicTeacher
    from emodistill.models.student import Student

__all__ = [
    "FAMILIES",
    "Backbone",
    "Checkpoint",
    "LinguisticTeacher",
    "Output",
    "ProsodicTeacher",
    "Student",
    "load_backbone",
    "load_checkpoint",
    "load_initial",
    "rebuild_backbone",
    "save_checkpoint",
]

__getattr__, __dir__ = lazy_names(
    "emodistill.models",
    {
        "FAMILIES": "emodistill.models.backbones",
        "Backbone": "emodistill.models.base",
        "Checkpoint": "emodistill.models.checkpoint",
        "LinguisticTeacher": "emodistill.models.linguistic",
        "Output": "emodistill.models.layers",
        "ProsodicTeacher": "emodistill.models.prosodic",
        "Student": "emodistill.models.student",
        "load_backbone": "emodistill.models.backbones",
        "load_checkpoint": "emodistill.models.checkpoint",
        "load_initial": "emodistill.models.checkpoint",
        "rebuild_backbone": "emodistill.models.backbones",
        "save_checkpoint": "emodistill.models.checkpoint",
    },
)
