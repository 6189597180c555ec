"""The public names: each can be loaded, `dir` lists it, and importing the package stays light."""

import subprocess
import sys

import pytest

import emodistill


@pytest.mark.parametrize("name", emodistill.__all__)
def test_every_public_name_loads_and_is_listed(name: str) -> None:
    assert getattr(emodistill, name) is not None
    assert name in dir(emodistill)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'emodistill' has no attribute 'Recogniser'"):
        emodistill.Recogniser  # noqa: B018


def test_importing_the_package_loads_no_numerical_library() -> None:
    code = (
        "import sys, emodistill; from emodistill import AudioError, ConfigError; "
        "assert set(emodistill.__all__) <= set(dir(emodistill)); "
        "print([name for name in ('numpy', 'onnxruntime', 'pydantic', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
