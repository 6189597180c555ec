"""The demo corpus (synthetic emotional speech that comes with the package) and `emodistill demo`."""

from typing import TYPE_CHECKING

from emodistill.lazy import lazy_names

if TYPE_CHECKING:
    from emodistill.demo.walkthrough import run_walkthrough

__all__ = ["run_walkthrough"]

__getattr__, __dir__ = lazy_names("emodistill.demo", {"run_walkthrough": "emodistill.demo.walkthrough"})
