"""Kills, full disks, read-only folders, little memory, and several processes with one cache or one output.

`scripts/faults.py` kills every stage. The tests here kill those of inference, which start fast.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import factories as make
import numpy as np
import pytest
from factories_disks import mounted
from factories_scripts import load_script
from safetensors.numpy import save_file

from emodistill.errors import ConfigError
from emodistill.features.cache import ArrayCache
from emodistill.files import atomic_write, only_writer
from emodistill.inference.model_card import BUNDLED
from emodistill.partial_folders import atomic_folder, partial_folder, temporary_folder
from emodistill.training.artifact_cache import ArtifactCache
from emodistill.training.tuning import _repair_journal

resource = pytest.importorskip("resource", reason="Windows has neither limits nor these locks")
faults = load_script("faults")

COMMAND = "import sys; sys.argv[0] = 'emodistill'; from emodistill.cli import main; main()"
pytestmark = pytest.mark.skipif(not BUNDLED.is_dir(), reason="no bundled model")


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus and recordings."""
    folder = tmp_path_factory.mktemp("faults") / "material"
    faults.make_material(folder, training=False)
    return folder


def run(*arguments: object, limits: Callable[[], None] | None = None) -> make.CommandResult:
    """Run a command line in a process of its own, with limits of the system."""
    command = [sys.executable, "-c", COMMAND, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limits, timeout=120)
    return make.CommandResult(done.returncode, done.stdout, done.stderr)


def hidden(folder: Path) -> list[str]:
    """The hidden files and folders below a folder, but for the notes that an output keeps."""
    names = [path.name for path in folder.rglob(".*")]
    return sorted(name for name in names if not name.endswith("made_with.json"))


# --- kills -----------------------------------------------------------------------------------------


def test_ten_kills_change_no_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counts = {"predict to JSON lines": 4, "timeline to a folder": 4, "corpus write": 2}
    loop = faults.Loop(tmp_path, seed=int(time.time()))
    kills = loop.run({faults.STAGES[name]: count for name, count in counts.items()})
    assert len(kills) == 10
    assert all(kill.is_survived for kill in kills), capsys.readouterr().out
    assert "| all | 10 | 10 | 10 |" in (tmp_path / "faults.md").read_text()


def test_the_loop_finds_a_half_file_and_a_file_that_is_left(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/rows.json").write_text('{"a": 1}')
    reference = faults.tree(tmp_path)
    (tmp_path / "out/rows.json").write_text('{"a": ')
    assert "out/rows.json" in faults.incomplete_files(tmp_path, reference, ())[0]
    (tmp_path / "out/rows.json").write_text('{"a": 2}')
    (tmp_path / "out/.rows.json.partial").mkdir()
    assert faults.differences(faults.tree(tmp_path), reference) == [
        "left over: out/.rows.json.partial", "other content: out/rows.json",
    ]  # fmt: skip


@pytest.mark.parametrize("write", ["text", "safetensors"])
def test_a_killed_process_leaves_the_old_file_and_the_next_one_cleans(tmp_path: Path, write: str) -> None:
    path = tmp_path / f"model.{write}"
    path.write_text("old")
    code = """
import os, signal, sys
from pathlib import Path
from emodistill.files import atomic_write
with atomic_write(Path(sys.argv[1])) as partial:
    partial.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code, path]).returncode == -9
    assert (path.read_text(), hidden(tmp_path)) == ("old", [f".{path.name}.partial", path.name][:1])
    with atomic_write(path) as partial:
        assert list(partial.parent.iterdir()) == [], "what the killed process wrote is gone"
        if write == "text":
            partial.write_text("new")
        else:
            save_file({"a": np.zeros(3)}, partial)  # it replaces the file that it is given
    assert path.read_bytes() != b"old"
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


def test_a_killed_folder_is_deleted_by_the_next_one(tmp_path: Path) -> None:
    left = tmp_path / ".model.partial"
    left.mkdir()
    (left / "half.onnx").write_text("half")
    with atomic_folder(tmp_path / "model") as folder:
        assert list(folder.iterdir()) == []
        (folder / "model.onnx").write_text("whole")
        assert not (tmp_path / "model").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    with pytest.raises(FileExistsError), atomic_folder(tmp_path / "model") as folder:
        (folder / "model.onnx").write_text("other")
    assert (tmp_path / "model/model.onnx").read_text() == "whole"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_the_temporary_folder_of_a_killed_server_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code = """
import os, signal
from emodistill.partial_folders import temporary_folder
with temporary_folder("serve") as folder:
    (folder / "jobs.sqlite").write_text("x")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(tmp_path)})
    (own,) = tmp_path.iterdir()
    assert own.stat().st_mode & 0o077 == 0
    assert len(list(own.rglob("jobs.sqlite"))) == 1
    with temporary_folder("serve") as folder:
        assert list(folder.iterdir()) == []
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_another_user_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    public = tmp_path / f"emodistill-{os.geteuid()}"
    public.mkdir()
    public.chmod(0o777)
    with temporary_folder("serve") as folder:
        assert not folder.is_relative_to(public)


@pytest.mark.parametrize("left", [b"", b"{}\n", b'{}\n{"op_code"'])
def test_the_journal_of_a_killed_search_is_repaired(tmp_path: Path, left: bytes) -> None:
    journal = tmp_path / "study.journal"
    journal.write_bytes(left)
    (tmp_path / "study.journal.lock").touch()
    _repair_journal(journal)
    assert journal.read_bytes() == b"".join(line for line in left.splitlines(True) if line.endswith(b"\n"))
    assert [path.name for path in tmp_path.iterdir()] == ["study.journal"]


# --- full disks, read-only folders, little memory ----------------------------------------------------


def commands(material: Path, out: Path) -> dict[str, list[object]]:
    """A command line for each kind of writer."""
    clips = material / "clips"
    return {
        "csv": ["predict", clips, "-o", out / "rows.csv"],
        "json lines": ["predict", clips, "-o", out / "rows.jsonl"],
        "parquet": ["predict", clips, "-o", out / "rows.parquet"],
        "folder": ["timeline", clips, "-f", "json", "-o", out / "rows"],
        "voice": ["enrol", clips, "-o", out / "anna.voice.json"],
        "embeddings": ["embed", clips, "-o", out / "rows.npz"],
        "manifest": ["corpus", "prepare", "csv", material / "corpus/utterances.csv", "-o", out / "all.csv"],
        "corpus": ["corpus", "write", material / "corpus/utterances.csv", "--to", "csv", out / "corpus"],
    }


WRITERS = tuple(commands(Path(), Path()))


def check_end(result: make.CommandResult, message: str) -> None:
    """Check that a command ended with one clear message."""
    assert (result.code, "Traceback" in result.err) == (2, False), result.err
    assert message in result.err.splitlines()[-1]
    assert result.err.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize("writer", WRITERS)
def test_after_a_full_disk_the_same_command_ends_well(material: Path, tmp_path: Path, writer: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    arguments = commands(material, out)[writer]

    def limits() -> None:  # a write over this size fails as on a full disk, with another number
        resource.setrlimit(resource.RLIMIT_FSIZE, (400, 400))

    check_end(run(*arguments, limits=limits), "no space left")
    assert [path for path in out.rglob("*") if path.is_file()] == []
    assert hidden(out) == []
    assert run(*arguments).code == 0
    found = faults.tree(out)
    shutil.rmtree(out)
    out.mkdir()
    assert run(*arguments).code == 0
    assert faults.tree(out) == found


def test_a_disk_that_is_really_full(material: Path, tmp_path: Path) -> None:
    with mounted(tmp_path, "-t", "tmpfs", "-o", "size=64k", "faults"):
        filler = tmp_path / "filler"
        filler.write_bytes(bytes(shutil.disk_usage(tmp_path).free))
        for writer in ("csv", "folder", "voice"):
            check_end(run(*commands(material, tmp_path)[writer]), "no space left")
            assert hidden(tmp_path) == []
        filler.unlink()
        assert run(*commands(material, tmp_path)["csv"]).code == 0
        assert len(make.read_rows(tmp_path / "rows.csv")) == len(list((material / "clips").iterdir()))


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Runs stages on disks of their own."""
    return faults.Loop(tmp_path_factory.mktemp("limits"), seed=int(time.time()))


@pytest.mark.parametrize("name", ["train", "export", "fetch"])
def test_a_stage_goes_on_after_bad_disks_and_little_memory(
    loop: Any, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if name == "fetch" and not make.DATA.is_dir():
        pytest.skip("no published weights")
    with mounted(tmp_path, "-t", "tmpfs", "faults"):
        found = loop.run_limits([faults.STAGES[name]], 1)
    assert [kill.stage for kill in found] == [f"{name}: {kind}" for kind in faults.KINDS]
    assert all(kill.is_survived for kill in found), capsys.readouterr().out


@pytest.mark.parametrize("writer", ["json lines", "folder", "voice", "manifest", "corpus"])
def test_a_read_only_folder_is_one_line(material: Path, tmp_path: Path, writer: str) -> None:
    with mounted(tmp_path, "-t", "tmpfs", "-o", "ro", "faults"):
        result = run(*commands(material, tmp_path)[writer])
        check_end(result, "ead-only")
        assert list(tmp_path.iterdir()) == []


def test_a_cache_without_space_says_so(tmp_path: Path) -> None:
    cache = ArrayCache(tmp_path / "cache")
    code = """
import resource, sys
from pathlib import Path
import numpy as np
from emodistill.features.cache import ArrayCache
resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))
try:
    ArrayCache(Path(sys.argv[1])).write("abcd", np.zeros(1000))
except OSError as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-c", code, cache.folder], capture_output=True, text=True)
    assert "no space left; free some" in said.stdout, "NumPy's own error has no number"
    assert "abcd" not in cache
    assert hidden(tmp_path) == []
    cache.write("abcd", np.zeros(1000))
    assert len(cache.read("abcd")) == 1000


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the address space")
def test_with_little_memory_a_command_ends_with_one_line_or_well(material: Path, tmp_path: Path) -> None:
    arguments = [*commands(material, tmp_path)["csv"], "--jobs", 1]
    assert run(*arguments).code == 0
    expected = (tmp_path / "rows.csv").read_bytes()
    (tmp_path / "rows.csv").unlink()
    codes = []
    for megabytes in (220, 235, 2000):

        def limits(size: int = megabytes * 10**6) -> None:
            resource.setrlimit(resource.RLIMIT_AS, (size, size))

        result = run(*arguments, limits=limits)
        codes.append(result.code)
        if result.code:
            check_end(result, "not enough memory: free some")
            assert list(tmp_path.iterdir()) == []
        else:
            assert (tmp_path / "rows.csv").read_bytes() == expected
            (tmp_path / "rows.csv").unlink()
    assert codes[0] == 2
    assert codes[-1] == 0


# --- several processes -----------------------------------------------------------------------------

FILL = """
import sys, time
from pathlib import Path
import numpy as np
from emodistill.features.cache import ArrayCache
from emodistill.training.artifact_cache import ArtifactCache
folder = Path(sys.argv[1])
cache, artifacts = ArrayCache(folder / "arrays"), ArtifactCache(folder / "artifacts")
source = folder / sys.argv[2]
source.mkdir()
for number in range(60):
    cache.write(f"{number:04d}", np.full(50_000, number))
    (source / "model.safetensors").write_bytes(bytes([number]) * 50_000)
    (source / "model.json").write_text(str(number))
    artifacts.store(f"{number:04d}", sorted(source.iterdir()))
    for path in source.iterdir():
        path.unlink()
"""


@pytest.mark.parametrize("num_processes", [2, 4])
def test_processes_on_one_cache_never_corrupt_it_and_one_is_killed(
    tmp_path: Path, num_processes: int
) -> None:
    started = [
        subprocess.Popen([sys.executable, "-c", FILL, str(tmp_path), f"source-{number}"])
        for number in range(num_processes)
    ]
    while not (tmp_path / "artifacts/0010").is_dir():
        assert started[0].poll() is None
        time.sleep(0.005)
    started[0].kill()
    assert [process.wait(60) for process in started] == [-9] + [0] * (num_processes - 1)
    cache, artifacts = ArrayCache(tmp_path / "arrays"), ArtifactCache(tmp_path / "artifacts")
    for number in range(60):
        assert (cache.read(f"{number:04d}") == np.full(50_000, number)).all()
        assert artifacts.fetch(f"{number:04d}", tmp_path / "run")
        assert (tmp_path / "run/model.safetensors").read_bytes() == bytes([number]) * 50_000
        assert (tmp_path / "run/model.json").read_text() == str(number)
        assert len(list((tmp_path / f"artifacts/{number:04d}").iterdir())) == 2


def test_a_second_writer_gets_a_folder_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    with partial_folder(path) as first, partial_folder(path) as second:
        assert [first.name, second.name] == [".rows.csv.partial", ".rows.csv.2.partial"]
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".rows.csv.2.partial").mkdir()  # of a killed process
    with atomic_write(path) as partial:
        partial.write_text("rows")
    assert [item.name for item in tmp_path.iterdir()] == ["rows.csv"]


@pytest.mark.parametrize("place", ["rows.jsonl", "folder"])
def test_an_output_has_one_writer(tmp_path: Path, place: str) -> None:
    path = tmp_path / place
    if place == "folder":
        path.mkdir()
    with only_writer(path, "writes"):
        with (
            pytest.raises(ConfigError, match=r"another process writes '.*': wait for it"),
            only_writer(path, "writes"),
        ):
            pass
        with only_writer(tmp_path / "other.jsonl", "writes"):
            pass
    assert hidden(tmp_path) == []
    with only_writer(path, "writes"):
        assert len(hidden(tmp_path)) == 1


@pytest.mark.parametrize("writer", ["json lines", "folder"])
def test_two_commands_do_not_write_one_output(material: Path, tmp_path: Path, writer: str) -> None:
    arguments = commands(material, tmp_path)[writer]
    out = Path(str(arguments[-1]))
    if writer == "folder":
        out.mkdir()
    with only_writer(out, "writes"):
        check_end(run(*arguments), "another process writes")
        assert [path for path in tmp_path.rglob("*") if path.is_file() and path.name[0] != "."] == []
    assert run(*arguments).code == 0
    assert hidden(tmp_path) == []


def test_a_jsonl_file_that_was_cut_on_a_full_disk_is_continued(material: Path, tmp_path: Path) -> None:
    arguments = commands(material, tmp_path)["json lines"]
    assert run(*arguments).code == 0
    whole = (tmp_path / "rows.jsonl").read_bytes()
    (tmp_path / "rows.jsonl").write_bytes(whole[: len(whole) // 2])
    result = run(*arguments)
    assert (result.code, "rows were there already" in result.err) == (0, True)
    assert sorted((tmp_path / "rows.jsonl").read_bytes().splitlines()) == sorted(whole.splitlines())
