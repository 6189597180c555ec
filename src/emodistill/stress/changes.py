"""The registry of all changes of the suite: the small ones and the sounds."""

from emodistill.stress.base import Change
from emodistill.stress.sounds import SOUNDS

CHANGES: tuple[Change, ...] = (*SOUNDS,)
