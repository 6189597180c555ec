"""Sounds, lines and rooms at stated levels, which the suite puts on recordings."""

from emodistill.stress.base import Change

SOUNDS: tuple[Change, ...] = ()
