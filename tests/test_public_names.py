"""The public names of every package: each loads, `dir` lists it, and importing a package is light."""

import subprocess
import sys
from importlib import import_module
from pkgutil import iter_modules

import pytest

import emodistill

PACKAGES = [
    "emodistill",
    *(f"emodistill.{item.name}" for item in iter_modules(emodistill.__path__) if item.ispkg),
]
PUBLIC_NAMES = [
    (package, name) for package in PACKAGES for name in getattr(import_module(package), "__all__", [])
]


@pytest.mark.parametrize(("package", "name"), PUBLIC_NAMES)
def test_every_public_name_loads_and_is_listed(package: str, name: str) -> None:
    assert getattr(import_module(package), name) is not None
    assert name in dir(import_module(package))


@pytest.mark.parametrize("package", PACKAGES)
def test_no_package_exports_a_name_that_one_of_its_modules_has(package: str) -> None:
    loaded = import_module(package)
    assert not {item.name for item in iter_modules(loaded.__path__)} & set(getattr(loaded, "__all__", []))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'emodistill' has no attribute 'Recogniser'"):
        emodistill.Recogniser  # noqa: B018


@pytest.mark.parametrize(
    "package", ["emodistill", "emodistill.audio", "emodistill.inference", "emodistill.models"]
)
def test_importing_a_package_loads_no_numerical_library(package: str) -> None:
    code = (
        f"import sys; from emodistill import AudioError, ConfigError; import {package} as package; "
        "assert set(package.__all__) <= set(dir(package)); "
        "print([name for name in ('numpy', 'onnxruntime', 'pydantic', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
