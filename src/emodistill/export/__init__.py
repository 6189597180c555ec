"""A trained student as an ONNX model with its card, and the same model in fewer bits.

`export_run` exports the student of a run, `export_checkpoint` any student. Both need [train].
"""

from typing import TYPE_CHECKING

from emodistill.lazy import lazy_names

if TYPE_CHECKING:
    from emodistill.export.exporter import export_checkpoint, export_run, read_card_texts

__all__ = ["export_checkpoint", "export_run", "read_card_texts"]

__getattr__, __dir__ = lazy_names(
    "emodistill.export",
    {
        "export_checkpoint": "emodistill.export.exporter",
        "export_run": "emodistill.export.exporter",
        "read_card_texts": "emodistill.export.exporter",
    },
)
