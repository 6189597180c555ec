"""Without Pipecat, the bridge names its extra. tests/bridges/test_pipecat.py has the other tests."""

import sys
from importlib import import_module

import pytest

from emodistill import MissingExtraError


def test_without_pipecat_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pipecat", None)
    monkeypatch.setitem(sys.modules, "pipecat.frames.frames", None)
    monkeypatch.delitem(sys.modules, "emodistill.integrations.pipecat", raising=False)
    with pytest.raises(MissingExtraError, match=r"pip install 'emodistill\[pipecat\]'"):
        import_module("emodistill.integrations.pipecat")
