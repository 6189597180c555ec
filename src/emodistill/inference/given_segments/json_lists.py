"""What the JSON formats share: one object that holds a list of segments."""

import json
from collections.abc import Iterator
from typing import Any

from emodistill.errors import ConfigError


def has_list(text: str, key: str) -> bool:
    """Return whether a text is a JSON object with a list under this key."""
    if not text.lstrip().startswith("{"):
        return False
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(data, dict) and isinstance(data.get(key), list)


def items_of(text: str, key: str, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each segment of the list under a key, after its place, e.g. `segments[3]`."""
    for index, item in enumerate(json.loads(text)[key]):
        where = f"{key}[{index}]"
        if not isinstance(item, dict):
            raise ConfigError(f"{name}, {where}: expected an object with start and end, got {item!r}")
        yield where, item
