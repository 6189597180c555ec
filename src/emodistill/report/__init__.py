"""`emodistill report`: runs as one HTML page that needs no other file, for screen and paper."""

from typing import TYPE_CHECKING

from emodistill.lazy import lazy_names

if TYPE_CHECKING:
    from emodistill.report.build import write_report

__all__ = ["write_report"]

__getattr__, __dir__ = lazy_names("emodistill.report", {"write_report": "emodistill.report.build"})
