"""The licences of all dependencies are known, allowed and on a page."""

import json
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pytest
from factories_scripts import ROOT, load_script
from hypothesis import given
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

licences = load_script("licences")
PACKAGE = licences.Package("one", "1.0", "MIT", "one-1.0-py3-none-any.whl", "0" * 64, (), ("base",))
RULES: Mapping[str, Any] = {
    "licences": {"permissive": ["MIT", "Apache-2.0"], "strong": ["GPL-3.0-only"]},
    "scopes": {"base": ["permissive"], "extras": ["permissive"], "dev": ["permissive", "strong"]},
    "exceptions": {"extras": {"excepted": "it is needed"}},
}


def test_the_licences_of_this_checkout_are_known_allowed_and_on_the_page() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/licences.py"), "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_list_holds_every_install_and_what_each_package_needs() -> None:
    packages = licences.read_list()
    assert {name for package in packages for name in package.installs} == set(licences.installs())
    for install in licences.installs():
        there = {package.name: package for package in packages if install in package.installs}
        assert len(there) == sum(install in package.installs for package in packages), "one version of each"
        assert all(len(package.sha256) == 64 for package in there.values())
        if install != "base":
            assert set(there) > {package.name for package in packages if "base" in package.installs}


@pytest.mark.parametrize(
    ("stated", "licence"),
    [
        ({"license_expression": "mit or apache-2.0"}, "MIT OR Apache-2.0"),
        ({"license_expression": "MIT", "license": "GPL"}, "MIT"),
        ({"license": "Apache 2.0"}, "Apache-2.0"),
        ({"license": "MIT License\n\nCopyright (c) somebody"}, "MIT"),
        ({"license": "", "classifier": ["License :: OSI Approved :: MIT License"]}, "MIT"),
        ({"license": "UNKNOWN", "classifier": ["License :: OSI Approved :: ISC License (ISCL)"]}, "ISC"),
        ({"classifier": ["License :: OSI Approved :: BSD License"]}, "unknown"),  # of two or three clauses
        ({"classifier": ["License :: OSI Approved", "Topic :: Multimedia"]}, "unknown"),
        (
            {"license": "All rights reserved", "classifier": ["License :: OSI Approved :: MIT License"]},
            "unknown",
        ),
        ({}, "unknown"),
    ],
)
def test_a_licence_is_an_expression_or_unknown(stated: dict[str, Any], licence: str) -> None:
    assert licences.licence_of("one", stated, {}) == licence
    assert licences.licence_of("one", stated, {"one": {"licence": "Zlib"}}) == "Zlib"


@pytest.mark.parametrize(
    ("licence", "installs", "problem"),
    [
        ("MIT", ("base", "train", "dev"), None),
        ("MIT AND Apache-2.0", ("base",), None),
        ("GPL-3.0-only OR MIT", ("base",), None),
        ("GPL-3.0-only", ("dev",), None),
        ("GPL-3.0-only", ("train",), "not allowed in extras"),
        ("MIT AND GPL-3.0-only", ("base",), "not allowed in base"),
        ("MIT WITH GCC-exception-3.1", ("base",), "not allowed in base"),
        ("LicenseRef-own", ("base",), "remove the package, or allow it in scripts/licences.toml"),
        ("unknown", ("dev",), "add [reviewed.one] with licence and source to scripts/licences.toml"),
    ],
)
def test_a_licence_that_is_unknown_or_not_allowed_is_a_problem(
    licence: str, installs: tuple[str, ...], problem: str | None
) -> None:
    found = list(licences.problems([replace(PACKAGE, licence=licence, installs=installs)], RULES))
    assert found == [] if problem is None else problem in found[0]
    excepted = replace(PACKAGE, name="excepted", licence="GPL-3.0-only", installs=("train",))
    assert list(licences.problems([excepted], RULES)) == []


@given(
    st.lists(st.sampled_from(["MIT", "ISC", "Zlib", "MPL-2.0"]), min_size=1, max_size=4),
    st.frozensets(st.sampled_from(["MIT", "ISC", "Zlib", "MPL-2.0"])),
)
def test_all_parts_with_and_must_be_allowed_and_one_with_or(
    parts: list[str], allowed: frozenset[str]
) -> None:
    assert licences.allows(allowed, " AND ".join(parts)) == (set(parts) <= allowed)
    assert licences.allows(allowed, " OR ".join(parts)) == bool(set(parts) & allowed)


def test_a_change_of_requirements_or_pins_asks_for_a_new_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = licences.read_list()
    assert list(licences.differences(packages)) == []
    without = [package for package in packages if package.name != "soxr"]
    assert any("soxr>=0.5 of 'base' is not in" in line for line in licences.differences(without))
    (numpy,) = (package for package in packages if package.name == "numpy" and "base" in package.installs)
    older = [replace(numpy, version="1.0") if package is numpy else package for package in packages]
    found = "\n".join(licences.differences(older))
    assert "numpy>=1.26 of 'base' excludes 1.0" in found
    assert "python scripts/licences.py --resolve" in found
    more = [*packages, replace(numpy, name="left-over")]
    assert any("nothing of 'base' needs left-over" in line for line in licences.differences(more))
    text = licences.CONSTRAINTS.read_text(encoding="utf-8")
    monkeypatch.setattr(licences, "CONSTRAINTS", tmp_path / "constraints.txt")
    licences.CONSTRAINTS.write_text(text.replace(f"numpy=={numpy.version}", "numpy==9.9"), encoding="utf-8")
    assert any(line.startswith("constraints.txt has 9.9 of numpy") for line in licences.differences(packages))


def test_an_installed_package_with_another_licence_is_a_problem() -> None:
    rules = licences.policy()
    packages = licences.read_list()
    assert list(licences.changed(packages, rules)) == []
    pydantic = next(package for package in packages if package.name == "pydantic")
    found = list(licences.changed([replace(pydantic, licence="ISC")], rules))
    assert found == [f"pydantic has the licence 'MIT', the list 'ISC': {licences.REPAIR}"]


def test_the_page_has_each_package_once_for_each_version_and_each_note() -> None:
    packages, rules = licences.read_list(), licences.policy()
    text = licences.page(packages, rules)
    for package in packages:
        assert text.count(f"| {package.name} | {package.version} | {package.licence}") == 1
    for name in rules["notes"]:
        assert f"### {name}\n" in text
    for part in rules["exceptions"].values():
        assert set(part) <= set(rules["notes"]), "an exception has a note"
    assert list(licences.unused(packages, rules)) == []
    assert "which no install brings" in next(licences.unused(packages[:1], rules))


def test_the_list_names_no_host_and_no_path() -> None:
    for row in json.loads(licences.LIST.read_text(encoding="utf-8")):
        assert not any("/" in str(value) or "\\" in str(value) for value in row.values()), row


def test_every_pinned_version_runs_on_the_lowest_python() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lowest = project["requires-python"].removeprefix(">=") + ".0"
    pins = licences.constraint_pins()
    tested = {canonicalize_name(found.metadata["Name"]): found for found in distributions()}
    tested = {name: found for name, found in tested.items() if pins.get(name) == found.version}
    assert len(tested) > 100
    needs = {name: found.metadata.get("Requires-Python") or "" for name, found in tested.items()}
    assert {name: need for name, need in needs.items() if not SpecifierSet(need).contains(lowest)} == {}
