"""The registry of all changes of the suite: the small ones and the sounds."""

from collections.abc import Sequence

from emodistill.stress.base import Change
from emodistill.stress.small import SMALL
from emodistill.stress.sounds import SOUNDS

CHANGES: tuple[Change, ...] = (*SMALL, *SOUNDS)


def chosen_changes(only: Sequence[str] | None) -> list[Change]:
    """Return the changes that names of changes and of groups choose; None: all."""
    return [change for change in CHANGES if only is None or {change.name, change.group} & {*only}]
