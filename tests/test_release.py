"""The wheel, the sdist and the SBOMs: reproducible, complete, and without files that nobody expects."""

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from factories_scripts import ROOT, load_script

licences, release, vendor = map(load_script, ("licences", "release", "vendor"))
NOBODY = 65534
LICENCE_FILE = re.compile(r"src/emodistill/.*(LICENSE|NOTICE)[^/]*$")
# Moves the clock of a Python process by ten years.
LATER = "import time\nnow = time.time\ntime.time = lambda: now() + 10 * 365 * 86400\n"


@dataclass(frozen=True)
class Build:
    """The folders of one build."""

    tree: Path
    dist: Path
    sbom: Path

    @property
    def wheel(self) -> Path:
        """The wheel."""
        (path,) = self.dist.glob("*.whl")
        return path

    @property
    def sdist(self) -> Path:
        """The sdist."""
        (path,) = self.dist.glob("*.tar.gz")
        return path


def tracked() -> list[str]:
    """The files of this checkout that git knows. Skips the test outside of a clone."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone, so git cannot say which files belong to it")
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True)
    return [name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def copy(folder: Path) -> Build:
    """Copy the checkout into a folder."""
    for name in tracked():
        (folder / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / "tree" / name)
    return Build(folder / "tree", folder / "dist", folder / "sbom")


def run(build: Build, *arguments: object, **options: Any) -> None:
    """Run Python in the tree of a build."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=build.tree, text=True, capture_output=True, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """What `make build` makes: the wheel is built from the sdist."""
    build = copy(tmp_path_factory.mktemp("first"))
    run(build, "scripts/release.py", "--dist", build.dist, "--sbom", build.sbom)
    return build


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """A build straight from the tree, in other circumstances."""
    folder = tmp_path_factory.mktemp("a longer name") / "and" / "deeper"
    build = copy(folder)
    for path in build.tree.rglob("*"):
        path.chmod(path.stat().st_mode & 0o700)
        os.utime(path, (1, 1))
        if os.geteuid() == 0:
            os.chown(path, NOBODY, NOBODY)
    (folder / "later").mkdir()
    (folder / "later/sitecustomize.py").write_text(LATER, encoding="utf-8")
    environment = {
        **os.environ, "TZ": "Asia/Kathmandu", "LC_ALL": "C", "HOME": str(folder), "USER": "nobody",
        "LOGNAME": "nobody", "PYTHONHASHSEED": "7", "PYTHONPATH": str(folder / "later"),
    }  # fmt: skip
    options = {"env": environment, "umask": 0o077}
    run(build, "-m", "build", "--no-isolation", "--sdist", "--wheel", "--outdir", build.dist, **options)
    return build


def members(path: Path) -> Iterator[tuple[str, tuple[object, ...], bytes]]:
    """Yield name, other facts and content of each member of a wheel or sdist, in its order."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                facts = (
                    info.date_time,
                    oct(info.external_attr >> 16),
                    info.compress_type,
                    info.create_system,
                )
                yield info.filename, facts, archive.read(info)
    else:
        with tarfile.open(path) as archive:
            for member in archive:
                file = archive.extractfile(member)
                facts = (member.mtime, oct(member.mode), member.uid, member.gid, member.uname, member.gname)
                yield member.name, facts, file.read() if file else b""


def first_difference(one: Path, other: Path) -> str | None:
    """How two archives differ, at the first member that does; None: they have the same bytes."""
    if one.read_bytes() == other.read_bytes():
        return None
    left, right = list(members(one)), list(members(other))
    for (name, facts, content), (other_name, other_facts, other_content) in zip(left, right, strict=False):
        if name != other_name:
            return f"'{name}' is at the place of '{other_name}'"
        if facts != other_facts:
            return f"'{name}' has {facts} and {other_facts}"
        if content != other_content:
            pairs = enumerate(zip(content, other_content, strict=False))
            ends = min(len(content), len(other_content))  # of a content that goes on where the other one ends
            at = next((at for at, (left_byte, right_byte) in pairs if left_byte != right_byte), ends)
            parts = [part[at : at + 40] for part in (content, other_content)]
            return f"'{name}' differs at byte {at}: {parts[0]!r} and {parts[1]!r}"
    if len(left) != len(right):
        return f"{len(left)} and {len(right)} members"
    return "all members are equal, so the compression differs"


def test_two_builds_have_the_same_bytes(first: Build, second: Build) -> None:
    assert first_difference(first.sdist, second.sdist) is None
    assert first_difference(first.wheel, second.wheel) is None, "one wheel is built from the sdist"


def test_the_first_difference_of_two_archives_is_named(tmp_path: Path) -> None:
    def archive(name: str, content: str, mode: int = 0o644) -> Path:
        path = tmp_path / f"{name}.whl"
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("a.txt", "equal")
            info = zipfile.ZipInfo("b.txt")
            info.external_attr = mode << 16
            file.writestr(info, content)
        return path

    one = archive("one", "content")
    assert first_difference(one, archive("two", "contest")) == "'b.txt' differs at byte 5: b'nt' and b'st'"
    assert "'b.txt' has" in str(first_difference(one, archive("three", "content", 0o600)))
    assert first_difference(one, one) is None


def test_the_sdist_holds_the_files_of_the_clone_and_no_others(first: Build) -> None:
    names = [name.partition("/")[2] for name, _, _ in members(first.sdist)]
    assert set(names) - set(tracked()) == {"PKG-INFO"}
    assert set(tracked()) - set(names) == set()
    assert {"SECURITY.md", "LICENSE", "constraints.txt", "scripts/dependencies.json"} <= set(names)


def test_the_wheel_holds_the_package_and_every_licence_file(first: Build) -> None:
    names = {name for name, _, _ in members(first.wheel)}
    info = next(name for name in names if name.endswith("/METADATA")).partition("/")[0]
    licence_files = {name for name in tracked() if LICENCE_FILE.match(name)}
    assert len(licence_files) >= 8
    expected = {name.removeprefix("src/") for name in tracked() if name.startswith("src/emodistill/")}
    expected |= {f"{info}/{name}" for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt")}
    expected |= {f"{info}/licenses/{name}" for name in ("LICENSE", *licence_files)}
    assert names == expected
    for folder in ("bundled", "large"):
        assert f"{info}/licenses/src/emodistill/assets/{folder}/LICENSE" in names
    assert first.wheel.stat().st_size < 25_000_000


def test_no_member_names_a_folder_of_this_machine(first: Build) -> None:
    own = {str(part) for part in (ROOT, first.tree, Path.home(), sys.prefix, sys.base_prefix)} - {"/", "/usr"}
    for path in (first.wheel, first.sdist):
        for name, _, content in members(path):
            assert "__pycache__" not in name
            assert not name.startswith("/")
            found = [part for part in own if f"{part}/".encode() in content]
            assert not found, f"{path.name}: '{name}' names {found}"


def test_the_licence_of_the_wheel_names_the_licences_of_all_that_it_holds(first: Build) -> None:
    (metadata,) = (content for name, _, content in members(first.wheel) if name.endswith("/METADATA"))
    stated = re.search(r"^License-Expression: (.+)$", metadata.decode(), flags=re.M)
    assert stated is not None
    assert stated[1] == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["license"]
    inside = [*release.MODEL_LICENCES.values(), *release.JAVASCRIPT_LICENCES.values(), "Apache-2.0"]
    parts = {part for expression in inside for part in expression.split(" AND ")}
    assert " AND ".join(sorted(parts)) == stated[1]


# --- SBOM --------------------------------------------------------------------------------------------


def test_each_install_has_an_sbom_that_follows_the_schema(first: Build) -> None:
    version = first.wheel.name.split("-")[1]
    names = {f"-{name}" for name in licences.installs() if name not in ("base", "dev")} | {""}
    assert {path.name for path in first.sbom.iterdir()} == {
        f"emodistill-{version}{name}.cdx.json" for name in names
    }
    (path,) = first.sbom.glob("emodistill-*-train.cdx.json")  # the script has checked the others
    release.check(path.read_text(encoding="utf-8"))
    broken = json.loads(path.read_text(encoding="utf-8"))
    broken["components"][0]["type"] = "cake"
    with pytest.raises(SystemExit, match="does not follow the schema of CycloneDX"):
        release.check(json.dumps(broken))


def test_an_sbom_names_every_package_with_licence_hash_and_requirements(first: Build) -> None:
    packages = licences.read_list()
    for path in first.sbom.iterdir():
        content = json.loads(path.read_text(encoding="utf-8"))
        (install,) = (entry["value"] for entry in content["metadata"]["component"]["properties"])
        components = {entry["bom-ref"]: entry for entry in content["components"]}
        wanted = {f"{part.name}=={part.version}" for part in packages if install in part.installs}
        assert {ref for ref in components if "==" in ref} == wanted
        for entry in components.values():
            assert entry["licenses"][0]["expression"] != "unknown"
            assert len(entry["hashes"][0]["content"]) in (64, 128)
            assert entry["type"] == "machine-learning-model" or entry["purl"].startswith(
                ("pkg:pypi/", "pkg:npm/")
            )
        edges = {entry["ref"]: entry.get("dependsOn", []) for entry in content["dependencies"]}
        reached, ends = set[str](), [content["metadata"]["component"]["bom-ref"]]
        while ends:
            ref = ends.pop()
            if ref not in reached:
                reached.add(ref)
                ends += edges[ref]
        assert reached >= set(components), "every component is needed by another one"


def test_an_sbom_has_the_models_and_the_hashes_of_real_files(first: Build) -> None:
    (path,) = first.sbom.glob("emodistill-*[0-9].cdx.json")
    content = json.loads(path.read_text(encoding="utf-8"))
    hashes = {
        entry["url"]: entry["hashes"][0]["content"]
        for entry in content["metadata"]["component"]["externalReferences"]
    }
    assert hashes == {path.name: release.sha256(path) for path in (first.wheel, first.sdist)}
    files = {name: content for name, _, content in members(first.wheel)}
    models = [entry for entry in content["components"] if entry["type"] == "machine-learning-model"]
    assert {entry["name"] for entry in models} == {"emodistill-bundled", "emodistill-large", "emodistill-vad"}
    for entry in models:
        assert "CC-BY-NC-SA-4.0" in entry["licenses"][0]["expression"]
        (file,) = (part["value"] for part in entry["properties"])
        graph = first.tree / "src" / file
        assert graph.read_bytes() == files[file]
        assert entry["hashes"] == [{"alg": "SHA-256", "content": release.sha256(graph)}]


def test_an_sbom_depends_on_its_content_and_the_given_time_alone(
    first: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = first.sbom.glob("emodistill-*-serve.cdx.json")
    packages, files = licences.read_list(), (first.wheel, first.sdist)
    version = first.wheel.name.split("-")[1]
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    text = release.sbom("serve", packages, files, version)
    assert text == path.read_text(encoding="utf-8")
    assert "timestamp" not in json.loads(text)["metadata"]
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    later = json.loads(release.sbom("serve", packages, files, version))
    assert later["metadata"]["timestamp"] == "1970-01-02T00:00:00+00:00"
    assert later["serialNumber"] != json.loads(text)["serialNumber"]
    release.check(json.dumps(later))


# --- what the script refuses -------------------------------------------------------------------------


def test_files_of_two_builds_do_not_mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist/old.whl").touch()
    arguments = ["release.py", "--dist", str(tmp_path / "dist"), "--sbom", str(tmp_path / "sbom")]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit, match="dist' is not empty: delete it"):
        release.main()


def test_a_file_that_git_does_not_know_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    (tmp_path / ".gitignore").write_text("*.log\n")
    (tmp_path / "run.log").touch()
    (tmp_path / "secret.wav").touch()
    monkeypatch.setattr(release, "ROOT", tmp_path)
    with pytest.raises(SystemExit, match=r"files that git does not know: \['.gitignore', 'secret.wav'\]"):
        release.build(tmp_path / "dist")


# --- the workflows -----------------------------------------------------------------------------------


def test_workflows_pin_their_actions_and_have_few_rights() -> None:
    folder = ROOT / ".github/workflows"
    zizmor = Path(sys.executable).parent / "zizmor"
    done = subprocess.run([zizmor, "--offline", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for path in sorted(folder.glob("*.yml")):
        workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert workflow["permissions"] in ({}, {"contents": "read"})
        for name, job in workflow["jobs"].items():
            steps = job["steps"]
            assert all(re.search(r"@[0-9a-f]{40}$", step["uses"]) for step in steps if "uses" in step), name
            can_write = "write" in job.get("permissions", {}).values()
            runs_our_code = any("checkout" in step.get("uses", "") for step in steps)
            assert not (can_write and runs_our_code), (
                f"'{name}' can write, so it must not run code of a commit"
            )


# --- the JavaScript libraries of the pages ----------------------------------------------------------


@pytest.mark.install
def test_the_javascript_libraries_are_those_of_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npm = shutil.which("npm")
    if npm is None or subprocess.run([npm, "ping"], capture_output=True, timeout=60).returncode:
        pytest.skip("npm is missing or reaches no registry")
    files = [name for _, _, targets in vendor.PACKAGES.values() for name in targets.values()]
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(vendor, "ROOT", tmp_path)
    vendor.main()
    for name in files:
        there, here = ((root / name).read_bytes() for root in (tmp_path, ROOT / "src/emodistill"))
        if name.endswith(".gz"):
            there, here = gzip.decompress(there), gzip.decompress(here)
        assert there == here, name
    monkeypatch.setitem(vendor.PACKAGES, "wavesurfer.js", ("8.0.1", "sha512-AAAA", {}))
    with pytest.raises(SystemExit, match="expected sha512-AAAA"):
        vendor.main()
