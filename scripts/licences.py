"""List the licences of all dependencies, and check them against the policy in scripts/licences.toml.

    python scripts/licences.py              # writes docs/about/dependencies.md
    python scripts/licences.py --check      # checks licences, list and page; `make lint` runs it
    python scripts/licences.py --resolve    # lets pip choose all versions again, and does both

`--resolve` needs the package index. It writes `scripts/dependencies.json`, the list of all packages that any
install brings, direct and transitive: version, licence, SHA-256 and requirements. It also pins the transitive
packages at the end of constraints.txt. Everything else works from these files, without a network and without
the packages. So the answer is the same on each machine.

Where a package is installed, `--check` also compares its licence with the list.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

from license_expression import AND, OR, ExpressionError, get_spdx_licensing
from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
CONSTRAINTS, PAGE = ROOT / "constraints.txt", ROOT / "docs/about/dependencies.md"
LIST, POLICY = ROOT / "scripts/dependencies.json", ROOT / "scripts/licences.toml"
BASE, DEV = "base", "dev"
# Installs whose packages do not fit the versions of constraints.txt. pip chooses their versions freely.
FREE = ("mlflow", "pipecat")
UNKNOWN = "unknown"
GENERATED = "# The packages that these need, written by `python scripts/licences.py --resolve`."
REPAIR = "run `python scripts/licences.py --resolve`, and commit what it changes"
SHORT = "scripts/dependencies.json"

CLASSIFIERS = {
    "Apache Software License": "Apache-2.0",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
# Texts of the field `License` that name one licence without doubt.
TEXTS = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD 2-Clause License": "BSD-2-Clause",
    "BSD 3-Clause License": "BSD-3-Clause",
    "ISC License": "ISC",
    "ISC license": "ISC",
    "MIT License": "MIT",
    "MIT license": "MIT",
}


@dataclass(frozen=True)
class Package:
    """A package in one version, as pip would install it. The field names are the keys of the list."""

    name: str
    version: str
    licence: str  # an SPDX expression, or `unknown`
    file: str  # the file that pip chose
    sha256: str  # of this file
    requires: tuple[str, ...]  # the packages of the list that it needs
    installs: tuple[str, ...]  # `base`, extras and `dev`


# --- the licence of a package ------------------------------------------------------------------------


def licence_of(name: str, stated: Mapping[str, Any], reviewed: Mapping[str, Mapping[str, str]]) -> str:
    """The SPDX expression of a package, or `unknown`.

    A reviewed entry comes first. Then come the fields `License-Expression` and `License` of the package's
    metadata, then its classifiers.

    Args:
        name: the canonical name of the package.
        stated: its metadata, with the keys that pip reports.
        reviewed: entries of the policy by package name.
    """
    if name in reviewed:
        return reviewed[name]["licence"]
    text = str(stated.get("license") or "").strip().removeprefix("UNKNOWN")
    first_line = text.partition("\n")[0].strip()
    for expression in (stated.get("license_expression"), TEXTS.get(first_line, text)):
        if expression and "\n" not in expression:
            try:
                return str(canonicalize_license_expression(expression))
            except InvalidLicenseExpression:
                continue
    if text:  # A text that no rule understands may contradict the classifiers, as that of openSMILE does.
        return UNKNOWN
    found = {
        CLASSIFIERS.get(line.rpartition(" :: ")[2], UNKNOWN)
        for line in stated.get("classifier") or ()
        if line.startswith("License :: OSI Approved ::")
    }
    return found.pop() if len(found) == 1 else UNKNOWN


def allows(allowed: frozenset[str], expression: str) -> bool:
    """Whether every part of an expression is allowed; of parts with OR, one is enough.

    A licence with an exception counts as its text: `GPL-3.0-only WITH GCC-exception-3.1`.
    """

    def ask(node: Any) -> bool:
        if isinstance(node, AND):
            return all(map(ask, node.args))
        if isinstance(node, OR):
            return any(map(ask, node.args))
        return str(node) in allowed

    try:
        return ask(_spdx().parse(expression))
    except ExpressionError:
        return False


@cache
def _spdx() -> Any:
    """The parser of SPDX expressions, which takes 50 ms to make."""
    return get_spdx_licensing()


# --- what pip would install --------------------------------------------------------------------------


def project() -> dict[str, Any]:
    """The table `project` of pyproject.toml."""
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return table


def requirements(install: str) -> list[Requirement]:
    """What pyproject.toml requires for an install, without the extras of this package that it names."""
    table = project()
    extras, lines = [install] if install != BASE else [], list(table["dependencies"])
    for extra in extras:  # it grows by the extras that an extra names
        for line in table["optional-dependencies"][extra]:
            requirement = Requirement(line)
            if requirement.name == table["name"]:
                extras += [name for name in sorted(requirement.extras) if name not in extras]
            else:
                lines.append(line)
    return [Requirement(line) for line in lines]


def installs() -> list[str]:
    """`base`, then all extras of pyproject.toml."""
    return [BASE, *project()["optional-dependencies"]]


def resolve() -> list[Package]:
    """Let pip choose the versions of all installs, and return their packages. Needs the package index."""
    together = [name for name in installs() if name not in FREE]
    groups = [(together, True), *(([name], False) for name in FREE if name in installs())]
    found: dict[tuple[str, str], Package] = {}
    for names, constrained in groups:
        chosen = _report([name for name in names if name != BASE], constrained)
        for name in names:
            for package in _reached(name, chosen):
                key = package.name, package.version
                known = found.get(key, package)
                found[key] = replace(
                    known,
                    installs=(*known.installs, name),
                    requires=tuple(sorted({*known.requires, *package.requires})),
                )
        if constrained:
            _pin(found.values())
    return [found[key] for key in sorted(found)]


def _report(extras: Sequence[str], constrained: bool) -> dict[str, dict[str, Any]]:
    """What pip reports of each package that it would install, by canonical name."""
    with tempfile.TemporaryDirectory() as folder:
        report, direct = Path(folder) / "report.json", Path(folder) / "constraints.txt"
        direct.write_text(direct_constraints() if constrained else "", encoding="utf-8")
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--dry-run",
            "--ignore-installed",
            "--report",
        ]
        done = subprocess.run(
            [*command, str(report), "--constraint", str(direct), f"{ROOT}[{','.join(extras)}]"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"pip cannot resolve {', '.join(extras)}:\n{done.stderr}")
        entries = json.loads(report.read_text(encoding="utf-8"))["install"]
    return {canonicalize_name(entry["metadata"]["name"]): entry for entry in entries}


def direct_constraints() -> str:
    """The part of constraints.txt that people write."""
    return CONSTRAINTS.read_text(encoding="utf-8").partition(GENERATED)[0]


def _pin(packages: Iterable[Package]) -> None:
    """Write the versions of the packages that the hand-written part lacks to the end of constraints.txt."""
    direct = direct_constraints().rstrip("\n")
    pinned = {canonicalize_name(line.partition("==")[0]) for line in direct.splitlines() if "==" in line}
    lines = sorted(f"{package.name}=={package.version}" for package in packages if package.name not in pinned)
    CONSTRAINTS.write_text("\n".join([direct, GENERATED, *lines, ""]), encoding="utf-8")


def _reached(install: str, chosen: dict[str, dict[str, Any]]) -> Iterator[Package]:
    """Yield the packages that an install brings, of those that pip chose."""
    reviewed = policy()["reviewed"]
    open_ends: list[tuple[str, frozenset[str]]] = [
        (canonicalize_name(part.name), frozenset(part.extras)) for part in _applying(requirements(install))
    ]
    seen: dict[str, set[str]] = {}  # package -> its extras that were followed
    needs: dict[str, set[str]] = {}
    while open_ends:
        name, extras = open_ends.pop()
        if name in seen and extras <= seen[name]:
            continue
        seen.setdefault(name, set()).update(extras)
        lines = map(Requirement, chosen[name]["metadata"].get("requires_dist") or ())
        for part in _applying(lines, seen[name]):
            needs.setdefault(name, set()).add(canonicalize_name(part.name))
            open_ends.append((canonicalize_name(part.name), frozenset(part.extras)))
    for name in seen:
        entry = chosen[name]
        stated, archive = entry["metadata"], entry["download_info"]["archive_info"]
        yield Package(
            name, stated["version"], licence_of(name, stated, reviewed),
            entry["download_info"]["url"].rpartition("/")[2].partition("#")[0], archive["hashes"]["sha256"],
            tuple(sorted(needs.get(name, ()))), (),
        )  # fmt: skip


def _applying(lines: Iterable[Requirement], extras: Iterable[str] = ()) -> Iterator[Requirement]:
    """Yield the requirements whose marker holds here, with any of the extras."""
    for part in lines:
        if part.marker is None or any(part.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield part


# --- the list ----------------------------------------------------------------------------------------


def policy() -> dict[str, Any]:
    """The content of scripts/licences.toml."""
    return tomllib.loads(POLICY.read_text(encoding="utf-8"))


def read_list() -> list[Package]:
    """The packages of scripts/dependencies.json."""
    rows: list[dict[str, Any]] = json.loads(LIST.read_text(encoding="utf-8"))
    sequences = ("requires", "installs")
    return [Package(**{**row, **{name: tuple(row[name]) for name in sequences}}) for row in rows]


def write_list(packages: Sequence[Package]) -> None:
    """Write scripts/dependencies.json, one package a line."""
    rows = ",\n".join(json.dumps(asdict(package)) for package in packages)
    LIST.write_text(f"[\n{rows}\n]\n", encoding="utf-8")


def constraint_pins() -> dict[str, str]:
    """The versions of constraints.txt by canonical name."""
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


# --- checks ------------------------------------------------------------------------------------------


def problems(packages: Sequence[Package], rules: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the licences of the packages, and what to do."""
    for package in packages:
        for scope in sorted({_scope(install) for install in package.installs}):
            kinds = rules["scopes"][scope]
            allowed = frozenset(licence for kind in kinds for licence in rules["licences"][kind])
            if package.licence == UNKNOWN:
                yield (
                    f"{package.name} {package.version} states no known licence: read its licence file, and "
                    f"add [reviewed.{package.name}] with licence and source to scripts/licences.toml"
                )
                break
            if package.name in rules["exceptions"].get(scope, {}):
                continue
            if not allows(allowed, package.licence):
                yield (
                    f"{package.name} {package.version} has the licence '{package.licence}', which is not "
                    f"allowed in {scope}: remove the package, or allow it in scripts/licences.toml"
                )


def _scope(install: str) -> str:
    return install if install in (BASE, DEV) else "extras"


def differences(packages: Sequence[Package]) -> Iterator[str]:
    """Yield where the list differs from pyproject.toml and constraints.txt."""
    pins = constraint_pins()
    for install in installs():
        there = {package.name: package for package in packages if install in package.installs}
        for part in _applying(requirements(install)):
            package = there.get(canonicalize_name(part.name))
            if package is None:
                yield f"{part} of '{install}' is not in {SHORT}: {REPAIR}"
            elif not part.specifier.contains(package.version, prereleases=True):
                yield f"{part} of '{install}' excludes {package.version} of {SHORT}: {REPAIR}"
        needed: set[str] = {canonicalize_name(part.name) for part in _applying(requirements(install))}
        needed.update(name for package in there.values() for name in package.requires)
        for name in sorted(set(there) - needed):
            yield f"nothing of '{install}' needs {name} of {SHORT}: {REPAIR}"
        for name, package in there.items():
            pin = pins.get(name, "no version")
            if install not in FREE and package.version.partition("+")[0] != pin.partition("+")[0]:
                yield f"constraints.txt has {pin} of {name}, {SHORT} {package.version}: {REPAIR}"


def changed(packages: Sequence[Package], rules: Mapping[str, Any]) -> Iterator[str]:
    """Yield the packages of this environment that state another licence than the list."""
    for package in packages:
        try:
            stated = metadata(package.name).json
        except PackageNotFoundError:
            continue
        licence = licence_of(package.name, stated, rules["reviewed"])
        if stated["version"] == package.version and licence != package.licence:
            yield f"{package.name} has the licence '{licence}', the list '{package.licence}': {REPAIR}"


def unused(packages: Sequence[Package], rules: Mapping[str, Any]) -> Iterator[str]:
    """Yield the entries of the policy that no package needs."""
    names = {package.name for package in packages}
    entries = {
        *rules["reviewed"],
        *rules["notes"],
        *(name for part in rules["exceptions"].values() for name in part),
    }
    for name in sorted(entries - names):
        yield f"scripts/licences.toml has an entry for {name}, which no install brings: remove it"


# --- the page ----------------------------------------------------------------------------------------


def page(packages: Sequence[Package], rules: Mapping[str, Any]) -> str:
    """The content of docs/about/dependencies.md."""
    head = rules["page"]["text"].strip()
    lines = [head, ""]
    for title, wanted in (
        ("The base install", lambda package: BASE in package.installs),
        ("Extras", lambda package: BASE not in package.installs and set(package.installs) != {DEV}),
        ("Development", lambda package: set(package.installs) == {DEV}),
    ):
        rows = [package for package in packages if wanted(package)]
        lines += [f"## {title}", "", rules["page"][title].strip(), ""]
        is_extras = title == "Extras"
        lines += [
            "| package | version | licence | install |" if is_extras else "| package | version | licence |"
        ]
        lines += ["| --- | --- | --- | --- |" if is_extras else "| --- | --- | --- |"]
        for package in rows:
            names = ", ".join(f"`{name}`" for name in package.installs if name != DEV)
            note = f" [note](#{package.name})" if package.name in rules["notes"] else ""
            row = [package.name, package.version, f"{package.licence}{note}", *([names] if is_extras else [])]
            lines.append(f"| {' | '.join(row)} |")
        lines.append("")
    lines += ["## Notes", ""]
    for name, note in sorted(rules["notes"].items()):
        lines += [f"### {name}", "", note.strip(), ""]
    lines += ["## Reviewed licences", "", rules["page"]["reviewed"].strip(), ""]
    lines += ["| package | licence | source |", "| --- | --- | --- |"]
    lines += [
        f"| {name} | {entry['licence']} | {entry['source']} |"
        for name, entry in sorted(rules["reviewed"].items())
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Do what the options ask for; exit with 1 where something is wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="check licences, list and page, and write nothing")
    what.add_argument("--resolve", action="store_true", help="let pip choose all versions again")
    given = parser.parse_args()
    if given.resolve:
        write_list(resolve())
    packages, rules = read_list(), policy()
    found = [*differences(packages), *problems(packages, rules), *unused(packages, rules)]
    text = page(packages, rules)
    if not given.check:
        PAGE.write_text(text, encoding="utf-8")
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text:
        found.append("docs/about/dependencies.md is not up to date: run `python scripts/licences.py`")
    if given.check:
        found += changed(packages, rules)
    for line in found:
        print(line)
    print(f"{len(found)} problems with the licences of {len(packages)} packages")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
