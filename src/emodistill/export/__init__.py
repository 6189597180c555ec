"""A trained student as an ONNX model with its card, and the same model in fewer bits.

`export_run` exports the student of a run, `export_checkpoint` any student. Both need [train].
"""

from typing import TYPE_CHECKING

from emodistill.lazy import lazy_names

if TYPE_CHECKING:
    from emodistill.export.onnx import export_checkpoint, export_run

__all__ = ["export_checkpoint", "export_run"]

__getattr__, __dir__ = lazy_names(
    "emodistill.export",
    {
        "export_checkpoint": "emodistill.export.onnx",
        "export_run": "emodistill.export.onnx",
    },
)
