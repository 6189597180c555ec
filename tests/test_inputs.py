"""Where audio comes from: folders, standard input, lists, limits of length, and messages about sources."""

import csv
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import factories as make
import numpy as np
import pytest
import soundfile

from emodistill import AudioError, AudioTooLongError, Client, Recognizer
from emodistill.audio import decoding, from_samples, load, load_blocks
from emodistill.audio.decoding import MEDIA_SUFFIXES, SUFFIXES, name_in_messages, read_header
from emodistill.audio.waveform import load_bounded
from emodistill.console import skipped_message
from emodistill.inference.input_files import find_audio_files
from emodistill.inference.input_lists import read_list

Call = make.CommandLine
CALL = Path(decoding.__file__).parents[1] / "demo" / "call.ogg"


def write_media(path: Path, codec: str = "aac", length_s: float = 1.0) -> Path:
    """Write a container that libsndfile cannot read."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=48_000, layout="mono")
        samples = make.speech(length_s, 150, rate_hz=48_000)
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate = 48_000
        resampler = av.AudioResampler(
            format=stream.codec_context.format, rate=48_000, layout="mono",
            frame_size=stream.codec_context.frame_size,
        )  # fmt: skip
        parts = [*resampler.resample(frame), *resampler.resample(None)]
        for part in [*parts, None]:
            container.mux(stream.encode(part))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as people have it: recordings of several kinds, a picture, notes, source text."""
    folder = tmp_path / "mixed"
    (folder / "below").mkdir(parents=True)
    soundfile.write(folder / "a.wav", make.speech(0.6, 120, seed=1), make.RATE)
    write_media(folder / "b.m4a")
    write_media(folder / "below" / "C.MP4")
    write_media(folder / "below" / "d.webm", "libopus")
    write_media(folder / "e.mkv")
    write_media(folder / "f.3gp")
    write_media(folder / "g.ts", "mp2")
    (folder / "notes.txt").write_text("no audio")
    (folder / "picture.png").write_bytes(b"\x89PNG")
    (folder / "source.ts").write_text("Good: let this = 1;" * 40)
    (folder / "._a.wav").write_bytes(b"\0")
    return folder


@pytest.fixture
def without_av(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An install without the [media] extra."""
    assert folder.is_dir(), "its files are written before"
    monkeypatch.setitem(sys.modules, "av", None)


# --- folders -------------------------------------------------------------------------------------


def test_every_audio_and_video_file_of_a_folder_is_decoded(emodistill: Call, folder: Path) -> None:
    result = emodistill("predict", folder, "-f", "json")
    rows = json.loads(result.out)
    names = [Path(row["path"]).name for row in rows]
    assert names == ["a.wav", "b.m4a", "C.MP4", "d.webm", "e.mkv", "f.3gp", "g.ts"]
    assert [row["error"] for row in rows] == [None] * 7
    assert result.code == 0
    assert "skipped" not in result.err


@pytest.mark.parametrize("verb", ["predict", "timeline"])
@pytest.mark.usefixtures("without_av")
def test_files_that_this_install_cannot_decode_are_rows_and_one_line(
    emodistill: Call, folder: Path, verb: str
) -> None:
    result = emodistill(verb, folder, "-f", "json")
    rows = {Path(row["path"]).name: row["error"] for row in json.loads(result.out)}
    assert len(rows) == 7
    assert rows.pop("a.wav") is None
    for name, error in rows.items():
        assert error.endswith(
            f"{name}: needs the package 'av' to be decoded: pip install 'emodistill[media]'"
        )
    assert result.code == 1
    assert result.err.splitlines()[-1] == (
        "6 files skipped (.m4a 1, .mp4 1, .webm 1, .mkv 1, .3gp 1, .ts 1): pip install 'emodistill[media]'"
    )
    assert "failed:" not in result.err


@pytest.mark.usefixtures("without_av")
def test_enrol_counts_the_files_that_this_install_cannot_decode(
    emodistill: Call, folder: Path, tmp_path: Path
) -> None:
    result = emodistill("enrol", folder, "-o", tmp_path / "v.json")
    assert result.code == 1
    assert "6 files skipped" in result.err
    assert "left out of the voice" not in result.err


@pytest.mark.usefixtures("without_av")
def test_a_named_file_that_cannot_be_decoded_is_a_failure_with_the_extra(
    emodistill: Call, folder: Path
) -> None:
    result = emodistill("predict", folder / "b.m4a", "-f", "json")
    assert result.code == 1
    assert f"failed: {folder / 'b.m4a'}: needs the package 'av'" in result.err
    assert "skipped" not in result.err


def test_suffixes_are_lower_case_and_of_one_decoder() -> None:
    for suffix in (*SUFFIXES, *MEDIA_SUFFIXES):
        assert suffix == suffix.lower()
        assert suffix.startswith(".")
    assert not set(SUFFIXES) & set(MEDIA_SUFFIXES)
    for suffix in (".m4a", ".mp4", ".webm", ".aac", ".wma", ".3gp", ".mkv", ".mov", ".gsm"):
        assert suffix in MEDIA_SUFFIXES


def test_a_named_file_counts_whatever_its_suffix(folder: Path) -> None:
    found = find_audio_files([folder / "notes.txt", folder / "a.wav"])
    assert found.files == [folder / "notes.txt", folder / "a.wav"]
    assert not found.undecodable


def test_the_line_about_skipped_files_counts_by_suffix() -> None:
    paths = [f"{number}.m4a" for number in range(6)] + [f"{number}.MP4" for number in range(4)]
    assert skipped_message(paths) == ("10 files skipped (.m4a 6, .mp4 4): pip install 'emodistill[media]'")
    assert skipped_message(["a.wma"]).startswith("1 file skipped (.wma 1)")


# --- limits of length ----------------------------------------------------------------------------


def never_decode(*_: object) -> None:
    raise AssertionError("the recording was decoded")


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3", ".m4a"])
def test_a_recording_that_is_too_long_by_its_header_is_not_decoded(
    tmp_path: Path, suffix: str, bundled: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"long{suffix}"
    if suffix == ".m4a":
        write_media(path, length_s=6)
    else:
        soundfile.write(path, make.speech(6, 150), make.RATE)
    header = read_header(path)
    assert header is not None
    assert header.duration_s == pytest.approx(6, abs=0.2)
    assert not header.is_estimated
    assert len(load_bounded(path, 7)) == pytest.approx(6 * make.RATE, rel=0.03)
    monkeypatch.setattr("emodistill.audio.waveform.decode_blocks", never_decode)
    for source in (path, path.read_bytes(), path.open("rb")):
        with pytest.raises(AudioTooLongError, match=r": longer than the limit of 5 s \(6\.\d s\); cut it"):
            load_bounded(source, 5)
        with pytest.raises(AudioTooLongError):
            list(load_blocks(source, 5))
        with pytest.raises(AudioTooLongError):
            bundled.timeline(source, max_s=5)
        if isinstance(source, io.BufferedReader):
            source.close()


def test_an_mp3_without_the_number_of_its_frames_is_decoded_up_to_the_limit(tmp_path: Path) -> None:
    """The decoder guesses its length from the size and may say twice the true one."""
    path = tmp_path / "stream.mp3"
    quiet_then_loud = np.concatenate([np.zeros(make.RATE * 20), make.speech(20, 150)])
    soundfile.write(path, quiet_then_loud, make.RATE, bitrate_mode="VARIABLE", compression_level=0.2)
    data = path.read_bytes()
    first_frame = data.index(data[:2], 4)
    assert b"Xing" in data[:first_frame]
    header = read_header(data[first_frame:])
    assert header is not None
    assert header.is_estimated
    assert len(load_bounded(data[first_frame:], 41)) > 39 * make.RATE
    with pytest.raises(AudioTooLongError, match="the audio: longer than the limit of 30 s; cut"):
        load_bounded(data[first_frame:], 30)


# --- what messages call a source -----------------------------------------------------------------


def test_messages_name_a_source_without_brackets(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(b"no audio")
    with path.open("rb") as file:
        assert name_in_messages(file) == str(path)
        with pytest.raises(AudioError, match=r"^/.*x\.bin: cannot be decoded"):
            load(file)
    with pytest.raises(AudioError, match=r"^the audio: cannot be decoded"):
        load(b"no audio")
    with pytest.raises(AudioError, match=r"^the audio: cannot be decoded"):
        load(io.BytesIO(b"no audio"))
    assert name_in_messages(sys.__stdin__) in ("standard input", "the audio")
    for folder in (Path(decoding.__file__).parents[1],):
        for source in folder.rglob("*.py"):
            text = source.read_text(encoding="utf-8")
            for word in ("<bytes>", "<stream>", "<array>"):
                assert word not in text, source


@pytest.mark.parametrize(
    "url",
    [
        "http://x.org/a.wav",
        "https://x.org/a.wav",
        "s3://bucket/a.wav",
        "file:///home/a.wav",
        "HTTPS://x.org/a",
    ],
)
def test_a_url_is_refused_with_one_sentence(emodistill: Call, url: str) -> None:
    result = emodistill("predict", url, "-f", "json")
    (row,) = json.loads(result.out)
    scheme = url.split(":")[0]
    assert row["error"].startswith(f"{scheme}://")
    assert "is a URL, expected a file on this machine; download it first" in row["error"]
    assert result.code == 1
    with pytest.raises(AudioError, match="is a URL"):
        load(url)
    with Client() as client, pytest.raises(AudioError, match="is a URL"):
        client.predict(url)


def test_a_missing_file_is_no_url() -> None:
    for path in ("missing.wav", "c:/missing.wav", "a/b:c/d.wav", "talk: part 1.wav"):
        with pytest.raises(AudioError, match="no such file"):
            load(path)


# --- standard input ------------------------------------------------------------------------------


class Stdin:
    """Standard input as a redirected file, a pipe or a terminal."""

    def __init__(self, content: bytes = b"", seekable: bool = False, terminal: bool = False) -> None:
        self.buffer = io.BytesIO(content)
        if not seekable:
            self.buffer.seekable = lambda: False  # type: ignore[method-assign]
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


@pytest.mark.parametrize("seekable", [True, False])
@pytest.mark.parametrize("suffix", [".wav", ".mp3", ".m4a"])
def test_standard_input_gives_the_answers_of_the_file(
    emodistill: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, seekable: bool
) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".m4a":
        write_media(path)
    else:
        soundfile.write(path, make.speech(1.0, 120, seed=1), make.RATE)
    for verb in ("predict", "timeline"):
        monkeypatch.setattr(sys, "stdin", Stdin(path.read_bytes(), seekable))
        result = emodistill(verb, "-", "-f", "json")
        (row,) = json.loads(result.out)
        (expected,) = json.loads(emodistill(verb, path, "-f", "json").out)
        assert row == {**expected, "path": "-"}
        assert result.code == 0


def test_what_standard_input_cannot_be(
    emodistill: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", Stdin(terminal=True))
    for verb in ("predict", "timeline"):
        result = emodistill(verb, "-")
        assert (result.code, result.out) == (2, "")
        assert "- reads audio from standard input, which is a terminal: pipe it in, e.g." in result.err
    result = emodistill("predict", "--from", "-")
    assert result.code == 2
    assert "- reads a list from standard input, which is a terminal" in result.err
    monkeypatch.setattr(sys, "stdin", Stdin(b"no audio"))
    result = emodistill("predict", "-", "-f", "json")
    assert result.code == 1
    assert json.loads(result.out)[0]["error"].startswith("standard input: cannot be decoded as audio")
    monkeypatch.setattr(sys, "stdin", Stdin(b""))
    result = emodistill("timeline", "-", "-f", "json")
    assert "standard input: cannot be decoded as audio (it is empty: 0 bytes" in result.err
    for arguments in (["-", "-"], ["-", "--from", "-"], []):
        result = emodistill("predict", *arguments)
        assert (result.code, result.out) == (2, "")
        assert result.err.startswith("error: ")


# --- lists ---------------------------------------------------------------------------------------


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    """A folder with a stereo call whose halves and channels differ."""
    folder = tmp_path / "calls"
    folder.mkdir()
    low, high = make.speech(3.0, 110, seed=1), make.speech(3.0, 230, seed=2)
    soundfile.write(folder / "call.wav", np.stack([np.r_[low, high], np.r_[high, low]], axis=1), make.RATE)
    return folder


ROWS = [
    {"path": "call.wav", "id": "whole", "start": None, "end": None, "speaker": None, "channel": None},
    {"path": "call.wav", "id": "first", "start": 0, "end": 3, "speaker": "anna", "channel": None},
    {"path": "call.wav", "id": "second", "start": "0:03", "end": "0:00:05.5", "speaker": "ben", "channel": 1},
    {"path": "call.wav", "id": "rest", "start": "3.0", "end": None, "speaker": None, "channel": 0},
]


def write_list(path: Path) -> Path:
    if path.suffix == ".jsonl":
        text = "".join(json.dumps(row) + "\n\n" for row in ROWS)
    else:
        delimiter = {".csv": ",", ".txt": ";", ".tsv": "\t"}[path.suffix]
        lines = [[*ROWS[0], "remark"], *([*row.values(), "x"] for row in ROWS)]
        text = "".join(
            delimiter.join("" if value is None else str(value) for value in line) + "\r\n" for line in lines
        )
    path.write_text(text, encoding="utf-8-sig" if path.suffix == ".csv" else "utf-8")
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".txt", ".jsonl"])
def test_a_list_gives_the_answers_of_its_parts(
    emodistill: Call, calls: Path, suffix: str, bundled: Recognizer
) -> None:
    result = emodistill("predict", "--from", write_list(calls / f"list{suffix}"), "-f", "json")
    rows = json.loads(result.out)
    assert result.code == 0
    assert [row["id"] for row in rows] == ["whole", "first", "second", "rest"]
    assert [row.get("speaker") for row in rows] == [None, "anna", "ben", None]
    assert [row.get("start_s") for row in rows] == [None, 0.0, 3.0, 3.0]
    assert [row.get("end_s") for row in rows] == [None, 3.0, 5.5, None]
    assert [row.get("channel") for row in rows] == [None, None, 1, 0]
    assert {row["path"] for row in rows} == {"call.wav"}
    samples, _ = soundfile.read(calls / "call.wav", dtype="float32", always_2d=True)
    cut = make.RATE * 3
    parts = [samples, samples[:cut], samples[cut : round(5.5 * make.RATE), 1], samples[cut:, 0]]
    for row, part in zip(rows, parts, strict=True):
        expected = bundled.predict(part, make.RATE)
        assert row["probabilities"] == pytest.approx(expected.probabilities, abs=1e-4)


def test_a_part_of_a_container_is_decoded_up_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_media(tmp_path / "a.m4a", length_s=6)
    blocks = list(decoding.decode_blocks(path, ""))
    rate_hz, whole = blocks[0][0], np.concatenate([frames for _, frames in blocks])
    decoded_s: list[float] = []
    decode = decoding.decode_media

    def count(*arguments: Any) -> Iterator[decoding.RatedSamples]:
        for rate_hz, frames in decode(*arguments):
            decoded_s.append(len(frames) / rate_hz)
            yield rate_hz, frames

    monkeypatch.setattr(decoding, "decode_media", count)
    part = load(path, 0.5, 2.0)
    np.testing.assert_array_equal(part, from_samples(whole[rate_hz // 2 : 2 * rate_hz], rate_hz))
    assert 2 < sum(decoded_s) < 2.5


def test_a_plain_list_has_one_path_a_line_relative_to_its_folder(
    emodistill: Call, calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (calls / "with, comma.wav").write_bytes((calls / "call.wav").read_bytes())
    listed = calls / "paths.txt"
    listed.write_text(f"call.wav\n\n  with, comma.wav\n{calls / 'call.wav'}\n")
    rows = json.loads(emodistill("predict", "--from", listed, "-f", "json").out)
    assert [row["path"] for row in rows] == ["call.wav", "with, comma.wav", str(calls / "call.wav")]
    assert [row["error"] for row in rows] == [None] * 3
    assert "id" not in rows[0]
    monkeypatch.chdir(calls)
    monkeypatch.setattr(sys, "stdin", Stdin(listed.read_bytes()))
    assert json.loads(emodistill("predict", "--from", "-", "-f", "json").out) == rows


def test_the_csv_ends_with_what_the_list_states(emodistill: Call, calls: Path) -> None:
    result = emodistill("predict", "--from", write_list(calls / "list.csv"), "-f", "csv")
    header, *rows = list(csv.reader(io.StringIO(result.out)))
    assert header[-7:] == ["channel", "id", "start_s", "end_s", "speaker", "dominance", "intensity"]
    assert [row[-6] for row in rows] == ["whole", "first", "second", "rest"]
    assert rows[2][-7:] == ["1", "second", "3.0", "5.5", "ben", "", ""]
    table = emodistill("predict", "--from", calls / "list.csv").out
    assert "second" in table
    assert "ben" in table


@pytest.mark.parametrize("suffix", [".wav", ".mp3", ".m4a"])
@pytest.mark.parametrize("adapt", ["none", "together"])
def test_a_row_states_the_real_end_of_a_part_that_is_too_long(
    emodistill: Call, calls: Path, tmp_path: Path, suffix: str, adapt: str
) -> None:
    source = write_media(tmp_path / "a.m4a", length_s=6) if suffix == ".m4a" else tmp_path / f"a{suffix}"
    if suffix != ".m4a":
        samples, rate_hz = soundfile.read(calls / "call.wav")
        soundfile.write(source, samples, rate_hz)
    duration_s = len(load(source)) / make.RATE
    listed = tmp_path / "list.csv"
    times = [(0, 2), (2, 60), (1, round(duration_s, 3)), (3, 99.5)]
    parts = "".join(f"{source.name},{start},{end}\n" for start, end in times)
    listed.write_text(f"path,start,end\n{parts}{source.name},99,100\n")
    output = tmp_path / "rows.jsonl"
    options = ("predict", "--from", listed, "-o", output, "--adapt", adapt)
    assert emodistill(*options).code == 1
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    ends = [row["end_s"] for row in rows]
    assert ends == pytest.approx([2, duration_s, duration_s, duration_s, 100], abs=0.05)
    assert ends[-1] == 100, "a row with an error states what was asked for"
    if adapt == "none":
        again = emodistill(*options)
        assert "4 rows were there already, 1 added" in again.err


def test_a_bad_row_is_a_row_with_its_error(emodistill: Call, calls: Path) -> None:
    listed = calls / "list.csv"
    listed.write_text(
        "path,id,start,end,channel\ncall.wav,good,,,\nmissing.wav,missing,,,\ncall.wav,backwards,5,2,\n"
        "call.wav,late,60,70,\ncall.wav,channel,,,7\n.,folder,,,\nhttps://x.org/a.wav,url,,,\n"
        "call.wav,negative,-1,2,\n"
    )
    result = emodistill("predict", "--from", listed, "-f", "json")
    errors = {row["id"]: row["error"] for row in json.loads(result.out)}
    assert result.code == 1
    assert errors.pop("good") is None
    for id, message in {
        "missing": "no such file",
        "backwards": "bad part from 5.0 s to 2.0 s, expected 0 ≤ start < end",
        "late": "holds no samples",
        "channel": "channel",
        "folder": "is a folder, expected a file",
        "url": "https://x.org/a.wav: is a URL",
        "negative": "expected 0 ≤ start",
    }.items():
        assert message in errors.pop(id)
    assert not errors


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "file,id\ncall.wav,a\n", "line 1: expected a header with the column path"),
        ("a.csv", "path,id\ncall.wav,a\ncall.wav\n", "line 3: expected 2 fields as in the header"),
        ("a.csv", "path,start\ncall.wav,soon\n", "line 2: bad start 'soon', expected seconds or m:ss"),
        ("a.csv", "path,id\ncall.wav,a\ncall.wav,a\n", "line 3: the id 'a' is in line 2 too"),
        ("a.csv", "path,channel\ncall.wav,left\n", "line 2: bad channel 'left', expected a whole number"),
        ("a.csv", "path,id\n,a\n", "line 2: expected a path, got None"),
        ("a.csv", 'path,id\n"call.wav,a\n', "is no CSV"),
        ("a.jsonl", '{"path": "call.wav"}\n{"path"\n', "line 2: is no JSON"),
        ("a.jsonl", '{"path": "call.wav"}\n["call.wav"]\n', "line 2: expected an object with 'path'"),
        ("a.jsonl", '{"path": "call.wav", "end": true}\n', "line 1: bad end True"),
        ("a.jsonl", f'{{"path": "call.wav", "end": 1{"0" * 400}}}\n', "line 1: bad end 1000"),
        ("a.jsonl", f'{{"path": {"[" * 100_000}{"]" * 100_000}}}\n', "line 1: is no JSON"),
        ("a.txt", "\n", "holds no paths"),
    ],
)
def test_a_bad_table_is_a_usage_error_with_its_line(
    emodistill: Call, calls: Path, name: str, text: str, message: str
) -> None:
    (calls / name).write_text(text)
    result = emodistill("predict", "--from", calls / name)
    assert (result.code, result.out) == (2, "")
    assert message in result.err
    assert f"'{calls / name}'" in result.err


def test_a_list_that_is_missing_or_no_text_is_a_usage_error(emodistill: Call, calls: Path) -> None:
    assert "no file" in emodistill("predict", "--from", calls / "missing.csv").err
    (calls / "bad.csv").write_bytes(b"path\na.wav\n\xff.wav\n")
    result = emodistill("predict", "--from", calls / "bad.csv")
    assert result.code == 2
    assert "line 3: is not UTF-8 text" in result.err


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le with its mark"])
def test_a_list_of_a_spreadsheet_program_is_read(tmp_path: Path, encoding: str) -> None:
    text = "path;id\nÄnne 1.wav;ä\n"
    encoding, _, mark = encoding.partition(" ")
    (tmp_path / "list.csv").write_bytes((("\ufeff" if mark else "") + text).encode(encoding))
    (item,) = read_list(tmp_path / "list.csv")
    assert (item.path, item.id) == ("Änne 1.wav", "ä")


@pytest.mark.parametrize("options", [[], ["--channels", "split"], ["--adapt", "together"]])
def test_a_list_whose_rows_share_a_path_is_resumed(
    emodistill: Call, calls: Path, tmp_path: Path, options: list[str]
) -> None:
    listed = calls / "list.jsonl"
    rows = [
        {"path": "call.wav", "start": 0, "end": 3},
        {"path": "call.wav", "start": 3, "end": 6},
        {"path": "call.wav", "start": 3, "end": 6, "channel": 1},
        {"path": "call.wav", "id": "a"},
        {"path": "call.wav"},
    ]
    listed.write_text("".join(json.dumps(row) + "\n" for row in rows))
    whole = tmp_path / "whole.jsonl"
    assert emodistill("predict", "--from", listed, "-o", whole, *options).code == 0
    lines = whole.read_text().splitlines()
    assert len(lines) == (9 if "split" in options else 5)
    again = emodistill("predict", "--from", listed, "-o", whole, *options)
    assert f"{len(rows)} rows were there already, 0 added" in again.err
    assert whole.read_text().splitlines() == lines
    num_rows = 2 if "split" in options else 1  # of an input
    whole.write_text("\n".join([*lines[:num_rows], *lines[-num_rows:]]) + "\n")
    assert emodistill("predict", "--from", listed, "-o", whole, *options).code == 0
    assert sorted(whole.read_text().splitlines()) == sorted(lines)


# --- long inputs ---------------------------------------------------------------------------------


def test_predict_advises_the_timeline_for_long_inputs(
    emodistill: Call, tmp_path: Path, bundled: Recognizer, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(5):
        length_s = 59.5 if number == 0 else 60.5
        soundfile.write(tmp_path / f"{number} long.wav", np.zeros(round(length_s * 4000)), 4000)
    result = emodistill("predict", tmp_path, "-f", "json")
    assert len(json.loads(result.out)) == 5
    lines = result.err.splitlines()
    path = tmp_path / "1 long.wav"
    assert lines[0] == (
        f"{path}: is longer than 60 s; for its emotions over time: emodistill timeline '{path}'"
    )
    assert lines[-1] == "1 more inputs are longer than 60 s"
    assert len(lines) == 4
    listed = tmp_path / "list.csv"
    listed.write_text("path,start,end\n1 long.wav,0,30\n")
    assert emodistill("predict", "--from", listed, "-f", "json").err == ""
    bundled.predict(path)
    assert capsys.readouterr().err == ""


# --- progress ------------------------------------------------------------------------------------


class Bar:
    """A progress bar that keeps what it shows."""

    def __init__(self) -> None:
        self.total, self.shown = 0.0, [0.0]

    def begin(self, _: str, total: int, count: str | None = None) -> tuple["Bar", int]:
        assert count is not None
        self.total = total
        return self, 0

    def update(self, _: int, completed: float) -> None:
        self.shown.append(completed)

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("verb", "options"),
    [
        ("predict", []),
        ("timeline", []),
        ("timeline", ["--channels", "split"]),
        ("timeline", ["--adapt", "recording"]),
        ("predict", ["--jobs", "2"]),
    ],
)
def test_the_bar_moves_by_seconds_of_audio(
    emodistill: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, options: list[str]
) -> None:
    names = ["long.wav", *(["other.wav"] if "--jobs" in options else [])]
    call, rate_hz = soundfile.read(CALL)
    long = np.tile(call, (7, 1))[: 130 * rate_hz]
    for name in names:
        soundfile.write(tmp_path / name, long, rate_hz)
    plain = emodistill(verb, *(tmp_path / name for name in names), "-f", "json", *options)
    bar = Bar()
    monkeypatch.setattr("emodistill.inference.audio_progress.progress", bar.begin)
    monkeypatch.setattr("emodistill.inference.audio_progress.console", Terminal)
    result = emodistill(verb, *(tmp_path / name for name in names), "-f", "json", *options)
    assert result.out == plain.out
    assert bar.total == 130 * len(names)
    assert bar.shown == sorted(bar.shown)
    assert bar.shown[-1] == pytest.approx(bar.total)
    assert len(set(bar.shown)) > 100
    assert max(np.diff(bar.shown)) < (2 if len(names) == 1 else 50), "it does not jump"


class Terminal:
    is_terminal = True


def test_short_or_many_recordings_are_counted(
    emodistill: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_seconds(*_: object) -> None:
        raise AssertionError("a bar in seconds")

    monkeypatch.setattr("emodistill.inference.audio_progress.progress", no_seconds)
    monkeypatch.setattr("emodistill.inference.audio_progress.console", Terminal)
    for number in range(21):
        soundfile.write(tmp_path / f"{number}.wav", np.zeros(4000 * (3 if number else 10)), 4000)
    assert emodistill("predict", tmp_path / "0.wav", "-f", "json").code == 0
    assert emodistill("predict", tmp_path, "-f", "json").code == 0
