"""The registry of all changes of the suite: the small ones and the sounds."""

from collections.abc import Sequence

from emodistill.errors import ConfigError, one_of
from emodistill.stress.base import Change
from emodistill.stress.small import SMALL
from emodistill.stress.sounds import SOUNDS

CHANGES: tuple[Change, ...] = (*SMALL, *SOUNDS)
GROUPS = ("small", "sounds", "fairness")


def chosen_groups(only: Sequence[str] | None) -> tuple[list[Change], bool]:
    """Return the changes that `--only` names, and whether fairness is one of them; None: everything.

    `only` has names of changes and of groups. Raises `ConfigError` for any other name.
    """
    if only is None:
        return list(CHANGES), True
    names = [*GROUPS, *(change.name for change in CHANGES)]
    for name in only:
        if name not in names:
            raise ConfigError(one_of("change or group", name, names))
    return [item for item in CHANGES if item.name in only or item.group in only], "fairness" in only
