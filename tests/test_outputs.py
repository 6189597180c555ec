"""Outputs: devices, pipes and links, full disks, Ctrl-C, and what a later run does again."""

import csv
import errno
import io
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import factories as make
import pytest
import soundfile
from pyarrow import parquet

from emodistill.errors import ConfigError
from emodistill.files import (
    atomic_write,
    ensure_not_read,
    ensure_writable,
    is_stream,
    open_output,
    real_path,
)
from emodistill.inference.model_card import BUNDLED
from emodistill.inference.resume import MadeWith

Call = make.CommandLine
Write = Callable[[Path, str], None]

NULL = Path("/dev/null")
DEMO = Path(make.__file__).parents[1] / "src" / "emodistill" / "demo" / "call.ogg"
# As the command, but with Ctrl-C switched on: a shell switches it off in commands that it starts with "&".
COMMAND = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
    "sys.argv[0] = 'emodistill'; from emodistill.cli import main; main()"
)

needs_devices = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
needs_model = pytest.mark.skipif(not BUNDLED.is_dir(), reason="no bundled model")


def kind(path: Path) -> int:
    """The kind of file at a path, without following a link: a device, a FIFO, a link, a file."""
    return stat.S_IFMT(os.lstat(path).st_mode)


def write_whole(path: Path, text: str) -> None:
    with atomic_write(path) as partial:
        partial.write_text(text)


def write_lines(path: Path, text: str) -> None:
    with open_output(path) as stream:
        stream.write(text)


def extend(path: Path, text: str) -> None:
    with open_output(path, append=True) as stream:
        stream.write(text)


every_writer = pytest.mark.parametrize("write", [write_whole, write_lines, extend])


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Three recordings."""
    folder = tmp_path / "clips"
    folder.mkdir()
    for number in range(3):
        soundfile.write(folder / f"{number}.wav", make.speech(0.6, 120, seed=number), make.RATE)
    return folder


def read_fifo(path: Path, write: Callable[[], object]) -> str:
    """What a reader of the FIFO gets while `write` runs."""
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append(path.read_text()))
    reader.start()
    write()
    reader.join(60)
    return got[0]


# --- files.py ------------------------------------------------------------------------------------


@every_writer
def test_a_link_stays_and_its_target_gets_the_content(tmp_path: Path, write: Write) -> None:
    target, link, second = tmp_path / "below" / "target.csv", tmp_path / "link.csv", tmp_path / "second.csv"
    target.parent.mkdir()
    target.write_text("")
    link.symlink_to(Path("below/target.csv"))
    second.symlink_to(link)
    write(second, "new")
    assert (kind(link), kind(second)) == (stat.S_IFLNK, stat.S_IFLNK)
    assert target.read_text() == link.read_text() == "new"
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "below",
        "link.csv",
        "second.csv",
        "target.csv",
    ]


@every_writer
def test_the_target_of_a_link_is_made(tmp_path: Path, write: Write) -> None:
    link = tmp_path / "link.csv"
    link.symlink_to(tmp_path / "new" / "target.csv")
    write(link, "new")
    assert (tmp_path / "new" / "target.csv").read_text() == "new"
    assert kind(link) == stat.S_IFLNK


def test_links_in_a_circle_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(OSError, match="too many symbolic links"):
        real_path(tmp_path / "a")


@every_writer
def test_a_fifo_stays_and_gives_the_content(tmp_path: Path, write: Write) -> None:
    fifo = tmp_path / "out.csv"
    os.mkfifo(fifo)
    assert is_stream(fifo)
    assert read_fifo(fifo, lambda: write(fifo, "a\nb\n")) == "a\nb\n"
    assert kind(fifo) == stat.S_IFIFO
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]


@needs_devices
@every_writer
def test_a_device_stays(tmp_path: Path, write: Write) -> None:
    link = tmp_path / "null.csv"
    link.symlink_to("/dev/null")
    assert is_stream(link)
    assert stat.S_ISCHR(link.stat().st_mode)
    write(link, "gone")
    assert kind(link) == stat.S_IFLNK
    assert stat.S_ISCHR(NULL.stat().st_mode)


@needs_devices
@every_writer
def test_a_full_disk_names_the_output_and_says_what_to_do(tmp_path: Path, write: Write) -> None:
    link = tmp_path / "full.csv"
    link.symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"no space left; free some.*run the command again: '.*full\.csv'"):
        write(link, "text\n" * 10_000)


@every_writer
def test_a_full_disk_keeps_what_was_there(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.csv"
    out.write_text("kept")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    monkeypatch.setattr("emodistill.files._text", full)
    with pytest.raises(OSError, match=r"no space left; .*'.*out\.csv'") as raised:
        write(out, "new")
    assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, str(out))
    assert out.read_text() == "kept"
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]


def test_another_error_in_the_block_is_not_changed(tmp_path: Path) -> None:
    missing, full = FileNotFoundError(errno.ENOENT, "x", "a.wav"), OSError(errno.ENOSPC, "x", "/cache/y")
    for error in (missing, full):
        with pytest.raises(OSError, match="x") as raised, atomic_write(tmp_path / "out.csv"):
            raise error
        assert raised.value is error


def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "anna.voice.json"
    path.write_text("old")
    path.chmod(0o600)
    write_whole(path, "new")
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("new", 0o600)


def test_an_output_that_cannot_be_written_is_found_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path, message in (
        (tmp_path, "expected the name of a file, got a folder"),
        (tmp_path / "file" / "out.csv", "cannot be written, since '.*file' is no folder"),
    ):
        with pytest.raises(OSError, match=message):
            ensure_writable(path)
    ensure_writable(tmp_path / "new" / "out.csv")
    ensure_writable(tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"], "nothing is made"


@pytest.mark.parametrize("verb", ["predict", "timeline"])
def test_a_dash_is_standard_output(
    emodistill: Call, exported: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.chdir(tmp_path)
    command = [verb, clips, "-m", exported, "-f", "csv"]
    assert emodistill(*command, "-o", "-").out == emodistill(*command).out != ""
    assert not Path("-").exists()


def test_an_input_is_no_output(emodistill: Call, exported_voice: Path, clips: Path, tmp_path: Path) -> None:
    recording, listed, turns, voice = (
        clips / "0.wav",
        tmp_path / "l.csv",
        tmp_path / "t.csv",
        tmp_path / "v.json",
    )
    listed.write_text(f"path\n{recording}\n")
    turns.write_text("path,start,end\n0,0,0.5\n")
    assert emodistill("enrol", clips, "-m", exported_voice, "-o", voice).code == 0
    link = tmp_path / "link.csv"
    link.symlink_to(recording)
    before = {path: path.read_bytes() for path in (recording, listed, turns, voice)}
    for command in (
        ["predict", recording, "-f", "csv", "-o", recording],
        ["predict", clips, "-f", "csv", "-o", link],
        ["predict", "--from", listed, "-o", listed],
        ["predict", "--from", listed, "-f", "jsonl", "--force", "-o", recording],
        ["predict", recording, "--voice", voice, "-o", voice],
        ["timeline", recording, "--segments", turns, "-o", turns],
        ["timeline", recording, "--segments", turns, "-f", "csv", "-o", tmp_path / "clips" / ".." / "t.csv"],
        ["timeline", recording, "--voice", voice, "-o", voice],
        ["enrol", recording, "-o", recording],
    ):
        result = emodistill(*command, "-m", exported_voice)
        assert (result.code, "is an input of this command" in result.err) == (2, True), command
        assert {path: path.read_bytes() for path in before} == before
    copied = tmp_path / "0.csv"  # the output of 0.wav in this folder
    turns.rename(copied)
    result = emodistill(
        "timeline", recording, "-m", exported_voice, "--segments", copied, "-f", "csv", "-o", tmp_path
    )
    assert (result.code, "is an input of this command" in result.err) == (2, True)


def test_no_name_of_a_file_that_is_read_may_be_an_output(tmp_path: Path) -> None:
    path, other, link, hard = (tmp_path / name for name in ("a.wav", "b.wav", "link.wav", "hard.wav"))
    path.write_text("sound")
    other.write_text("sound")
    link.symlink_to(path)
    hard.hardlink_to(path)
    for output, source in ((path, path), (link, path), (path, link), (hard, path)):
        with pytest.raises(ConfigError, match=f"'{re.escape(str(output))}' is an input of this command"):
            ensure_not_read([None, other, output], [None, Path("-"), source])
    ensure_not_read([other, tmp_path / "new", tmp_path], [path, tmp_path / "new", tmp_path])


def test_an_input_that_cannot_be_found_does_not_stop_the_others(
    emodistill: Call, exported: Path, clips: Path, tmp_path: Path
) -> None:
    circle, listed, out = (tmp_path / name for name in ("circle.wav", "list.jsonl", "out.csv"))
    circle.symlink_to(circle)
    paths = [clips / "0.wav", circle, f"{'a' * 5000}.wav", "a\0b.wav"]
    listed.write_text("".join(json.dumps({"path": str(path)}) + "\n" for path in paths))
    out.write_text("")
    result = emodistill("predict", "--from", listed, "-m", exported, "-o", out)
    rows = make.read_rows(out)
    assert (result.code, [bool(row["error"]) for row in rows]) == (1, [False, True, True, True])


@needs_devices
def test_a_file_behind_standard_output_keeps_what_others_wrote(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from emodistill.files import atomic_write\n"
        "with atomic_write(Path(sys.argv[1])) as partial: partial.write_text('rows\\n')"
    )
    out = tmp_path / "out.txt"
    for name in ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"):
        with out.open("wb") as file:
            file.write(b"header\n")
            file.flush()
            subprocess.run([sys.executable, "-c", code, name], stdout=file, check=True)
            os.write(file.fileno(), b"footer\n")
        assert out.read_text() == "header\nrows\nfooter\n", name


# --- the command line ----------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["predict", "timeline"])
@pytest.mark.parametrize("name", ["null", "null.csv", "null.json", "null.jsonl"])
@needs_devices
def test_an_output_may_be_a_device(
    emodistill: Call, exported: Path, clips: Path, tmp_path: Path, verb: str, name: str
) -> None:
    assert stat.S_ISCHR(NULL.stat().st_mode)
    link = tmp_path / "out" / name
    link.parent.mkdir()
    link.symlink_to("/dev/null")
    more = ["-f", "json"] if (verb, name) == ("timeline", "null.jsonl") else []
    result = emodistill(verb, clips, "-m", exported, "-o", link, *more)
    assert (result.code, result.out, result.err) == (0, "", "")
    assert stat.S_ISCHR(NULL.stat().st_mode)
    assert [path.name for path in link.parent.iterdir()] == [name], "no file is made beside it"


@pytest.mark.parametrize("verb", ["predict", "timeline"])
@pytest.mark.parametrize("format", ["json", "csv", "table"])
def test_an_output_may_be_a_fifo(
    emodistill: Call, exported: Path, clips: Path, tmp_path: Path, verb: str, format: str
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    command = [verb, clips, "-m", exported, "-f", format]
    expected = emodistill(*command).out
    assert read_fifo(fifo, lambda: emodistill(*command, "-o", fifo)) == expected
    assert kind(fifo) == stat.S_IFIFO


@needs_model
@needs_devices
@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize("verb", ["predict", "timeline"])
def test_an_output_may_be_a_process(clips: Path, tmp_path: Path, verb: str) -> None:
    line = f"'{sys.executable}' -m emodistill {verb} '{clips}' -f csv -o >(cat > '{tmp_path}/rows')"
    done = subprocess.run(["bash", "-c", f"{line}; code=$?; sleep 1; exit $code"], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert len((tmp_path / "rows").read_text().splitlines()) > 3


@pytest.mark.parametrize("verb", ["predict", "timeline"])
def test_an_output_may_be_a_link(
    emodistill: Call, exported: Path, clips: Path, tmp_path: Path, verb: str
) -> None:
    target, link = tmp_path / "target.csv", tmp_path / "link.csv"
    target.write_text("old")
    link.symlink_to(target)
    expected = emodistill(verb, clips, "-m", exported, "-f", "csv").out
    assert emodistill(verb, clips, "-m", exported, "-o", link).code == 0
    assert kind(link) == stat.S_IFLNK
    assert target.read_text() == expected


def test_a_voice_may_go_through_a_link(
    emodistill: Call, exported_voice: Path, clips: Path, tmp_path: Path
) -> None:
    target, link = tmp_path / "target.json", tmp_path / "anna.voice.json"
    link.symlink_to(target)
    assert emodistill("enrol", clips, "-m", exported_voice, "-o", link).code == 0
    assert kind(link) == stat.S_IFLNK
    assert json.loads(target.read_text())["utterances"] == 3
    result = emodistill("enrol", clips, "-m", exported_voice, "-o", tmp_path)
    assert (result.code, "expected the name of a file, got a folder" in result.err) == (2, True)


@needs_devices
@pytest.mark.parametrize("verb", ["predict", "timeline"])
def test_a_full_disk_is_one_line(
    emodistill: Call, exported: Path, clips: Path, tmp_path: Path, verb: str
) -> None:
    link = tmp_path / "full.csv"
    link.symlink_to("/dev/full")
    result = emodistill(verb, clips, "-m", exported, "-o", link)
    assert result.code == 2
    assert re.fullmatch(
        r"error: no space left; free some, .* run the command again: '.*full\.csv'\n", result.err
    )


@pytest.mark.parametrize("verb", ["predict", "timeline"])
def test_an_unknown_suffix_is_refused(
    emodistill: Call, exported: Path, clips: Path, tmp_path: Path, verb: str
) -> None:
    out = tmp_path / "out" / "rows.xlsx"
    result = emodistill(verb, clips, "-m", exported, "-o", out)
    assert (result.code, result.out) == (2, "")
    assert "bad suffix of --output '.xlsx', expected one of ['.txt', '.json'" in result.err
    assert "'.csv'" in result.err
    assert "with --format the file may have any name" in result.err
    assert not out.parent.exists()
    assert emodistill(verb, clips, "-m", exported, "-o", out, "-f", "csv").code == 0
    assert out.read_text().startswith("path,")
    upper = tmp_path / "ROWS.CSV"
    assert emodistill(verb, clips, "-m", exported, "-o", upper).code == 0
    assert upper.read_text() == out.read_text()


def test_an_output_of_predict_without_a_suffix_is_a_table(
    emodistill: Call, exported: Path, clips: Path, tmp_path: Path
) -> None:
    assert emodistill("predict", clips, "-m", exported, "-o", tmp_path / "rows").code == 0
    assert "│" in (tmp_path / "rows").read_text()


# --- Parquet -------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["predict", "timeline"])
def test_many_files_have_one_parquet(
    emodistill: Call, exported: Path, clips: Path, tmp_path: Path, verb: str
) -> None:
    (clips / "bad.wav").write_text("no audio")
    out = tmp_path / "rows.parquet"
    assert emodistill(verb, clips, "-m", exported, "-o", out).code == 1
    text = emodistill(verb, clips, "-m", exported, "-f", "csv").out
    table = parquet.read_table(out)
    expected = list(csv.DictReader(io.StringIO(text)))
    assert table.column_names == list(expected[0])
    for row, other in zip(table.to_pylist(), expected, strict=True):
        assert {name: "" if value is None else str(value) for name, value in row.items()} == other
    assert {row["path"] for row in expected} == {str(path) for path in clips.iterdir()}
    types = {field.name: str(field.type) for field in table.schema}
    assert (types["confidence"], types["p_sad"], types["error"]) == ("double", "double", "string")
    if verb == "predict":
        assert types["abstained"] == "bool"


@pytest.mark.parametrize("verb", ["predict", "timeline"])
def test_parquet_without_pyarrow_names_the_extra_before_the_work(
    emodistill: Call, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    result = emodistill(verb, clips, "-m", "no/such", "-o", tmp_path / "rows.parquet")
    assert (result.code, result.err) == (
        2,
        "error: Parquet needs the package 'pyarrow', which is not installed: "
        "pip install 'emodistill[parquet]'\n",
    )
    assert not (tmp_path / "rows.parquet").exists()


@needs_model
@pytest.mark.parametrize("verb", ["predict", "timeline"])
def test_parquet_goes_to_a_pipe_and_not_to_a_terminal(clips: Path, verb: str) -> None:
    command = [sys.executable, "-c", COMMAND, verb, str(clips / "0.wav"), "-f", "parquet"]
    done = subprocess.run(command, capture_output=True, check=True)
    assert parquet.read_table(io.BytesIO(done.stdout))["path"].to_pylist()[0] == str(clips / "0.wav")
    if sys.platform == "win32":
        return
    here, there = os.openpty()
    refused = subprocess.run(command, stdout=there, stderr=subprocess.PIPE, text=True)
    os.close(here)
    os.close(there)
    assert (refused.returncode, refused.stderr) == (
        2, "error: this format is no text for a terminal: name a file with --output\n",
    )  # fmt: skip


# --- resuming ------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["size", "time"])
def test_predict_does_a_changed_file_again(
    emodistill: Call, exported: Path, clips: Path, tmp_path: Path, change: str
) -> None:
    out = tmp_path / "rows.jsonl"
    command = ["predict", clips, "-m", exported, "-o", out]
    assert emodistill(*command).code == 0
    before = out.read_text().splitlines()
    if change == "size":
        status = (clips / "1.wav").stat()
        soundfile.write(clips / "1.wav", make.speech(0.9, 240, seed=9), make.RATE)
        os.utime(clips / "1.wav", ns=(status.st_atime_ns, status.st_mtime_ns))
    else:
        os.utime(clips / "1.wav", ns=(0, 0))
    result = emodistill(*command)
    assert result.code == 0
    assert result.err.splitlines() == [
        "1 file has changed since the last run: done again",
        f"2 rows were there already, 1 added to {out}",
    ]
    *kept, new = out.read_text().splitlines()
    assert kept == [before[0], before[2]]
    assert json.loads(new)["path"] == str(clips / "1.wav")
    assert (new == before[1]) == (change == "time"), "a row holds no size and no time"
    assert emodistill(*command).err == f"3 rows were there already, 0 added to {out}\n"


def test_an_output_without_sizes_and_times_is_continued(
    emodistill: Call, exported: Path, clips: Path, tmp_path: Path
) -> None:
    out = tmp_path / "rows.jsonl"
    command = ["predict", clips, "-m", exported, "-o", out]
    emodistill(*command)
    note = tmp_path / ".rows.jsonl.made_with.json"
    data = json.loads(note.read_text())
    del data["inputs"]
    note.write_text(json.dumps(data))
    assert "3 rows were there already, 0 added" in emodistill(*command).err
    os.utime(clips / "1.wav", ns=(0, 0))
    assert "2 rows were there already, 1 added" in emodistill(*command).err


def test_a_recording_that_is_gone_keeps_its_row(
    emodistill: Call, exported: Path, clips: Path, tmp_path: Path
) -> None:
    out = tmp_path / "rows.jsonl"
    files = sorted(clips.iterdir())
    emodistill("predict", *files, "-m", exported, "-o", out)
    before = out.read_bytes()
    files[1].unlink()
    assert emodistill("predict", *files, "-m", exported, "-o", out).code == 0
    assert out.read_bytes() == before


def test_timeline_does_a_changed_recording_again(
    emodistill: Call, exported: Path, clips: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = ["timeline", clips, "-m", exported, "-f", "csv", "-o", out]
    assert emodistill(*command).code == 0
    before = (out / "1.csv").read_bytes()
    (out / "0.csv").write_text("kept as it is")
    (out / "1.csv").write_text("of the old recording")
    os.utime(clips / "1.wav", ns=(0, 0))
    result = emodistill(*command)
    assert result.err.splitlines() == [
        "1 file has changed since the last run: done again",
        f"2 files were there already, 1 added to {out}",
    ]
    assert (out / "0.csv").read_text() == "kept as it is"
    assert (out / "1.csv").read_bytes() == before
    (clips / "1.wav").write_text("no audio any more")
    assert emodistill(*command).code == 1
    assert not (out / "1.csv").exists(), "no result stays of what the recording was before"
    assert (out / "failures.csv").is_file()


def test_predict_begins_anew_with_force(
    emodistill: Call, exported: Path, clips: Path, tmp_path: Path
) -> None:
    out = tmp_path / "rows.jsonl"
    emodistill("predict", clips, "-m", exported, "-o", out)
    expected = out.read_bytes()
    out.write_text("damaged\n")
    (tmp_path / ".rows.jsonl.made_with.json").write_text("damaged")
    command = ["predict", clips, "-m", exported, "-o", out, "--force"]
    assert emodistill(*command).err == ""
    assert out.read_bytes() == expected
    assert emodistill(*command, "--min-confidence", 1.0).code == 0, "other settings are no error"
    assert len(out.read_text().splitlines()) == 3
    assert (
        "was begun with another min_confidence" in emodistill("predict", clips, "-m", exported, "-o", out).err
    )


def test_timeline_begins_anew_with_force(
    emodistill: Call, exported: Path, clips: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = ["timeline", clips, "-m", exported, "-f", "csv", "-o", out]
    emodistill(*command)
    (out / "0.csv").write_text("old")
    (out / "notes.txt").write_text("not ours")
    refused = emodistill(*command, "--min-confidence", 1.0)
    assert (refused.code, "add --force to begin anew" in refused.err) == (2, True)
    one = emodistill("timeline", clips / "0.wav", *command[2:], "--min-confidence", 1.0, "--force")
    assert one.code == 2
    assert "another min_confidence: name its 2 other recordings too" in one.err
    assert (out / "0.csv").read_text() == "old"
    assert emodistill(*command, "--min-confidence", 1.0, "--force").code == 0
    assert (out / "0.csv").read_text() != "old"
    assert (out / "notes.txt").read_text() == "not ours"
    assert "3 files were there already, 0 added" in emodistill(*command, "--min-confidence", 1.0).err


def test_the_hidden_note_of_a_link_lies_beside_its_target(
    emodistill: Call, exported: Path, clips: Path, tmp_path: Path
) -> None:
    target, link = tmp_path / "data" / "rows.jsonl", tmp_path / "link.jsonl"
    link.symlink_to(target)
    command = ["predict", clips, "-m", exported]
    emodistill(*command, "-o", link)
    assert sorted(path.name for path in target.parent.iterdir()) == [
        ".rows.jsonl.made_with.json",
        "rows.jsonl",
    ]
    assert "3 rows were there already" in emodistill(*command, "-o", target).err
    assert kind(link) == stat.S_IFLNK


def test_sizes_and_times_of_other_recordings_are_kept(tmp_path: Path) -> None:
    first, second, note = tmp_path / "a.wav", tmp_path / "b.wav", tmp_path / "note.json"
    for path in (first, second):
        path.write_text("audio")
        MadeWith.read(note, tmp_path).write({"model": "a"}, [str(path)])
    before = MadeWith.read(note, tmp_path)
    assert before.inputs.keys() == {str(first), str(second)}
    assert before.changed([str(first), str(second), "new.wav"]) == set()
    first.write_text("other audio")
    second.unlink()
    assert before.changed([str(first), str(second), "new.wav"]) == {str(first)}


# --- Ctrl-C --------------------------------------------------------------------------------------


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    """400 recordings of 20 s, which are one file on the disk."""
    folder = tmp_path / "calls"
    folder.mkdir()
    samples, rate_hz = soundfile.read(DEMO)
    soundfile.write(folder / "000.wav", samples.mean(axis=1), rate_hz)
    for number in range(1, 400):
        os.link(folder / "000.wav", folder / f"{number:03d}.wav")
    return folder


def interrupt(arguments: list[object], begun: Callable[[], bool]) -> tuple[int, str]:
    """Run a command, press Ctrl-C when `begun`, and return its exit code and standard error."""
    started = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *map(str, arguments)], stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 120
    while not begun() and started.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    started.send_signal(signal.SIGINT)
    _, err = started.communicate(timeout=60)
    return started.returncode, err


@needs_model
@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c_says_what_is_done_and_a_jsonl_is_continued(calls: Path, tmp_path: Path, jobs: int) -> None:
    out = tmp_path / "out" / "rows.jsonl"
    command = ["predict", calls, "-o", out, "--jobs", jobs]
    code, err = interrupt(command, lambda: out.is_file() and out.read_text().count("\n") >= 2)
    num_done = out.read_text().count("\n")
    assert 2 <= num_done < 400
    assert (code, err) == (
        130, f"stopped: {num_done} of 400 files are in {out}; run the same command again to continue\n",
    )  # fmt: skip
    assert sorted(path.name for path in out.parent.iterdir()) == [".rows.jsonl.made_with.json", "rows.jsonl"]
    for path in sorted(calls.iterdir())[num_done + 1 :]:
        path.unlink()
    again = subprocess.run(
        [sys.executable, "-c", COMMAND, *map(str, command)], capture_output=True, text=True
    )
    assert (again.returncode, again.stderr) == (0, f"{num_done} rows were there already, 1 added to {out}\n")


@needs_model
@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c_says_what_is_done_and_a_folder_is_continued(calls: Path, tmp_path: Path, jobs: int) -> None:
    out = tmp_path / "out"
    command = ["timeline", calls, "-f", "csv", "-o", out, "--jobs", jobs]
    code, err = interrupt(command, lambda: len(list(out.glob("[0-9]*.csv"))) >= 2)
    num_done = len(list(out.glob("[0-9]*.csv")))
    assert 2 <= num_done < 400
    assert (code, err) == (
        130, f"stopped: {num_done} of 400 files are in {out}; run the same command again to continue\n",
    )  # fmt: skip
    assert {path.suffix for path in out.iterdir() if path.name != ".made_with.json"} == {".csv"}
    for path in sorted(calls.iterdir())[num_done + 1 :]:
        path.unlink()
    again = subprocess.run(
        [sys.executable, "-c", COMMAND, *map(str, command)], capture_output=True, text=True
    )
    assert (again.returncode, again.stderr) == (0, f"{num_done} files were there already, 1 added to {out}\n")


@needs_model
@pytest.mark.parametrize(
    ("verb", "message"),
    [
        ("predict", "; a .jsonl file can be continued, e.g. -o rows.jsonl"),
        ("timeline", "; a folder can be continued, e.g. --format csv -o timelines"),
        ("enrol", ""),
    ],
)
def test_ctrl_c_says_that_nothing_was_written(calls: Path, tmp_path: Path, verb: str, message: str) -> None:
    out, begun_s = tmp_path / "out.csv", time.monotonic()
    code, err = interrupt(
        [verb, calls, "-o", out, "--jobs", 1],
        lambda: bool(list(tmp_path.glob(".out*"))) or time.monotonic() > begun_s + 10,
    )
    assert (code, err) == (130, f"stopped: nothing was written to '{out}'{message}\n")
    assert [path.name for path in tmp_path.iterdir()] == ["calls"]
