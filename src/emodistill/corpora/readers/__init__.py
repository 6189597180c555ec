"""`READERS`: all corpora that can be read. Each module in this folder reads one of them."""

from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules

from emodistill.corpora.base import Reader

__all__ = ["READERS"]


def _find_readers() -> Mapping[str, Reader]:
    """Return every `Reader` that a module of this package defines, by name, in alphabetical order."""
    readers: dict[str, Reader] = {}
    for info in iter_modules(__path__):
        module = import_module(f"{__name__}.{info.name}")
        defined = [value for value in vars(module).values() if isinstance(value, Reader)]
        assert defined, f"{module.__name__} defines no Reader"
        for reader in defined:
            assert reader.name not in readers, f"two readers are named '{reader.name}'"
            readers[reader.name] = reader
    return dict(sorted(readers.items()))


READERS = _find_readers()
