"""Names that a package offers and loads only when they are asked for."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_names(
    package: str, modules: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` for a package whose public names are in other modules.

    `modules` maps each public name to the full name of the module that defines it. So `import emodistill` stays
    fast, and code that only catches errors needs neither NumPy nor ONNX Runtime.
    """

    def get_attribute(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        return getattr(import_module(modules[name]), name)

    def list_names() -> list[str]:
        return sorted([*vars(import_module(package)), *modules])

    return get_attribute, list_names
