"""`READERS`: all corpora that can be read; `TABLE_READERS`: formats of other programs.

Each module in this folder reads one of them.
"""

from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules
from typing import TypeVar

from emodistill.corpora.base import Reader
from emodistill.corpora.tables import TableReader

__all__ = ["READERS", "TABLE_READERS"]


_Kind = TypeVar("_Kind", Reader, TableReader)


def _find_readers(kind: type[_Kind]) -> Mapping[str, _Kind]:
    """Return every reader of a kind that a module of this package defines, by name, in alphabetical order."""
    readers: dict[str, _Kind] = {}
    for info in iter_modules(__path__):
        module = import_module(f"{__name__}.{info.name}")
        defined = [value for value in vars(module).values() if isinstance(value, (Reader, TableReader))]
        assert defined, f"{module.__name__} defines no reader"
        for reader in defined:
            if isinstance(reader, kind):
                assert reader.name not in readers, f"two readers are named '{reader.name}'"
                readers[reader.name] = reader
    return dict(sorted(readers.items()))


READERS = _find_readers(Reader)
TABLE_READERS = _find_readers(TableReader)
