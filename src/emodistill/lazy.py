"""Modules, and public names of a package, that are loaded at their first use."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


class LazyModule:
    """A module that is loaded when an attribute of it is first read."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        """Return an attribute of the module. Raises `AttributeError` where it has no such attribute."""
        return getattr(import_module(self._name), attribute)


def lazy_names(
    package: str, modules: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` for a package whose public names are in other modules.

    `modules` maps each public name to the full name of the module that defines it. Importing the package
    loads none of these modules, so `import emodistill` stays fast. An unknown name raises `AttributeError`.
    """

    def get_attribute(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        return getattr(import_module(modules[name]), name)

    def list_names() -> list[str]:
        return sorted([*vars(import_module(package)), *modules])

    return get_attribute, list_names
