"""Build the wheel and the sdist, and write what they are made of (an SBOM) for each install.

    python scripts/release.py                     # make build: dist/*.whl, dist/*.tar.gz, sbom/*.cdx.json
    python scripts/release.py --dist D --sbom S   # other folders

Both folders must be empty or new. The wheel is built from the sdist. Two builds of the same commit give the
same bytes, whatever folder, user, time, time zone and umask. The versions of hatchling (constraints.txt) and
of Python's zlib must be the same.

An SBOM is CycloneDX 1.6 in JSON: `emodistill-VERSION.cdx.json` for the base install, and
`emodistill-VERSION-EXTRA.cdx.json` for each extra but `dev`. There is one file for each install, because
CycloneDX cannot say which extra needs a component, and because two extras may need different versions. The
packages are those of scripts/dependencies.json, with the hashes of their files for Linux (x86-64). The models
and the JavaScript libraries inside the wheel are components too. `SOURCE_DATE_EPOCH` sets the time of an
SBOM; without it, an SBOM has none.
"""

import argparse
import base64
import hashlib
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, Property, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import LicenseExpression
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from licences import BASE, DEV, ROOT, Package, installs, project, read_list, requirements
from packageurl import PackageURL
from packaging.utils import canonicalize_name
from vendor import PACKAGES as JAVASCRIPT

SCHEMA = SchemaVersion.V1_6
ASSETS = ROOT / "src/emodistill/assets"
# The licences of what the package holds beside its own code. A test compares them with pyproject.toml.
JAVASCRIPT_LICENCES = {
    "onnxruntime-web": "MIT", "swagger-ui-dist": "Apache-2.0", "wavesurfer.js": "BSD-3-Clause",
}  # fmt: skip
MODEL_LICENCES = {
    "bundled": "CC-BY-NC-SA-4.0 AND MIT",  # MIT: the layers of Whisper
    "large": "CC-BY-NC-SA-4.0",
    "vad": "CC-BY-NC-SA-4.0",
}


# --- wheel and sdist ---------------------------------------------------------------------------------


def build(dist: Path) -> tuple[Path, Path]:
    """Build the sdist, and the wheel from it. Return the paths of the wheel and the sdist.

    Raises `SystemExit` where the checkout has files that git does not know, or the build fails.
    """
    if unknown := untracked():
        raise SystemExit(f"the sdist would hold files that git does not know: {unknown}; add or delete them")
    # Without isolation, hatchling has the version of constraints.txt.
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(dist), str(ROOT)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the build failed:\n{done.stdout}{done.stderr}")
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    return wheel, sdist


def untracked() -> list[str]:
    """The files that git neither knows nor ignores; none outside of a clone."""
    if not (ROOT / ".git").exists():
        return []
    command = ["git", "ls-files", "--others", "--exclude-standard"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


# --- the SBOM ----------------------------------------------------------------------------------------


def sbom(install: str, packages: Sequence[Package], files: Iterable[Path], version: str) -> str:
    """The SBOM of an install as JSON.

    Args:
        install: `base` or an extra.
        packages: all packages of scripts/dependencies.json.
        files: the wheel and the sdist.
        version: the version of emodistill.
    """
    there = {package.name: package for package in packages if install in package.installs}
    components = {name: _library(package) for name, package in there.items()}
    bundled = [*_models(version), *_javascript()]
    root = Component(
        name="emodistill", version=version, type=ComponentType.LIBRARY, bom_ref=f"emodistill@{version}",
        description=project()["description"], licenses=[LicenseExpression(project()["license"])],
        purl=PackageURL("pypi", None, "emodistill", version),
        external_references=[_distribution(path) for path in files],
        properties=[Property(name="emodistill:install", value=install)],
    )  # fmt: skip
    bom = Bom(components=[*components.values(), *bundled])
    bom.metadata.component = root
    direct = sorted({canonicalize_name(part.name) for part in requirements(install)} & components.keys())
    bom.register_dependency(root, [*(components[name] for name in direct), *bundled])
    for name, package in there.items():
        bom.register_dependency(
            components[name], [components[other] for other in package.requires if other in components]
        )
    content = json.loads(make_outputter(bom, OutputFormat.JSON, SCHEMA).output_as_string())
    return _reproducible(content)


def _library(package: Package) -> Component:
    return Component(
        name=package.name, version=package.version, type=ComponentType.LIBRARY,
        bom_ref=f"{package.name}=={package.version}", licenses=[LicenseExpression(package.licence)],
        purl=PackageURL("pypi", None, package.name, package.version),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=package.sha256)],
        properties=[Property(name="emodistill:hashed-file", value=package.file)],
    )  # fmt: skip


def _models(version: str) -> list[Component]:
    """The models of the wheel, each with the hash of its graph. Other files of a model are parts of it."""
    found = []
    for folder in sorted(path.parent for path in ASSETS.glob("*/card.json")):
        card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
        parts = [_file(path) for path in sorted(folder.glob("*.onnx")) if path.name != "model.onnx"]
        if card["external"]:
            parts.append(_fetched(folder, card["external"]["source"]))
        found.append(
            _model(
                f"emodistill-{folder.name}",
                folder / "model.onnx",
                MODEL_LICENCES[folder.name],
                version,
                parts,
            )
        )
    found.append(_model("emodistill-vad", ASSETS / "vad.onnx", MODEL_LICENCES["vad"], version, []))
    return found


def _model(name: str, graph: Path, licence: str, version: str, parts: Sequence[Component]) -> Component:
    return Component(
        name=name, version=version, type=ComponentType.MACHINE_LEARNING_MODEL, bom_ref=name,
        licenses=[LicenseExpression(licence)], components=parts,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=sha256(graph))],
        properties=[_hashed_file(graph)],
    )  # fmt: skip


def _hashed_file(path: Path) -> Property:
    return Property(name="emodistill:hashed-file", value=path.relative_to(ROOT / "src").as_posix())


def _file(path: Path) -> Component:
    name = path.relative_to(ROOT / "src").as_posix()
    return Component(
        name=name, type=ComponentType.FILE, bom_ref=name,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=sha256(path))],
    )  # fmt: skip


def _fetched(folder: Path, source: str) -> Component:
    """The weights that `emodistill fetch` makes. They are not in the wheel."""
    weights = json.loads((folder / "weights.json").read_text(encoding="utf-8"))
    return Component(
        name=source, type=ComponentType.DATA, bom_ref=f"{folder.name}/weights.bin",
        licenses=[LicenseExpression("MIT")],
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=weights["sha256"])],
        properties=[Property(name="emodistill:fetched-by", value=f"emodistill fetch {folder.name}")],
    )  # fmt: skip


def _javascript() -> list[Component]:
    """The JavaScript libraries of the wheel, with npm's hash of the package that they come from."""
    found = []
    for name, (version, integrity, _) in sorted(JAVASCRIPT.items()):
        algorithm, _, digest = integrity.partition("-")
        assert algorithm == "sha512", integrity
        content = base64.b64decode(digest).hex()
        component = Component(
            name=name, version=version, type=ComponentType.LIBRARY, bom_ref=f"npm:{name}@{version}",
            licenses=[LicenseExpression(JAVASCRIPT_LICENCES[name])],
            purl=PackageURL("npm", None, name, version),
            hashes=[HashType(alg=HashAlgorithm.SHA_512, content=content)],
        )  # fmt: skip
        found.append(component)
    return found


def _distribution(path: Path) -> ExternalReference:
    return ExternalReference(
        type=ExternalReferenceType.DISTRIBUTION, url=XsUri(path.name),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=sha256(path))],
    )  # fmt: skip


def _reproducible(content: dict[str, Any]) -> str:
    """The JSON of an SBOM whose serial number depends on its content alone."""
    del content["serialNumber"], content["metadata"]["timestamp"]
    if epoch := os.environ.get("SOURCE_DATE_EPOCH"):
        time = datetime.fromtimestamp(int(epoch), UTC)
        content["metadata"]["timestamp"] = time.isoformat()
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    content["serialNumber"] = uuid.uuid5(uuid.NAMESPACE_OID, digest).urn
    return json.dumps(content, indent=1, sort_keys=True) + "\n"


def check(text: str) -> None:
    """Raise `SystemExit` where an SBOM does not follow the schema of CycloneDX."""
    if error := JsonStrictValidator(SCHEMA).validate_str(text):
        raise SystemExit(f"the SBOM does not follow the schema of CycloneDX: {error}")


def sha256(path: Path) -> str:
    """The SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> None:
    """Build, and write the SBOMs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dist", type=Path, default=ROOT / "dist", help="the folder of wheel and sdist")
    parser.add_argument("--sbom", type=Path, default=ROOT / "sbom", help="the folder of the SBOMs")
    given = parser.parse_args()
    for folder in (given.dist, given.sbom):
        if folder.exists() and any(folder.iterdir()):
            raise SystemExit(f"'{folder}' is not empty: delete it, so that files of two builds do not mix")
        folder.mkdir(parents=True, exist_ok=True)
    files = build(given.dist.absolute())
    version = files[0].name.split("-")[1]
    packages = read_list()
    for install in installs():
        if install == DEV:
            continue
        text = sbom(install, packages, files, version)
        check(text)
        name = "" if install == BASE else f"-{install}"
        (given.sbom / f"emodistill-{version}{name}.cdx.json").write_text(text, encoding="utf-8")
    for path in files:
        print(f"{sha256(path)}  {path.name}")
    print(f"{len(installs()) - 1} SBOMs in {given.sbom}")


if __name__ == "__main__":
    main()
